"""A report as files: one typed JSON, and one page of HTML that asks for nothing from outside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pydantic

from nlakit.config import validate_json, write_text_atomic
from nlakit.errors import CheckpointError
from nlakit.registry import PLAIN_RL, PairPaths

from .evaluation import PairReport
from .section import Section, shown

TEMPLATE = Path(__file__).with_name("report.html.j2")
SECTIONS = Path(__file__).with_name("sections.html.j2")

SECTION_NAMES = (
    "private-code", "cause", "suffix", "where", "baselines", "round-trips", "planned", "steer",
    "confidence", "select", "compare", "witness", "latent-claims",
)  # fmt: skip

WIDTH, HEIGHT = 420, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24

PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("FVE on held-out documents", {"held_out_fve": "pair", "held_out_fve_frozen_ar": "frozen AR"}),
    (
        "Claims on held-out documents",
        {"held_out_precision": "precision", "held_out_recall": "recall"},
    ),
    ("Reward", {"reward": "reward"}),
    ("Explanation length, tokens", {"tokens": "sampled", "held_out_tokens": "held out, greedy"}),
    ("KL to the warm start, nats a token", {"kl": "KL"}),
)


@dataclass(frozen=True)
class Line:
    """One series of a panel: SVG points, and its last value."""

    name: str
    points: str
    last: float
    marks: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in the panel's own units."""

    place: float
    label: str


@dataclass(frozen=True)
class Panel:
    """A small chart by training step."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def write_report(
    report: PairReport,
    directory: str | Path,
    metrics: Sequence[Mapping[str, Any]] = (),
) -> tuple[Path, Path]:
    """Write `report.json` and `report.html`; returns both paths.

    The page takes in whatever sections `write_section` has left in the directory.

    Args:
        metrics: records of the run's `metrics.jsonl`, for the curves; none, no curves.
    """
    json_path, html_path = Path(directory) / "report.json", Path(directory) / "report.html"
    write_text_atomic(json_path, report.model_dump_json(indent=2) + "\n")
    write_text_atomic(html_path, render_html(report, metrics, sections_in(directory)))
    return json_path, html_path


def write_section(section: Section, directory: str | Path) -> tuple[Path, Path]:
    """Write `NAME.json` and `NAME.html` of one section; returns both paths."""
    base = Path(directory)
    json_path, html_path = base / f"{section.name}.json", base / f"{section.name}.html"
    write_text_atomic(json_path, section.model_dump_json(indent=2) + "\n")
    write_text_atomic(html_path, render_sections([section]))
    return json_path, html_path


def read_section(path: str | Path) -> Section:
    """A section from its JSON. Raises `CheckpointError` when it is not one."""
    try:
        return validate_json(Section, Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, pydantic.ValidationError) as error:
        raise CheckpointError(f"{path} is not a section of a report: {error}") from error


def sections_in(directory: str | Path) -> list[Section]:
    """The sections that lie in a directory, in the order of their names."""
    paths = sorted(Path(directory) / f"{name}.json" for name in SECTION_NAMES)
    return [read_section(path) for path in paths if path.is_file()]


def render_sections(sections: Sequence[Section]) -> str:
    """A page of sections, each with its floors, intervals and suspicions."""
    template = _environment().get_template(SECTIONS.name)
    return template.render(sections=sections)


def read_report(path: str | Path) -> PairReport:
    """A report from its JSON. Raises `CheckpointError` when it is not one."""
    try:
        return validate_json(PairReport, Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, pydantic.ValidationError) as error:
        raise CheckpointError(f"{path} is not a report: {error}") from error


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Records of a `metrics.jsonl`; a last line that a kill cut in two is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def training_curves(paths: PairPaths) -> list[dict[str, Any]]:
    """Records of the RL that made a pair, from the logs that lie beside it; none where it had none.

    The run of a grounded pair holds the log of plain RL too, which made the row of that name.
    """
    names = ("grounded-rl", "rl")
    if paths.pair != paths.shared:
        names = ("rl",) if paths.pair.name == PLAIN_RL else ()
    logs = (paths.run / f"{name}.jsonl" for name in names if paths.run is not None)
    found = next((log for log in logs if log.is_file()), None)
    return [] if found is None else read_metrics(found)


def render_html(
    report: PairReport,
    metrics: Sequence[Mapping[str, Any]] = (),
    sections: Sequence[Section] = (),
) -> str:
    """The page. Everything that a model or a text wrote is escaped."""
    template = _environment().get_template(TEMPLATE.name)
    return template.render(
        report=report,
        sections=sections,
        kinds=_kinds(report),
        panels=[panel for title, series in PANELS if (panel := make_panel(title, series, metrics))],
        width=WIDTH,
        height=HEIGHT,
        box={"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM},
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": _score,
        "percent": _percent,
        "count": "{:,}".format,
        "shown": shown,
    }
    return environment


def make_panel(
    title: str, series: Mapping[str, str], metrics: Sequence[Mapping[str, Any]]
) -> Panel | None:
    """A chart of the `series` (metric to name) that the records have; None when they have none."""
    found = {
        name: [(r["step"], r[key]) for r in metrics if isinstance(r.get(key), int | float)]
        for key, name in series.items()
    }
    found = {name: points for name, points in found.items() if len(points) > 1}
    if not found:
        return None
    x_end = max(step for points in found.values() for step, _ in points)
    values = [value for points in found.values() for _, value in points]
    low, high = min(values), max(values)
    high = high if high > low else low + 1

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, x_end)
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)
        return round(x, 1), round(y, 1)

    return Panel(
        title=title,
        lines=tuple(_line(name, points, place) for name, points in found.items()),
        x_ticks=tuple(Tick(place(s, low)[0], f"{s:,}") for s in (0, x_end // 2, x_end)),
        y_ticks=tuple(Tick(place(0, v)[1], f"{v:.3g}") for v in (low, (low + high) / 2, high)),
    )


def _line(name: str, points: list[tuple[float, float]], place: Any) -> Line:
    placed = [place(*point) for point in points]
    return Line(
        name=name,
        points=" ".join(f"{x},{y}" for x, y in placed),
        last=points[-1][1],
        marks=tuple(placed) if len(placed) <= 40 else (),
    )


def _kinds(report: PairReport) -> list[dict[str, Any]]:
    """One line a kind of fact: what was claimed, what there was, what the activation holds."""
    claimed = {} if report.claims is None else report.claims.per_kind
    names = dict.fromkeys([*claimed, *report.probes])
    return [
        {
            "name": name,
            "claims": claimed.get(name),
            "probe": report.probes.get(name),
        }
        for name in names
    ]


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
