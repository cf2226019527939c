"""Does a row of the warm start cost the same where there are a thousand of them and many more?

    python -m benchmarks.scale [--rows 1000 10000 100000] [--output FILE]

Sets of activations and labels are written to disk, of vectors of 64 numbers; for each, a process of
its own opens it and trains an AV of two blocks for `STEPS` steps of `BATCH` rows, as a recipe's
stage does. Reported are seconds a row of what is done once for each (checksums, encoding of labels,
figures of all vectors), seconds of a step after the first, and the memory that the process holds:
its own, and apart from it pages of files, which the system takes back when it wants them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from nlakit.config import write_text_atomic
from nlakit.data.datasets import load_pairs
from nlakit.data.extraction import BasePlan, write_manifest
from nlakit.data.labels import LABEL_SCHEMA, write_label_set
from nlakit.data.shards import ROW_SCHEMA, write_shard
from nlakit.models.verbalizer import Verbalizer
from nlakit.train.config import SftConfig, TrainingSettings
from nlakit.train.learner import OptimizerConfig
from nlakit.train.pair_models import mean_vector
from nlakit.train.run import RunDirectory
from nlakit.train.sft import train_verbalizer

from . import checkpoints
from .process import OFFLINE, ROOT
from .results import DIRECTORY, machine, rounded
from .specs import Spec

ROWS = (1_000, 10_000, 100_000)
STEPS, BATCH, SHARD_ROWS, WORDS = 24, 32, 5_000, 40
SPEC = Spec("scale", 64, 2, 2, 1, 128, 8192, 0)


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--output", type=Path, default=DIRECTORY / "scale.json")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        print(json.dumps(measure(asked.one)))
        return
    points = [point(count) for count in asked.rows]
    found = {"machine": machine(), "steps": STEPS, "batch": BATCH, "points": points}
    text = json.dumps(rounded(found, 4), indent=1)
    write_text_atomic(asked.output, text + "\n")
    print(text)


def point(num_rows: int) -> dict[str, Any]:
    """One size, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="nlakit-scale-") as name:
        write_set(Path(name), num_rows)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale", "--one", name],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **OFFLINE},
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def write_set(directory: Path, num_rows: int) -> None:
    """Activations and labels of random words, a shard at a time."""
    plan = BasePlan(
        num_documents=num_rows, positions_per_document=1, shard_rows=SHARD_ROWS,
        layer=0, d_model=SPEC.d_model, target_sha256="",
    )  # fmt: skip
    rng, records, labels = random.Random(0), [], []
    for number, first in enumerate(range(0, num_rows, SHARD_ROWS)):
        count = min(SHARD_ROWS, num_rows - first)
        numbers = range(first, first + count)
        rows = [origin(row) for row in numbers]
        records.append(
            write_shard(
                directory / "shards",
                number,
                checkpoints.vectors(SPEC, count, seed=number),
                pa.Table.from_pylist(rows, schema=ROW_SCHEMA),
                next_index=first + count,
                config_hash=plan.hash,
            )
        )
        made = [
            {
                "row": row,
                "key": str(row),
                "explanation": sentence(rng),
                "refusal": None,
                "claims": [],
            }
            for row in numbers
        ]
        labels.append(pa.Table.from_pylist(made, schema=LABEL_SCHEMA))
    manifest = write_manifest(directory / "shards", plan, records)
    write_label_set(directory / "labels", pa.concat_tables(labels), "words", manifest)


def origin(row: int) -> dict[str, Any]:
    """Where an activation would have been taken."""
    return {
        "doc_id": str(row), "seed": 0, "index": row, "position": 0, "char_end": 5, "token_id": 0,
        "n_raw_tokens": 1, "activation_layer": 0, "text": "the boat", "turns": None,
        "next_tokens": None,
    }  # fmt: skip


def sentence(rng: random.Random) -> str:
    """Some words of the storyworld's tokenizer."""
    return " ".join(rng.choice(("the", "boat", "came", "home", "late")) for _ in range(WORDS))


def measure(directory: Path) -> dict[str, Any]:
    """What one set costs."""
    tokenizer = checkpoints.make_tokenizer(SPEC.vocab_size)
    model = checkpoints.random_model(SPEC, tokenizer, 2, "cpu", torch.float32)
    verbalizer = Verbalizer(model, tokenizer, checkpoints.make_meta(SPEC, tokenizer, "av"))
    before, start = held(), time.perf_counter()
    pairs = load_pairs(directory / "shards", directory / "labels")
    mean_vector(pairs.vectors)
    opened = time.perf_counter() - start
    config = SftConfig(
        steps=STEPS, batch_size=BATCH, held_out=8, optimizer=OptimizerConfig(lr=1e-4),
        evaluate_every=STEPS,
    )  # fmt: skip
    run, start = RunDirectory(directory / "run", config), time.perf_counter()
    train_verbalizer(verbalizer, pairs, config, TrainingSettings(precision="float32"), run)
    trained, after = time.perf_counter() - start, held()
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    rows = len(pairs)
    return {
        "rows": rows,
        "open_s": opened,
        "encode_s": trained - sum(seconds),
        "once_ms_a_row": 1000 * (opened + trained - sum(seconds)) / rows,
        "step_s": statistics.median(seconds[1:]),
        "own_mib": after["RssAnon"],
        "growth_mib": after["RssAnon"] - before["RssAnon"],
        "file_pages_mib": after["RssFile"],
        "disk_mib": sum(path.stat().st_size for path in directory.rglob("*.*")) / 2**20,
    }


def held() -> dict[str, float]:
    """MiB of this process by kind, as Linux counts them."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines if line.startswith("Rss"))
    return {name.rstrip(":"): int(kib) / 1024 for name, kib, _ in pairs}


if __name__ == "__main__":
    main()
