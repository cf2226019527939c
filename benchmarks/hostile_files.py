"""Files that nobody should be given, read by every loader: `hostile.py` runs them.

Each file is read in a process of its own, so that one that never ends, or takes all memory, is one
line of the report. A loader may read it, or refuse it by a `UserError`; all else is a violation.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import resource
import struct
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nlakit import card, config, contract
from nlakit.claims.confidence import ClaimConfidence
from nlakit.data import bulk, corpora, shards
from nlakit.errors import UserError
from nlakit.evals.probe_store import load_probes
from nlakit.models import configs
from nlakit.models import io as model_io
from nlakit.pair.load import read_baseline
from nlakit.registry import bundled_path

LONGEST_S = 5.0
GIVE_UP_S = 20.0
MOST_MB = 1024
"""Beyond what the process has with nothing read."""
D_MODEL = 8
MOST_ROWS = 20_000

LLAMA = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64},
    **{"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32},
}


class Loader(NamedTuple):
    """What reads a file of this name in a directory."""

    file: str
    read: Callable[[Path], Any]
    beside: dict[str, Any] = {}


def _vectors(path: Path) -> Any:
    source = bulk.VectorSource(path)
    return source.read(range(min(4, source.num_rows)))


def _corpus(path: Path) -> Any:
    return sum(1 for _ in islice(corpora.Corpus(str(path)), MOST_ROWS))


LOADERS: dict[str, Loader] = {
    "card": Loader("nla.json", lambda path: card.read_card(path.parent)),
    "contract": Loader("nla_meta.yaml", lambda path: contract.read_meta(path.parent)),
    "data set's contract": Loader(
        "x.parquet.nla_meta.yaml",
        lambda path: contract.read_dataset_meta(path.with_name("x.parquet")),
    ),
    "recipe": Loader("recipe.toml", lambda path: config.load_toml(path)),
    "config": Loader("config.json", lambda path: configs.load_config(path.parent)),
    "mean": Loader("mean.safetensors", lambda path: read_baseline(path, D_MODEL)),
    "vectors as npy": Loader("v.npy", _vectors),
    "vectors as safetensors": Loader("v.safetensors", _vectors),
    "corpus of lines": Loader("c.jsonl", _corpus),
    "corpus as Parquet": Loader("c.parquet", _corpus),
    "corpus as JSON": Loader("c.json", _corpus),
    "corpus as text": Loader("c.txt", _corpus),
    "log": Loader("c.eval", _corpus),
    "manifest": Loader("manifest.json", lambda path: shards.read_manifest(path.parent)),
    "calibrator": Loader("calibrator.json", lambda path: ClaimConfidence.load(path.parent)),
    "probes": Loader("probes.json", lambda path: load_probes(path.parent)),
    "probes' weights": Loader("probes.safetensors", lambda path: load_probes(path.parent)),
    "tokenizer": Loader("tokenizer.json", lambda path: model_io.load_tokenizer(path.parent)),
    "weights": Loader(
        "model.safetensors",
        lambda path: model_io.load_backbone(path.parent),
        {"config.json": LLAMA},
    ),
}


# -- contents --------------------------------------------------------------------------------------
Write = Callable[[Path, random.Random], object]


def _bytes(make: Callable[[random.Random], bytes]) -> Write:
    return lambda path, rng: path.write_bytes(make(rng))


def _pickled_npy(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _npz(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros((4, D_MODEL), dtype=np.float32))
    return buffer.getvalue()


def _npy_of(shape: str, dtype: str = "<f4") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (64 - (10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def _tensors(entry: dict[str, Any], name: str = "mean", length: int | None = None) -> bytes:
    raw = json.dumps({name: entry}).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(256)


def _entry(**changed: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [D_MODEL], "data_offsets": [0, 4 * D_MODEL], **changed}


def _parquet_bomb(path: Path, rng: random.Random) -> None:
    """A few kilobytes that stand for gigabytes of one text."""
    text = pa.array(["a" * 1000], pa.string())
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(3_000_000, dtype=np.int32)), text)
    pq.write_table(pa.table({"text": rows}), path, compression="zstd")


def _parquet_of(path: Path, rng: random.Random) -> None:
    columns = {"text": [1, None], "vectors": [[1.0], None], "x": [{"a": 1}, {"a": 2}]}
    pq.write_table(pa.table(columns), path)


def _fifo(path: Path, rng: random.Random) -> None:
    os.mkfifo(path)


def _link(target: str) -> Write:
    return lambda path, rng: path.symlink_to(target)


CONTENTS: dict[str, Write] = {
    "nothing": _bytes(lambda rng: b""),
    "garbage": _bytes(lambda rng: rng.randbytes(rng.choice([1, 100, 70_000]))),
    "deep lists": _bytes(lambda rng: b"[" * 200_000),
    "deep objects": _bytes(lambda rng: b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "deep YAML": _bytes(lambda rng: b"a: " + b"[" * 5000 + b"]" * 5000),
    "a list": _bytes(lambda rng: b"[1, 2, null]"),
    "wrong types": _bytes(
        lambda rng: json.dumps({key: rng.choice([[], {}, "x", -1, None]) for key in LLAMA}).encode()
    ),
    "numbers that are none": _bytes(lambda rng: b'{"variance": NaN, "d_model": 1e999}'),
    "a long number": _bytes(lambda rng: b'{"layer": ' + b"9" * 100_000 + b"}"),
    "half a surrogate pair": _bytes(lambda rng: b'{"text": "\\ud83d", "name": "\\ud83d"}\n' * 3),
    "UTF-16": _bytes(lambda rng: json.dumps({"text": "a"}).encode("utf-16")),
    "NUL bytes": _bytes(lambda rng: b"\x00" * 5000),
    "escapes": _bytes(lambda rng: json.dumps({"name": "\x1b[2J\x07"}).encode()),
    "aliases": _bytes(
        lambda rng: (
            b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9))
                for n in range(1, 12)
            )
        )
    ),
    "a tag that runs code": _bytes(lambda rng: b'!!python/object/apply:os.system ["true"]\n'),
    "50 MB": _bytes(lambda rng: b'{"text": "' + b"a" * 50_000_000 + b'"}'),
    "many members": _bytes(lambda rng: b'{"x": [' + b"{}," * 1_000_000 + b"{}]}"),
    "a pipe": _fifo,
    "a link to a device": _link("/dev/zero"),
    "a link to itself": lambda path, rng: path.symlink_to(path.name),
    "a directory": lambda path, rng: path.mkdir(),
    "a pickle": _bytes(lambda rng: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os."),
    "npy with objects": _bytes(_pickled_npy),
    "npz": _bytes(_npz),
    "npy of a huge shape": _bytes(lambda rng: _npy_of(f"({2**40}, {D_MODEL})")),
    "npy of a negative shape": _bytes(lambda rng: _npy_of(f"(-1, {D_MODEL})")),
    "npy of other numbers": _bytes(
        lambda rng: _npy_of(f"(1, {D_MODEL})", rng.choice(["<c8", "O"]))
    ),
    "a long header": _bytes(lambda rng: _tensors(_entry(), length=rng.choice([2**63, 10**9]))),
    "a shape beyond the file": _bytes(lambda rng: _tensors(_entry(shape=[2**40, 2**20]))),
    "offsets that overlap": _bytes(lambda rng: _tensors(_entry(data_offsets=[16, 8]))),
    "another dtype": _bytes(
        lambda rng: _tensors(_entry(dtype=rng.choice(["I64", "F8_E4M3", "?"])))
    ),
    "NaN weights": _bytes(lambda rng: _tensors(_entry())[:-256] + b"\x00\x00\xc0\x7f" * D_MODEL),
    "Parquet of other columns": _parquet_of,
    "a Parquet bomb": _parquet_bomb,
    "Parquet cut short": _bytes(lambda rng: b"PAR1" + rng.randbytes(300) + b"PAR1"),
}


# -- running ---------------------------------------------------------------------------------------
def run(count: int, seed: int) -> dict[str, Any]:
    """Read so many files, chosen from all pairs of a content and a loader."""
    model_io.load_backbone(bundled_path() / "target")  # so that no child imports a library
    rng = random.Random(seed)
    pairs = [(content, loader) for content in CONTENTS for loader in LOADERS]
    chosen = rng.sample(pairs, min(count, len(pairs)))
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    found: list[str] = []
    longest = peak = 0.0
    for number, (content, loader) in enumerate(chosen):
        outcome, seconds, more_mb = read_apart(content, loader, seed + number)
        outcomes[content][outcome.partition(":")[0]] += 1
        longest, peak = max(longest, seconds), max(peak, more_mb)
        if outcome not in ("read", "refused") or seconds > LONGEST_S or more_mb > MOST_MB:
            found.append(f"{content} as {loader}: {outcome}, {seconds:.1f} s, {more_mb:.0f} MB")
    return {
        **{"num": len(chosen), "longest_s": round(longest, 2), "peak_more_mb": round(peak)},
        **{"outcomes": {key: dict(each) for key, each in outcomes.items()}, "violations": found},
    }


def read_apart(content: str, loader: str, seed: int) -> tuple[str, float, float]:
    """What became of one file, the seconds it took, and the memory beyond the process's own."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as made:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_read, args=(content, loader, seed, Path(made), theirs))
        process.start()
        theirs.close()
        outcome = ("hung", GIVE_UP_S, 0.0)
        if ours.poll(GIVE_UP_S):
            try:
                outcome = ours.recv()
            except EOFError:
                outcome = ("died", 0.0, 0.0)
        process.kill()
        process.join()
        return outcome


def _read(content: str, loader: str, seed: int, directory: Path, told: Any) -> None:
    chosen, rng = LOADERS[loader], random.Random(seed)
    for name, value in chosen.beside.items():
        (directory / name).write_text(json.dumps(value))
    path = directory / chosen.file
    CONTENTS[content](path, rng)
    before, started = _peak_mb(), time.monotonic()
    try:
        chosen.read(path)
        outcome = "read"
    except UserError:
        outcome = "refused"
    except Exception as error:  # noqa: BLE001 - whatever else it is, is what we look for
        outcome = f"{type(error).__name__}: {error}"[:200]
    told.send((outcome, time.monotonic() - started, _peak_mb() - before))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
