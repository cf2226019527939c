"""What an AR settles on: so many of the AV's words greedy, the others as RL samples them."""

from types import SimpleNamespace

import pytest
import torch

from nlakit.train import pair_stages, writing
from nlakit.train.config import RlConfig, SettlingConfig
from nlakit.train.learner import OptimizerConfig

ROWS = 400
RATE = OptimizerConfig(lr=1e-3)


class Writes:
    """An engine whose explanation names the row and the temperature it was asked with."""

    def verbalize(self, vectors_ND, sampling, first=0):
        return [
            [SimpleNamespace(text=f"{int(row)} at {sampling.temperature:g}")]
            for row in vectors_ND[:, 0]
        ]


def explanations(monkeypatch, directory, greedy_share, part_rows=1200):
    monkeypatch.setattr(writing, "PART_ROWS", part_rows)
    monkeypatch.setattr(pair_stages, "final_pair", lambda world: (directory, directory))
    monkeypatch.setattr(pair_stages, "rl_best", lambda world, prefix: directory)
    world = SimpleNamespace(
        recipe=SimpleNamespace(settings=SimpleNamespace(seed=7)),
        models=SimpleNamespace(engine=lambda *_, **__: Writes()),
        space=SimpleNamespace(stage=lambda name: directory),
        claims=SimpleNamespace(reword=None),
    )
    rl = RlConfig(
        steps=1, vectors=4, group=2, max_new_tokens=8, temperature=0.8,
        verbalizer=RATE, reconstructor=RATE,
    )  # fmt: skip
    settling = SettlingConfig(
        steps=1, batch_size=4, optimizer=RATE, vectors=ROWS, greedy_share=greedy_share
    )
    vectors_ND = torch.arange(ROWS, dtype=torch.float32).reshape(ROWS, 1)
    directory.mkdir(exist_ok=True)
    return pair_stages._explanations_to_settle_on(world, rl, settling, vectors_ND)


@pytest.mark.parametrize(
    ("share", "least", "most"), [(0.0, 0, 0), (0.25, 70, 130), (1.0, 400, 400)]
)
def test_the_share_is_greedy_and_every_row_keeps_its_place(
    monkeypatch, tmp_path, share, least, most
):
    texts = explanations(monkeypatch, tmp_path, share)
    assert [int(text.split()[0]) for text in texts] == list(range(ROWS))
    temperatures = [text.split()[-1] for text in texts]
    assert set(temperatures) <= {"0", "0.8"}
    assert least <= temperatures.count("0") <= most


def test_parts_change_no_row_from_greedy_to_sampled(monkeypatch, tmp_path):
    whole = explanations(monkeypatch, tmp_path / "whole", 0.5)
    assert explanations(monkeypatch, tmp_path / "parts", 0.5, part_rows=64) == whole
