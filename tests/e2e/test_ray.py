"""Two Ray workers, of which one is killed, write what one process writes. `make test-ray`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.docs import commands
from support.serving import save_nla

from nlakit.cli import run
from nlakit.data.bulk import BulkPlan, Described, VectorSource, explain_vectors
from nlakit.data.ray_pool import DEADLY, RayPool
from nlakit.errors import UserError
from nlakit.storyworld.grammar import generate

pytest.importorskip("ray", reason="Ray is not installed; `make test-ray` installs it")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.ray,
    # Ray warns of its own settings.
    pytest.mark.filterwarnings(r"ignore:::ray\."),
]

DOCUMENTS, DOCUMENT_SHARDS, ROW_SHARDS = 40, 4, 20
BLOCK = "1"
SMALL = {
    "extract": ["--documents", str(DOCUMENTS), "--shard-rows", "50"],
    "describe": ["--shard-rows", "10", "--max-new-tokens", "80", "--temperature", "1"],
}


def describers(log: Path | None = None, deaths: int = 0):
    """A loader whose describer kills its own process at row 8, the first `deaths` times.

    Classes and functions of a test are unknown in a worker, and travel whole when they are local.
    """

    class Summing:
        def describe_rows(self, vectors_ND, first):
            if log is not None:
                with log.open("a") as file:
                    file.write(f"{first} {os.getpid()}\n")
                if first == 8 and sum(line[0] == "8" for line in log.open()) <= deaths:
                    os.kill(os.getpid(), signal.SIGKILL)
            sums = vectors_ND.sum(dim=1).tolist()
            return [
                Described(first + row, 0, str(total), True, total, 0.5, 0.25)
                for row, total in enumerate(sums)
            ]

    return Summing


@pytest.fixture
def source(tmp_path) -> VectorSource:
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((30, 3)))
    return VectorSource(tmp_path / "vectors.npy")


def plan_for(source: VectorSource) -> BulkPlan:
    return BulkPlan(
        nla="sums",
        nla_sha256="0",
        vectors_sha256=source.sha256(),
        num_rows=source.num_rows,
        d_model=source.d_model,
        shard_rows=4,
        samples=1,
        temperature=1.0,
        max_new_tokens=8,
        seed=0,
    )


def test_the_shard_of_a_killed_worker_is_done_by_another(source, tmp_path):
    plan, log = plan_for(source), tmp_path / "log"
    expected = explain_vectors(describers(), source, tmp_path / "alone", plan)
    # The shards 0 and 5 are there before.
    (tmp_path / "ray").mkdir()
    for name in ("plan.json", "explanations-00000.parquet", "explanations-00005.parquet"):
        (tmp_path / "ray" / name).write_bytes((tmp_path / "alone" / name).read_bytes())
    load = describers(log, deaths=1)
    assert explain_vectors(load, source, tmp_path / "ray", plan, RayPool(2)) == expected
    assert contents(tmp_path / "ray") == contents(tmp_path / "alone")
    work = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(first) for first, _ in work) == [4, 8, 8, 12, 16, 24, 28]
    assert len({worker for first, worker in work if first == "8"}) == 2


def test_a_shard_that_kills_every_worker_ends_the_run(source, tmp_path):
    load = describers(tmp_path / "log", deaths=99)
    with pytest.raises(UserError, match=DEADLY):
        explain_vectors(load, source, tmp_path / "ray", plan_for(source), RayPool(2))


def test_a_vector_that_cannot_be_read_is_told_as_it_is_without_ray(source, tmp_path):
    plan = plan_for(source)
    np.save(tmp_path / "vectors.npy", np.full((30, 3), np.nan))
    with pytest.raises(UserError, match=r"vectors.npy: vector \d+ is not finite"):
        explain_vectors(describers(), source, tmp_path / "ray", plan, RayPool(2))


@pytest.fixture
def stand_ins(tmp_path, monkeypatch) -> Path:
    """What the docs' commands name, of a size for tests."""
    monkeypatch.chdir(tmp_path)
    save_nla(tmp_path / "pair")
    (tmp_path / "base").symlink_to("pair/target")
    texts = [json.dumps({"text": each.text}) for each in islice(generate(3, "train"), 60)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(texts), encoding="utf-8")
    return tmp_path


def test_the_docs_commands_write_the_same_though_a_worker_was_killed(stand_ins, capsys):
    extract, describe = (small(words) for words in commands("scale-out.md"))
    with started(extract) as process:
        assert process.wait() == 0
    with started(describe) as process:
        kill_a_worker_at_work(process, stand_ins / "explanations")
        assert process.wait() == 0
    for words in (extract, describe):
        assert run(alone(words)) == 0, capsys.readouterr().err
    for name, suffix, count in [
        ("activations", "safetensors", DOCUMENT_SHARDS),
        ("explanations", "parquet", ROW_SHARDS),
    ]:
        found, expected = contents(stand_ins / name), contents(stand_ins / f"{name}-alone")
        assert sum(file.endswith(suffix) for file in expected) == count
        assert found == expected


def small(words: list[str]) -> list[str]:
    """A command of the docs with sizes for tiny models."""
    return [BLOCK if word == "20" else word for word in [*words, *SMALL[words[0]]]]


def started(words: list[str]) -> subprocess.Popen[bytes]:
    """`nlakit` in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "nlakit", *words])


def alone(words: list[str]) -> list[str]:
    """The same command without Ray, into a directory beside."""
    where = words.index("--ray")
    without = words[:where] + words[where + 2 :]
    output = without.index("--output") + 1
    return [*without[:output], f"{without[output]}-alone", *without[output + 1 :]]


def kill_a_worker_at_work(process: subprocess.Popen[bytes], directory: Path) -> None:
    """SIGKILL, once some shards are written and long before all are."""
    deadline = time.monotonic() + 120
    while not (num_shards(directory) and workers_at_work(process)):
        assert process.poll() is None, "the run ended before a worker could be killed"
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.02)
    workers_at_work(process)[0].kill()
    assert num_shards(directory) < ROW_SHARDS - 2


def num_shards(directory: Path) -> int:
    return len(list(directory.glob("explanations-*.parquet")))


def workers_at_work(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Ray puts what a worker is doing into its title."""
    below = psutil.Process(process.pid).children(recursive=True)
    return [each for each in below if "_Worker" in title(each) and "submit" in title(each)]


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def contents(directory: Path) -> dict[str, bytes]:
    """Of all files but those that a killed worker had half written."""
    return {path.name: path.read_bytes() for path in directory.glob("[!.]*")}
