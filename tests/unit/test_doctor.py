"""Each check of the doctor, on a pair broken on purpose; and on a sound one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import nlakit
from nlakit.card import NlaCard
from nlakit.cli import run
from nlakit.engines.base import Completion
from nlakit.engines.fake import FakeEngine
from nlakit.models.families import backbone_of, blocks_of
from nlakit.models.fingerprint import target_fingerprint
from nlakit.pair.pair import Pair
from nlakit.pair.source import MODELS, PairSource
from nlakit.publish.checks import Check, check_fidelity, check_script
from nlakit.publish.doctor import (
    check_behaviour,
    check_files,
    check_weights,
    gather,
)
from nlakit.registry import bundled_path
from nlakit.worlds.storyworld.documents import sample_texts

TEXTS = sample_texts(2)


def links(tmp_path: Path) -> PairSource:
    """The bundled Pair by links, so that a test may replace single files."""
    for role in MODELS:
        (tmp_path / role).mkdir()
        for path in (bundled_path() / role).iterdir():
            (tmp_path / role / path.name).symlink_to(path)
    return PairSource(*(tmp_path / role for role in MODELS))


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text(encoding="utf-8")
    changed = change(text)
    assert changed != text
    path.unlink()
    path.write_text(changed, encoding="utf-8")


def edit_meta(directory: Path, field: str, value: object) -> None:
    def change(text: str) -> str:
        raw = yaml.safe_load(text)
        *holders, name = field.split(".")
        inner = raw
        for key in holders:
            inner = inner.setdefault(key, {})
        inner[name] = value
        raw.pop("critic", None)
        return yaml.safe_dump(raw, allow_unicode=True)

    edit(directory / "nla_meta.yaml", change)


def edit_json(path: Path, **changes: object) -> None:
    edit(path, lambda text: json.dumps(json.loads(text) | changes))


def swap_letters(pair: PairSource) -> None:
    """Another vocabulary: two letters trade places."""

    def change(text: str) -> str:
        raw = json.loads(text)
        vocab = raw["model"]["vocab"]
        vocab["s"], vocab["a"] = vocab["a"], vocab["s"]
        return json.dumps(raw)

    edit(pair.av / "tokenizer.json", change)


BROKEN: dict[str, tuple[Callable[[PairSource], None], str, str, str]] = {
    # What is done to it, the check that sees it, its status, and words of what it found.
    "missing": (lambda p: (p.av / "nla_meta.yaml").unlink(), "files of av", "fail", "cannot be"),
    "vocabulary": (swap_letters, "vocabulary of av", "fail", "is ["),
    "grown": (
        lambda p: edit_json(p.ar / "config.json", vocab_size=2000),
        "vocabulary of ar",
        "fail",
        "2048 tokens, 2000 embeddings",
    ),
    "template": (
        lambda p: edit(p.av / "chat_template.jinja", lambda t: t.replace("{{ bos", "Hi {{ bos")),
        "template of av",
        "warn",
        "Hi ",
    ),
    "neighbour": (
        lambda p: edit_meta(p.av, "prompt_templates.av", "Vector: ({injection_char}) Explain."),
        "template",
        "fail",
        "av: tokens.injection_left_neighbor_id is 2043",
    ),
    "marker": (
        lambda p: edit_meta(p.av, "tokens.injection_token_id", 8),
        "marker",
        "fail",
        "av: tokens.injection_token_id is 8",
    ),
    "bos twice": (
        lambda p: edit(p.av / "chat_template.jinja", lambda t: "{{ bos_token }}" + t),
        "bos",
        "fail",
        "BOS (id 1) twice",
    ),
    "no bos": (
        lambda p: edit_json(p.ar / "tokenizer.json", post_processor=None),
        "bos of ar",
        "fail",
        "no BOS",
    ),
    "layer": (
        lambda p: edit_meta(p.ar, "extraction.layer_index", 2),
        "layer",
        "fail",
        "ar: extraction.layer_index is 2",
    ),
    "other layer": (
        lambda p: edit_meta(p.av, "extraction.layer_index", 2),
        "layer of the pair",
        "fail",
        "AV 2, AR 3, target of 6 blocks",
    ),
    "width": (
        lambda p: edit_json(p.target / "config.json", hidden_size=96),
        "width of the pair",
        "fail",
        "target 96",
    ),
    "role": (lambda p: edit_meta(p.ar, "role", "av"), "role", "fail", "ar: role is av"),
    "padding": (
        lambda p: edit_json(p.ar / "tokenizer_config.json", padding_side="left"),
        "padding side of ar",
        "warn",
        "left",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(name, tmp_path):
    harm, check, status, found = BROKEN[name]
    pair = links(tmp_path)
    harm(pair)
    bad = {each.name: each for each in check_files(pair) if each.status != "ok"}
    assert check in bad
    assert bad[check].status == status and found in bad[check].found
    assert bad[check].expected and bad[check].advice


def test_sound_files_have_no_complaint():
    parts = PairSource(*(bundled_path() / role for role in MODELS))
    assert [check for check in check_files(parts) if check.status != "ok"] == []


# ---- what it says


@pytest.fixture(scope="module")
def bundled() -> Pair:
    return nlakit.load()


def said(
    bundled: Pair, *script: str | None, rebuilt: torch.Tensor | None = None
) -> dict[str, Check]:
    """The bundled target under an engine that says `script`, whatever the vector."""
    width = bundled.card.d_model
    fake = FakeEngine(script, width, None if rebuilt is None else lambda _: rebuilt)
    fake.extract = bundled.engine.extract
    nla = Pair(fake, bundled.target, bundled.card, bundled.mean_D)
    return {check.name: check for check in check_behaviour(nla, TEXTS)}


def test_answers_without_a_closing_tag_are_seen(bundled):
    found = said(bundled, None)["closed"]
    assert found.status == "fail" and found.found.startswith("0% of 6")


def test_one_answer_for_all_vectors_is_seen(bundled):
    checks = said(bundled, "a story about a boat")
    assert checks["dependence"].status == "fail"
    assert checks["dependence"].found == "1 different explanations of 6 vectors"
    assert checks["closed"].status == "ok" and checks["script"].status == "ok"
    assert said(bundled, *"abcdef")["dependence"].status == "ok"


def test_a_reconstruction_no_better_than_the_mean_is_seen(bundled):
    found = said(bundled, *"abcdef", rebuilt=bundled.mean_D)["fidelity"]
    # All rows alike: shuffling changes nothing, and the mean is what they come to at best.
    assert found.status == "fail" and "explanations of other texts" in found.found


def test_floors_are_of_other_texts_as_in_reports(bundled):
    """The next token of the same text says nearly the same, which is no floor."""
    found = check_fidelity(gather(bundled, sample_texts(4), 60)).found
    own, other = (float(each) for each in re.findall(r"-?\d\.\d{3}", found))
    assert own > 0.4 and other < bundled.card.floors["mean"]
    alone = check_fidelity(gather(bundled, sample_texts(1), 60)).found
    assert "explanations of other tokens" in alone


@pytest.mark.parametrize(
    ("explanation", "texts", "status"),
    [
        ("括号中的一是汉字编号符号", ["The cat sat."], "fail"),
        ("括号中的一是汉字编号符号", ["猫坐在垫子上。"], "ok"),
        ("кошка сидит на ковре", ["The cat sat."], "fail"),
        ("the word 猫, a cat", ["The cat sat."], "ok"),
        ("", ["The cat sat."], "ok"),
    ],
)
def test_talk_about_the_marker_is_seen_by_its_script(explanation, texts, status):
    answer = Completion(explanation, explanation, (1,), (0.0,), True)
    assert check_script([answer] * 3, texts).status == status


def test_the_bundled_pair_is_sound(capsys):
    assert run(["doctor", "--json", "--max-new-tokens", "60"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {check["name"]: check["status"] for check in checks if check["status"] != "ok"} == {}
    assert {"scale", "closed", "script", "dependence", "fidelity"} <= {c["name"] for c in checks}


def diagnosis(pair: PairSource, texts: Path, capsys, *more: str) -> dict[str, dict]:
    arguments = ["--av", str(pair.av), "--ar", str(pair.ar), "--target", str(pair.target)]
    with pytest.raises(SystemExit, match="1"):
        run(["doctor", *arguments, "--file", str(texts), "--max-new-tokens", "60", "--json", *more])
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.fixture
def passages(tmp_path) -> Path:
    path = tmp_path / "passages.txt"
    path.write_text("\n\n".join(text.replace("\n\n", "\n") for text in TEXTS), encoding="utf-8")
    return path


def test_a_vector_too_small_to_be_seen(tmp_path, passages, capsys):
    pair = links(tmp_path)
    edit_meta(pair.av, "extraction.injection_scale", 1e-6)
    checks = diagnosis(pair, passages, capsys)
    assert checks["scale"]["status"] == checks["dependence"]["status"] == "fail"
    assert checks["scale"]["found"] == "1e-06"


def test_a_reconstructor_of_another_pair(tmp_path, passages, capsys):
    pair = links(tmp_path)
    head = load_file(pair.ar / "value_head.safetensors")
    (pair.ar / "value_head.safetensors").unlink()
    turned = {"weight": head["weight"].roll(1, dims=0).contiguous()}
    save_file(turned, pair.ar / "value_head.safetensors")
    mean = tmp_path / "mean.safetensors"
    checks = diagnosis(pair, passages, capsys, "--write-mean", str(mean))
    assert checks["fidelity"]["status"] == "fail" and checks["dependence"]["status"] == "ok"
    # What was written is what --mean reads.
    loaded = nlakit.load(**pair.models, mean=mean)
    assert loaded.card.baseline == "training_mean" and 0 < loaded.card.variance < 2


def test_broken_files_stop_before_a_weight_is_read(tmp_path, passages, capsys):
    pair = links(tmp_path)
    (pair.ar / "model.safetensors").unlink()
    edit_meta(pair.av, "tokens.injection_token_id", 8)
    checks = diagnosis(pair, passages, capsys)
    assert checks["marker"]["status"] == "fail" and "fidelity" not in checks


@pytest.mark.parametrize("mse_scale", [150.0, None])
@pytest.mark.parametrize("mean", [None, bundled_path() / "mean.safetensors"])
def test_pairs_of_every_scale_are_measured_at_one_norm(mean, mse_scale, tmp_path):
    pair = links(tmp_path)
    found = [fidelity_of(nlakit.load(**pair.models, mean=mean))]
    for part in (pair.av, pair.ar):
        edit_meta(part, "extraction.mse_scale", mse_scale)
    found.append(fidelity_of(nlakit.load(**pair.models, mean=mean)))
    assert found[0].found == found[1].found and found[0].status == "ok"


def fidelity_of(nla: Pair) -> Check:
    checks = check_behaviour(nla, TEXTS, max_new_tokens=60)
    return next(check for check in checks if check.name == "fidelity")


def test_a_card_without_a_baseline_has_a_mean_made_from_the_texts(bundled):
    card = NlaCard(**bundled.card.model_dump() | {"baseline": "none", "variance": 2.0})
    nla = Pair(bundled.engine, bundled.target, card, torch.zeros(card.d_model))
    checks = {check.name: check for check in check_behaviour(nla, TEXTS, max_new_tokens=60)}
    assert checks["fidelity"].status == "ok"


# ---- a target with other weights


@pytest.fixture
def tuned(tmp_path) -> Path:
    """The bundled NLA over a target that somebody trained further."""
    directory = tmp_path / "nla"
    shutil.copytree(bundled_path(), directory)
    target = nlakit.load(dtype="bfloat16").target
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in target.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.02 * parameter.abs().mean() * noise)
    target.save(directory / "target")
    return directory


def test_a_target_with_other_weights_is_told_in_every_reading_and_by_the_doctor(tuned, bundled):
    pair = nlakit.load(tuned)
    reading = pair.explain("Basil rowed by the pier.", last=1, max_new_tokens=5)
    assert "other weights" in reading.notices[0]
    checks = {check.name: check for check in check_behaviour(pair, TEXTS, max_new_tokens=5)}
    found = checks["target weights"]
    assert found.status == "warn" and "the mean of these activations has a cosine of" in found.found
    assert bundled.explain("a", max_new_tokens=1).notices == ()
    assert check_weights(bundled, torch.ones(2, 192)).found == "the same"


def test_the_fingerprint_does_not_depend_on_the_precision_or_on_later_blocks(bundled):
    known = bundled.card.target_fingerprint
    for dtype in ("float32", "bfloat16"):
        target = nlakit.load(dtype=dtype).target
        assert target_fingerprint(target) == known
        with torch.no_grad():
            for parameter in blocks_of(backbone_of(target.model))[4:].parameters():
                parameter.zero_()
        assert target_fingerprint(target) == known
