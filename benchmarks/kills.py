"""Kill extract, label, describe and train again and again: what is resumed ends as what was not.

    python -m benchmarks.kills [--kills 20] [--only label] [--seconds 600] [--output FILE]

Each verb runs once undisturbed on a tiny model made on the spot. Then it is killed with SIGKILL at
moments spread at random over its own duration and started again, until it ends; and all that in
another directory, until there were `--kills` kills. Everything that such a run leaves must be equal
byte by byte, but for the seconds in logs, report pages and locks. The teacher of `label` is a
server on this machine that counts what it is paid for: no more may be asked again than was in
flight. `saves` kills a server while three clients save readings: what it had acknowledged must be
there. Processes are forked from one that has loaded the libraries, so that kills fall into the
work and not into imports. Prints one JSON object, with `--output` also added to a file, and exits
with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
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

from nlakit.cli import run
from nlakit.core.site import Site
from nlakit.data.locks import LOCK_NAME
from nlakit.models.target import Target
from nlakit.registry import bundled_path
from nlakit.serve.store import ReadingStore
from nlakit.storyworld.grammar import generate
from nlakit.worlds.storyworld.target import special_ids

from .checkpoints import make_tokenizer

LOADED = (
    *("nlakit.cli.extract", "nlakit.cli.label", "nlakit.cli.describe", "nlakit.cli.train"),
    *("nlakit.cli.serve", "nlakit.serve.app", "nlakit.train.pair_stages", "nlakit.teachers.remote"),
)
FORKS = multiprocessing.get_context("forkserver")
PATIENCE_S = 60.0
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
    os.environ |= {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"}
    FORKS.set_forkserver_preload([*LOADED, "benchmarks.checkpoints"])
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
            assert process.is_alive(), "the server ended by itself"
            process.kill()
            process.join()
        made += 1
    store = ReadingStore(data)
    saved = {key: store.get(key) for key in acknowledged}
    lost = sum(one is None or one.title != acknowledged[key] for key, one in saved.items())
    store.close()
    result = {"kills": made, "acknowledged": len(acknowledged), "lost": lost}
    return {**result, "equal": lost == 0, "paid_again_at_most": True}


@contextmanager
def serving(data: Path) -> Iterator[tuple[Any, str]]:
    """A server of the bundled pair that keeps readings there, and its address."""
    address = data.with_name("address.txt")
    address.unlink(missing_ok=True)
    words = ["serve", "--port", "0", "--no-browser"]
    process = start(words, address, {"NLAKIT_DATA_DIR": str(data)})
    try:
        until = time.monotonic() + PATIENCE_S
        while not address.exists() or not address.read_text(encoding="utf-8").endswith("\n"):
            assert process.is_alive() and time.monotonic() < until, "the server did not start"
            time.sleep(0.02)
        yield process, address.read_text(encoding="utf-8").strip()
    finally:
        process.kill()
        process.join()


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
    whole, began = root / f"{verb}-whole", time.monotonic()
    paid.count = 0
    run_to_end(command(root, verb, whole, url))
    took, due, expected = time.monotonic() - began, paid.count, contents(whole)
    rng, made, runs = random.Random(f"{seed}/{verb}"), 0, 0
    differing, again, is_frugal = set[str](), 0, True
    while made < kills and time.monotonic() - began < seconds:
        killed, before, paid.count = root / f"{verb}-killed-{runs}", made, 0
        words = command(root, verb, killed, url)
        while made < kills and kill_after(words, rng.uniform(0.0, took)):
            made += 1
        run_to_end(words)
        runs += 1
        found = contents(killed)
        differing |= {n for n in {**expected, **found} if expected.get(n) != found.get(n)}
        again += paid.count - due
        is_frugal &= paid.count - due <= (made - before) * CONCURRENCY
    return {
        **{"kills": made, "runs": runs, "seconds_undisturbed": round(took, 1)},
        **{"files": len(expected), "equal": not differing, "differing": sorted(differing)},
        **{"answers": due, "asked_again": again, "paid_again_at_most": is_frugal},
    }


def kill_after(words: list[str], seconds: float) -> bool:
    """Start a command and kill it after some seconds; False where it had ended before."""
    process = start(words)
    process.join(seconds)
    was_running = process.exitcode is None
    process.kill()
    process.join()
    return was_running and process.exitcode == -signal.SIGKILL


def run_to_end(words: list[str]) -> None:
    process = start(words)
    process.join()
    if process.exitcode:
        raise SystemExit(f"{' '.join(words)} ended with {process.exitcode}")


def start(
    words: list[str], output: Path | None = None, variables: dict[str, str] | None = None
) -> Any:
    """`nlakit` in a process of its own; what it prints goes into a file."""
    process = FORKS.Process(target=_nlakit, args=(words, output, variables or {}))
    process.start()
    return process


def _nlakit(words: list[str], output: Path | None, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    with open(output or os.devnull, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
    sys.exit(run(words))


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
