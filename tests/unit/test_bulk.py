"""Bulk explaining: sources of vectors, and runs that go on where they stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from nlakit.data.bulk import (
    BulkPlan,
    Described,
    VectorSource,
    explain_vectors,
    explanation_path,
    read_bulk_manifest,
)
from nlakit.data.extraction import BasePlan, write_manifest
from nlakit.data.pools import Processes
from nlakit.data.shards import ROW_SCHEMA, write_shard
from nlakit.errors import CheckpointError, InputError, ResumeError

D = 4
VECTORS = torch.arange(10 * D, dtype=torch.float32).view(10, D)


class Counter:
    """Describes a vector by its number and its sum; breaks at row `breaks_at`."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.breaks_at = breaks_at
        self.asked: list[int] = []

    def describe_rows(self, vectors_ND, first):
        self.asked.append(first)
        rows = range(first, first + len(vectors_ND))
        if self.breaks_at in rows:
            raise KeyboardInterrupt
        sums = vectors_ND.sum(dim=1).tolist()
        return [
            Described(row, sample, f"{row}: {total}", True, 0.5, 0.75, 0.25)
            for row, total in zip(rows, sums, strict=True)
            for sample in range(2)
        ]


@pytest.fixture
def source(tmp_path) -> VectorSource:
    np.save(tmp_path / "vectors.npy", VECTORS.numpy())
    return VectorSource(tmp_path / "vectors.npy")


def plan_for(source: VectorSource, **changes: Any) -> BulkPlan:
    fields: dict[str, Any] = {
        "nla": "counter",
        "nla_sha256": "0",
        "vectors_sha256": source.sha256(),
        "num_rows": source.num_rows,
        "d_model": source.d_model,
        "shard_rows": 4,
        "samples": 2,
        "temperature": 1.0,
        "max_new_tokens": 8,
        "seed": 0,
    }
    return BulkPlan(**{**fields, **changes})


def run(describer, source, directory, **options):
    return explain_vectors(lambda: describer, source, directory, plan_for(source), **options)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_every_row_comes_once_and_in_order(source, tmp_path):
    told = []
    manifest = run(Counter(), source, tmp_path / "out", progress=lambda *each: told.append(each))
    assert [(shard.first_row, shard.num_rows) for shard in manifest.shards] == [
        (0, 4),
        (4, 4),
        (8, 2),
    ]
    assert told == [(0, 10), (4, 10), (8, 10), (10, 10)]
    table = pa.concat_tables(
        [pq.read_table(explanation_path(tmp_path / "out", n)) for n in range(3)]
    )
    assert table["row"].to_pylist() == [row for row in range(10) for _ in range(2)]
    assert table["sample"].to_pylist() == [0, 1] * 10
    assert table["explanation"][6].as_py() == f"3: {VECTORS[3].sum()}"
    assert read_bulk_manifest(tmp_path / "out") == manifest


def test_a_run_that_stopped_goes_on_to_the_same_files(source, tmp_path):
    run(Counter(), source, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Counter(breaks_at=5), source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(CheckpointError):
        read_bulk_manifest(tmp_path / "out")
    again = Counter()
    run(again, source, tmp_path / "out")
    assert again.asked == [4, 8]
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    third = Counter()
    run(third, source, tmp_path / "out")
    assert third.asked == []


def test_half_a_file_is_made_again(source, tmp_path):
    run(Counter(), source, tmp_path / "out")
    whole = files(tmp_path / "out")
    path = explanation_path(tmp_path / "out", 1)
    path.write_bytes(path.read_bytes()[:100])
    again = Counter()
    run(again, source, tmp_path / "out")
    assert again.asked == [4] and files(tmp_path / "out") == whole


def test_another_plan_is_refused_by_what_differs(source, tmp_path):
    run(Counter(), source, tmp_path / "out")
    with pytest.raises(ResumeError, match="seed was 0, is 1"):
        explain_vectors(Counter, source, tmp_path / "out", plan_for(source, seed=1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(ResumeError, match="something else"):
        run(Counter(), source, tmp_path / "other")
    with pytest.raises(InputError, match="found 0"):
        Processes(0)


def test_sources_read_only_what_is_asked_of_either_file(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS.numpy().astype(np.float64))
    save_file({"activations": VECTORS.half(), "mean": VECTORS[0]}, tmp_path / "a.safetensors")
    save_file({"x": VECTORS}, tmp_path / "b.safetensors")
    for name in ("a.npy", "a.safetensors", "b.safetensors"):
        source = VectorSource(tmp_path / name)
        assert (source.num_rows, source.d_model) == (10, D)
        found = source.read(range(3, 5))
        assert found.dtype == torch.float32 and torch.equal(found, VECTORS[3:5])


def test_explanations_of_activation_shards_stand_beside_their_text(source, tmp_path):
    text = "x" * 300 + " the harbour at dusk"
    rows = [
        {"doc_id": f"d{n}", "position": n, "char_end": 304 + n, "text": text, "n_raw_tokens": n + 1}
        for n in range(10)
    ]
    plan = BasePlan(
        num_documents=10, positions_per_document=1, shard_rows=6, layer=1, d_model=D,
        target_sha256="0",
    )  # fmt: skip
    directory = tmp_path / "shards"
    directory.mkdir()
    records = [
        write_shard(
            directory, number, VECTORS[part], pa.Table.from_pylist(rows[part], ROW_SCHEMA),
            next_index=0, config_hash=plan.hash,
        )
        for number, part in enumerate((slice(0, 6), slice(6, 10)))
    ]  # fmt: skip
    write_manifest(directory, plan, records)
    shards = VectorSource(directory)
    found = table_of(tmp_path / "out", run(Counter(), shards, tmp_path / "out"))
    assert [each["doc_id"] for each in found] == [f"d{n}" for n in range(10) for _ in range(2)]
    assert {each["position"] for each in found if each["row"] == 7} == {7}
    assert found[14]["text"].endswith("x the harbou") and len(found[14]["text"]) == 200
    plain = table_of(tmp_path / "plain", run(Counter(), source, tmp_path / "plain"))
    assert {each[name] for each in plain for name in ("doc_id", "position", "text")} == {None}


def npz(path: Path) -> None:
    """An archive of arrays under another name."""
    with path.open("wb") as file:
        np.savez(file, a=VECTORS.numpy())


@pytest.mark.parametrize(
    ("name", "write", "found"),
    [
        ("a.npy", lambda path: path.write_bytes(b"x"), "not an .npy file"),
        ("a.npy", npz, "not an .npy file"),
        ("a.npy", lambda path: os.mkfifo(path), "found nothing"),
        ("a.npy", lambda path: path.symlink_to("/dev/zero"), "found nothing"),
        ("a.safetensors", lambda path: os.mkfifo(path), "found nothing"),
        ("a.npy", lambda path: np.save(path, np.zeros(3)), r"found the shape \(3,\)"),
        ("a.npy", lambda path: np.save(path, np.zeros((2, 2), int)), "int64"),
        ("a.npy", lambda path: np.save(path, np.zeros((0, 2))), "no vectors"),
        ("a.npy", lambda path: np.save(path, np.array([None]), allow_pickle=True), "not an .npy"),
        ("a.safetensors", lambda path: path.write_bytes(b"x"), "not a safetensors"),
        (
            "a.safetensors",
            lambda path: save_file({"a": VECTORS, "b": VECTORS + 1}, path),
            "holds a, b",
        ),
        ("a.csv", lambda path: path.write_text("1"), "neither .npy"),
        ("gone.npy", lambda path: None, "found nothing"),
    ],
)
def test_files_that_hold_no_vectors_are_refused(tmp_path, name, write, found):
    write(tmp_path / name)
    with pytest.raises(InputError, match=found):
        VectorSource(tmp_path / name)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", ["flipped", "swapped"])
def test_a_damaged_shard_is_written_again_not_certified(source, tmp_path, damage, finished):
    run(Counter(), source, tmp_path / "out")
    before = files(tmp_path / "out")
    paths = [explanation_path(tmp_path / "out", number) for number in (0, 1)]
    contents = [path.read_bytes() for path in paths]
    if damage == "swapped":
        contents.reverse()
    else:
        flipped = bytearray(contents[0])
        flipped[len(flipped) // 3] ^= 1
        contents[0] = bytes(flipped)
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    if not finished:
        (tmp_path / "out" / "manifest.json").unlink()
    again = Counter()
    run(again, source, tmp_path / "out")
    assert files(tmp_path / "out") == before
    assert again.asked == ([0, 4] if damage == "swapped" else [0])


def test_vectors_that_are_not_finite_are_passed_over_and_counted(source, tmp_path):
    good = explain_vectors(Counter, source, tmp_path / "good", plan_for(source))
    vectors = np.load(source.path).copy()
    bad_rows = (1, 2, len(vectors) - 1)
    for row in bad_rows:
        vectors[row, 0] = np.nan
    np.save(tmp_path / "bad.npy", vectors)
    spoiled = VectorSource(tmp_path / "bad.npy")
    manifest = explain_vectors(Counter, spoiled, tmp_path / "out", plan_for(spoiled))
    assert (good.num_unreadable, manifest.num_unreadable) == (0, 3)
    rows, whole = table_of(tmp_path / "out", manifest), table_of(tmp_path / "good", good)
    assert {row["row"] for row in rows if row["explanation"] is None} == {*bad_rows}
    assert [r for r in rows if r["row"] not in bad_rows] == [
        r for r in whole if r["row"] not in bad_rows
    ]
    # Whole shards are known again, the count among them.
    assert explain_vectors(Counter, spoiled, tmp_path / "out", plan_for(spoiled)) == manifest


def table_of(directory, manifest):
    paths = [explanation_path(directory, shard.number) for shard in manifest.shards]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]
