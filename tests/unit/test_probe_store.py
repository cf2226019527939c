"""Probes that are kept beside a pair: what they read, and what is refused."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from support.serving import D_MODEL, save_nla, tiny_target

from nlakit.errors import CheckpointError
from nlakit.evals.probe_store import (
    ProbeCard,
    ProbedKind,
    Probes,
    fit_store,
    load_probes,
    save_probes,
    target_hash,
)
from nlakit.pair.source import weight_hashes
from nlakit.registry import resolve
from nlakit.worlds.storyworld.eval_set import StoryworldSet


def probes_for(target_sha256: str = "") -> Probes:
    """`mood` is told by the sign of the first component, `topic` by the second."""
    kinds = {
        kind: ProbedKind(values=values, accuracy=0.9, chance=0.4, num_test=10)
        for kind, values in (("mood", ("glad", "grim")), ("topic", ("sea", "war", "garden")))
    }
    weight_CD = torch.zeros(5, D_MODEL)
    weight_CD[0, 0], weight_CD[1, 0], weight_CD[3, 1] = 1.0, -1.0, 2.0
    card = ProbeCard(target_sha256=target_sha256, layer=1, num_train=100, kinds=kinds)
    return Probes(card, weight_CD, torch.tensor([0.0, 0.0, 0.5, 0.0, 0.0]))


@pytest.fixture
def pair(tmp_path):
    return save_nla(tmp_path)


def test_each_kind_is_read_by_its_own_rows():
    found = probes_for().read(torch.tensor([-2.0, 1.0, *[0.0] * (D_MODEL - 2)]))
    assert found["mood"].value == "grim" and found["topic"].value == "war"
    assert found["mood"].confidence == pytest.approx(1 / (1 + math.exp(-4)))
    topic = math.exp(2) / (math.exp(2) + math.exp(0.5) + 1)
    assert found["topic"].confidence == pytest.approx(topic)


def test_what_is_not_finite_is_not_read():
    assert probes_for().read(torch.full((D_MODEL,), float("nan"))) == {}


def test_probes_come_back_as_they_were(pair):
    assert load_probes(pair) is None
    made = probes_for(target_hash(pair))
    before = weight_hashes(pair)
    save_probes(made, pair)
    assert weight_hashes(pair) == before  # they read the pair, they are no part of it
    found = load_probes(pair)
    assert found is not None and found.card == made.card
    assert torch.equal(found.weight_CD, made.weight_CD) and torch.equal(found.bias_C, made.bias_C)


@pytest.mark.parametrize("fault", ["target", "width", "json", "missing", "garbage"])
def test_probes_that_do_not_fit_are_refused(pair, fault):
    save_probes(probes_for("other" if fault == "target" else target_hash(pair)), pair)
    weights, card = pair / "probes.safetensors", pair / "probes.json"
    if fault == "width":
        save_file({"weight": torch.zeros(5, D_MODEL + 1), "bias": torch.zeros(5)}, weights)
    elif fault == "json":
        card.write_text(json.dumps({**json.loads(card.read_text()), "layer": "deep"}))
    elif fault == "missing":
        weights.unlink()
    elif fault == "garbage":
        weights.write_bytes(b"\x80\x04")
    said = {"target": "another target", "width": r"\(5, 9\)", "json": "layer"}
    with pytest.raises(CheckpointError, match=said.get(fault, "cannot be read")):
        load_probes(pair)


def test_fitting_reads_raw_activations_and_tests_on_held_out_ones():
    made = fit_store(tiny_target(), "hash", StoryworldSet(), num_documents=40, test_documents=40)
    genre = made.card.kinds["genre"]
    assert made.card.num_train == 200 and genre.num_test <= 40
    assert made.weight_CD.shape == (sum(len(k.values) for k in made.card.kinds.values()), D_MODEL)
    assert 0 <= genre.chance <= 1 and genre.accuracy >= genre.chance / 2


def test_the_bundled_probes_belong_to_the_bundled_target():
    found = load_probes(resolve("bundled"))
    assert found is not None and found.card.num_train == 12_000
    assert found.card.kinds["mood"].accuracy > 0.95
    assert found.card.kinds["goal"].accuracy > 0.9
    # Nothing reads a control: the page calls the probe's answer a guess.
    assert found.card.kinds["day"].accuracy < found.card.kinds["day"].chance + 0.1
