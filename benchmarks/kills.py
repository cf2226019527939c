"""Kill extract, label, describe and train again and again: what is resumed ends as what was not.

    python -m benchmarks.kills [--kills 20] [--only label] [--seconds 600] [--output FILE]

Each verb runs once undisturbed on a tiny model made on the spot, and once killed with SIGKILL at
moments spread at random over its own duration, `--kills` times in all; then to its end. Everything
that it leaves must be equal byte by byte, but for the seconds in logs, report pages and locks. The
teacher of `label` is a server on this machine that counts what it is paid for: no more may be asked
again than was in flight. `saves` kills a server while three clients save readings: what it had
acknowledged must be there. Prints one JSON object, with `--output` also added to a file, and exits
with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from nlakit.core.site import Site
from nlakit.data.locks import LOCK_NAME
from nlakit.models.target import Target
from nlakit.registry import bundled_path
from nlakit.serve.store import ReadingStore
from nlakit.storyworld.grammar import generate
from nlakit.worlds.storyworld.target import special_ids

from .checkpoints import make_tokenizer

RECIPE = Path(__file__).parents[1] / "recipes" / "qwen2.5-7b-lora-1gpu.toml"
VERBS, SAVES = ("extract", "label", "describe", "train"), "saves"
WRITERS, SAVING_S = 3, 4.0
CONCURRENCY = 2
TRAINING = (
    "target.layer=1", "target.injection_scale=5.0", "teacher.model=text", "precision=float32",
    "corpus.documents=30", "corpus.rl_documents=10", "corpus.positions_per_document=4",
    "corpus.minimum_position=4", "corpus.max_tokens=64", "corpus.held_out_documents=8",
    "corpus.shard_rows=40", "checkpoint_every=2", "warm_start.batch_size=8",
    "warm_start.optimizer.warmup_steps=1", "lora.rank=4", "lora.alpha=8",
    "grounding.threshold=0.0", "grounding.documents=12", "rl.steps=6", "rl.vectors=2",
    "rl.group=2", "rl.max_new_tokens=8", "rl.micro_batch=2", "rl.evaluate_every=2",
    "rl.optimizer.warmup_steps=1", "rl.judge_weight=0.5", "rl.judge_neutral=0.5",
    "settling.vectors=16", "settling.steps=6", "settling.batch_size=4", "settling.held_out=8",
    "settling.optimizer.lr=1e-3", "comparison.controls=true", "report.documents=8",
)  # fmt: skip


@dataclass
class Paid:
    """Answers that the stand-in for a teacher's server gave."""

    count: int = 0


def main(arguments: Sequence[str]) -> int:
    """Returns 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each verb")
    parser.add_argument("--only", choices=(*VERBS, SAVES))
    parser.add_argument("--seconds", type=float, default=1800.0, help="at most, of each verb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="file to which each result is added")
    asked = parser.parse_args(arguments)
    verbs = [asked.only] if asked.only else [*VERBS, SAVES]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, teacher() as (url, paid):
        root = Path(name)
        if verbs != [SAVES]:
            make_inputs(root)
        for verb in verbs:
            found[verb] = (
                measure_saves(root / SAVES, asked.kills, asked.seconds, asked.seed)
                if verb == SAVES
                else measure(root, verb, asked.kills, asked.seconds, asked.seed, url, paid)
            )
            add_to(asked.output, found)
    print(json.dumps(found, indent=2))
    return 0 if all(each["equal"] and each["paid_again_at_most"] for each in found.values()) else 1


def add_to(output: Path | None, found: dict[str, Any]) -> None:
    """Put results beside those of earlier runs."""
    if output is not None:
        before = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
        order = {name: (before | found)[name] for name in (*VERBS, SAVES) if name in before | found}
        output.write_text(json.dumps(order, indent=2) + "\n", encoding="utf-8")


def measure_saves(data: Path, kills: int, seconds: float, seed: int) -> dict[str, Any]:
    """A server that is killed while clients save; each time another one goes on in its place."""
    rng, made, began = random.Random(f"{seed}/saves"), 0, time.monotonic()
    acknowledged: dict[str, str] = {}
    while made < kills and time.monotonic() - began < seconds:
        with serving(data) as (process, address), ThreadPoolExecutor(WRITERS) as pool:
            for number in range(WRITERS):
                pool.submit(save_readings, address, f"{made} {number}", acknowledged)
            time.sleep(rng.uniform(0.0, SAVING_S))
            process.send_signal(signal.SIGKILL)
            process.wait()
        made += 1
    store = ReadingStore(data)
    saved = {key: store.get(key) for key in acknowledged}
    lost = sum(one is None or one.title != acknowledged[key] for key, one in saved.items())
    store.close()
    result = {"kills": made, "acknowledged": len(acknowledged), "lost": lost}
    return {**result, "equal": lost == 0, "paid_again_at_most": True}


@contextmanager
def serving(data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of the bundled pair that keeps readings there, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nlakit", "serve", "--port", "0", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "NLAKIT_DATA_DIR": str(data), "HF_HUB_OFFLINE": "1"},
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def save_readings(address: str, name: str, acknowledged: dict[str, str]) -> None:
    """Save until nobody answers."""
    for number in range(100_000):
        reading = {"title": f"{name} {number}", "reading": {"text": "x" * 2000}}
        try:
            found = httpx2.post(f"{address}/v1/readings", json=reading, timeout=30)
        except httpx2.HTTPError:
            return
        if found.status_code == 201:
            acknowledged[found.json()["id"]] = reading["title"]


def measure(
    root: Path, verb: str, kills: int, seconds: float, seed: int, url: str, paid: Paid
) -> dict[str, Any]:
    """One verb, undisturbed and killed."""
    whole, killed = root / f"{verb}-whole", root / f"{verb}-killed"
    paid.count, began = 0, time.monotonic()
    run_to_end(command(root, verb, whole, url))
    took, due = time.monotonic() - began, paid.count
    rng, made, paid.count = random.Random(f"{seed}/{verb}"), 0, 0
    while made < kills and time.monotonic() - began < seconds:
        made += kill_after(command(root, verb, killed, url), rng.uniform(0.0, took))
    run_to_end(command(root, verb, killed, url))
    return {
        "kills": made,
        "seconds_undisturbed": round(took, 1),
        "equal": contents(whole) == contents(killed),
        "differing": sorted(
            name
            for name in {**contents(whole), **contents(killed)}
            if contents(whole).get(name) != contents(killed).get(name)
        ),
        "answers": due,
        "answers_with_kills": paid.count,
        "paid_again_at_most": paid.count <= due + made * CONCURRENCY,
    }


def kill_after(arguments: list[str], seconds: float) -> int:
    """Start a command and kill it after some seconds; 0 where it had ended before."""
    process = start(arguments)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return 1
    return 0


def run_to_end(arguments: list[str]) -> None:
    process = start(arguments)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}:\n{said}")


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """A process of its own, whose progress nobody reads."""
    return subprocess.Popen(
        [sys.executable, "-m", "nlakit", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if arguments else None,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"},
    )


def command(root: Path, verb: str, output: Path, url: str) -> list[str]:
    """The verb's command, writing into `output`."""
    base, corpus = root / "base", root / "corpus.jsonl"
    words: dict[str, list[str]] = {
        "extract": [
            "extract", "--target", str(base), "--layer", "1", "--corpus", str(corpus),
            "--documents", "120", "--minimum-position", "4", "--shard-rows", "30",
        ],
        "label": [
            "label", str(root / "activations"), "--teacher", "openai:stand-in",
            "--base-url", f"{url}/v1", "--concurrency", str(CONCURRENCY),
        ],
        "describe": [
            "describe", str(root / "vectors.npy"), "--nla", str(bundled_path()),
            "--shard-rows", "8", "--max-new-tokens", "24", "--temperature", "1",
        ],
        "train": [
            "train", str(RECIPE), f"target.checkpoint={base}", f"corpus.source={corpus}", *TRAINING,
        ],
    }  # fmt: skip
    return [*words[verb], "--output", str(output)]


def make_inputs(root: Path) -> None:
    """A random base, a corpus, activations and vectors."""
    tokenizer = make_tokenizer(2048)
    config = Qwen2Config(
        vocab_size=2048, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        initializer_range=0.3, **special_ids(tokenizer),
    )  # fmt: skip
    torch.manual_seed(0)
    Target(Qwen2ForCausalLM(config).eval(), tokenizer, Site(1)).save(root / "base")
    made = [*islice(generate(3, "train"), 150), *islice(generate(3, "heldout"), 24)]
    lines = [json.dumps({"id": f"fiction-{i}", "text": each.text}) for i, each in enumerate(made)]
    (root / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run_to_end(command(root, "extract", root / "activations", ""))
    width = json.loads((bundled_path() / "nla.json").read_text(encoding="utf-8"))["d_model"]
    vectors = np.random.default_rng(0).standard_normal((96, width), dtype=np.float32)
    np.save(root / "vectors.npy", vectors)


def contents(directory: Path) -> dict[str, bytes]:
    """What a run leaves, but for clocks, locks and the cache of answers (SQLite)."""
    return {
        path.relative_to(directory).as_posix(): comparable(path)
        for path in directory.rglob("*")
        if path.is_file() and not is_left_out(path)
    }


def is_left_out(path: Path) -> bool:
    is_lock = path.name == LOCK_NAME or (path.name.startswith(".") and path.suffix == ".lock")
    return is_lock or path.name.startswith("answers.sqlite") or path.name == "report.html"


def comparable(path: Path) -> bytes:
    if path.suffix != ".jsonl":
        return path.read_bytes()
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    kept = [{key: value for key, value in each.items() if key != "seconds"} for each in records]
    return json.dumps(kept).encode()


@contextmanager
def teacher() -> Any:
    """A chat server on this machine that answers slowly, and counts."""
    paid, lock = Paid(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                paid.count += 1
            time.sleep(0.01)
            last = str(body["messages"][-1]["content"]).split()[-1]
            text = f"<explanation>\nIt says {last}.\n\nA word follows {last}.\n</explanation>"
            reply = json.dumps({
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5},
            }).encode()  # fmt: skip
            try:
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)
            except OSError:
                pass  # whoever asked was killed

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", paid
    finally:
        server.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
