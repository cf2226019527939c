"""What is compared with what, and how often: the sections of a run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from . import opponents, sweeps
from .measure import Run, ratio, summary
from .process import OFFLINE, ROOT, Side, alternate
from .results import has_bf16_units
from .specs import NEW_TOKENS

Facts = dict[str, Any]
OURS = "ours"


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds, blocks: ABAB… so many times, in so many sets of fresh processes.
        budget_s: no further round of a section once its runs would take longer than this.
        rows: explanations that our engine writes side by side against Hugging Face; 64 is its
            default.
        batches: batch sizes that Hugging Face may choose from.
        choice_tokens: of an answer in the short runs by which it chooses.
        tokens: of an answer in the comparison with Hugging Face.
        try_bf16: whether Hugging Face tries bfloat16 on a processor that has no units for it, too.
        rl_vectors: vectors of an RL step.
        step_rows: of SmolLM2's AV step.
        greedy: what the gate compares (`gate.on_model`).
        draws: first tokens that the gate samples.
    """

    rounds: int
    blocks: int
    budget_s: float
    rows: int
    batches: tuple[int, ...]
    choice_tokens: int
    tokens: int
    try_bf16: bool
    rl_vectors: int
    step_rows: int
    greedy: tuple[Facts, ...]
    draws: int


QUICK = Plan(
    rounds=2,
    blocks=1,
    budget_s=20,
    rows=32,
    batches=(32,),
    choice_tokens=16,
    tokens=48,
    try_bf16=False,
    rl_vectors=1,
    step_rows=16,
    greedy=(
        {"model": "S", "vectors": 64, "tokens": 48},
        {"model": "V", "vectors": 8, "tokens": 24},
    ),
    draws=2048,
)
FULL = Plan(
    rounds=5,
    blocks=2,
    budget_s=190,
    rows=64,
    batches=(8, 16, 32, 64, 128),
    choice_tokens=36,
    tokens=NEW_TOKENS,
    try_bf16=True,
    rl_vectors=4,
    step_rows=64,
    greedy=(
        {"model": "S", "vectors": 64, "tokens": 144},
        {"model": "V", "vectors": 64, "tokens": 48},
        {"model": "M", "vectors": 16, "tokens": 48},
    ),
    draws=4096,
)


@dataclass(frozen=True)
class Section:
    """One part of a run.

    Attributes:
        measure: gives what is stored under the section's name.
        seconds: about how long it takes on two cores of 2.5 GHz; decides the progress bar only.
        quick: whether `--quick` has it.
    """

    measure: Callable[[Plan], Facts]
    seconds: float
    quick: bool = False


# -- sections --------------------------------------------------------------------------------------
def gate(plan: Plan) -> Facts:
    """The correctness checks, on all cores: nothing is timed here."""
    options = {"greedy": plan.greedy, "draws": plan.draws}
    with Side("gate.check", options, threads=2, core=None) as side:
        side.ready()
        return side.run().facts


def explain(model: str) -> Callable[[Plan], Facts]:
    """Sampled explanations against Hugging Face, at its best batch and one by one."""

    def measure(plan: Plan) -> Facts:
        best = best_batch(model, plan)
        batch, dtype = best["batch"], best["dtype"]
        same = {"model": model, "new_tokens": plan.tokens}
        ours = best_dtype(model, plan)
        sides = {
            OURS: Side("ours.explain", {**same, "rows": plan.rows, "dtype": ours["dtype"]}),
            "hf_batched": Side(
                "hf.explain", {**same, "rows": batch, "batch": batch, "dtype": dtype}
            ),
            "hf_single": Side("hf.explain", {**same, "rows": 1, "batch": 1, "dtype": dtype}),
        }
        choices = {"our_choice": ours, "hf_choice": best}
        return {"model": model, "rows": plan.rows, **choices, **contest(sides, plan)}

    return measure


def best_dtype(model: str, plan: Plan) -> Facts:
    """The dtype at which our engine is fastest, chosen in short runs as `best_batch` does."""
    if not has_bf16_units():
        return {"dtype": "float32", "tried": []}
    found: list[Facts] = []
    size = {"model": model, "rows": plan.rows, "new_tokens": plan.choice_tokens}
    with Side("ours.explain", size) as side:
        side.ready()
        for dtype in ("float32", "bfloat16"):
            side.prepare({**size, "dtype": dtype})
            found.append({"dtype": dtype, "rate": side.run().rate})
    return _fastest(found)


def _fastest(found: Sequence[Facts]) -> Facts:
    """The dtype that was fastest, and all that were tried."""
    return {"dtype": max(found, key=lambda each: each["rate"])["dtype"], "tried": found}


def best_batch(model: str, plan: Plan) -> Facts:
    """The batch and dtype at which `generate` is fastest: short runs choose the dtype at the middle
    batch, and then the batch."""
    found: list[Facts] = []

    def try_out(dtype: str, batch: int) -> None:
        size = {"rows": batch, "batch": batch, "new_tokens": plan.choice_tokens}
        side.prepare({"model": model, "dtype": dtype, **size})
        found.append({"batch": batch, "dtype": dtype, "rate": side.run().rate})

    def best() -> Facts:
        return max(found, key=lambda each: each["rate"])

    middle = plan.batches[len(plan.batches) // 2]
    dtypes = ("float32", "bfloat16") if plan.try_bf16 or has_bf16_units() else ("float32",)
    if len(plan.batches) == len(dtypes) == 1:
        return {"batch": middle, "dtype": dtypes[0], "tried": []}
    with Side("hf.explain", {"model": model, "rows": 1, "batch": 1, "new_tokens": 2}) as side:
        side.ready()
        for dtype in dtypes:
            try_out(dtype, middle)
        for batch in plan.batches:
            if batch != middle:
                try_out(best()["dtype"], batch)
    return {"batch": best()["batch"], "dtype": best()["dtype"], "tried": found}


def prefix_reuse(plan: Plan) -> Facts:
    """The engine with its whole prefix shared, and with BOS alone shared."""
    options = {"model": "S", "rows": 32}
    sides = {
        OURS: Side("ours.explain", options),
        "no_reuse": Side("ours.explain", {**options, "shared": 1}),
    }
    return {"model": "S", **contest(sides, plan)}


def train_step(model: str, rows: int) -> Callable[[Plan], Facts]:
    """A step of the AV's warm start against the naive float32 form."""

    def measure(plan: Plan) -> Facts:
        options = {"model": model, "rows": rows}
        names = {OURS: "ours.train_step", "naive": "naive.train_step"}
        sides = {name: Side(side, options) for name, side in names.items()}
        return {**options, **contest(sides, plan)}

    return measure


def rl_options(plan: Plan) -> Facts:
    """Model and size of an RL step."""
    return {"model": "S", "vectors": plan.rl_vectors, "group": 8}


def rl_step(plan: Plan) -> Facts:
    """A step of joint RL against the naive form."""
    options = rl_options(plan)
    names = {OURS: "ours.rl", "naive": "naive.rl"}
    sides = {name: Side(side, options) for name, side in names.items()}
    return {**options, **contest(sides, plan)}


def against_trl(plan: Plan) -> Facts:
    """A step of joint RL against TRL's GRPO step, which does less (`trl`)."""
    options = rl_options(plan)
    choice = _trl_dtype(options)
    theirs = {**options, "dtype": choice["dtype"]}
    facts = against("trl", {OURS: ("ours.rl", options), "trl": ("trl.rl", theirs)}, plan)
    return facts if "absent" in facts else {"trl_choice": choice, **facts}


def _trl_dtype(options: Facts) -> Facts:
    """The dtype at which TRL's step is fastest, chosen by short ones."""
    python, found = opponents.interpreter("trl"), []
    if python is None or not has_bf16_units():
        return {"dtype": "float32", "tried": []}
    for dtype in ("float32", "bfloat16"):
        short = {**options, "new_tokens": 24, "dtype": dtype}
        with Side("trl.rl", short, python=python) as side:
            side.ready()
            found.append({"dtype": dtype, "rate": side.run().rate})
    return _fastest(found)


def against_vllm(model: str) -> Callable[[Plan], Facts]:
    """Explanations against vLLM's on the CPU, sampled and greedy."""

    def measure(plan: Plan) -> Facts:
        options = {"model": model, "rows": 64}
        greedy = {**options, "temperature": 0.0}
        sides = {
            OURS: ("ours.explain", options),
            "vllm_sampled": ("vllm.explain", options),
            "vllm_greedy": ("vllm.explain", greedy),
            "ours_greedy": ("ours.explain", greedy),
        }
        versus_whom = {"vllm_sampled": OURS, "vllm_greedy": "ours_greedy"}
        return against("vllm", sides, plan, versus_whom)

    return measure


def against(
    opponent: str,
    named: Mapping[str, tuple[str, Facts]],
    plan: Plan,
    compared: Mapping[str, str] | None = None,
) -> Facts:
    """A contest with a package that may be absent, which is then what is reported."""
    python = opponents.interpreter(opponent)
    if python is None:
        return {"absent": opponents.how_to_install(opponent)}
    theirs = f"{opponent}."
    # They take long to start: one set of processes, and more rounds of them.
    plan = replace(plan, rounds=plan.rounds + 1, blocks=1)
    sides = {
        name: Side(side, options, python=python if side.startswith(theirs) else sys.executable)
        for name, (side, options) in named.items()
    }
    facts = contest(sides, plan, compared)
    return {**named[OURS][1], "version": opponents.version(opponent), **facts}


def two_processes(plan: Plan) -> Facts:
    """The same work by one process and by two, each on a core of its own."""
    options = {"model": "S", "rows": 32}
    singles: list[float] = []
    pairs: list[float] = []
    with ExitStack() as stack:
        sides = [stack.enter_context(Side("ours.explain", options, core=core)) for core in range(2)]
        for side in sides:
            side.ready()
        for _ in range(plan.rounds * plan.blocks):
            singles.append(sides[0].run().rate)
            pairs.append(rate_together(sides))
    found = ratio(pairs, singles)
    rates = {"one": statistics.median(singles), "two": statistics.median(pairs)}
    return {**options, "rates": rates, "ratios": {"one": {**found._asdict(), "rounds": len(pairs)}}}


def rate_together(sides: Sequence[Side]) -> float:
    """Items a second of sides that run at the same time, by the parent's clock."""
    start = time.perf_counter()
    for side in sides:
        side.begin()
    items = sum(side.finish().items for side in sides)
    return items / (time.perf_counter() - start)


def gemm(model: str, rows: int) -> Callable[[Plan], Facts]:
    """The share of the processor's speed in plain matrix products that explaining reaches."""

    def measure(plan: Plan) -> Facts:
        fractions, peaks = [], []
        with Side("ours.explain", {"model": model, "rows": rows}) as side:
            flops = side.ready()["flops"]
            for _ in range(plan.blocks):
                peaks.append(side.gemm())
                fractions.append(flops / side.run().wall_s / peaks[-1])
        return {
            "model": model,
            "rows": rows,
            "fraction": statistics.median(fractions),
            "gemm_gflops": statistics.median(peaks) / 1e9,
            "flops": flops,
        }

    return measure


def av_step_share(model: str) -> Callable[[Plan], Facts]:
    """The share of the processor's speed in plain matrix products, in the precision of training,
    that a step of the AV's warm start reaches with an adapter on a frozen base."""

    def measure(plan: Plan) -> Facts:
        options = {"model": model, "rows": plan.step_rows, "new_tokens": 85}
        dtype = "bfloat16" if has_bf16_units() else "float32"
        found, peaks, seconds = [], [], []
        with Side("steps.av_step", options) as side:
            flops = side.ready()["flops"]
            for _ in range(plan.rounds):
                peaks.append(side.gemm(dtype))
                seconds.append(side.run().wall_s)
                found.append(flops / seconds[-1] / peaks[-1])
        return {
            **options,
            "dtype": dtype,
            "fraction": statistics.median(found),
            "fractions": found,
            "step_s": statistics.median(seconds),
            "gemm_gflops": statistics.median(peaks) / 1e9,
            "flops": flops,
        }

    return measure


def operations(_: Plan) -> Facts:
    """What torch dispatches for a decode step and a training micro-batch: counted, not timed."""
    command = [sys.executable, "-m", "benchmarks.operations"]
    done = subprocess.run(
        command, check=True, cwd=ROOT, env={**os.environ, **OFFLINE}, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def cold_start(plan: Plan) -> Facts:
    """Seconds from starting Python to the first tokens, each side alone."""
    options = {"model": "V", "rows": 1}
    named = {OURS: ("ours.explain", options), "hf": ("hf.explain", {**options, "batch": 1})}
    found: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(plan.rounds):
        for name, (side_name, each) in named.items():
            with Side(side_name, each) as side:
                side.ready()
                found[name].append(side.cold_s)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def contest(
    sides: Mapping[str, Side], plan: Plan, compared: Mapping[str, str] | None = None
) -> Facts:
    """Alternate the sides, and divide their rates.

    Args:
        compared: by side of the opponent, that of ours which is divided by it; by default the first
            side by each of the others.
    """
    runs = alternate(list(sides.values()), plan.rounds, plan.blocks, plan.budget_s)
    named = dict(zip(sides, runs, strict=True))
    first, *others = named
    compared = compared or dict.fromkeys(others, first)
    return {
        "sides": {name: summary(each) for name, each in named.items()},
        "ratios": {theirs: versus(named[ours], named[theirs]) for theirs, ours in compared.items()},
    }


def versus(ours: Sequence[Run], theirs: Sequence[Run]) -> Facts:
    """Our rate over theirs, by the clock and by processor time."""
    cpu = ratio([r.items / r.cpu_s for r in ours], [r.items / r.cpu_s for r in theirs])
    return {
        **ratio([run.rate for run in ours], [run.rate for run in theirs])._asdict(),
        "cpu": cpu._asdict(),
        "rounds": len(ours),
    }


SECTIONS: dict[str, Section] = {
    "gate": Section(gate, 80, quick=True),
    "explain_V": Section(explain("V"), 330, quick=True),
    "prefix_reuse": Section(prefix_reuse, 80, quick=True),
    "train_step": Section(train_step("S", 16), 80, quick=True),
    "rl_step": Section(rl_step, 250, quick=True),
    "two_processes": Section(two_processes, 40, quick=True),
    "gemm_V": Section(gemm("V", 16), 25, quick=True),
    "operations": Section(operations, 20, quick=True),
    "gemm_SMOL": Section(av_step_share("SMOL"), 60, quick=True),
    "gemm_S": Section(gemm("S", 64), 15),
    "explain_S": Section(explain("S"), 250),
    "explain_M": Section(explain("M"), 330),
    "train_step_V": Section(train_step("V", 4), 120),
    "cold_start": Section(cold_start, 50),
    "trl": Section(against_trl, 250),
    "vllm_S": Section(against_vllm("S"), 200),
    "vllm_V": Section(against_vllm("V"), 300),
    **{
        f"sweep_{name}": Section(sweeps.measured(sweep), sweep.seconds)
        for name, sweep in sweeps.SWEEPS.items()
    },
}


# -- the figures that checks rely on ---------------------------------------------------------------
HEADLINE: dict[str, tuple[str, ...]] = {
    "explain_vs_hf_batched": ("explain_V", "ratios", "hf_batched", "median"),
    "explain_vs_hf_single": ("explain_V", "ratios", "hf_single", "median"),
    "prefix_reuse": ("prefix_reuse", "ratios", "no_reuse", "median"),
    "train_step_vs_naive": ("train_step", "ratios", "naive", "median"),
    "rl_step_vs_naive": ("rl_step", "ratios", "naive", "median"),
    "two_process_speedup": ("two_processes", "ratios", "one", "median"),
    "gemm_fraction": ("gemm_V", "fraction"),
    "smollm2_av_step_gemm_fraction": ("gemm_SMOL", "fraction"),
    "ops_per_decode_step": ("operations", "decode_step"),
    "equal": ("gate", "equal"),
}


def headline(sections: Mapping[str, Facts]) -> Facts:
    """The named figures; None where a section was not measured."""
    return {name: look_up(sections, path) for name, path in HEADLINE.items()}


def look_up(found: Any, path: Sequence[str]) -> Any:
    """A value in nested tables, or None."""
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found
