"""Released and exported pairs: the reference layout in, the reference layout out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import nlakit
from nlakit.cli import run
from nlakit.errors import CheckpointError, InputError
from nlakit.models.hub import locate
from nlakit.registry import bundled_path

TEXT = "Basil rowed by the pier."


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The bundled NLA, exported."""
    output = tmp_path_factory.mktemp("exported")
    assert run(["export", "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def bundled() -> nlakit.Pair:
    return nlakit.load()


def plain_pair(directory: Path, vector: torch.Tensor, num_tokens: int):
    """The method's §2 in plain transformers: the greedy answer's ids, and what the AR makes of it.

    No line of nlakit is used here.
    """
    meta = yaml.safe_load((directory / "av/nla_meta.yaml").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(directory / "av")
    av = AutoModelForCausalLM.from_pretrained(directory / "av", dtype=torch.float32)
    char, marker = meta["tokens"]["injection_char"], meta["tokens"]["injection_token_id"]
    content = meta["prompt_templates"]["av"].replace("{injection_char}", char)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    embeds = av.get_input_embeddings()(ids).detach()
    scale = meta["extraction"]["injection_scale"]
    embeds[0, ids[0].tolist().index(marker)] = vector * scale / vector.norm()
    mask = torch.ones_like(ids)
    out = av.generate(
        inputs_embeds=embeds, attention_mask=mask, max_new_tokens=num_tokens, do_sample=False
    )
    text = tokenizer.decode(out[0]).split("<explanation>")[1].split("</explanation>")[0].strip()
    ar = AutoModel.from_pretrained(directory / "ar", dtype=torch.float32)
    ar.norm = torch.nn.Identity()
    prompt = meta["prompt_templates"]["ar"].replace("{explanation}", text)
    hidden = ar(tokenizer(prompt, return_tensors="pt")["input_ids"]).last_hidden_state[0, -1]
    with safe_open(directory / "ar/value_head.safetensors", framework="pt") as head:
        return out[0].tolist(), head.get_tensor("weight") @ hidden


def test_plain_transformers_reads_an_exported_pair(exported, bundled):
    encoded = bundled.encode(TEXT)
    vector = bundled.engine.extract(encoded, [len(encoded.ids) - 1])[0]
    ids, rebuilt = plain_pair(exported, vector, 60)
    answer = bundled.engine.verbalize(vector[None], nlakit.Sampling(max_new_tokens=60))[0][0]
    # The engine stops at the closing tag, plain generation at EOS.
    assert answer.closed and ids[: len(answer.ids)] == list(answer.ids)
    expected = bundled.score(answer.text, vector).cosine
    assert torch.cosine_similarity(rebuilt, vector, dim=0).item() == pytest.approx(
        expected, abs=1e-4
    )
    assert expected > 0.5


def test_the_weights_are_the_same_bytes_and_only_safetensors(exported):
    for role in ("target", "av", "ar"):
        found = load_file(exported / role / "model.safetensors")
        kept = load_file(bundled_path() / role / "model.safetensors")
        assert found.keys() == kept.keys()
        assert all(found[k].dtype == kept[k].dtype and found[k].equal(kept[k]) for k in kept)
    suffixes = {path.suffix for path in exported.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".yaml", ".jinja", ".md"}


def test_the_card_says_what_is_known(exported):
    card = (exported / "av/README.md").read_text(encoding="utf-8")
    report = json.loads((bundled_path() / "report.json").read_text(encoding="utf-8"))
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0" and head["base_model"] == "nlakit/storyworld"
    low, high = report["fve_interval"]
    assert f"**{report['fve']:.3f}** (95 % interval {low:.3f} to {high:.3f})" in card
    assert f"variance {report['variance']:.3f}" in card
    assert f"{report['claims']['precision']:.1%} are true" in card
    assert "decoder block 3, width 192" in card and "shuffled -0.98" in card
    assert "activation reconstructor" in (exported / "ar/README.md").read_text(encoding="utf-8")


def test_the_cards_commands_name_a_target_that_is_there(exported, tmp_path):
    arguments = ["--av", str(exported / "av"), "--ar", str(exported / "ar")]
    target = ["--target", str(exported / "target")]
    assert run(["export", *arguments, *target, "--output", str(tmp_path / "parts")]) == 0
    for directory in (exported, tmp_path / "parts"):
        assert (directory / "target/config.json").is_file()
        for role in ("av", "ar"):
            card = (directory / role / "README.md").read_text(encoding="utf-8")
            assert "$ nlakit doctor --av av --ar ar --target target\n" in card
            assert "$ nlakit explain --av av --ar ar --target target " in card


def test_text_is_equal_before_and_after(exported, bundled):
    expected = bundled.explain(TEXT, last=2, max_new_tokens=50).tokens
    parts = {"av": exported / "av", "ar": exported / "ar", "target": exported / "target"}
    loose = nlakit.load(**parts, mean=exported / "mean.safetensors")
    for again in (nlakit.load(exported), loose):
        found = again.explain(TEXT, last=2, max_new_tokens=50).tokens
        assert [row.explanation for row in found] == [row.explanation for row in expected]
        assert [row.fidelity for row in found] == pytest.approx([r.fidelity for r in expected])
    assert found[0].word == expected[0].word != "no baseline"


def test_the_cards_command_keeps_the_fidelity(exported, bundled, capsys):
    """What `nlakit export` writes beside av/ and ar/ is read: the mean, the card, the target."""
    expected = bundled.explain(TEXT, last=1, max_new_tokens=50).tokens[0]
    arguments = ["--av", str(exported / "av"), "--ar", str(exported / "ar")]
    for target in ([], ["--target", str(exported / "target")]):
        options = [*arguments, *target, "--last", "1", "--max-new-tokens", "50"]
        assert run(["explain", TEXT, *options, "--json"]) == 0
        reading = json.loads(capsys.readouterr().out)
        row = reading["tokens"][0]
        assert row["fidelity"] == pytest.approx(expected.fidelity, abs=1e-6)
        assert row["baseline"] == "training_mean" and reading["nla"] == bundled.name


def test_without_a_mean_the_cosine_is_shown_and_called_so(exported, tmp_path, capsys):
    for role in ("av", "ar"):
        link_all(exported / role, tmp_path / role)
    arguments = ["--av", str(tmp_path / "av"), "--ar", str(tmp_path / "ar")]
    arguments += ["--target", str(exported / "target"), "--last", "1", "--max-new-tokens", "50"]
    assert run(["explain", TEXT, *arguments, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["tokens"][0]
    assert row["baseline"] == "none" and row["fidelity"] == pytest.approx(row["cosine"], abs=1e-5)
    assert run(["explain", TEXT, *arguments]) == 0
    table = " ".join(capsys.readouterr().out.split())  # lines end where the table does
    assert "no baseline" in table and "bare cosine" in table and "faithful" not in table


def test_older_words_a_bias_and_shards_are_read(exported, bundled, tmp_path):
    """Schema 1, actor and critic, a head with a bias, and weights in two files."""
    for role, word in (("av", "actor"), ("ar", "critic")):
        link_all(exported / role, tmp_path / role)
        raw = yaml.safe_load((exported / role / "nla_meta.yaml").read_text(encoding="utf-8"))
        templates = {
            "actor": raw["prompt_templates"]["av"],
            "critic": raw["prompt_templates"]["ar"],
        }
        layer = raw["extraction"].pop("layer_index")
        raw |= {"schema_version": 1, "role": word, "prompt_templates": templates,
                "critic": {"num_hidden_layers": layer}}  # fmt: skip
        replace(tmp_path / role / "nla_meta.yaml", yaml.safe_dump(raw, allow_unicode=True))
    head = load_file(exported / "ar/value_head.safetensors")
    (tmp_path / "ar/value_head.safetensors").unlink()
    save_file({**head, "bias": torch.zeros(192)}, tmp_path / "ar/value_head.safetensors")
    shard(tmp_path / "av")
    again = nlakit.load(av=tmp_path / "av", ar=tmp_path / "ar", target=exported / "target")
    expected = bundled.explain(TEXT, last=1, max_new_tokens=50).tokens[0]
    found = again.explain(TEXT, last=1, max_new_tokens=50).tokens[0]
    assert (found.explanation, found.cosine) == (
        expected.explanation,
        pytest.approx(expected.cosine, abs=1e-5),
    )


def link_all(source: Path, to: Path) -> None:
    to.mkdir(parents=True)
    for path in source.iterdir():
        (to / path.name).symlink_to(path)


def replace(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text, encoding="utf-8")


def shard(directory: Path) -> None:
    whole = load_file(directory / "model.safetensors")
    names = {key: f"model-{index % 2}.safetensors" for index, key in enumerate(whole)}
    for name in set(names.values()):
        save_file({k: v for k, v in whole.items() if names[k] == name}, directory / name)
    (directory / "model.safetensors").unlink()
    index = {"weight_map": names}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def test_names_on_the_hub_are_downloaded_and_missing_ones_explained(exported, tmp_path):
    """Offline, from a cache in the hub's own layout."""
    snapshot = tmp_path / "models--someone--pair-av/snapshots/abc"
    link_all(exported / "av", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    assert locate("someone/pair-av", cache_dir=tmp_path) == snapshot
    assert locate(exported / "av") == exported / "av"
    with pytest.raises(CheckpointError, match="someone/none is no directory here and cannot be"):
        locate("someone/none", cache_dir=tmp_path)
    with pytest.raises(CheckpointError, match="neither a directory nor a name on the hub"):
        locate("/no/such/place")


def test_parts_of_different_pairs_are_refused(exported, tmp_path, capsys):
    link_all(exported / "ar", tmp_path / "ar")
    raw = yaml.safe_load((exported / "ar/nla_meta.yaml").read_text(encoding="utf-8"))
    raw["extraction"]["layer_index"] = raw["critic"]["extraction_layer_index"] = 2
    replace(tmp_path / "ar/nla_meta.yaml", yaml.safe_dump(raw, allow_unicode=True))
    parts = {"av": exported / "av", "ar": tmp_path / "ar", "target": exported / "target"}
    with pytest.raises(CheckpointError, match="layer_index is 3 in the AV and 2 in the AR"):
        nlakit.load(**parts)
    with pytest.raises(InputError, match="both av and ar"):
        nlakit.load(av=exported / "av")
    with pytest.raises(CheckpointError, match="'variance', one positive number"):
        save_file({"mean": torch.zeros(192)}, tmp_path / "mean.safetensors")
        nlakit.load(**(parts | {"ar": exported / "ar"}), mean=tmp_path / "mean.safetensors")
    assert run(["export", "--output", str(bundled_path())]) == 2
    assert "holds the pair that is exported" in capsys.readouterr().err.replace("\n", " ")


# -- nobody's files are lost -----------------------------------------------------------------------
def export_to(output: Path, *more: str) -> int:
    return run(["export", "--output", str(output), *more])


def test_an_export_is_not_overwritten_silently(tmp_path, capsys):
    assert export_to(tmp_path / "out") == 0
    before = (tmp_path / "out/av/model.safetensors").stat().st_mtime_ns
    assert export_to(tmp_path / "out") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out/av/model.safetensors").stat().st_mtime_ns == before
    assert export_to(tmp_path / "out", "--overwrite", "--dtype", "float32") == 0
    assert nlakit.load(tmp_path / "out").explain(TEXT, last=1, max_new_tokens=3).tokens
    found = load_file(tmp_path / "out/av/model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


@pytest.mark.parametrize("name", ["notes.txt", "av/mine.txt", ".hidden"])
@pytest.mark.parametrize("exported_before", [False, True])
def test_a_strangers_file_is_kept_and_named(name, exported_before, tmp_path, capsys):
    output = tmp_path / "out"
    if exported_before:
        assert export_to(output) == 0
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_text("mine")
    for more in ([], ["--overwrite"]):
        assert export_to(output, *more) == 2
        assert name in capsys.readouterr().err
    assert (output / name).read_text() == "mine"


def test_what_a_killed_export_left_may_be_overwritten(tmp_path, monkeypatch):
    from nlakit.publish import export as module

    def fails(*_):
        raise CheckpointError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_write_ar", fails)
        assert export_to(tmp_path / "out") == 2
    assert (tmp_path / "out/av/model.safetensors").is_file()
    assert export_to(tmp_path / "out", "--overwrite") == 0


def test_scales_are_numbers_that_other_clients_can_read(exported):
    for role in ("av", "ar"):
        raw = yaml.safe_load((exported / role / "nla_meta.yaml").read_text(encoding="utf-8"))
        assert float(raw["extraction"]["mse_scale"]) == pytest.approx(192**0.5)
        assert isinstance(raw["extraction"]["injection_scale"], float)


def test_a_model_that_was_written_otherwise_is_refused(tmp_path, monkeypatch, capsys):
    from nlakit.models.reconstructor import Reconstructor

    whole = Reconstructor.save

    def rotten(self, directory, dtype=None):
        with torch.no_grad():
            self.head.weight.mul_(2)
        whole(self, directory, dtype)
        with torch.no_grad():
            self.head.weight.div_(2)

    monkeypatch.setattr(Reconstructor, "save", rotten)
    assert export_to(tmp_path / "out") == 2
    assert "written otherwise" in capsys.readouterr().err


def test_confidence_and_the_targets_fingerprint_go_with_the_pair(exported, bundled):
    again = nlakit.load(exported)
    assert again.confidence == bundled.confidence is not None
    assert again.card.target_fingerprint == bundled.card.target_fingerprint
    assert again.notes == ()
