"""Whether each fix has a test that notices its loss: undo the fix, and the test must fail.

    python -m benchmarks.mutations           all of them, into benchmarks/results/mutations.json
    python -m benchmarks.mutations hub bos   those whose names begin so
    python -m benchmarks.mutations missing   those that the file does not have as noticed

A fix is undone in a copy of the sources; the tree itself is never touched. What was found is kept
at once, so that a run may be stopped. docs/compatibility.md shows the file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from nlakit.config import write_text_atomic

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/nlakit")
RESULTS = ROOT / "benchmarks" / "results" / "mutations.json"
SECONDS = 240
PASSED, FAILED = 0, 1
"""Exit codes of pytest; others say that nothing was tested."""


class Mutation(NamedTuple):
    """A fix that is undone.

    Attributes:
        fix: what it does, in words that begin with the area.
        path: the module, from the package's directory.
        old, new: what stands there once, and what is put in its place.
        test: the one that must fail.
    """

    fix: str
    path: str
    old: str
    new: str
    test: str


WEIGHTS = "tests/parity/test_weights.py::test_a_layout_is_loaded_as_transformers_does_or_refused"
FILES = "tests/unit/test_weight_files.py"
ADAPTERS = "tests/parity/test_adapter_files.py"
IDS = "tests/parity/test_text_ids.py"
CHAT = "tests/unit/test_chat.py"
VECTORS = "tests/unit/test_vectors.py"
GGUF = "tests/parity/test_gguf.py"
FORMATS = "tests/unit/test_formats.py"
HUB = "tests/unit/test_hub_download.py"
TOKENIZER = "tests/unit/test_tokenizer_files.py"

MUTATIONS = (
    Mutation(
        "weights: a tied config with another head has two matrices", "models/weights.py",
        "config.tie_word_embeddings = torch.equal(first, second)",
        "config.tie_word_embeddings = True", WEIGHTS,
    ),
    Mutation(
        "weights: the one file goes before a stale index", "models/weights.py",
        "if not one.exists() and index.exists():", "if index.exists():", WEIGHTS,
    ),
    Mutation(
        "weights: NaN is refused", "models/weights.py",
        "if not (math.isfinite(low) and math.isfinite(high)):", "if False:",
        f"{FILES}::test_weights_that_are_not_finite",
    ),
    Mutation(
        "weights: a quantized checkpoint is named", "models/configs.py",
        "for key in QUANTIZED:", "for key in ():",
        f"{FILES}::test_a_quantized_checkpoint_is_called_one",
    ),
    Mutation(
        "weights: a Git LFS pointer is named", "models/weights.py",
        "if start == LFS_HEADER:", "if False:", f"{FILES}::test_a_git_lfs_pointer",
    ),
    Mutation(
        'weights: one name in two shards', 'models/weights.py',
        'if name in self.tensors:',
        'if False:',
        f"{FILES}::test_a_weight_in_two_shards",
    ),
    Mutation(
        'weights: pickles are called so', 'models/weights.py',
        '    if pickled:',
        '    if False:',
        f"{FILES}::test_pickled_weights_alone",
    ),
    Mutation(
        'weights: fp8 without a config that says so', 'models/weights.py',
        'if kind not in FLOATS or',
        'if',
        f"{FILES}::test_quantized_weights_are_called_so_without_their_config",
    ),
    Mutation(
        "weights: LongRoPE's long rows come apart", 'models/padding.py',
        'num_long = 0 if most is None else',
        'num_long = 0 if True else',
        "tests/parity/test_models.py::test_long_and_short_rows_are_rotated_apart_by_longrope",
    ),
    Mutation(
        "adapters: starts that change the base are refused", "models/lora.py",
        "if start not in BASE_KEEPING_INITS:", "if False:",
        f"{ADAPTERS}::test_starts_that_change_the_base_are_refused",
    ),
    Mutation(
        "adapters: use_rslora", "models/lora.py",
        'math.sqrt(rank) if config.get("use_rslora") else rank', "rank",
        f"{ADAPTERS}::test_an_adapter_is_merged_as_peft_computes_it",
    ),
    Mutation(
        'adapters: rank_pattern', 'models/lora.py',
        '_by_pattern(config, "rank_pattern", module',
        '_by_pattern(config, "none", module',
        f"{ADAPTERS}::test_an_adapter_is_merged_as_peft_computes_it",
    ),
    Mutation(
        "adapters: a pattern's dot is any character", 'models/lora.py',
        'rf"(.*\\.)?({name})$"',
        'rf"(.*\\.)?({re.escape(name)})$"',
        f"{ADAPTERS}::test_an_adapter_is_merged_as_peft_computes_it",
    ),
    Mutation(
        'adapters: layers_to_transform', 'models/lora.py',
        'in_layers = not wanted or',
        'in_layers = True or',
        f"{ADAPTERS}::test_config_and_factors_of_two_adapters",
    ),
    Mutation(
        'adapters: one matrix is not changed alone', 'models/lora.py',
        'if each.weight in one_matrix and alone:',
        'if False:',
        f"{ADAPTERS}::test_one_matrix_for_embedding_and_head_is_not_changed_alone",
    ),
    Mutation(
        'adapters: a bias that PEFT does not read back', 'models/lora.py',
        'if ".modules_to_save." in each.weight:',
        'if False:',
        f"{ADAPTERS}::test_saved_norms_and_biases",
    ),
    Mutation(
        'adapters: a merge past float16', 'models/lora.py',
        'check_finite(merged, weight.dtype, f"{directory}: {name}, merged,")',
        'pass',
        f"{ADAPTERS}::test_a_merge_past_float16_says_which_dtype_to_use",
    ),
    Mutation(
        'adapters: a revision of the base', 'models/lora.py',
        'if revision not in (None, "main")',
        'if False',
        f"{ADAPTERS}::test_an_adapter_on_a_revision_is_refused",
    ),
    Mutation(
        "adapters: alpha_pattern", "models/lora.py",
        '_by_pattern(config, "alpha_pattern", module', '_by_pattern(config, "none", module',
        f"{ADAPTERS}::test_an_adapter_is_merged_as_peft_computes_it",
    ),
    Mutation(
        "adapters: an option that is not known is refused", "models/lora.py",
        "        if raw[option]:", "        if False:",
        f"{ADAPTERS}::test_an_option_that_nobody_here_knows_is_refused",
    ),
    Mutation(
        "adapters: a resized embedding is named", "models/lora.py",
        "if weight.shape != each.tensor.shape:", "if False:",
        f"{ADAPTERS}::test_an_embedding_that_was_resized",
    ),
    Mutation(
        "bos: the tokenizer adds what it adds", "models/target.py",
        "add_special_tokens=adds)", "add_special_tokens=False)",
        f"{IDS}::test_ids_are_the_tokenizers",
    ),
    Mutation(
        "bos: none before a text that begins with it", "models/target.py",
        "add_special_tokens=adds)", "add_special_tokens=True)",
        f"{IDS}::test_a_decoded_text_is_read_as_it_was",
    ),
    Mutation(
        "transcripts: a content that is null", "transcript.py",
        "if content is None or isinstance(content, str):", "if isinstance(content, str):",
        f"{CHAT}::test_calls_are_a_section_whatever_the_content",
    ),
    Mutation(
        "transcripts: a block ends where it ends in the whole", "models/chat_spans.py",
        "return here + _clean_prefix(self.text[here : here + len(tail)], tail)",
        "return here + len(tail)",
        f"{CHAT}::test_a_turn_of_several_results_ends_behind_the_last",
    ),
    Mutation(
        "transcripts: what a template drops is told", "models/chat_spans.py",
        "self.dropped = [number for number in range(len(segments)) if number not in self.found]",
        "self.dropped = []",
        f"{CHAT}::test_thoughts_that_a_template_drops_are_told_and_those_it_keeps_are_a_section",
    ),
    Mutation(
        'transcripts: a null content where a template takes none', 'models/chat.py',
        'choices = _content_forms(messages), _null_forms(messages), _argument_forms(messages)',
        'choices = _content_forms(messages), _argument_forms(messages)',
        f"{CHAT}::test_a_content_that_is_null_is_no_text_where_a_template_needs_one",
    ),
    Mutation(
        'transcripts: thoughts in parts that are joined', 'models/chat.py',
        'if thoughts else made',
        'if False else made',
        f"{CHAT}::test_thoughts_in_a_part_stay_where_parts_are_joined",
    ),
    Mutation(
        "transcripts: tags of an answer's thoughts are tokens", 'models/chat.py',
        'value = value if word in spared else',
        'value =',
        f"{CHAT}::test_tags_of_an_answers_thoughts_are_the_tokens_that_templates_look_for",
    ),
    Mutation(
        'transcripts: a tag that two headers open', 'models/chat_spans.py',
        'return opened.start() if opened else size',
        'return size',
        f"{CHAT}::test_a_tag_that_two_headers_open_is_no_header",
    ),
    Mutation(
        'transcripts: whatever a template raises', 'contract/templates.py',
        'except (jinja2.TemplateError, *FAILURES) as error:',
        'except jinja2.TemplateError as error:',
        f"{CHAT}::test_whatever_a_template_raises_is_about_the_messages",
    ),
    Mutation(
        'transcripts: a rendered conversation is noticed', 'pair/conversation.py',
        'if not found or not target.tokenizer.chat_template:',
        'if True:',
        f"{IDS}::test_a_rendered_conversation_is_noticed",
    ),
    Mutation(
        "vectors: rows of other widths and missing ones", "data/datasets.py",
        "    if len(wrong):", "    if False:", f"{VECTORS}::test_others_are_refused_with_the_row",
    ),
    Mutation(
        "vectors: rows that are not finite", "data/datasets.py",
        "bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))", "bad = np.empty(0)",
        f"{VECTORS}::test_others_are_refused_with_the_row",
    ),
    Mutation(
        "vectors: a bulk run passes over what is not finite", "data/bulk.py",
        "finite = vectors_ND.isfinite().all(dim=-1).tolist()", "finite = [True] * len(vectors_ND)",
        "tests/unit/test_bulk.py::test_vectors_that_are_not_finite_are_passed_over_and_counted",
    ),
    Mutation(
        "vectors: an extraction passes over what is not finite", "data/corpus_extraction.py",
        "if on_refused is None or not finite.any():", "if True:",
        f"{VECTORS}::test_a_corpus_run_passes_over_what_overflows",
    ),
    Mutation(
        "vectors: an activation past float16", "models/target.py",
        "if not allow_overflow:", "if False:",
        f"{VECTORS}::test_an_overflow_in_float16_says_which_dtype_to_use",
    ),
    Mutation(
        "vectors: an injection scale past float16", "models/verbalizer.py",
        "check_fits(scaled_ND, self.model.dtype, what)", "pass",
        f"{VECTORS}::test_a_scale_past_float16_says_which_dtype_to_use",
    ),
    Mutation(
        'vectors: rows of another layer', 'data/datasets.py',
        '    _check_layer(table, meta, Path(path))',
        '    pass',
        f"{VECTORS}::test_texts_and_layers_that_are_not_the_sidecars_are_refused",
    ),
    Mutation(
        'vectors: a prompt of another template', 'data/datasets.py',
        'if not (found.startswith(head) and found.endswith(tail)):',
        'if False:',
        f"{VECTORS}::test_texts_and_layers_that_are_not_the_sidecars_are_refused",
    ),
    Mutation(
        "endings: generation_config.json is read", "models/endings.py",
        "found = read_json_object(path, CheckpointError).get(KEY)", "found = None",
        "tests/unit/test_endings.py::test_the_generation_config_is_read",
    ),
    Mutation(
        'endings: they are given to the model', 'models/endings.py',
        'if listed and getattr(model',
        'if False and getattr(model',
        "tests/unit/test_endings.py::test_an_answer_ends_there_as_well",
    ),
    Mutation(
        "text: a byte order mark in --file", "cli/requests.py",
        'return file.read_text(encoding="utf-8-sig")', 'return file.read_text(encoding="utf-8")',
        "tests/unit/test_cli.py::test_a_byte_order_mark_in_a_file_is_no_token",
    ),
    Mutation(
        "text: a byte order mark in a corpus", "data/sources.py",
        'with path.open(encoding="utf-8-sig")', 'with path.open(encoding="utf-8")',
        f"{FORMATS}::"
        "test_a_folder_holds_files_of_every_kind_and_what_is_no_transcript_is_passed_over",
    ),
    Mutation(
        "text: half of a surrogate pair", "transcript.py",
        "if not value.isascii() and bad is not None:", "if False:",
        f"{IDS}::test_half_of_a_surrogate_pair_is_named",
    ),
    Mutation(
        "text: a token past the embedding", "models/target.py",
        "if past is not None:", "if False:", f"{IDS}::test_a_token_past_the_embedding_is_named",
    ),
    Mutation(
        "text: a console that cannot encode", "printable.py",
        "stream.reconfigure(errors=ESCAPES)", "pass",
        "tests/unit/test_printable.py::test_a_console_of_another_encoding_shows_escapes",
    ),
    Mutation(
        "text: a tokenizer.json of a newer library", "models/io.py",
        "kind is Exception or ", "", f"{TOKENIZER}::test_a_part_of_a_newer_library_is_named",
    ),
    Mutation(
        "formats: ShareGPT", "data/formats/__init__.py", "    sharegpt.FORMAT,\n", "",
        f"{FORMATS}::test_sharegpt_has_names_of_its_own",
    ),
    Mutation(
        "formats: Inspect logs", "data/formats/__init__.py",
        "(inspect_logs.FORMAT, claude_code.FORMAT)", "(claude_code.FORMAT,)",
        f"{FORMATS}::test_a_log_of_inspect_gives_a_transcript_a_sample",
    ),
    Mutation(
        'formats: members that are zstd', 'data/formats/inspect_logs.py',
        'if info.compress_type != ZSTD:',
        'if True:',
        f"{FORMATS}::test_a_log_of_inspect_gives_a_transcript_a_sample",
    ),
    Mutation(
        'formats: WildChat', 'data/formats/__init__.py',
        '    wildchat.FORMAT,\n',
        '',
        f"{FORMATS}::test_wildchat_keeps_what_is_said_and_notes_what_is_known",
    ),
    Mutation(
        'formats: SWE-agent', 'data/formats/__init__.py',
        '    swe_agent.FORMAT,\n',
        '',
        f"{FORMATS}::test_a_trajectory_of_swe_agent_is_its_history_or_what_the_model_was_shown",
    ),
    Mutation(
        "formats: a system line beside OpenAI's messages", "data/formats/openai.py",
        'with_system(inner.get("system"), list(parsed))', "parsed",
        f"{FORMATS}::test_a_system_line_beside_openais_messages_loses_no_calls",
    ),
    Mutation(
        "formats: a branch of a session that was given up", "data/formats/claude_code.py",
        'if record.get("uuid") in given_up:', "if False:",
        f"{FORMATS}::test_a_branch_that_was_given_up_is_no_part_of_a_session",
    ),
    Mutation(
        "formats: an attachment that is lost", "data/formats/inspect_logs.py",
        "            if not isinstance(found, str):", "            if False:",
        f"{FORMATS}::test_a_log_of_inspect_may_be_json",
    ),
    Mutation(
        "formats: OpenAI's calls beside thoughts in blocks", 'data/formats/anthropic.py',
        'each.keys() & OTHER_FIELDS',
        'each.keys() & {"none"}',
        f"{FORMATS}::test_thoughts_in_blocks_beside_openais_calls_lose_none",
    ),
    Mutation(
        "formats: a provider's tool answers behind its call", 'data/formats/anthropic.py',
        'yield from [*own, *results] if role == "assistant" else [*results, *own]',
        'yield from [*results, *own]',
        f"{FORMATS}::test_a_tool_that_the_provider_ran_answers_behind_its_call",
    ),
    Mutation(
        'formats: arguments of other calls', 'data/sources.py',
        'spoken = ("content",) if "role" in value else ()',
        'spoken = ("content", "text")',
        f"{FORMATS}::test_arguments_of_other_calls_are_none_of_this_one",
    ),
    Mutation(
        "hub: the one file goes before shards", "models/hub.py",
        'if not (index.parent / "model.safetensors").exists():', "if True:",
        f"{HUB}::test_the_one_file_goes_before_an_index",
    ),
    Mutation(
        "hub: shards that no index names stay there", "models/hub.py",
        'f"{folder}{name}.safetensors" for name', 'f"{folder}*{name[:0]}.safetensors" for name',
        f"{HUB}::test_shards_that_the_index_names_are_downloaded_and_no_others",
    ),
    Mutation(
        "gguf: rotary halves are taken apart", "models/gguf_model.py",
        "if architecture.interleaved and", "if False and",
        f"{GGUF}::test_unquantized_weights_come_back_bit_by_bit",
    ),
    Mutation(
        "gguf: Gemma's norms are stored plus one", "models/gguf_model.py",
        "if architecture.norm_offset and parts", "if False and parts",
        f"{GGUF}::test_unquantized_weights_come_back_bit_by_bit",
    ),
    Mutation(
        "gguf: SmolLM2's digits stand alone", "models/gguf_tokenizer.py",
        "[pre_tokenizers.Digits(individual_digits=True)] if how.digits else []", "[]",
        f"{GGUF}::test_the_tokenizer_cuts_text_as_the_original_does",
    ),
    Mutation(
        "gguf: Llama 3's rotary factors", "models/gguf_model.py",
        "        if ROPE_FACTORS in self.names:", "        if False:",
        f"{GGUF}::test_scaled_rotations_are_those_of_the_original",
    ),
    Mutation(
        "gguf: a setting that is not known is refused", "models/gguf_model.py",
        "        self._check_facts()", "        pass",
        f"{GGUF}::test_what_is_not_understood_is_refused_by_name",
    ),
    Mutation(
        "marker: the whole vocabulary is searched", "contract/marker.py",
        "if ord(character) not in ENCLOSED and _is_one_token(tokenizer, character):", "if False:",
        "tests/unit/test_marker.py::test_the_rarest_character_that_fits",
    ),
    Mutation(
        'marker: one that the template drops is passed over', 'contract/marker.py',
        '        except ContractError as error:\n            if error.field',
        '        except ArithmeticError as error:\n            if error.field',
        "tests/unit/test_marker.py::test_one_that_the_template_drops_or_doubles_is_passed_over",
    ),
)  # fmt: skip


def main(prefixes: list[str]) -> int:
    """Undo each fix and run its test; returns the exit status."""
    chosen = [m for m in MUTATIONS if not prefixes or m.fix.startswith(tuple(prefixes))]
    if prefixes == ["missing"]:
        noticed = {row["fix"] for row in kept_rows() if row["noticed"]}
        chosen = [m for m in MUTATIONS if m.fix not in noticed]
    missed = []
    with tempfile.TemporaryDirectory() as directory:
        source = copied(Path(directory))
        tests = list(dict.fromkeys(mutation.test for mutation in chosen))
        if outcome(source, *tests) != PASSED:
            print("The tests do not pass as things are.")
            return 1
        for mutation in chosen:
            noticed = is_noticed(source, mutation)
            keep(mutation, noticed)
            missed += [] if noticed else [mutation.fix]
    print(f"{len(chosen)} fixes undone, not noticed: {missed or 'none'}")
    return int(bool(missed))


def keep(mutation: Mutation, noticed: bool) -> None:
    """Put what was found into the file, in the order of the list."""
    row = {"fix": mutation.fix, "test": mutation.test, "noticed": noticed}
    rows = {each["fix"]: each for each in [*kept_rows(), row]}
    ordered = [rows[each.fix] for each in MUTATIONS if each.fix in rows]
    write_text_atomic(RESULTS, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def kept_rows() -> list[dict[str, Any]]:
    """What earlier runs found."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def copied(directory: Path) -> Path:
    """The sources in a directory of their own; what they only read is linked."""
    ignored = shutil.ignore_patterns("assets", "static", "__pycache__")
    target = directory / PACKAGE
    shutil.copytree(ROOT / PACKAGE, target, ignore=ignored)
    for name in ("assets", "serve/static"):
        (target / name).symlink_to(ROOT / PACKAGE / name)
    return target


def is_noticed(package: Path, mutation: Mutation) -> bool:
    """Whether the test of a fix fails without it."""
    path = package / mutation.path
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
    noticed = outcome(package, mutation.test) == FAILED
    path.write_text(before, encoding="utf-8")
    print(f"{'noticed' if noticed else 'MISSED '}  {mutation.fix}", flush=True)
    return noticed


def outcome(package: Path, *tests: str) -> int:
    """The exit code of pytest over some tests, with another copy of the package."""
    paths = f"pythonpath={package.parent} tests ."
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", paths]
    # A second file of one size within a second would pass for the one that was compiled.
    command = [command[0], "-B", *command[1:], *tests]
    timeout = SECONDS * len(tests)
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=timeout)
    return done.returncode


def table(text: str) -> str:
    """The page's table, from the result file."""
    rows: list[dict[str, Any]] = json.loads(text)
    lines = ["| fix that is undone | its test | fails |", "|---|---|---|"]
    for row in rows:
        test, fails = row["test"].rpartition("/")[2], "yes" if row["noticed"] else "NO"
        lines.append(f"| {row['fix']} | `{test}` | {fails} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
