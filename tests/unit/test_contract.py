"""The contract: every form of the file is read, every disagreement is refused by name."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from nlakit import contract
from nlakit.contract import META_NAME, NlaMeta, read_meta, upgrade, verify, write_meta
from nlakit.errors import ContractError

MARKER = "㊟"
AV_TEMPLATE = "Read <concept>{injection_char}</concept> and {explain}."
AR_TEMPLATE = "Summary: <text>{explanation}</text> <summary>"
CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CORPUS = ["<text>a b</text> <summary> the cat. the dog. <concept> </concept> ><"] * 4


@functools.cache
def tokenizer(*, bos: bool = True, marker: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the spot, with a BOS that it adds itself if `bos`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<bos>", "<eos>", *([MARKER] if marker else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", chat_template=CHAT
    )


@functools.cache
def good_raw(role: str = "av") -> dict:
    tokens = contract.measure_tokens(tokenizer(), MARKER, AV_TEMPLATE, AR_TEMPLATE)
    return {
        "schema_version": 2,
        "kind": "nla_model",
        "role": role,
        "d_model": 16,
        "extraction": {
            "base_model": "someone/base",
            "layer_index": 2,
            "injection_scale": 150.0,
            "mse_scale": "sqrt_d_model",
        },
        "tokens": tokens.model_dump(mode="json"),
        "prompt_templates": {"av": AV_TEMPLATE, "ar": AR_TEMPLATE},
    }


def spell(ids) -> str:
    return str(tokenizer().decode(list(ids), clean_up_tokenization_spaces=False))


def raw_with(field: str, value, role: str = "av") -> dict:
    """A good file with one dotted field changed; a value of `...` takes the field out."""
    raw = copy.deepcopy(good_raw(role))
    *path, name = field.split(".")
    holder = functools.reduce(lambda inner, key: inner[key], path, raw)
    holder.pop(name, None)
    if value is not ...:
        holder[name] = value
    return raw


def read_raw(directory: Path, raw: dict) -> NlaMeta:
    (directory / "nla_meta.yaml").write_text(
        yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8"
    )
    return read_meta(directory)


def config(role: str = "av", **changes) -> SimpleNamespace:
    values = {"hidden_size": 16, "num_hidden_layers": 4 if role == "av" else 3, **changes}
    return SimpleNamespace(**values)


def refusal(call, *arguments) -> ContractError:
    with pytest.raises(ContractError) as caught:
        call(*arguments)
    error = caught.value
    assert error.field in str(error) and "found" in str(error) and "expected" in str(error)
    return error


# ---- reading and writing

SCALES = st.none() | st.just("sqrt_d_model") | st.floats(1e-6, 1e9)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}"), max_size=20)
IDS = st.integers(0, 300_000)


@st.composite
def metas(draw) -> NlaMeta:
    tokens = {
        "injection_char": draw(TEXT.filter(bool)),
        "injection_token_id": draw(IDS),
        "injection_left_neighbor_id": draw(IDS),
        "injection_right_neighbor_id": draw(IDS),
        "critic_suffix_ids": draw(st.none() | st.lists(IDS, min_size=1, max_size=4)),
    }
    raw = {
        "role": draw(st.sampled_from(["av", "ar"])),
        "d_model": draw(st.integers(1, 20_000)),
        "extraction": {
            "layer_index": draw(st.integers(0, 100)),
            "injection_scale": draw(SCALES),
            "mse_scale": draw(SCALES),
        },
        "tokens": tokens,
        "prompt_templates": {
            "av": draw(TEXT) + "{injection_char}" + draw(TEXT),
            "ar": draw(TEXT) + "{explanation}" + draw(TEXT),
        },
        "provenance": draw(st.dictionaries(TEXT, TEXT | st.booleans() | IDS, max_size=2)),
    }
    return NlaMeta.model_validate(raw)


@settings(max_examples=60, deadline=None)
@given(meta=metas())
def test_what_is_written_is_read_back(meta, tmp_path_factory):
    directory = tmp_path_factory.mktemp("meta")
    write_meta(directory, meta)
    assert read_meta(directory) == meta


def test_written_file_speaks_av_ar_and_says_the_layer_where_others_look(tmp_path):
    write_meta(tmp_path, NlaMeta.model_validate(good_raw()))
    raw = yaml.safe_load((tmp_path / "nla_meta.yaml").read_text(encoding="utf-8"))
    assert raw["role"] == "av" and list(raw["prompt_templates"]) == ["av", "ar"]
    assert raw["critic"] == {"extraction_layer_index": 2}
    assert raw["tokens"]["injection_char"] == MARKER


@settings(max_examples=60, deadline=None)
@given(
    version=st.sampled_from([None, 1, 2]),
    role=st.sampled_from(["av", "actor", "verbalizer"]),
    av_key=st.sampled_from(["av", "actor"]),
    ar_key=st.sampled_from(["ar", "critic"]),
    layer_at=st.sampled_from(["extraction", "top", "critic", "everywhere"]),
)
def test_every_older_form_upgrades_to_the_same_file(version, role, av_key, ar_key, layer_at):
    raw = copy.deepcopy(good_raw())
    raw["role"] = role
    raw["prompt_templates"] = {av_key: AV_TEMPLATE, ar_key: AR_TEMPLATE}
    if layer_at in ("top", "critic"):
        del raw["extraction"]["layer_index"]
    if layer_at in ("top", "everywhere"):
        raw["extraction_layer_index"] = 2
    if layer_at in ("critic", "everywhere"):
        raw["critic"] = {"extraction_layer_index" if version == 2 else "num_hidden_layers": 2}
    del raw["schema_version"]
    raw |= {"schema_version": version} if version else {}
    before = copy.deepcopy(raw)
    assert upgrade(raw) == good_raw()
    assert raw == before


@pytest.mark.parametrize(
    ("name", "role"), [("critic", "ar"), ("reconstructor", "ar"), ("actor", "av")]
)
def test_both_vocabularies_name_the_same_roles(name, role):
    assert upgrade(raw_with("role", name))["role"] == role


def test_file_without_version_and_role_takes_the_role_of_its_only_template():
    raw = raw_with("prompt_templates", {"critic": AR_TEMPLATE})
    del raw["schema_version"], raw["role"]
    assert upgrade(raw)["role"] == "ar"


def test_makers_notes_are_kept_apart():
    raw = good_raw() | {"created_at": "2026-05-01", "training": {"steps": 4200}}
    assert upgrade(raw)["provenance"] == {"created_at": "2026-05-01", "training": {"steps": 4200}}


def test_absent_mse_scale_is_sqrt_d_model_and_null_is_raw(tmp_path):
    assert read_raw(tmp_path, raw_with("extraction.mse_scale", ...)).extraction.mse_scale == (
        "sqrt_d_model"
    )
    assert read_raw(tmp_path, raw_with("extraction.mse_scale", None)).extraction.mse_scale is None


def test_null_injection_scale_is_raw_and_absent_is_refused(tmp_path):
    meta = read_raw(tmp_path, raw_with("extraction.injection_scale", None))
    assert meta.extraction.injection_scale is None
    error = refusal(read_raw, tmp_path, raw_with("extraction.injection_scale", ...))
    assert (error.field, error.found) == ("extraction.injection_scale", "nothing")


WRONG_IN_THE_FILE = [
    ("schema_version", 3),
    ("schema_version", True),
    ("kind", "nla_thing"),
    ("kind", ...),
    ("kind", "nla_dataset"),
    ("role", "judge"),
    ("role", ...),
    ("d_model", 0),
    ("d_model", "16"),
    ("d_model", ...),
    ("extraction", [1]),
    ("extraction.layer_index", -1),
    ("extraction.layer_index", 2.0),
    ("extraction.layer_index", ...),
    ("extraction.injection_scale", "8e4"),
    ("extraction.injection_scale", 0),
    ("extraction.injection_scale", float("nan")),
    ("extraction.injection_scale", True),
    ("extraction.mse_scale", "sqrt"),
    ("extraction.mse_scal", 1.0),
    ("extraction.norm", "whitened"),
    ("tokens", ...),
    ("tokens.injection_char", ""),
    ("tokens.injection_token_id", None),
    ("tokens.injection_left_neighbor_id", ...),
    ("tokens.critic_suffix_ids", []),
    ("prompt_templates.av", "no slot"),
    ("prompt_templates.av", "{injection_char}{injection_char}"),
    ("prompt_templates.av", ...),
    ("prompt_templates.ar", "no slot"),
    ("prompt_templates.judge", "text"),
    ("extraction_layer_index", 3),
    ("critic", {"extraction_layer_index": 3}),
    ("critic", {"blocks": 3}),
    ("bogus", 1),
]


@pytest.mark.parametrize(("field", "value"), WRONG_IN_THE_FILE)
def test_one_wrong_field_is_refused_by_name(field, value, tmp_path):
    error = refusal(read_raw, tmp_path, raw_with(field, value))
    assert error.field.startswith(field)


def test_typo_is_told_the_likely_key(tmp_path):
    error = refusal(read_raw, tmp_path, raw_with("extraction.mse_scal", 1.0))
    assert "Did you mean 'mse_scale'?" in str(error)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "", "\x00"])
def test_file_that_is_no_mapping_is_refused(text, tmp_path):
    (tmp_path / "nla_meta.yaml").write_text(text)
    assert refusal(read_meta, tmp_path).field == "(file)"


def test_missing_file_is_refused(tmp_path):
    assert "No such file" in str(refusal(read_meta, tmp_path))


def test_dataset_sidecar_keeps_width_under_extraction_and_comes_back(tmp_path):
    raw = copy.deepcopy(good_raw()) | {"kind": "nla_dataset", "stage": "av_sft", "row_count": 7}
    del raw["role"]
    raw["extraction"] = {"d_model": raw.pop("d_model"), "layer_index": 2, "norm": "none"}
    raw["prompt_templates"] = {"actor": AV_TEMPLATE}
    parquet = tmp_path / "rows.parquet"
    (tmp_path / "rows.parquet.nla_meta.yaml").write_text(yaml.safe_dump(raw))
    meta = contract.read_dataset_meta(parquet)
    assert (meta.extraction.d_model, meta.prompt_templates.av) == (16, AV_TEMPLATE)
    assert meta.provenance == {"stage": "av_sft", "row_count": 7}
    contract.write_dataset_meta(parquet, meta)
    assert contract.read_dataset_meta(parquet) == meta


# ---- rendering


def test_av_prompt_is_the_chat_template_cut_at_the_marker():
    prefix, suffix = contract.render_av(NlaMeta.model_validate(good_raw()), tokenizer())
    assert spell(prefix) == "<bos><user>Read <concept>"
    # Braces that are not ours stay: nothing is formatted.
    assert spell(suffix) == "</concept> and {explain}.\n<assistant>"
    assert spell(prefix).count("<bos>") == 1


def ar_prompt(**options) -> contract.ArPrompt:
    return contract.render_ar(NlaMeta.model_validate(good_raw("ar")), tokenizer(**options))


def test_ar_prompt_has_its_bos():
    prefix = ar_prompt().prefix_ids
    assert prefix[0] == tokenizer().bos_token_id
    assert spell(prefix[1:]) == "Summary: <text>"
    assert ar_prompt().encode("a cat")[: len(prefix)] == prefix


def test_ar_prompt_without_added_tokens_has_no_bos():
    with_bos, without = (ar_prompt(bos=bos) for bos in (True, False))
    assert with_bos.encode("a cat")[1:] == without.encode("a cat")
    assert without.encode("a cat")[0] != tokenizer().bos_token_id


@settings(max_examples=40, deadline=None)
@given(explanation=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_ar_ids_spell_the_prompt_whatever_the_explanation_ends_with(explanation):
    ids = ar_prompt().encode(explanation)
    assert spell(ids) == "<bos>" + AR_TEMPLATE.replace("{explanation}", explanation)


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """`.</` and `>T` are one token each, as in vocabularies learned from markup."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=262,
        special_tokens=["<bos>", MARKER],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([".</ >T"] * 9 + [".</", ">T"] * 9, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", chat_template=CHAT)


EXPLANATIONS = ["The cat sat.", "the cat", "", ".", "The <b>boat</b>.\n", "Ünïcode…", " the end. "]


@pytest.mark.parametrize("explanation", EXPLANATIONS)
def test_ar_ids_are_those_of_the_whole_string(explanation):
    plain = merging_tokenizer()
    raw = good_raw("ar") | {
        "tokens": contract.measure_tokens(plain, MARKER, AV_TEMPLATE, AR_TEMPLATE)
    }
    meta = NlaMeta.model_validate(raw)
    expected = plain(AR_TEMPLATE.replace("{explanation}", explanation))["input_ids"]
    assert contract.render_ar(meta, plain).encode(explanation) == expected
    tail = list(meta.tokens.critic_suffix_ids or ())
    assert tail and expected[-len(tail) :] == tail
    verify(meta, plain, config("ar"), "ar")


def test_the_merging_tokenizer_merges_at_both_ends():
    plain = merging_tokenizer()
    tokens = plain.convert_ids_to_tokens(
        plain(AR_TEMPLATE.replace("{explanation}", "The cat sat."))["input_ids"]
    )
    assert ".</" in tokens and ">T" in tokens


def test_special_tokens_are_those_of_the_ar_template_alone():
    raw = good_raw("ar") | {
        "prompt_templates": {"av": AV_TEMPLATE, "ar": "a<eos>b {explanation}c<eos>d"}
    }
    raw["tokens"] = raw["tokens"] | {"critic_suffix_ids": None}
    ids = contract.render_ar(NlaMeta.model_validate(raw), tokenizer()).encode("x <eos> <bos> y")
    assert spell(ids) == "<bos>a<eos>b x <eos> <bos> yc<eos>d"
    assert ids.count(tokenizer().eos_token_id) == 2 and ids.count(tokenizer().bos_token_id) == 1
    plain = tokenizer()("a<eos>b the catc<eos>d")["input_ids"]
    assert contract.render_ar(NlaMeta.model_validate(raw), tokenizer()).encode("the cat") == plain


def test_measured_tokens_are_those_of_the_rendered_prompt():
    tokens = contract.measure_tokens(tokenizer(), MARKER, AV_TEMPLATE, AR_TEMPLATE)
    assert tokens.injection_token_id == 2
    assert spell([tokens.injection_left_neighbor_id]).endswith(">")
    assert spell([tokens.injection_right_neighbor_id]).startswith("<")
    suffix = spell(tokens.critic_suffix_ids or ())
    assert suffix and "</text> <summary>".endswith(suffix)


# ---- verifying


@pytest.mark.parametrize("role", ["av", "ar"])
def test_matching_model_is_accepted(role):
    verify(NlaMeta.model_validate(good_raw(role)), tokenizer(), config(role), role)


def test_width_is_also_looked_up_in_a_nested_text_config():
    nested = SimpleNamespace(text_config=config(), hidden_size=999)
    verify(NlaMeta.model_validate(good_raw()), tokenizer(), nested, "av")


WRONG_FOR_THE_MODEL = [
    ("av", "d_model", 17),
    ("av", "extraction.layer_index", 4),
    ("av", "tokens.injection_char", "ab"),
    ("av", "tokens.injection_token_id", 3),
    ("av", "tokens.injection_left_neighbor_id", 0),
    ("av", "tokens.injection_right_neighbor_id", 0),
    ("av", "prompt_templates.av", MARKER + " <concept>{injection_char}</concept>"),
    ("av", "prompt_templates.av", "<bos>{injection_char}</concept>"),
    ("ar", "d_model", 17),
    ("ar", "extraction.layer_index", 1),
    ("ar", "extraction.layer_index", 3),
    ("ar", "tokens.injection_token_id", 3),
    ("ar", "tokens.critic_suffix_ids", [1, 2]),
    ("ar", "prompt_templates.ar", "<bos>Summary: <text>{explanation}</text> <summary>"),
]


@pytest.mark.parametrize(("role", "field", "value"), WRONG_FOR_THE_MODEL)
def test_one_disagreement_is_refused_by_name(role, field, value):
    meta = NlaMeta.model_validate(raw_with(field, value, role))
    error = refusal(verify, meta, tokenizer(), config(role), role)
    expected = field
    if value == "<bos>{injection_char}</concept>":
        expected = "tokens.injection_left_neighbor_id"
    assert error.field == expected


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["injection_token_id", "injection_left_neighbor_id"]),
    shift=st.integers(1, 10**6),
)
def test_any_other_id_is_refused_with_both_values(name, shift):
    true_id = good_raw()["tokens"][name]
    meta = NlaMeta.model_validate(raw_with(f"tokens.{name}", true_id + shift))
    error = refusal(verify, meta, tokenizer(), config(), "av")
    assert (error.field, error.found, error.expected) == (
        f"tokens.{name}",
        true_id + shift,
        true_id,
    )


def test_directory_of_the_other_role_is_refused():
    error = refusal(verify, NlaMeta.model_validate(good_raw("ar")), tokenizer(), config(), "av")
    assert (error.field, error.found, error.expected) == ("role", "ar", "av")


def test_marker_of_several_tokens_in_another_tokenizer_is_refused():
    other = tokenizer(marker=False)
    error = refusal(verify, NlaMeta.model_validate(good_raw()), other, config(), "av")
    assert error.field == "tokens.injection_char" and "3 tokens" in error.found


def test_marker_that_is_unk_is_refused():
    unknowing = copy.deepcopy(tokenizer())
    unknowing.unk_token = MARKER
    error = refusal(verify, NlaMeta.model_validate(good_raw()), unknowing, config(), "av")
    assert error.field == "tokens.injection_char" and "unk" in error.expected


def test_slot_at_the_edge_of_the_prompt_is_refused():
    bare = copy.deepcopy(tokenizer())
    bare.chat_template = "{{ messages[0]['content'] }}"
    meta = NlaMeta.model_validate(raw_with("prompt_templates.av", "{injection_char} end"))
    error = refusal(verify, meta, bare, config(), "av")
    assert error.field == "prompt_templates.av" and "position 0" in error.found


def test_tokenizer_without_chat_template_is_refused():
    mute = copy.deepcopy(tokenizer())
    mute.chat_template = None
    error = refusal(verify, NlaMeta.model_validate(good_raw()), mute, config(), "av")
    assert error.field == "tokenizer.chat_template"


def test_ar_prompt_that_starts_with_something_other_than_bos_is_refused():
    odd = copy.deepcopy(tokenizer())
    odd.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 1)]
    )
    error = refusal(verify, NlaMeta.model_validate(good_raw("ar")), odd, config("ar"), "ar")
    assert error.field == "prompt_templates.ar" and "BOS" in error.expected


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "kind: " + "[" * 3000 + "]" * 3000,
        "layer: " + "9" * 10_000,
        "text: " + "a" * 300_000,
        '!!python/object/apply:os.system ["true"]',
    ],
)
def test_yaml_that_is_built_to_hurt_is_refused(tmp_path, text):
    (tmp_path / META_NAME).write_text(text)
    with pytest.raises(ContractError):
        read_meta(tmp_path)


def test_a_pipe_or_a_device_is_no_contract(tmp_path):
    os.mkfifo(tmp_path / META_NAME)
    with pytest.raises(ContractError, match="pipe"):
        read_meta(tmp_path)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "steps"),
        ("{{ raise_exception('no') }}", "TemplateError: no"),
    ],
)
def test_a_chat_template_that_fails_or_does_not_end_is_named(template, found):
    broken = copy.deepcopy(tokenizer())
    broken.chat_template = template
    error = refusal(contract.render_av, NlaMeta.model_validate(good_raw()), broken)
    assert error.field == "tokenizer.chat_template" and found in str(error)
