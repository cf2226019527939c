"""The tables of docs/sae.md, from the reports in benchmarks/results/sae/."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlakit.sae import circuit_picture
from nlakit.sae.circuit_graph import CircuitGraph

RESULTS = Path(__file__).resolve().parent / "results" / "sae"
REPORTS, BESIDE = RESULTS / "reports", RESULTS / "beside.json"
DUAL = RESULTS / "dual"
SPEED = RESULTS / "speed.json"
AUTOINTERP, REAL = RESULTS / "autointerp.json", RESULTS / "smollm2.json"
NAMED = RESULTS / "smollm2-named.json"
CIRCUIT, SHIFT = RESULTS / "circuit.json", RESULTS / "shift.json"
RHYMES = RESULTS / "rhymes"
READINGS = RESULTS / "reading-map.json"
GRAPH = RESULTS / "circuit-graph.json"

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
    told = "alive | facts, F1 ≥ 0.9 | split | absorbed"
    lines = [f"| | {' | '.join(columns)} | {told} |", "|---|" + "---:|" * 8]
    for name, report in reports.items():
        cells = [_with_interval(report, *keys) for keys in columns.values()]
        cells += [f"{report['alive']:.2f}", _facts(report), *_split_and_absorbed(report)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([_source(reports), "", *lines, ""])


def temporal(text: str) -> str:
    """The temporal autoencoder beside BatchTopK and its own control."""
    reports = _named(text, TEMPORAL)
    head = "FVE | L0 | smoothness | high-level | low-level | facts, F1 ≥ 0.9 | mean F1"
    lines = [f"| | {head} |", "|---|" + "---:|" * 7]
    for name, report in reports.items():
        keys = ("fve", "l0", "smoothness", "smoothness_high", "smoothness_low")
        cells = [_with_interval(report, key, f"{key}_interval") for key in keys]
        cells += [_facts(report), f"{report['facts']['mean_f1']:.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def spliced(text: str) -> str:
    """End-to-end training against local, TopK at the same k."""
    reports = _named(text, SPLICED)
    lines = ["| | FVE | loss, spliced | loss, alone | KL | KL recovered |", "|---|" + "---:|" * 5]
    for name, report in reports.items():
        cells = [
            _with_interval(report, "fve", "fve_interval"),
            f"{report['ce_spliced']:.4f}",
            f"{report['ce_clean']:.4f}",
            _with_interval(report, "kl", "kl_interval", 4),
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


PROBED_F1 = 0.6
"""Facts that a dense probe says less well are neither split nor absorbed."""


def _split_and_absorbed(report: dict[str, Any]) -> tuple[str, str]:
    """How many of the probed facts are split, and the mean share absorbed."""
    probed = [each for each in report["facts"]["scores"] if each["dense"] >= PROBED_F1]
    split = sum(len(each["split"]) > 1 for each in probed)
    absorbed = [each["absorbed"] or 0.0 for each in probed]
    return f"{split} of {len(probed)}", f"{sum(absorbed) / len(absorbed):.3f}"


def _with_interval(report: dict[str, Any], key: str, interval: str, digits: int = 3) -> str:
    if report[key] is None:
        return "–"
    if report.get(interval) is None:
        return f"{report[key]:.{digits}f}".replace("-", "−")
    return _numbers(report[key], report[interval], digits)


def _numbers(value: float, interval: Sequence[float], digits: int, times: float = 1) -> str:
    shown, low, high = (f"{times * each:.{digits}f}" for each in (value, *interval))
    return f"{shown} [{low}, {high}]".replace("-", "−")


def dual(text: str) -> str:
    """Mean largest cosine of each dictionary with the other, and within itself."""
    lines = [
        "| dictionaries | first in second | second in first | within first | within second |",
        "|---|---:|---:|---:|---:|",
    ]
    for report in json.loads(text):
        cells = [
            _numbers(*each, 2)
            for key in ("mean_across", "mean_within")
            for each in zip(report[key], report[f"{key}_intervals"], strict=True)
        ]
        lines.append(f"| {report['names'][0]} and {report['names'][1]} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def readings(text: str) -> str:
    """Two NLAs' readings of the same tokens."""
    report = json.loads(text)
    same, names = report["same_token"], " and ".join(report["names"])
    tokens = sum(report["across"][0])
    cells = [
        _numbers(same["cosine"], same["interval"], 2),
        _numbers(same["other_document"], same["other_document_interval"], 2),
        *(
            _numbers(*each, 2)
            for each in zip(report["mean_across"], report["mean_across_intervals"], strict=True)
        ),
        f"{100 * same['identical']:.0f} %",
    ]
    lines = [
        f"{names} at {tokens} tokens of as many held-out documents (seed {report['seed']}), "
        f"embedded by {same['embedder']}, mean cosines with 95 % intervals by document:",
        "",
        "| same token | *another document* | nearest, first in second | nearest, second in first "
        "| same words |",
        "|---:|---:|---:|---:|---:|",
        f"| {' | '.join(cells)} |",
    ]
    return "\n".join([*lines, ""])


def circuit(text: str) -> str:
    """Faithfulness and completeness by the number of latents."""
    report = json.loads(text)
    whole, without = (
        _numbers(report[key], report[f"{key}_interval"], 2) for key in ("metric", "metric_without")
    )
    lines = [
        f"{report['behaviour']}: latents chosen on {report['chosen_on']} prompts, measured on "
        f"{report['prompts']} others (95 % intervals by prompt). Mean logit difference {whole}, "
        f"with every latent at its mean {without}. The latents with the largest effects: "
        + ", ".join(_named_effect(each) for each in report["effects"][:8])
        + ".",
        "",
        "| latents | faithfulness | completeness |",
        "|---:|---:|---:|",
    ]
    for point in report["curve"]:
        keys = ("faithfulness", "completeness")
        cells = [_with_interval(point, key, f"{key}_interval", 2) for key in keys]
        lines.append(f"| {point['nodes']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def graph(text: str) -> str:
    """Circuits over several sites by threshold, and the largest edges."""
    report = json.loads(text)
    whole, without = (
        _numbers(report[key], report[f"{key}_interval"], 2) for key in ("metric", "metric_without")
    )
    layers = report["layers"]
    lines = [
        f"{report['behaviour']}, blocks {', '.join(map(str, layers))}: nodes and edges chosen on "
        f"{report['chosen_on']} prompts, circuits measured on {report['prompts']} others (95 % "
        f"intervals by prompt). Mean logit difference {whole}, with every node at its mean "
        f"{without}. A circuit keeps the nodes whose effect is above the threshold, in logits.",
        "",
        f"| threshold | nodes at blocks {', '.join(map(str, layers))} | faithfulness "
        "| completeness |",
        "|---:|---:|---:|---:|",
    ]
    for point in report["curve"]:
        counts = ", ".join(map(str, point["nodes"]))
        keys = ("faithfulness", "completeness")
        cells = [_with_interval(point, key, f"{key}_interval", 2) for key in keys]
        lines.append(f"| {point['threshold']:g} | {counts} | {' | '.join(cells)} |")
    lines += ["", *_edge_lines(report)]
    return "\n".join([*lines, ""])


MOST_EDGES = 12


def rhymes(text: str) -> str:
    """The latent that each rhyme word depends on at each site, and how well it says the word."""
    reports = sorted(json.loads(text), key=lambda each: each["layer"])
    by_word = [{each["word"]: each for each in report["words"]} for report in reports]
    heads = [f"block {report['layer']}: latent, F1" for report in reports]
    lines = [f"| word | {' | '.join(heads)} |", "|---|" + "---:|" * len(reports)]
    for word in by_word[0]:
        cells = [f"{found[word]['latent']}, {found[word]['f1']:.2f}" for found in by_word]
        lines.append(f"| {word} | {' | '.join(cells)} |")
    for name, key in (("mean", "mean_f1"), ("*latent of another word*", "mean_f1_of_another")):
        lines.append(f"| {name} | {' | '.join(f'{each[key]:.2f}' for each in reports)} |")
    return "\n".join([*lines, ""])


def _edge_lines(report: dict[str, Any]) -> list[str]:
    passing = f"{report['node_threshold']:g} and {report['edge_threshold']:g}"
    lines = [
        f"{len(report['edges'])} edges join the {len(report['nodes'])} nodes at thresholds of "
        f"{passing}. The largest, by gradients and as measured with the source alone at its mean "
        f"(correlation over all of them {report['edge_correlation']:.2f}):",
        "",
        "| from | to | effect | measured |",
        "|---|---|---:|---:|",
    ]
    for edge in report["edges"][:MOST_EDGES]:
        ends = [_graph_node(report, edge[key]) for key in ("source", "target")]
        effect = _numbers(edge["effect"], edge["interval"], 2)
        measured = f"{edge['measured']:.2f}".replace("-", "−")
        lines.append(f"| {' | '.join(ends)} | {effect} | {measured} |")
    return lines


def _graph_node(report: dict[str, Any], index: int) -> str:
    node = report["nodes"][index]
    name = "error" if node["latent"] is None else f"latent {node['latent']}"
    label = f", {node['label']}" if node["label"] else ""
    return f"block {report['layers'][node['site']]}, {name}{label}"


def graph_plot(text: str) -> str:
    """Nodes and edges as SVG."""
    return circuit_picture.plot(CircuitGraph.model_validate_json(text))


def shift(text: str) -> str:
    """Accuracies of the head before and after SHIFT."""
    report = json.loads(text)
    lines = [
        f"Wanted: {report['wanted']}; spurious: {report['spurious']}; {report['marked']} of "
        f"{report['d_sae']} latents marked; {report['train_rows']:,} ambiguous and "
        f"{report['test_rows']:,} balanced rows. Accuracies in %, 95 % intervals by document.",
        "",
        "| head | wanted | spurious | worst group |",
        "|---|---:|---:|---:|",
    ]
    for each in report["lines"]:
        cells = [
            _numbers(each[key], each[f"{key}_interval"], 1, times=100)
            for key in ("wanted", "spurious", "worst_group")
        ]
        lines.append(f"| {each['name']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def circuit_plot(text: str) -> str:
    """Faithfulness and completeness by the number of latents, and the largest effects, as SVG."""
    report = json.loads(text)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 280" font-family="sans-serif" '
        'font-size="11" fill="#333" role="img" aria-label="faithfulness and completeness of '
        'circuits, and the effects of latents">'
    )
    paper = '<rect width="760" height="280" fill="#fff"/>'
    parts = [*_curves(report["curve"]), *_effect_bars(report["effects"][:BARS])]
    return "\n".join([head, paper, *parts, "</svg>", ""])


BARS = 12
CURVES = (("faithfulness", "#2563a8"), ("completeness", "#c2410c"))


def _curves(points: Sequence[dict[str, Any]]) -> list[str]:
    """Points at equal distances: the numbers of latents grow about tenfold from end to end."""
    xs = [40 + 300 * at / (len(points) - 1) for at in range(len(points))]
    shapes = ['<path d="M40 240H340M40 60H340" stroke="#ddd"/>', _text(34, 244, "0", "end")]
    shapes += [_text(34, 64, "1", "end"), _text(190, 272, "latents kept", "middle")]
    shapes += [_text(x, 256, f"{p['nodes']}", "middle") for x, p in zip(xs, points, strict=True)]
    for number, (key, color) in enumerate(CURVES):
        ys = [240 - 180 * min(max(point[key], -0.1), 1.2) for point in points]
        line = " ".join(f"{x:.0f},{y:.0f}" for x, y in zip(xs, ys, strict=True))
        shapes.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        shapes.append(f'<g fill="{color}">{_text(40 + 100 * number, 20, key)}</g>')
    return shapes


def _effect_bars(effects: Sequence[dict[str, Any]]) -> list[str]:
    most = max(abs(each["effect"]) for each in effects)
    shapes = [_text(400, 20, "effect of putting a latent at its mean, in logits")]
    for row, each in enumerate(effects):
        y, wide = 34 + 20 * row, 130 * abs(each["effect"]) / most
        color = "#2563a8" if each["effect"] > 0 else "#c2410c"
        shapes.append(f'<rect x="590" y="{y}" width="{wide:.0f}" height="13" fill="{color}"/>')
        shapes.append(_text(582, y + 11, html.escape(_named_effect(each)), "end"))
    return shapes


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{words}</text>'


def real(text: str) -> str:
    """One autoencoder of a real model."""
    report = json.loads(text)
    zero, clean = report["ce_zero"], report["ce_clean"]
    rows = {
        "latents": f"{report['d_sae']:,}",
        "FVE": _with_interval(report, "fve", "fve_interval"),
        "L0": _with_interval(report, "l0", "l0_interval"),
        "loss recovered": _with_interval(report, "ce_recovered", "ce_recovered_interval"),
        "next-token loss: alone, spliced, zeros": f"{clean:.3f}, {report['ce_spliced']:.3f}, "
        f"{zero:.3f}",
        "KL recovered": _with_interval(report, "kl_recovered", "kl_recovered_interval"),
        "alive on these rows": f"{report['alive']:.2f}",
    }
    lines = [
        f"{report['rows']:,} tokens of {report['documents']} held-out documents, block "
        f"{report['layer']} of {report['model']}, {report['architecture']}; 95 % intervals by "
        "document:",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    return "\n".join([*lines, ""])


def named(text: str) -> str:
    """Latents that a person has named from their strongest contexts."""
    found = json.loads(text)
    lines = [found["rule"], "", "| latent | density | name | promotes |", "|---:|---:|---|---|"]
    for each in found["latents"]:
        promoted = " ".join(f"`{token}`" for token in each["promotes"])
        lines.append(
            f"| {each['latent']} | {100 * each['density']:.2f} % | {each['name']} | {promoted} |"
        )
    return "\n".join([*lines, "", found["unnamed"], ""])


def autointerp(text: str) -> str:
    """Detection and fuzzing, beside explanations of other latents."""
    report = json.loads(text)
    lines = [
        f"{report['explained']} latents of {report['sae']}, explained by {report['explainer']}, "
        "balanced accuracy with 95 % intervals by latent:",
        "",
        "| explanation | detection | fuzzing |",
        "|---|---:|---:|",
    ]
    for name, prefix in (("its own", ""), ("*another latent's*", "foreign_")):
        keys = (f"{prefix}detection", f"{prefix}fuzzing")
        cells = [_with_interval(report, key, f"{key}_interval") for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    good = sum(each["detection"] >= GOOD for each in report["latents"])
    lines += ["", f"{good} of them have an explanation that detects them with {GOOD} or more."]
    return "\n".join([*lines, ""])


GOOD = 0.9


def speed(text: str) -> str:
    """Training steps of other libraries, as ratios of processor time."""
    report = json.loads(text)
    versions, cores = report["versions"], report["machine"]["cores"]
    lines = [
        f"Rows per second of processor time, one thread, on a machine of {cores} cores; the others "
        f"as ratios, with 95 % intervals by round: nlakit's rate over that of SAELens "
        f"{versions['saelens']} and of sparsify {versions['sparsify']}.",
        "",
        "| shape | rows per second | over SAELens | over sparsify |",
        "|---|---:|---:|---:|",
    ]
    for name, found in report["shapes"].items():
        shape = found["shape"]
        cells = [f"{found['sides']['ours']['cpu_rate']:,.0f}"]
        for key in ("saelens", "sparsify"):
            each = found["ratios"][key]
            cells.append(_numbers(each["median"], (each["low"], each["high"]), 2))
        told = f"{name}: {shape['d_in']} × {shape['d_sae']}, k = {shape['k']}"
        lines.append(f"| {told}, batch {shape['batch']:,} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _named_effect(each: dict[str, Any]) -> str:
    name = each["label"] or f"latent {each['latent']}"
    return f"{name} {each['effect']:+.2f}".replace("-", "−")
