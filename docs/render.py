"""Fills in the pages' blocks from committed result files, so that no number is typed by hand.

    python docs/render.py            write the pages and their plots
    python docs/render.py --check    exit 1 when it is stale
    python docs/render.py --refresh  run the README's snippet first, and keep what it prints

A block stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. One whose result file has
not been made yet, or whose directory of result files is empty, is left as it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from nlakit.claims.text.checking import TEXT
from nlakit.evals.section import Figure, Section, shown
from nlakit.train.sweep import Sweep
from nlakit.worlds.storyworld import leaderboard
from nlakit.worlds.storyworld.leaderboard import Submission

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `benchmarks`, which is not installed

from benchmarks import (  # noqa: E402
    ablation_rows,
    attack_table,
    audit_tables,
    compatibility,
    mutations,
    outside_table,
    replication,
    sae_tables,
    server_tables,
    tables,
    walk,
)

README = ROOT / "README.md"
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
TIMES = RESULTS / "cpu.json"
TIMES_BF16 = RESULTS / "cpu-bf16.json"
OUTPUT = ROOT / "docs" / "demo_output.txt"
BUNDLED = ROOT / "src" / "nlakit" / "assets" / "storyworld"
REPORT = BUNDLED / "report.json"
SMOLLM2 = ROOT / "src" / "nlakit" / "assets" / "smollm2-135m" / "report.json"
SMOLLM2_SECTIONS = ROOT / "benchmarks" / "results" / "smollm2"
SMOLLM2_RUN = ROOT / "assets" / "smollm2-135m" / "run"
CURVES = ROOT / "assets" / "storyworld" / "run" / "curves.json"
SUBMISSIONS = ROOT / "benchmarks" / "truth"
COMPARISONS = ROOT / "benchmarks" / "results" / "compare"
SECTIONS = ROOT / "benchmarks" / "results" / "sections"
COMPATIBILITY = ROOT / "benchmarks" / "results" / "compatibility.json"
MUTATIONS = ROOT / "benchmarks" / "results" / "mutations.json"
ABLATION = ROOT / "benchmarks" / "results" / "ablation.json"
SCALE = ROOT / "benchmarks" / "results" / "scale.json"

BLOCK = re.compile(r"(<!-- begin: (\w+) -->\n)(.*?)(<!-- end: \2 -->)", re.DOTALL)
COMPARED = ("grounded", "grounded-warm-start", "**difference**")
NUM_READINGS = 20
AV_COLUMNS = {
    "held_out_loss": "loss on the right activations",
    "shuffled_loss": "on other documents'",
    "gap": "gap, nats a token",
}
AR_COLUMNS = {"held_out_fve": "held-out FVE"}
RL_COLUMNS = {
    "held_out_fve": "held-out FVE",
    "held_out_precision": "precision",
    "held_out_recall": "recall",
}
FLOOR_NAMES = {
    "mean": "the mean activation",
    "shuffled": "explanations of other documents",
    "empty": "the empty explanation",
    "generic": "one generic explanation",
    "zero_vector": "what is said of a zero vector",
}


def render(page: str) -> str:
    """The page with every block that can be made, made."""

    def block(match: re.Match[str]) -> str:
        begin, name, old, end = match.groups()
        source, make = SOURCES.get(name, (None, None))
        text = None if source is None else source_text(source)
        if text is None or make is None:
            return begin + old + end
        return begin + make(text) + end

    return BLOCK.sub(block, page)


def source_text(source: Path) -> str | None:
    """A result file; of a directory a JSON list of its JSON files; None where nothing is yet."""
    if not source.is_dir():
        return _content(source)
    found = [path.read_text(encoding="utf-8") for path in sorted(source.glob("*.json"))]
    return f"[{', '.join(found)}]" if found else None


def printed(text: str) -> str:
    """What the snippet printed, as a block of code."""
    return f"```text\n{text.rstrip()}\n```\n"


def figures(text: str) -> str:
    """Two tables from the report: FVE beside its floors, and claims beside their probes."""
    return _figures(json.loads(text), "`nlakit eval storyworld`")


def corpus_figures(text: str) -> str:
    """The same of a pair that its recipe measured on a corpus."""
    return _figures(json.loads(text), "the report of the recipe's last stage")


def corpus_rows(text: str) -> str:
    """Pairs trained otherwise, each by its report on the same documents."""
    heads = ("FVE", "precision", "readable recall", "recall", "ECE", "FVE retained, paraphrased")
    lines = [f"| pair | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for report in json.loads(text):
        claims = report["claims"]
        cells = [
            _with_interval(report),
            *(_thousandths(claims[name]) for name in ("precision", "readable_recall", "recall")),
            _thousandths(claims["ece"]),
            _thousandths(report["paraphrase_kept"]),
        ]
        name = report["nla"].replace(" warm_start", " grounded-warm-start").replace(" ", "/")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    told = f"On {report['documents']:,} held-out documents (seed {report['seed']}), greedy:"
    return "\n".join([told, "", *lines, ""])


def _thousandths(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _figures(report: dict[str, Any], origin: str) -> str:
    told = f"{report['documents']:,} held-out documents (seed {report['seed']})"
    lines = [*_fve_lines(report), "", *_claim_lines(report)]
    return "\n".join([f"On {told}, {origin}:", "", *lines, ""])


def readings(text: str) -> str:
    """The first readings of the report's sample, which its seed chose, with their claims."""
    samples = json.loads(text)["samples"][:NUM_READINGS]
    return "\n".join(line for number, each in enumerate(samples, 1) for line in _told(number, each))


def _told(number: int, sample: dict[str, Any]) -> list[str]:
    by_verdict: dict[str, list[str]] = {"true": [], "false": []}
    for claim in sample["claims"]:
        by_verdict.setdefault(claim["verdict"], []).append(f"{claim['kind']} {claim['value']}")
    verdicts = [f"{name}: {_plain(', '.join(said))}" for name, said in by_verdict.items() if said]
    return [
        f"{number}. …{_plain(sample['prefix_tail'][-90:])} **|**",
        "",
        f"    {_plain(sample['explanation']) or '(nothing)'}",
        "",
        f"    *fidelity {_number(sample['fidelity'])}; {'; '.join(verdicts) or 'no claim'}*",
        "",
    ]


def _plain(text: str) -> str:
    """A text on one line, nothing of it read as Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def curve(text: str, columns: Mapping[str, str]) -> str:
    """A training log's held-out figures by step, as a table.

    Args:
        columns: keys of the log, and what each is called.
    """
    steps = [json.loads(line) for line in text.splitlines()]
    lines = [f"| step | {' | '.join(columns.values())} |", f"|---:|{'---:|' * len(columns)}"]
    for each in steps:
        if columns.keys() <= each.keys():
            cells = [_number(each[key]) for key in columns]
            lines.append(f"| {each['step']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def swept(text: str) -> str:
    """What `nlakit sweep` measured at each layer, as a table."""
    layers = Sweep.model_validate_json(text).layers
    kinds = [kind for kind in TEXT.kinds if kind in layers[0].probes]
    heads = ("layer", "FVE of labels", "gap, nats a token", *kinds)
    lines = [f"| {' | '.join(heads)} |", "|" + "---:|" * len(heads)]
    for each in layers:
        probes = (f"{_number(each.probes[k])} ({_number(each.chance[k])})" for k in kinds)
        cells = [str(each.layer), _number(each.fve), _number(each.gap), *probes]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def teachers(text: str) -> str:
    """What `nlakit sweep` measured with each teacher, as a table."""
    sweeps = json.loads(text)
    lines = ["| labels by | labels | FVE of labels | gap, nats a token |", "|---|---:|---:|---:|"]
    for each in sweeps:
        layer = each["layers"][0]
        cells = [f"{each['labels']:,}", _number(layer["fve"]), _number(layer["gap"])]
        lines.append(f"| {each['teacher']} | {' | '.join(cells)} |")
    return "\n".join([f"After block {sweeps[0]['layers'][0]['layer']}:", "", *lines, ""])


def abstained(text: str) -> str:
    """What abstention left of the AV's own claims, by kind, as a table."""
    found = json.loads(text)
    kept, left = found["kept"], found["left_out"]
    lines = ["| kind | true | of them left out | false | of them left out |", "|---|" + "---:|" * 4]
    for kind in dict.fromkeys(name.rpartition(" ")[0] for name in [*kept, *left]):
        cells = []
        for verdict in ("true", "false"):
            gone = left.get(f"{kind} {verdict}", 0)
            said = gone + kept.get(f"{kind} {verdict}", 0)
            cells += [f"{said:,}", _percent(gone / said) if said else "–"]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    told = f"Claims in {found['explanations']:,} explanations, before abstention:"
    return "\n".join([told, "", *lines, ""])


def bounds(text: str) -> str:
    """What warm starts by several bounds of grounding came to, as a table."""
    lines = [
        "| least probability of a claim, by kind | precision | recall | FVE |",
        "|---|---:|---:|---:|",
    ]
    for each in json.loads(text):
        own = ", ".join(f"{kind} {least:g}" for kind, least in each["thresholds"].items())
        cells = [_number(each[name]) for name in ("precision", "recall", "fve")]
        lines.append(f"| {own}, others {each['threshold']:g} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def real_pair(text: str) -> str:
    """The README's sentence about the NLA of a real model."""
    report = json.loads(text)
    fve, precision = _number(report["fve"]), _percent(report["claims"]["precision"])
    return (
        f"The pair of the real model says less: its words bring back {fve} of the variance,\n"
        f"and {precision} of its claims are true ([figures](docs/smollm2.md)).\n"
    )


def three_figures(text: str) -> str:
    """The README's figures: how much comes back, how much is true, how much of it is said."""
    report = json.loads(text)
    claims, (low, high) = report["claims"], report["fve_interval"]
    floors = max(report["floors"].values())
    return "\n".join(
        [
            "| on held-out documents | |",
            "|---|---:|",
            f"| fraction of variance explained (best floor {_number(floors)}) | "
            f"**{_number(report['fve'])}** [{_number(low)}, {_number(high)}] |",
            f"| claims that are true, of {claims['checked']:,} | "
            f"**{_percent(claims['precision'])}** |",
            f"| facts that a probe reads confidently and the explanation says | "
            f"**{_percent(claims.get('readable_recall'))}** |",
            "",
        ]
    )


def _fve_lines(report: dict[str, Any]) -> list[str]:
    low, high = report["fve_interval"]
    interval = f"[{_number(low)}, {_number(high)}]"
    rows = [
        ("after RL and settling, with 95 % interval", f"**{_number(report['fve'])}** {interval}"),
        ("warm start", _number(report["fve_warm_start"])),
        ("the same words, read by the warm start's AR", _number(report["fve_frozen_ar"])),
    ]
    if report.get("fve_control_ar") is not None:
        read = "the same words, read by a control AR, trained as long on labels only"
        rows.append((read, _number(report["fve_control_ar"])))
    if report.get("paraphrase_kept") is not None:
        rows.append(("FVE retained under paraphrase", _number(report["paraphrase_kept"])))
    floors = report["floors"]
    rows += [(f"floor: {FLOOR_NAMES.get(k, k)}", _number(v)) for k, v in floors.items()]
    head = ["| share of variance explained (FVE) | |", "|---|---:|"]
    return head + [f"| {name} | {value} |" for name, value in rows]


def _claim_lines(report: dict[str, Any]) -> list[str]:
    claims, probes = report["claims"], report["probes"]
    lines = [
        f"Of {claims['checked']:,} claims that could be checked, {_percent(claims['precision'])} "
        f"were true; of the facts, {_percent(claims['recall'])} were named"
        f"{_of_readable(claims)}. A probe is what a small network reads from the same activations:",
        "",
        "| kind | precision | recall | linear probe | MLP probe | chance |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind in dict.fromkeys([*claims["per_kind"], *probes]):
        said, read = claims["per_kind"].get(kind, {}), probes.get(kind, {})
        values = [said.get(name) for name in ("precision", "recall")]
        values += [read.get(name) for name in ("linear", "mlp", "chance")]
        lines.append(f"| {kind} | {' | '.join(map(_number, values))} |")
    return lines


def _of_readable(claims: dict[str, Any]) -> str:
    """Of the facts that a probe reads, and how far the claims' confidences can be believed."""
    if claims.get("readable_recall") is None:
        return ""
    told = f", and {_percent(claims['readable_recall'])} of those that a probe reads surely"
    ece = claims.get("ece")
    return told if ece is None else f"{told}; the claims' confidences are off by {100 * ece:.1f} %"


def _with_interval(report: dict[str, Any]) -> str:
    low, high = report["fve_interval"]
    return f"{report['fve']:.3f} [{low:.3f}, {high:.3f}]"


def greedy_truth(text: str) -> str:
    """The leaderboard of submissions with greedy decoding."""
    return leaderboard.leaderboard([each for each in _submissions(text) if not each.temperature])


def sampled_truth(text: str) -> str:
    """The leaderboard of submissions that draw their words."""
    return leaderboard.leaderboard([each for each in _submissions(text) if each.temperature])


def truth_kinds(text: str) -> str:
    """Each kind of fact under each greedy submission, beside its probe."""
    return leaderboard.kinds_table([each for each in _submissions(text) if not each.temperature])


def _submissions(text: str) -> list[Submission]:
    return TypeAdapter(list[Submission]).validate_json(text)


def grounding_curve(text: str) -> str:
    """Precision and share of true claims kept, by threshold, for each of the judge's scores."""
    curves = json.loads(text)["curves"]
    heads = [f"{each['score']}: precision | {each['score']}: kept" for each in curves]
    lines = [f"| threshold | {' | '.join(heads)} |", "|---:|" + "---:|---:|" * len(curves)]
    for points in zip(*(each["points"] for each in curves), strict=True):
        cells = [_number(point[name]) for point in points for name in ("precision", "kept")]
        lines.append(f"| {points[0]['threshold']:.2f} | {' | '.join(cells)} |")
    told = ", ".join(f"{each['score']} {_number(each['auroc'])}" for each in curves)
    return "\n".join([f"Of {curves[0]['claims']:,} claims; AUROC: {told}.", "", *lines, ""])


def section_table(text: str) -> str:
    """An evaluation's lines of figures with their intervals; floors in italics."""
    section = Section.model_validate_json(text)
    lines = [f"| | {' | '.join(section.columns)} |", "|---|" + "---:|" * len(section.columns)]
    for line in section.lines:
        name = f"*{line.name}*" if line.floor else line.name
        cells = [shown(line.figures.get(column)).replace("-", "−") for column in section.columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    told = f"{section.rows:,} positions in {section.documents:,} documents, seed {section.seed}:"
    warnings = [f"- {each}" for each in section.suspicions]
    return "\n".join([told, "", *lines, *(["", *warnings] if warnings else []), ""])


def reliability_plot(text: str) -> str:
    """Share of claims that are true over the confidence they were given, a circle a bin: its area
    grows with the logarithm of the claims in it."""
    lines = Section.model_validate_json(text).lines
    bins = [line.figures for line in lines if line.name.startswith("confidence ")]
    size, margin = 320, 44
    side = size - 2 * margin

    def place(x: float, y: float) -> tuple[float, float]:
        return round(margin + x * side, 1), round(size - margin - y * side, 1)

    circles: list[str] = []
    for each in bins:
        values = [each[name].value for name in ("confidence", "accuracy", "claims")]
        if None not in values:
            confidence, accuracy, claims = (float(value or 0) for value in values)
            x, y = place(confidence, accuracy)
            radius = round(2 + 2 * math.log10(1 + claims), 1)
            circles.append(f'<circle cx="{x}" cy="{y}" r="{radius}" fill="#2563a8"/>')
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    ticks = [
        f'<text x="{place(t / 5, 0)[0]}" y="{y0 + 16}" text-anchor="middle">{t / 5:g}</text>'
        f'<text x="{x0 - 8}" y="{place(0, t / 5)[1] + 4}" text-anchor="end">{t / 5:g}</text>'
        for t in range(6)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" role="img" '
            'font-family="sans-serif" font-size="11" fill="#333" '
            'aria-label="share of claims that are true over their confidence">',
            f'<rect width="{size}" height="{size}" fill="#fff"/>',
            f'<path d="M{x0} {y0}H{x1}M{x0} {y0}V{y1}" stroke="#888"/>',
            f'<path d="M{x0} {y0}L{x1} {y1}" stroke="#bbb" stroke-dasharray="4 4"/>',
            *circles,
            *ticks,
            f'<text x="{size / 2}" y="{size - 10}" text-anchor="middle">confidence</text>',
            f'<text x="{size / 2}" y="20" text-anchor="middle">true claims</text>',
            "</svg>",
            "",
        ]
    )


def differences(text: str) -> str:
    """What grounded RL changed: by temperature both pairs and their difference, with intervals."""
    sections = TypeAdapter(list[Section]).validate_json(text)
    columns = sections[0].columns
    lines = [f"| temperature | | {' | '.join(columns)} |", f"|---:|---|{'---:|' * len(columns)}"]
    for section in sorted(sections, key=lambda each: each.temperature):
        for name, line in zip(COMPARED, section.lines, strict=True):
            cells = [_interval(line.figures[column]) for column in columns]
            lines.append(f"| {section.temperature:g} | {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _interval(figure: Figure) -> str:
    assert figure.value is not None and figure.interval is not None
    numbers = (figure.value, figure.interval.low, figure.interval.high)
    value, low, high = (f"{number:.4f}".replace("-", "−") for number in numbers)
    return f"{value} [{low}, {high}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


SOURCES: dict[str, tuple[Path, Callable[[str], str]]] = {
    "output": (OUTPUT, printed),
    "figures": (REPORT, figures),
    "replicated": (replication.RESULT, replication.told),
    "three_figures": (REPORT, three_figures),
    "real_pair": (SMOLLM2, real_pair),
    "smollm2_figures": (SMOLLM2, corpus_figures),
    "smollm2_rows": (RESULTS / "smollm2-rows", corpus_rows),
    "smollm2_readings": (SMOLLM2, readings),
    "smollm2_sweep": (RESULTS / "smollm2-sweep.json", swept),
    "smollm2_teachers": (RESULTS / "smollm2-teachers", teachers),
    "smollm2_abstained": (SMOLLM2_RUN / "abstained.json", abstained),
    "smollm2_bounds": (RESULTS / "smollm2-bounds.json", bounds),
    **{
        f"smollm2_{name}": (path, partial(curve, columns=columns))
        for name, path, columns in (
            ("av_curve", SMOLLM2_RUN / "verbalizer.jsonl", AV_COLUMNS),
            ("ar_curve", SMOLLM2_RUN / "reconstructor.jsonl", AR_COLUMNS),
            ("grounded_ar_curve", SMOLLM2_RUN / "grounded-reconstructor.jsonl", AR_COLUMNS),
            ("rl_curve", SMOLLM2_RUN / "grounded-rl.jsonl", RL_COLUMNS),
            ("plain_rl_curve", SMOLLM2_RUN / "rl.jsonl", RL_COLUMNS),
            ("settling_curve", SMOLLM2_RUN / "settling.jsonl", AR_COLUMNS),
            ("cheap_rl_curve", SMOLLM2_SECTIONS / "tried-rl-0.5-0.35.jsonl", RL_COLUMNS),
            ("cheaper_rl_curve", SMOLLM2_SECTIONS / "tried-rl-0.3-0.15.jsonl", RL_COLUMNS),
        )
    },
    "speed": (TIMES, tables.short_table),
    "ratios": (TIMES, tables.ratio_table),
    "ratios_bf16": (TIMES_BF16, tables.ratio_table),
    "sides_bf16": (TIMES_BF16, tables.side_table),
    "facts_bf16": (TIMES_BF16, tables.fact_lines),
    "sides": (TIMES, tables.side_table),
    "sweeps": (TIMES, tables.sweep_table),
    "facts": (TIMES, tables.fact_lines),
    "truth": (SUBMISSIONS, greedy_truth),
    "truth_sampled": (SUBMISSIONS, sampled_truth),
    "truth_kinds": (SUBMISSIONS, truth_kinds),
    "grounding_curve": (CURVES, grounding_curve),
    "differences": (COMPARISONS, differences),
    "ablation": (ABLATION, ablation_rows.table),
    "compatibility": (COMPATIBILITY, compatibility.table),
    "outside": (outside_table.REPORTS, outside_table.table),
    "walk": (walk.RESULT, walk.table),
    "fixes": (MUTATIONS, mutations.table),
    "audit_organisms": (audit_tables.ORGANISMS, audit_tables.organisms),
    "audit_game": (audit_tables.GAME, audit_tables.game),
    "audit_drill": (audit_tables.DRILL, audit_tables.drill),
    "audit_scan": (audit_tables.SCAN, audit_tables.scan),
    "audit_search": (audit_tables.SEARCH, audit_tables.search),
    "scale": (SCALE, tables.scale_table),
    "attacks": (RESULTS / "attacks.json", attack_table.probes_table),
    "mutations": (RESULTS / "attacks.json", attack_table.mutations_table),
    "hostile": (RESULTS / "hostile.json", server_tables.hostile_table),
    "wire_facts": (RESULTS / "wire_facts.json", server_tables.wire_table),
    "kills": (RESULTS / "kills.json", server_tables.kills_table),
    "serve_load": (RESULTS / "serve_load.json", server_tables.load_table),
    "page_speed": (RESULTS / "page_speed.json", server_tables.page_table),
    "sae_metrics": (sae_tables.REPORTS, sae_tables.metrics),
    "sae_temporal": (sae_tables.REPORTS, sae_tables.temporal),
    "sae_spliced": (sae_tables.REPORTS, sae_tables.spliced),
    "sae_beside": (sae_tables.BESIDE, sae_tables.beside),
    "sae_dual": (sae_tables.DUAL, sae_tables.dual),
    "sae_readings": (sae_tables.READINGS, sae_tables.readings),
    "sae_circuit": (sae_tables.CIRCUIT, sae_tables.circuit),
    "sae_rhymes": (sae_tables.RHYMES, sae_tables.rhymes),
    "sae_graph": (sae_tables.GRAPH, sae_tables.graph),
    "sae_shift": (sae_tables.SHIFT, sae_tables.shift),
    "sae_real": (sae_tables.REAL, sae_tables.real),
    "sae_named": (sae_tables.NAMED, sae_tables.named),
    "sae_speed": (sae_tables.SPEED, sae_tables.speed),
    "sae_autointerp": (sae_tables.AUTOINTERP, sae_tables.autointerp),
    **{
        path.stem.replace("-", "_"): (path, section_table)
        for path in sorted(SECTIONS.glob("*.json"))
    },
    **{
        f"smollm2_{path.stem.replace('-', '_')}": (path, section_table)
        for path in sorted(SMOLLM2_SECTIONS.glob("*.json"))
    },
}
PLOTS: dict[Path, tuple[Path, Callable[[str], str | None]]] = {
    DOCS / "benchmarks-batch.svg": (TIMES, tables.batch_plot),
    DOCS / "benchmarks-rows.svg": (TIMES, tables.rows_plot),
    DOCS / "sae-circuit.svg": (sae_tables.CIRCUIT, sae_tables.circuit_plot),
    DOCS / "sae-circuit-graph.svg": (sae_tables.GRAPH, sae_tables.graph_plot),
    DOCS / "truth-reliability.svg": (SECTIONS / "confidence.json", reliability_plot),
}


def snippet(page: str) -> str:
    """The README's Python, without its fence."""
    found = next(match[3] for match in BLOCK.finditer(page) if match[2] == "snippet")
    return found.removeprefix("```python\n").rstrip().removesuffix("```")


def refresh() -> None:
    """Run the snippet as a newcomer would, and keep what it prints."""
    printed_text = io.StringIO()
    with contextlib.redirect_stdout(printed_text):
        exec(compile(snippet(README.read_text(encoding="utf-8")), "README.md", "exec"), {})
    OUTPUT.write_text(printed_text.getvalue(), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Render, or with --check only look; returns the exit status."""
    unknown = set(arguments) - {"--check", "--refresh"}
    if unknown:
        print(f"render.py: unknown option {unknown.pop()!r}. See its docstring.", file=sys.stderr)
        return 2
    if "--refresh" in arguments:
        refresh()
    stale = {path: text for path, text in wanted().items() if _content(path) != text}
    if "--check" in arguments:
        for path in stale:
            print(f"{path.name} is stale. Run: make docs", file=sys.stderr)
        return int(bool(stale))
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
    return 0


def wanted() -> dict[Path, str]:
    """Each page and plot as it should be."""
    written = [README, *sorted(DOCS.glob("*.md"))]
    pages = {path: render(path.read_text(encoding="utf-8")) for path in written}
    for path, (source, make) in PLOTS.items():
        text = source_text(source)
        plot = None if text is None else make(text)
        if plot is not None:
            pages[path] = plot
    return pages


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
