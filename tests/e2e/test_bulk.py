"""`nlakit describe`: killed without warning, it goes on to what an undisturbed run writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.killed import killed
from support.serving import D_MODEL, save_nla

from nlakit.cli import run

pytestmark = pytest.mark.e2e

NUM_VECTORS, SHARD_ROWS = 240, 12


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Path, Path]:
    """An NLA and a file of vectors."""
    directory = tmp_path_factory.mktemp("bulk")
    vectors = np.random.default_rng(0).standard_normal((NUM_VECTORS, D_MODEL), dtype=np.float32)
    np.save(directory / "vectors.npy", vectors)
    return save_nla(directory / "nla"), directory / "vectors.npy"


def arguments(places: tuple[Path, Path], output: Path, processes: int) -> list[str]:
    nla, vectors = places
    options = {
        "--nla": nla,
        "--output": output,
        "--processes": processes,
        "--shard-rows": SHARD_ROWS,
        "--temperature": 1,
        "--max-new-tokens": 8,
    }
    flat = [str(word) for pair in options.items() for word in pair]
    return ["describe", str(vectors), *flat]


def table_in(directory: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(p) for p in sorted(directory.glob("*.parquet"))])


def test_a_killed_run_of_two_processes_is_finished_by_one(places, tmp_path, capsys):
    assert run(arguments(places, tmp_path / "whole", 1)) == 0
    assert f"{NUM_VECTORS} vectors in {NUM_VECTORS // SHARD_ROWS} files" in capsys.readouterr().out
    killed("*/explanations-*.json", 1, arguments(places, tmp_path / "killed", 2))
    parts = [p.with_suffix(".parquet") for p in (tmp_path / "killed").glob("explanations-*.json")]
    before = {p.name: p.stat().st_mtime_ns for p in parts}
    assert 0 < len(before) < NUM_VECTORS // SHARD_ROWS
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert run(arguments(places, tmp_path / "killed", 1)) == 0
    assert all((tmp_path / "killed" / n).stat().st_mtime_ns == t for n, t in before.items())
    whole, found = table_in(tmp_path / "whole"), table_in(tmp_path / "killed")
    assert found["row"].to_pylist() == list(range(NUM_VECTORS))
    assert found["explanation"].equals(whole["explanation"])
    assert len(set(found["explanation"].to_pylist())) > NUM_VECTORS // 2
    assert np.allclose(found["mse"].to_numpy(), whole["mse"].to_numpy(), atol=1e-4)


def test_vectors_of_another_width_are_refused_before_anything_is_written(places, tmp_path, capsys):
    np.save(tmp_path / "wide.npy", np.zeros((3, D_MODEL + 1), np.float32))
    assert run(arguments((places[0], tmp_path / "wide.npy"), tmp_path / "out", 1)) == 2
    assert f"{D_MODEL + 1} numbers; tiny reads {D_MODEL}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_parts_and_workers_write_what_an_nla_writes(places, tmp_path, capsys):
    nla, vectors = places
    small = ["--shard-rows", "120", "--max-new-tokens", "6"]
    parts = [word for part in ("av", "ar", "target") for word in (f"--{part}", str(nla / part))]
    for name, options in {
        "whole": ["--nla", str(nla)],
        "parts": [*parts, "--device", "cpu"],
        "workers": [*parts, "--processes", "2"],
    }.items():
        assert (
            run(["describe", str(vectors), "--output", str(tmp_path / name), *options, *small]) == 0
        )
    whole = table_in(tmp_path / "whole")
    for name in ("parts", "workers"):
        assert table_in(tmp_path / name)["explanation"].equals(whole["explanation"])


def test_a_cosine_is_no_fidelity(places, tmp_path):
    """Without a mean the column is empty, so nobody takes the cosine for a fidelity."""
    nla, vectors = places
    for part in ("av", "ar"):
        (tmp_path / part).symlink_to(nla / part)
    parts = ["--av", str(tmp_path / "av"), "--ar", str(tmp_path / "ar")]
    parts += ["--target", str(nla / "target"), "--max-new-tokens", "2"]
    assert run(["describe", str(vectors), "--output", str(tmp_path / "out"), *parts]) == 0
    table = table_in(tmp_path / "out")
    assert set(table["fidelity"].to_pylist()) == {None}
    assert None not in table["cosine"].to_pylist()
