"""The sections of the accelerator's comparison, each in a process of its own.

    python -m benchmarks.gpu_sections NAME DEVICE

Prints what is measured as it is: one JSON object a line, which `gpu` keeps. On a CPU the same code
runs on tiny shapes, which says that it runs and nothing about speed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from nlakit.core.site import Site
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.models.families import backbone_of, truncated
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer

from . import checkpoints, opponents, steps
from .flops import copy_bandwidth, explain_flops, gemm_flops, wait_for
from .gate import compare_greedy
from .hf import generate
from .measure import Done, Run, peak_mib, timed
from .process import ROOT, Side
from .specs import NEW_TOKENS, SPECS

Facts = dict[str, Any]


@dataclass(frozen=True)
class Shapes:
    """What a kind of device measures.

    Attributes:
        decode: spec whose explanations are timed, and `decode_rows` of them side by side.
        hf_rows: batch of Hugging Face's `generate`.
        trained: specs whose training steps are timed.
        av, ar: rows and tokens of a step of the warm start.
        rl: vectors, samples of each and tokens of a joint step.
        rl_beside_trl: the same of the step that TRL takes as well, by specs of `trained`.
        documents: documents and tokens of each, for extraction.
        greedy: rows and tokens of the equality check.
        tests: what pytest is given.
    """

    decode: str
    decode_rows: tuple[int, ...]
    hf_rows: int
    new_tokens: int
    trained: tuple[str, ...]
    av: tuple[int, int]
    ar: tuple[int, int]
    rl: tuple[int, int, int]
    rl_beside_trl: tuple[int, int, int]
    documents: tuple[int, int]
    greedy: tuple[int, int]
    tests: str
    rounds: int = 3


SHAPES = {
    "cuda": Shapes(
        decode="Q",
        decode_rows=(256, 512),
        hf_rows=256,
        new_tokens=NEW_TOKENS,
        trained=("SMOL", "QWEN05"),
        av=(256, 85),
        ar=(256, 100),
        rl=(128, 8, 85),
        rl_beside_trl=(16, 8, 85),
        documents=(1024, 320),
        greedy=(32, 48),
        tests="tests/gpu",
    ),
    "cpu": Shapes(
        decode="T",
        decode_rows=(4, 8),
        hf_rows=4,
        new_tokens=4,
        trained=("T",),
        av=(4, 8),
        ar=(4, 8),
        rl=(2, 2, 8),
        rl_beside_trl=(2, 2, 8),
        documents=(4, 32),
        greedy=(2, 4),
        tests="tests/gpu",
        rounds=1,
    ),
}


# -- sections --------------------------------------------------------------------------------------
def gate(shapes: Shapes, device: str) -> Iterator[Facts]:
    """Greedy ids in float32 on the device are Hugging Face's."""
    name = "S" if device != "cpu" else shapes.decode
    rows, tokens = shapes.greedy
    engine = open_ended(checkpoints.build(SPECS[name], device))
    yield compare_greedy(engine, checkpoints.vectors(SPECS[name], rows), tokens)


def decode(shapes: Shapes, device: str) -> Iterator[Facts]:
    """Sampled explanations a second, their share of the roofline, and `generate`'s."""
    spec, dtype = SPECS[shapes.decode], half(device)
    engine = decoding_engine(shapes.decode, device, dtype)
    speed = gemm_flops(device, "bfloat16" if dtype == torch.bfloat16 else "float32")
    bandwidth = copy_bandwidth(device)
    yield {"gemm_tflops": speed / 1e12, "copy_gb_per_s": bandwidth / 1e9}
    num_bytes = dtype.itemsize * sum(p.numel() for p in engine.verbalizer.model.parameters())
    for rows in shapes.decode_rows:
        run = explaining(engine, shapes.decode, rows, shapes.new_tokens)
        found = rates(run, device, shapes.rounds)
        flops = explain_flops(spec, rows, shapes.new_tokens) / shapes.new_tokens
        step_s = max(num_bytes / bandwidth, flops / speed)
        roofline = rows / (step_s * shapes.new_tokens)
        yield {
            f"rows_{rows}": {
                "per_s": found,
                "seconds_a_token": rows / found / shapes.new_tokens,
                "roofline_per_s": roofline,
                "share_of_roofline": found / roofline,
            }
        }
    hugging_face(engine, shapes.decode, shapes.hf_rows, 2)()
    theirs = rates(
        hugging_face(engine, shapes.decode, shapes.hf_rows, shapes.new_tokens), device, 1
    )
    yield {"hf": {"rows": shapes.hf_rows, "per_s": theirs}, "peak_gib": peak_gib(device)}


def training(shapes: Shapes, device: str) -> Iterator[Facts]:
    """Seconds of an AV, an AR and a joint RL step, and their share of the device's products."""
    speed = gemm_flops(device, "bfloat16" if half(device) == torch.bfloat16 else "float32")
    yield {"gemm_tflops": speed / 1e12}
    for name in shapes.trained:
        pair, found = steps.make_pair(name, device), {}
        sizes = {"av": shapes.av, "ar": shapes.ar, "rl": shapes.rl, "rl_trl": shapes.rl_beside_trl}
        for kind, size in sizes.items():
            task = steps.STEP_KINDS[kind.removesuffix("_trl")](pair, *size)
            seconds = 1 / rates(task.run, device, shapes.rounds)
            assert task.flops is not None, "a step's operations are known"
            found[kind] = {"size": size, "seconds": seconds, "mfu": task.flops / seconds / speed}
            # What is known so far, should the time end here.
            yield {name: {**found, "peak_gib": peak_gib(device)}}


def trl(shapes: Shapes, device: str) -> Iterator[Facts]:
    """TRL's GRPO step on the same shapes, with an adapter of the same rank."""
    python = opponents.interpreter("trl")
    if python is None:
        yield {"absent": opponents.how_to_install("trl")}
        return
    vectors, group, tokens = shapes.rl_beside_trl
    for name in shapes.trained:
        options = {
            "model": name, "vectors": vectors, "group": group, "new_tokens": tokens,
            "device": device, "lora_rank": steps.LORA_RANK,
        }  # fmt: skip
        with Side("trl.rl", options, core=None, python=python) as side:
            side.ready()
            yield {name: {"seconds": statistics.median(side.run().wall_s for _ in range(2))}}


def extraction(shapes: Shapes, device: str) -> Iterator[Facts]:
    """Tokens a second through the blocks up to the site, five activations a document."""
    documents, length = shapes.documents
    for name in shapes.trained:
        target = steps.make_pair(name, device).target
        ids = steps.token_rows(documents, length)
        places = [list(range(length - 5, length))] * documents
        found = rates(partial(_extract, target, ids, places), device, shapes.rounds)
        yield {name: {"tokens_per_s": found * length, "peak_gib": peak_gib(device)}}


def _extract(target: Target, ids: list[list[int]], places: list[list[int]]) -> Done:
    return Done(len(target.activations(ids, places)))


def tests(shapes: Shapes, device: str) -> Iterator[Facts]:
    """The device's own tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", shapes.tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    yield {"exit_status": done.returncode, "summary": last}


SECTIONS: dict[str, Callable[[Shapes, str], Iterator[Facts]]] = {
    "gate": gate,
    "decode": decode,
    "training": training,
    "extraction": extraction,
    "trl": trl,
    "tests": tests,
}


# -- what they share -------------------------------------------------------------------------------
def half(device: str) -> torch.dtype:
    """The precision that is timed."""
    return torch.float32 if device == "cpu" else torch.bfloat16


def decoding_engine(name: str, device: str, dtype: torch.dtype) -> LocalEngine:
    """A verbalizer of a spec's shape; its AR, which nothing asks, is one of its own blocks."""
    spec = SPECS[name]
    tokenizer = checkpoints.make_tokenizer(spec.vocab_size)
    model = checkpoints.random_model(spec, tokenizer, 2, device, dtype)
    reconstructor = Reconstructor(
        truncated(backbone_of(model), Site(0).num_blocks),
        nn.Linear(spec.d_model, spec.d_model, bias=False, device=device),
        tokenizer,
        checkpoints.make_meta(spec, tokenizer, "ar"),
    )
    verbalizer = Verbalizer(model, tokenizer, checkpoints.make_meta(spec, tokenizer, "av"))
    return open_ended(LocalEngine(None, verbalizer, reconstructor))


def open_ended(engine: LocalEngine) -> LocalEngine:
    """Nothing ends an answer, on either side."""
    engine.verbalizer.eos_ids = []
    return engine


def explaining(engine: LocalEngine, name: str, rows: int, new_tokens: int) -> Callable[[], Done]:
    """Explain `rows` vectors side by side."""
    given = checkpoints.vectors(SPECS[name], rows)
    sampling = Sampling(temperature=1.0, max_new_tokens=new_tokens)

    def run() -> Done:
        engine.max_rows = rows
        return Done(len(engine.verbalize(given, sampling)))

    return run


def hugging_face(engine: LocalEngine, name: str, rows: int, tokens: int) -> Callable[[], Done]:
    """Explain `rows` vectors by `generate`."""
    given = checkpoints.vectors(SPECS[name], rows)

    def run() -> Done:
        ids = generate(engine.verbalizer, given, tokens, sampled=True)
        return Done(len(engine.verbalizer.tokenizer.batch_decode(ids)))

    return run


def rates(run: Callable[[], Done], device: str, rounds: int) -> float:
    """Items a second: the median of the rounds after one that is not timed."""
    on_device(run, device)
    return statistics.median(on_device(run, device).rate for _ in range(rounds))


def on_device(run: Callable[[], Done], device: str) -> Run:
    """A timed run that ends when the device has."""

    def waited() -> Done:
        done = run()
        wait_for(device)
        return done

    wait_for(device)
    return timed(waited)


def peak_gib(device: str) -> float:
    """Of the device's memory since the process began; of the process on a CPU."""
    if device == "cpu":
        return peak_mib() / 1024
    return torch.cuda.max_memory_allocated() / 2**30


def main(name: str, device: str) -> None:
    """Measure one section; each line says how long it has taken so far."""
    start = time.perf_counter()
    for facts in SECTIONS[name](SHAPES[device], device):
        seconds = time.perf_counter() - start
        print(json.dumps({**facts, "seconds": round(seconds, 2)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
