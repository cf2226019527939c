"""Which probe or mutation shows which finding, by which test it is kept, and the docs' tables."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """A finding of the attack.

    Attributes:
        level: "high", "medium", "low" or "wire".
        words: what was found.
        test: file and name of the test that keeps it from coming back.
    """

    level: str
    words: str
    test: str


class Mutation(NamedTuple):
    """A fix and the source without it.

    Attributes:
        file: below `src/nlakit`.
        right, wrong: what stands there once, and what is put in its place.
        test: as pytest is told.
    """

    level: str
    words: str
    file: str
    right: str
    wrong: str
    test: str


FILES: dict[str, Finding] = {
    "scales_of_an_export": Finding(
        "high", "other reconstructors cannot read the scale of an export",
        "e2e/test_export.py::test_scales_are_numbers_that_other_clients_can_read",
    ),
    "small_frames_are_not_held_back": Finding(
        "medium", "Nagle's algorithm holds small answers back for 40 ms",
        "unit/test_serve_connections.py::test_small_frames_are_sent_at_once",
    ),
    "two_servers_in_one_directory": Finding(
        "medium", "two servers on one directory refuse each other's saves",
        "unit/test_serve_store.py::test_two_servers_in_one_directory_save_and_delete",
    ),
    "labels_of_other_activations": Finding(
        "medium", "labels of another activation set are overwritten without a word",
        "unit/test_data.py::test_labels_of_other_activations_are_not_written_over",
    ),
    "swapped_explanations": Finding(
        "medium", "describe certifies a shard that was swapped",
        "unit/test_bulk.py::test_a_damaged_shard_is_written_again_not_certified",
    ),
    "swapped_labels": Finding(
        "medium", "a part of the labels that was swapped is read",
        "unit/test_data.py::test_a_damaged_part_of_a_finished_set_is_not_read",
    ),
    "two_trainings_in_one_directory": Finding(
        "medium", "two train runs in one directory double the metrics",
        "e2e/test_long_work.py::test_a_directory_that_somebody_writes_into_is_refused",
    ),
    "a_strangers_file_in_an_export": Finding(
        "medium", "export deletes a stranger's file",
        "e2e/test_export.py::test_a_strangers_file_is_kept_and_named",
    ),
    "a_config_that_has_code_fetched": Finding(
        "medium", "`_attn_implementation` in a config has code fetched and run",
        "unit/test_weight_files.py::test_a_config_cannot_make_transformers_fetch_code",
    ),
    "yaml_aliases": Finding(
        "medium", "YAML aliases stand for gigabytes",
        "unit/test_contract.py::test_yaml_that_is_built_to_hurt_is_refused",
    ),
    "a_large_sidecar": Finding(
        "medium", "a large sidecar is parsed for minutes",
        "unit/test_contract.py::test_yaml_that_is_built_to_hurt_is_refused",
    ),
    "a_pipe_as_sidecar": Finding(
        "medium", "a pipe as sidecar is waited for",
        "unit/test_contract.py::test_a_pipe_or_a_device_is_no_contract",
    ),
    "an_endless_template": Finding(
        "medium", "a chat template without an end is run",
        "unit/test_templates.py::test_a_template_without_an_end_is_refused",
    ),
    "a_huge_template": Finding(
        "medium", "a chat template of any size is read",
        "unit/test_templates.py::test_tokenizer_files_without_an_end",
    ),
    "a_pipe_as_weights": Finding(
        "medium", "a pipe as weights is waited for",
        "unit/test_weight_files.py::test_what_is_no_file_is_not_waited_for",
    ),
    "an_endless_text_in_a_corpus": Finding(
        "medium", "a text without an end in a corpus folder is read",
        "unit/test_data_corpora.py::test_a_text_without_an_end_is_refused",
    ),
    "readings_that_others_can_read": Finding(
        "medium", "other users can read saved readings",
        "unit/test_serve_store.py::test_nobody_else_can_read_what_was_saved",
    ),
    "a_secret_that_others_can_read": Finding(
        "medium", "a secret that others can read is not warned of",
        "unit/test_serve_security.py::test_a_secret_that_others_can_read_is_warned_of",
    ),
    "a_full_disk": Finding(
        "low", "a full disk is a traceback",
        "e2e/test_long_work.py::test_a_full_disk_is_said_and_the_work_goes_on_when_there_is_space",
    ),
    "a_config_of_wrong_types": Finding(
        "low", "a config of wrong types is a traceback",
        "unit/test_weight_files.py::test_configs_that_describe_no_model",
    ),
    "an_index_of_wrong_types": Finding(
        "low", "an index of wrong types is a traceback",
        "unit/test_weight_files.py::test_indexes_that_lead_nowhere",
    ),
    "deep_json": Finding(
        "low", "JSON of many levels in a file is a traceback",
        "unit/test_weight_files.py::test_descriptions_that_are_none",
    ),
    "a_template_that_raises": Finding(
        "low", "a template that raises is a traceback",
        "unit/test_contract.py::test_a_chat_template_that_fails_or_does_not_end_is_named",
    ),
    "an_npz_named_npy": Finding(
        "low", "an npz named npy is a traceback",
        "unit/test_bulk.py::test_files_that_hold_no_vectors_are_refused",
    ),
    "a_parquet_bomb": Finding(
        "low", "a Parquet file of kilobytes fills all memory",
        "unit/test_data_corpora.py::test_a_parquet_bomb_is_read_a_little_at_a_time",
    ),
    "a_stray_file_among_shards": Finding(
        "low", "a stray file in a run is a traceback",
        "unit/test_data.py::test_stray_files_among_shards_are_passed_over",
    ),
    "nan_weights": Finding(
        "low", "NaN weights are read without a word",
        "unit/test_weight_files.py::test_weights_that_are_not_finite",
    ),
    "an_escape_in_a_name": Finding(
        "low", "ESC in an NLA's name reaches the terminal",
        "unit/test_printable.py::test_a_card_with_an_escape_in_a_name_is_refused",
    ),
}  # fmt: skip

REQUESTS: dict[str, Finding] = {
    "text_and_chat_clients_side_by_side": Finding(
        "high", "concurrent tokenization corrupts prompts",
        "unit/test_serve_tokens.py, parity/test_text_ids.py",
    ),
    "an_answer_of_one_token_beside_others": Finding(
        "high", "`max_new_tokens` 1 ends other clients' rows",
        "unit/test_serve_runner.py::test_an_answer_of_one_token_disturbs_nobody",
    ),
    "a_tiny_temperature": Finding(
        "high", "temperatures below 1e-46 give an index out of range",
        "unit/test_serve_runner.py::test_tiny_temperatures_say_what_greedy_says",
    ),
    "a_comparison_that_fails": Finding(
        "high", "/compare that fails is an empty description",
        "unit/test_serve_runner.py::test_a_comparison_that_fails_is_no_empty_answer",
    ),
    "a_rendered_chat_sent_back_as_text": Finding(
        "high", "special tokens in `text` are split",
        "unit/test_serve_wire.py::"
        "test_a_conversation_that_was_rendered_is_read_as_text_at_the_same_positions",
    ),
    "a_large_body_without_the_secret": Finding(
        "high", "a large body is parsed before the secret is looked at",
        "unit/test_serve_bodies.py::"
        "test_who_has_no_secret_is_told_so_before_a_large_body_is_read",
    ),
    "a_large_body_with_nothing_to_show_for_it": Finding(
        "high", "a body of any size is parsed",
        "unit/test_serve_bodies.py::test_what_would_be_costly_to_parse_is_not_parsed",
    ),
    "a_half_sent_body": Finding(
        "high", "a half-sent body is held for ever",
        "unit/test_serve_bodies.py::test_a_half_sent_body_is_not_waited_for",
    ),
    "one_position_beside_the_two_largest_requests": Finding(
        "high", "two large requests shut everybody out",
        "unit/test_serve_queue.py::test_a_full_queue_takes_everybodys_share",
    ),
    "forwarded_headers": Finding(
        "high", "invented addresses and client names take all requests",
        "unit/test_serve_queue.py::test_one_address_or_one_client_does_not_have_all_requests",
    ),
    "silent_connections": Finding(
        "medium", "1,100 silent connections shut everybody out",
        "unit/test_serve_connections.py::test_silent_connections_shut_nobody_out",
    ),
    "a_locked_database": Finding(
        "medium", "a locked database holds up /tokenize",
        "unit/test_serve_store.py::test_a_locked_file_does_not_hold_up_prompts",
    ),
    "a_client_that_leaves_in_the_middle_of_its_body": Finding(
        "low", "a client that leaves in the middle of its body is a traceback",
        "unit/test_serve_connections.py::"
        "test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error",
    ),
    "deep_json_in_a_body": Finding(
        "low", "JSON of many levels in a body is not called malformed",
        "unit/test_serve_bodies.py::test_deep_json_is_malformed",
    ),
    "references_in_the_served_description": Finding(
        "low", "the served openapi.json has a dangling reference",
        "unit/test_serve_v1.py::"
        "test_the_served_description_is_the_committed_one_and_refers_to_nothing_else",
    ),
    "a_role_and_a_channel_of_any_words": Finding(
        "wire", "roles and channels of other words are 422",
        "unit/test_serve_wire.py::test_roles_and_channels_are_any_words",
    ),
    "completion_tokens_beyond_31_bits": Finding(
        "wire", "`completion_tokens` beyond 2³¹ is not clamped",
        "unit/test_serve_wire.py::test_completion_tokens_are_clamped",
    ),
    "a_position_of_31_digits": Finding(
        "wire", "a position of 10³⁰ is not 400",
        "unit/test_serve_wire.py::test_explain_position_out_of_range",
    ),
    "a_vector_of_no_numbers": Finding(
        "wire", "`[]` as a vector is not 400",
        "unit/test_serve_wire.py::test_a_vector_of_no_numbers_has_the_wrong_length",
    ),
    "the_message_for_a_long_chat": Finding(
        "wire", "the message for a long chat says characters",
        "unit/test_serve_wire.py::test_limits_of_the_prompt",
    ),
    "a_message_held_open_before_a_generation_prompt": Finding(
        "wire", "`continue_final_message` before a generation prompt is not 400",
        "unit/test_serve_wire.py::"
        "test_a_message_held_open_has_no_generation_prompt_after_it",
    ),
    "the_last_progress_frame": Finding(
        "wire", "the last progress frame does not hold all words",
        "unit/test_serve_wire.py::test_the_last_progress_frame_holds_all_words",
    ),
    "the_text_of_a_completion": Finding(
        "wire", "the text of a completion leaves BOS out",
        "unit/test_serve_wire.py::test_completion_has_the_shape_of_tokenize",
    ),
    "a_database_that_was_removed": Finding(
        "low", "saves after the database was removed are acknowledged, and lost",
        "unit/test_serve_store.py::"
        "test_what_is_saved_after_the_file_was_removed_is_on_the_disk",
    ),
}  # fmt: skip

FINDINGS: dict[str, Any] = {
    "files": FILES,
    "requests": REQUESTS,
    # After these a server is not what it was.
    "breaking": {
        "one_position_beside_the_two_largest_requests", "forwarded_headers", "silent_connections",
        "a_locked_database", "a_half_sent_body", "a_large_body_without_the_secret",
        "a_large_body_with_nothing_to_show_for_it", "a_tiny_temperature",
        "an_answer_of_one_token_beside_others",
    },
}  # fmt: skip

MUTATIONS: dict[str, Mutation] = {
    "answers on the event loop": Mutation(
        "high", "a large answer is made on the event loop",
        "serve/stream.py",
        "records[outcome.place] = await workers.run(job.client, partial(record, outcome))",
        "records[outcome.place] = record(outcome)",
        "tests/unit/test_serve_runner.py::test_records_are_not_made_on_the_event_loop",
    ),
    "readers who stall": Mutation(
        "high", "clients who do not read block everybody",
        "serve/connections.py",
        "        super().pause_writing()\n        self._limit(\"stall\", self._settings.stall_s)\n",
        "        super().pause_writing()\n",
        "tests/unit/test_serve_connections.py::test_a_reader_who_stalls_is_cut_off",
    ),
    "invented names": Mutation(
        "high", "invented client names take places from other addresses",
        "serve/queue.py",
        "return self._active_at[client.address], self._active[client]",
        "return 0, self._active[client]",
        "tests/unit/test_serve_queue.py::"
        "test_invented_names_take_no_places_from_another_address",
    ),
    "innocent rows": Mutation(
        "high", "a step that fails ends the rows of innocent clients",
        "serve/batches.py",
        "        self._suspects.extend(groups)\n",
        "        for row in (row for group in groups for row in group):\n"
        "            self._fail(row, 'the engine failed')\n",
        "tests/unit/test_serve_runner.py::test_of_a_batch_that_fails_again_and_again_one_row_errs",
    ),
    "a flood of lines": Mutation(
        "medium", "with few descriptors the log floods",
        "serve/logs.py",
        "return count < PER_MINUTE",
        "return True",
        "tests/unit/test_serve_connections.py::test_lines_of_one_kind_are_few",
    ),
    "forwarded headers": Mutation(
        "medium", "forwarded headers are believed from loopback",
        "serve/connections.py",
        "proxy_headers=False",
        "proxy_headers=True",
        "tests/unit/test_serve_connections.py::test_forwarded_headers_are_not_believed",
    ),
    "relabelling": Mutation(
        "medium", "relabelling a finished set and being killed mixes two teachers",
        "data/labels.py",
        "        _check_same_plan(directory, plan)\n",
        "",
        "tests/unit/test_data.py::test_another_teachers_set_is_refused_and_left_as_it_is",
    ),
    "bodies off the loop": Mutation(
        "high", "bodies are parsed on the event loop",
        "serve/bodies.py",
        "return await service.parsing.run(client_of(request), work)",
        "return work()",
        "tests/unit/test_serve_bodies.py::test_a_large_body_is_parsed_beside_the_event_loop",
    ),
}  # fmt: skip
LEVELS = ("high", "medium", "low", "wire")


def probes_table(text: str) -> str:
    """What each probe saw before and now."""
    found = json.loads(text)["probes"]
    lines = ["| level | finding | before | now | test |", "|---|---|---|---|---|"]
    for level in LEVELS:
        for name, finding in {**FILES, **REQUESTS}.items():
            if finding.level == level and {"old", "new"} <= found.get(name, {}).keys():
                old, new = (_said(found[name][each]) for each in ("old", "new"))
                lines.append(f"| {level} | {finding.words} | {old} | {new} | `{finding.test}` |")
    return "\n".join([*lines, ""])


def _said(outcome: dict[str, Any]) -> str:
    mark = "" if outcome["held"] else "✗ "
    return mark + _in_a_cell(outcome["said"])


def _in_a_cell(text: str) -> str:
    """A text from outside as plain text of a Markdown table."""
    kept = "".join(character if character.isprintable() else "·" for character in text)
    return re.sub(r"([|\\`*_<>\[\]{}])", r"\\\1", kept)


def mutations_table(text: str) -> str:
    """Which test failed without which fix."""
    lines = ["| level | finding | taken out of | the test | says |", "|---|---|---|---|---|"]
    for name, each in json.loads(text)["mutations"].items():
        mutation = MUTATIONS[name]
        said = _in_a_cell(each["said"]) if each["failed"] else "✗ it passes"
        file, test = f"`{mutation.file}`", mutation.test.removeprefix("tests/")
        lines.append(f"| {mutation.level} | {mutation.words} | {file} | `{test}` | {said} |")
    return "\n".join([*lines, ""])
