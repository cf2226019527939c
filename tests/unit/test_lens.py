"""Logit and Jacobian lens against the model itself, and against derivatives taken one by one."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from torch.autograd.functional import jacobian

from nlakit.cli import run
from nlakit.core.lens import relative_change, transported
from nlakit.errors import CheckpointError, InputError
from nlakit.evals.lens import lens_section, read_lens
from nlakit.models.families import backbone_of, blocks_of
from nlakit.models.lens import Lens, fit_jacobian, load_lens, residuals
from nlakit.worlds.storyworld.sae import StoryworldTexts


@pytest.fixture(scope="module")
def texts(tiny_target):
    passages = islice(StoryworldTexts(3).passages(tiny_target, "train"), 3)
    return [each.encoded.ids[:24] for each in passages]


def test_row_i_is_the_derivative_of_component_i():
    h, j = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert transported(h, j).tolist() == [[1.0, 11.0]]
    assert relative_change(j, j * 2) == pytest.approx(0.5)


def test_the_logit_lens_of_the_last_block_is_the_model(tiny_target, texts):
    found = residuals(tiny_target, texts[0])
    assert len(found) == 2
    own = tiny_target.model(torch.tensor([texts[0]])).logits[0]
    assert torch.allclose(Lens().logits(tiny_target, found[1], 1), own, atol=1e-5)
    assert not torch.allclose(Lens().logits(tiny_target, found[0], 0), own, atol=1e-2)


def test_a_jacobian_is_the_mean_over_sources_of_the_sum_over_targets(tiny_target, texts):
    ids, first = texts[0], 4
    block = list(blocks_of(backbone_of(tiny_target.model)))[1]
    rotary = backbone_of(tiny_target.model).rotary_emb
    start = residuals(tiny_target, ids)[0]

    def last(residual):
        places = torch.arange(len(ids))[None]
        made = block(residual[None], position_embeddings=rotary(residual[None], places))
        made = made[0] if isinstance(made, tuple) else made
        return made[0][first : len(ids) - 1].sum(0)

    # D x T x D: of every component, by every position's residual.
    whole = jacobian(last, start)
    expected = whole[:, first : len(ids) - 1].mean(1)
    found = fit_jacobian(tiny_target, [ids], [0], first_source=first)
    assert torch.allclose(found.jacobians[0], expected, atol=1e-4)


def test_a_lens_is_the_mean_over_texts_and_goes_round(tiny_target, texts, tmp_path):
    each = [fit_jacobian(tiny_target, [ids], [0], first_source=4).jacobians[0] for ids in texts]
    whole = fit_jacobian(tiny_target, texts, first_source=4)
    assert torch.allclose(whole.jacobians[0], torch.stack(each).mean(0), atol=1e-5)
    whole.save(tmp_path / "lens.safetensors")
    again = load_lens(tmp_path / "lens.safetensors", 16)
    assert torch.allclose(again.jacobians[0], whole.jacobians[0], rtol=1e-3, atol=1e-4)
    assert again.about["texts"] == "3"
    with pytest.raises(InputError, match="no block 5; it has 0"):
        again.logits(tiny_target, torch.zeros(1, 16), 5)


def test_an_identity_lens_is_the_logit_lens(tiny_target, texts):
    found = residuals(tiny_target, texts[0])[0]
    identity = Lens({0: torch.eye(16)})
    plain = Lens().logits(tiny_target, found, 0)
    assert torch.allclose(identity.logits(tiny_target, found, 0), plain, atol=1e-5)


def test_pickles_and_other_files_are_no_lens(tmp_path, tiny_target):
    (tmp_path / "lens.pt").write_bytes(b"never opened")
    with pytest.raises(CheckpointError, match="Convert it once"):
        load_lens(tmp_path / "lens.pt", 16)
    Lens({0: torch.eye(4)}).save(tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match="16 x 16"):
        load_lens(tmp_path / "small.safetensors", 16)
    with pytest.raises(InputError, match="No text"):
        fit_jacobian(tiny_target, [[1, 2, 3]])


def test_a_reading_has_the_likeliest_tokens_of_every_block(tiny_target):
    encoded = tiny_target.encode("the old boat")
    reading = read_lens(Lens(), tiny_target, encoded, [len(encoded.ids) - 1], top=3)
    (token,) = reading.tokens
    assert [each.layer for each in token.layers] == [0, 1]
    own = tiny_target.model(torch.tensor([encoded.ids])).logits[0, -1].softmax(-1).topk(3)
    assert [each.probability for each in token.layers[1].top] == pytest.approx(own.values.tolist())


def test_the_last_block_agrees_with_itself(tiny_target):
    from nlakit.cli.eval.lens import lens_text

    passages = list(islice(StoryworldTexts(3).passages(tiny_target, "heldout"), 12))
    made = [lens_text(tiny_target, each) for each in passages]
    section = lens_section(tiny_target, [Lens(), Lens({0: torch.eye(16)})], made, "tiny", 3)
    assert [line.name for line in section.lines] == ["logit 0", "logit 1", "jacobian 0"]
    assert section.figure("logit 1", "KL").value == pytest.approx(0, abs=1e-6)
    assert section.figure("logit 1", "agrees").value == 1
    assert section.figure("logit 0", "KL").value == section.figure("jacobian 0", "KL").value
    assert section.figure("logit 0", "planned").count > 0


def test_verbs_of_the_lens(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["explain", "the boat was", "--lens", "jacobian"]) == 2
    assert "nlakit lens fit" in capsys.readouterr().err
    assert run(["lens", "fit", "--documents", "2"]) == 0
    capsys.readouterr()
    assert run(["explain", "the boat was", "--lens", "jacobian", "--last", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["lens"] == "jacobian"
    assert [each["layer"] for each in printed["tokens"][0]["layers"]] == [0, 1, 2, 3, 4]
    assert run(["eval", "lens", "--documents", "4", "--json"]) == 0
    names = [line["name"] for line in json.loads(capsys.readouterr().out)["lines"]]
    assert names == [*(f"logit {n}" for n in range(6)), *(f"jacobian {n}" for n in range(5))]
