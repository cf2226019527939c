"""Rows that stay on disk give what the same rows in memory do."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from nlakit.data.datasets import PairSet, StoredRows, in_chunks, training_mean, training_variance
from nlakit.data.streams import NumberRows, StoredTable, TextRows, VectorRows
from nlakit.train.sft import Batches

PARTS = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (4, 1, 6)]
WHOLE = torch.cat(PARTS)
KEPT = np.array([0, 3, 4, 7, 10])


@pytest.mark.parametrize(
    "rows",
    [
        2,
        -1,
        slice(3),
        slice(-2, None),
        slice(None),
        [4, 0, 3, 0],
        torch.tensor([1, 2]),
        [-1, 0],
        [],
    ],
    ids=str,
)
@pytest.mark.parametrize("kept", [None, KEPT], ids=["all", "kept"])
def test_vectors_of_several_files_are_those_of_one_tensor(rows, kept):
    whole = WHOLE if kept is None else WHOLE[kept]
    found = VectorRows(PARTS, kept)
    assert torch.equal(found[rows], whole[rows])
    assert len(found) == len(whole) and found.shape == whole.shape


def test_texts_are_read_a_file_at_a_time():
    files, read = [["a", None], ["b", "c", None], ["d"]], []

    def reading(place):
        read.append(place)
        return files[place]

    texts = TextRows([2, 3, 1], reading, np.array([0, 2, 3, 5]))
    assert list(texts) == ["a", "b", "c", "d"] and read == [0, 1, 2]
    assert texts[1:3] == ["b", "c"] and texts[-1] == "d" and len(texts) == 4


@pytest.mark.parametrize("rows", [[[3, 1], [], [2]], []], ids=["some", "none"])
def test_numbers_of_rows_come_back_from_their_file(rows, tmp_path):
    found = NumberRows(tmp_path, iter(rows), np.int32)
    assert found.some(range(len(rows))) == rows
    assert found.lengths.tolist() == [len(row) for row in rows]
    # The file has no name: a run that is killed leaves none behind.
    assert list(tmp_path.iterdir()) == []


def test_weights_keep_all_their_digits(tmp_path):
    assert NumberRows(tmp_path, [[1.0, 0.1]], np.float64).row(0) == [1.0, 0.1]


def test_figures_of_all_vectors_are_taken_in_chunks(monkeypatch):
    monkeypatch.setattr("nlakit.data.datasets.CHUNK_ROWS", 4)
    assert [len(each) for each in in_chunks(VectorRows(PARTS))] == [4, 4, 3]
    unit = WHOLE.double() / WHOLE.double().norm(dim=1, keepdim=True) * 3**0.5
    mean = training_mean(VectorRows(PARTS), 3**0.5)
    torch.testing.assert_close(mean, unit.mean(0).float())
    found = training_variance(VectorRows(PARTS), mean, 3**0.5)
    assert found == pytest.approx(float((unit - unit.mean(0)).square().mean()), rel=1e-5)


def test_origins_are_read_when_they_are_asked_for():
    asked = []

    def read():
        asked.append(1)
        return pa.table({"doc_id": ["x"] * 11})

    pairs = PairSet(VectorRows(PARTS), ["t"] * 11, StoredTable(11, read))
    assert not asked and isinstance(pairs.origins, StoredRows)
    assert pairs.rows.num_rows == 11 and pairs.origins.rows.num_rows == 11


def test_an_epochs_order_is_made_once(monkeypatch):
    batches = Batches(np.arange(40), 4, seed=3, place=11)
    expected = [Batches(list(range(40)), 4, 3, 11).rows(step) for step in range(25)]
    made, randperm = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **rest: made.append(n) or randperm(n, **rest))
    assert [batches.rows(step) for step in range(25)] == expected
    # Three epochs of ten steps; the other orders are of the batches of a chunk.
    assert made.count(40) == 3
