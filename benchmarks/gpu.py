"""The same comparison on an accelerator: random weights in the shapes of Qwen2.5-7B, bf16.

    python -m benchmarks --device cuda

One process holds the models of both sides, which take turns; each run waits for the device.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

import torch

from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine

from . import checkpoints
from .gate import compare_greedy
from .hf import generate
from .measure import Done, Run, ratio, timed
from .ours import PartlyShared
from .results import Store, fingerprint, path_of
from .specs import NEW_TOKENS, SPECS

ROUNDS, ROWS, BATCHES = 3, 256, (64, 128, 256)
GREEDY_ROWS, GREEDY_TOKENS = 64, 48


def main(device: str) -> int:
    """Check, measure, keep and print; returns the exit status."""
    if not torch.cuda.is_available():
        print("There is no CUDA device here. Leave out --device to measure on the CPU.")
        return 1
    store, current = Store(path_of(device)), fingerprint()
    store.put("gate", check(device), current)
    if not store.sections["gate"]["holds"]:
        print(f"The gate failed: {json.dumps(store.sections['gate'])}")
        return 1
    store.put("explain_Q", explain(device), current)
    print(json.dumps(store.sections, indent=1))
    return 0


def check(device: str) -> dict[str, object]:
    """Greedy ids in float32 on the device, on the small shapes."""
    engine = open_ended(checkpoints.build(SPECS["S"], device))
    given = checkpoints.vectors(SPECS["S"], GREEDY_ROWS)
    return compare_greedy(engine, given, GREEDY_TOKENS)


def explain(device: str) -> dict[str, object]:
    """Sampled explanations: ours, ours with BOS alone shared, and `generate` at its best batch."""
    engine = open_ended(checkpoints.build(SPECS["Q"], device, torch.bfloat16, max_rows=ROWS))
    whole = LocalEngine(None, PartlyShared(engine.verbalizer, 1), engine.reconstructor, ROWS)
    batch = max(BATCHES, key=lambda size: on_device(hugging_face(engine, size, 8)).rate)
    sides = {
        "ours": ours(engine),
        "hf_batched": hugging_face(engine, batch, NEW_TOKENS),
        "no_reuse": ours(whole),
    }
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, side in sides.items():
            run = on_device(side)
            # The first round loads kernels.
            runs[name] += [run] if number else []
    rates = {name: [run.rate for run in each] for name, each in runs.items()}
    return {
        "device": torch.cuda.get_device_name(),
        "rows": ROWS,
        "hf_batch": batch,
        "rates": {name: statistics.median(each) for name, each in rates.items()},
        "ratios": {
            name: ratio(rates["ours"], each)._asdict()
            for name, each in rates.items()
            if name != "ours"
        },
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def ours(engine: LocalEngine) -> Callable[[], Done]:
    """Explain `ROWS` vectors."""
    given = checkpoints.vectors(SPECS["Q"], ROWS)
    sampling = Sampling(temperature=1.0, max_new_tokens=NEW_TOKENS)
    return lambda: Done(len(engine.verbalize(given, sampling)))


def hugging_face(engine: LocalEngine, batch: int, new_tokens: int) -> Callable[[], Done]:
    """Explain `batch` vectors by `generate`."""
    given = checkpoints.vectors(SPECS["Q"], batch)

    def run() -> Done:
        ids = generate(engine.verbalizer, given, new_tokens, sampled=True)
        return Done(len(engine.verbalizer.tokenizer.batch_decode(ids)))

    return run


def on_device(run: Callable[[], Done]) -> Run:
    """A timed run that ends when the device has."""

    def waited() -> Done:
        done = run()
        torch.cuda.synchronize()
        return done

    torch.cuda.synchronize()
    return timed(waited)


def open_ended(engine: LocalEngine) -> LocalEngine:
    """Nothing ends an answer, on either side."""
    engine.verbalizer.eos_ids = []
    return engine
