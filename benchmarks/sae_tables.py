"""The tables of docs/sae.md, from the reports in benchmarks/results/sae/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "sae"
REPORTS, BESIDE = RESULTS / "reports", RESULTS / "beside.json"
DUAL = RESULTS / "dual"
CIRCUIT, SHIFT = RESULTS / "circuit.json", RESULTS / "shift.json"

ORDER = ("standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka")
TEMPORAL = ("batchtopk", "temporal-control", "temporal")
SPLICED = ("topk", "end-to-end", "downstream")


def metrics(text: str) -> str:
    """Architectures at equal L0."""
    columns = {
        "FVE": ("fve", "fve_interval"),
        "L0": ("l0", "l0_interval"),
        "loss recovered": ("ce_recovered", "ce_recovered_interval"),
        "KL recovered": ("kl_recovered", "kl_recovered_interval"),
    }
    reports = _named(text, ORDER)
    lines = [f"| | {' | '.join(columns)} | alive | facts, F1 ≥ 0.9 |", "|---|" + "---:|" * 6]
    for name, report in reports.items():
        cells = [_with_interval(report, *keys) for keys in columns.values()]
        cells += [f"{report['alive']:.2f}", _facts(report)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([_source(reports), "", *lines, ""])


def temporal(text: str) -> str:
    """The temporal autoencoder beside BatchTopK and its own control."""
    reports = _named(text, TEMPORAL)
    head = "FVE | L0 | smoothness | high-level | low-level | facts, F1 ≥ 0.9 | mean F1"
    lines = [f"| | {head} |", "|---|" + "---:|" * 7]
    for name, report in reports.items():
        keys = ("smoothness", "smoothness_high", "smoothness_low")
        cells = [f"{report['fve']:.3f}", f"{report['l0']:.1f}"]
        cells += ["–" if report[key] is None else f"{report[key]:.3f}" for key in keys]
        cells += [_facts(report), f"{report['facts']['mean_f1']:.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def spliced(text: str) -> str:
    """End-to-end training against local, TopK at the same k."""
    reports = _named(text, SPLICED)
    lines = ["| | FVE | loss, spliced | loss, alone | KL | KL recovered |", "|---|" + "---:|" * 5]
    for name, report in reports.items():
        cells = [
            f"{report['fve']:.3f}".replace("-", "−"),
            f"{report['ce_spliced']:.4f}",
            f"{report['ce_clean']:.4f}",
            f"{report['kl']:.4f}",
            _with_interval(report, "kl_recovered", "kl_recovered_interval", 4),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def beside(text: str) -> str:
    """Facts that latents say and explanations claim, on the same rows."""
    report = json.loads(text)
    counts = [report[key] for key in ("both", "sae_only", "nla_only", "neither")]
    lines = [
        f"On {report['rows']:,} rows of as many held-out documents, of {len(report['facts'])} "
        f"facts {counts[0]} are said with F1 ≥ 0.9 by a latent and by explanations, {counts[1]} by "
        f"a latent alone, {counts[2]} by explanations alone, {counts[3]} by neither. Where they "
        "differ most:",
        "",
        "| fact | rows | latent F1 | explanation F1 |",
        "|---|---:|---:|---:|",
    ]
    ordered = sorted(report["facts"], key=lambda each: each["nla_f1"] - each["sae_f1"])
    for each in [*ordered[:5], *ordered[-7:]]:
        numbers = f"{each['sae_f1']:.2f} | {each['nla_f1']:.2f}"
        lines.append(f"| {each['fact']} | {each['rows']} | {numbers} |")
    return "\n".join([*lines, ""])


def _named(text: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reports by the last part of their names, in this order; those not made yet are left out."""
    found = {each["sae"].rpartition("/")[2]: each for each in json.loads(text)}
    return {name: found[name] for name in names if name in found}


def _source(reports: dict[str, dict[str, Any]]) -> str:
    one = next(iter(reports.values()))
    return (
        f"{one['rows']:,} positions of {one['documents']} held-out documents (seed {one['seed']}), "
        f"{one['d_sae']} latents at block {one['layer']} of a target with d = {one['d_in']} "
        f"(SHA-256 {one['target_sha256'][:12]}…); 95 % intervals by document. A linear probe of "
        f"the activation knows {one['facts']['readable']} of the {one['facts']['total']} facts:"
    )


def _facts(report: dict[str, Any]) -> str:
    return f"{report['facts']['found']} of {report['facts']['total']}"


def _with_interval(report: dict[str, Any], key: str, interval: str, digits: int = 3) -> str:
    if report[key] is None:
        return "–"
    low, high = report[interval]
    return f"{report[key]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def dual(text: str) -> str:
    """Mean largest cosine of each dictionary with the other, and within itself."""
    lines = [
        "| dictionaries | first in second | second in first | within first | within second |",
        "|---|---:|---:|---:|---:|",
    ]
    for report in json.loads(text):
        numbers = [*report["mean_across"], *report["mean_within"]]
        cells = " | ".join(f"{number:.2f}" for number in numbers)
        lines.append(f"| {report['names'][0]} and {report['names'][1]} | {cells} |")
    return "\n".join([*lines, ""])


def circuit(text: str) -> str:
    """Faithfulness and completeness by the number of latents."""
    report = json.loads(text)
    lines = [
        f"{report['behaviour']}, {report['prompts']} prompts: mean logit difference "
        f"{report['metric']:.2f}, with every latent at its mean {report['metric_without']:.2f}. "
        "The latents with the largest effects: "
        + ", ".join(_named_effect(each) for each in report["effects"][:8])
        + ".",
        "",
        "| latents | faithfulness | completeness |",
        "|---:|---:|---:|",
    ]
    for point in report["curve"]:
        cells = [f"{point[key]:.2f}" for key in ("faithfulness", "completeness")]
        lines.append(f"| {point['nodes']} | {' | '.join(cells)} |".replace("-", "−"))
    return "\n".join([*lines, ""])


def shift(text: str) -> str:
    """Accuracies of the head before and after SHIFT."""
    report = json.loads(text)
    lines = [
        f"Wanted: {report['wanted']}; spurious: {report['spurious']}; {report['marked']} of "
        f"{report['d_sae']} latents marked; {report['train_rows']:,} ambiguous and "
        f"{report['test_rows']:,} balanced rows.",
        "",
        "| head | wanted | spurious | worst group |",
        "|---|---:|---:|---:|",
    ]
    for each in report["lines"]:
        numbers = [f"{100 * each[key]:.1f}" for key in ("wanted", "spurious", "worst_group")]
        lines.append(f"| {each['name']} | {' | '.join(numbers)} |")
    return "\n".join([*lines, ""])


def _named_effect(each: dict[str, Any]) -> str:
    name = each["label"] or f"latent {each['latent']}"
    return f"{name} {each['effect']:+.2f}".replace("-", "−")
