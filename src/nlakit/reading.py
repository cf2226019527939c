"""What an NLA says of a text, token by token, and how far to believe each line.

Shows itself in a terminal and a notebook; exports to JSON, CSV, Markdown and HTML. Knows nothing of
models.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import pydantic

from nlakit.config import FrozenModel, describe_errors, validate_json, write_text_atomic
from nlakit.errors import InputError, MissingExtraError
from nlakit.fidelity_scale import FidelityScale, GradeWord, grade_named, scale_note
from nlakit.printable import printable

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from rich.console import RenderableType
    from rich.text import Text


HIDDEN = "…"
COSINE_NOTE = (
    "no mean of training activations is known: the number is the bare cosine, which is high for "
    "any text where activations are alike; give --mean for a fidelity"
)


UNBELIEVED = ("doubtful", "worse")
"""Grades at which nothing is asserted: no confidence was ever right there."""


class Score(FrozenModel):
    """How close the vector rebuilt from an explanation comes to the activation."""

    fidelity: float
    """`1 - mse / variance`: 1 is a perfect match; `fidelity_scale` has its axis and words."""
    cosine: float
    """Says little alone: where all activations are alike, the mean has a high cosine too."""
    mse: float
    """Per component, both vectors at norm √d_model: `2 (1 - cosine)`."""
    baseline: Literal["training_mean", "none"] = "training_mean"
    """none: no training mean is known, and `fidelity` is the bare cosine."""
    word: GradeWord
    """The grade of the fidelity beside the pair's floors (`fidelity_scale`)."""


class ReadClaim(FrozenModel):
    """`explanation[start:end]` says that `kind` is `value`."""

    kind: str
    value: str
    start: int
    end: int
    confidence: float | None = None
    """The chance that it is true, by the calibrator beside the NLA; None where there is none."""


class Sample(Score):
    """One explanation with its score."""

    explanation: str
    closed: bool = True
    """False: the verbalizer was cut off before its closing tag."""
    claims: tuple[ReadClaim, ...] = ()
    """What it claims, in order; none where the NLA has no calibrator."""


class TokenReading(Sample):
    """What the activation at one token says.

    Of several samples the fields hold the one of highest fidelity; choosing it flatters the score.
    """

    position: int
    """Number of the token in the text, from 0; of `describe`, the number of the vector."""
    token: str
    """The token as text; empty for a bare vector."""
    samples: tuple[Sample, ...] = ()
    """All samples in the order they were drawn."""


class Reading(FrozenModel):
    """An NLA's reading of a text, or of bare vectors (then `text` is None)."""

    text: str | None
    tokens: tuple[TokenReading, ...]
    nla: str
    """Name of the NLA that read."""
    floors: dict[str, float] = {}
    """FVE that knowing nothing reaches; a fidelity is to be seen beside it."""
    calibrated: bool = False
    """Whether claims were looked for, and each given its confidence."""
    notices: tuple[str, ...] = ()
    """What to know of how the text or the conversation was read, in words."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[TokenReading]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return iter(self.tokens)

    @overload
    def __getitem__(self, index: int) -> TokenReading: ...
    @overload
    def __getitem__(self, index: slice) -> Reading: ...
    def __getitem__(self, index: int | slice) -> TokenReading | Reading:
        """One row, or a reading of some of the rows."""
        if isinstance(index, slice):
            return self.model_copy(update={"tokens": self.tokens[index]})
        return self.tokens[index]

    @classmethod
    def from_json(cls, source: str | Path) -> Reading:
        """What `to_json` wrote: the JSON itself, or the path of a file.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        text = source if isinstance(source, str) and source.lstrip().startswith("{") else None
        try:
            found = Path(source).read_text(encoding="utf-8") if text is None else text
            return validate_json(cls, found)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{source} cannot be read: {error}.") from error
        except pydantic.ValidationError as error:
            where = "The JSON" if text is not None else str(source)
            raise InputError(describe_errors(cls, error, where)) from error

    def above(self, min_confidence: float) -> Reading:
        """The reading without the claims below a confidence.

        They leave `claims`, and "…" stands for their words in the explanation, which keeps its
        sentence and the score that it has as a whole.

        Raises:
            InputError: not a number from 0 to 1; or the NLA has no calibrator.
        """
        if not 0 <= min_confidence <= 1:
            raise InputError(f"A confidence lies between 0 and 1, found {min_confidence}.")
        if not self.calibrated:
            raise InputError(
                f"The NLA {self.nla!r} has no calibrator.json, so its claims have no confidence. "
                "Make one with `nlakit eval confidence --write`, or leave the threshold out."
            )
        kept = [_without(row, min_confidence) for row in self.tokens]
        return self.model_copy(update={"tokens": tuple(kept)})

    def __str__(self) -> str:
        width = max((len(each.word) for each in self.tokens), default=0)
        return "\n".join(
            f"{visible(each):>14}  {each.fidelity:5.2f} {each.word:<{width}}  "
            f"{printable(' '.join(each.explanation.split()))}"
            for each in self.tokens
        )

    def __rich__(self) -> RenderableType:
        from rich.table import Table

        table = Table(
            title=f"read by {printable(self.nla)}", caption=self._caption(), pad_edge=False
        )
        table.add_column("token", justify="right", no_wrap=True)
        table.add_column("explanation", ratio=1)
        table.add_column("fidelity", no_wrap=True)
        for row in self.tokens:
            table.add_row(visible(row), _explanation_text(row), fidelity_text(row))
        return table

    def _repr_html_(self) -> str:
        return _html_table(self)

    def _caption(self) -> str:
        return "\n".join([self._scale_note(), *self.notices])

    def _scale_note(self) -> str:
        if any(row.baseline == "none" for row in self.tokens):
            return COSINE_NOTE
        return scale_note(self.floors)

    def to_json(self, path: str | Path | None = None) -> str:
        """One JSON object; also written to `path` where one is given."""
        return _written(self.model_dump_json(indent=2) + "\n", path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """A line per token and sample, with a header; also written to `path`."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        writer.writerows(self._records())
        return _written(buffer.getvalue(), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """A table with a row per token, and the note on its scale; also written to `path`."""
        rows = [("token", "explanation", "fidelity"), ("---", "---", "---:")]
        for each in self.tokens:
            token, said = _markdown(visible(each)), _markdown(_shown(each))
            rows.append((token, said, f"{each.fidelity:.2f} {_markdown(each.word)}"))
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return _written(f"{table}\n\n{_markdown(self._caption())}\n", path)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row per token and sample, in the columns of `to_csv`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("pandas", "pandas") from error
        return pandas.DataFrame(self._records(), columns=list(CSV_COLUMNS))

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the fidelity of every token beside the floors, on the scale of `fidelity_scale`.

        A bar has its grade's colour; a value below the axis stands at its end as a triangle. No
        figure is shown: a notebook does that, elsewhere `axes.figure.savefig(...)`.

        Args:
            axes: of matplotlib, to draw on; None: new ones.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtraError("matplotlib", "plot") from error
        scale, places = FidelityScale(self.floors), range(len(self))
        width = min(24.0, 1.5 + 0.3 * len(self))
        axes = axes or Figure(figsize=(width, 3.5), layout="constrained").subplots()
        tops = [min(1.0, max(scale.low, row.fidelity)) for row in self]
        colors = [grade_named(row.word).html for row in self]
        axes.bar(places, [top - scale.low for top in tops], bottom=scale.low, color=colors)
        outside = [place for place in places if scale.is_outside(self[place].fidelity)]
        axes.plot(outside, [scale.low] * len(outside), "v", color="#8b1a20", clip_on=False)
        for name, floor in self.floors.items():
            axes.axhline(floor, color="#555555", linewidth=0.8, linestyle="--")
            axes.annotate(name.replace("_", " "), (1, floor), xycoords=("axes fraction", "data"))
        # "$" would begin a formula.
        names = [visible(row).replace("$", r"\$") for row in self]
        axes.set_xticks(list(places), names, rotation=90, fontfamily="monospace")
        axes.set(ylim=(scale.low, 1.0), ylabel="fidelity", title=printable(self.nla))
        return axes

    def _records(self) -> list[tuple[object, ...]]:
        """The values of `CSV_COLUMNS`, a row per token and sample."""
        return [
            (row.position, row.token, number, each.explanation)
            + (each.fidelity, each.word, each.cosine, each.mse, each.closed)
            for row in self.tokens
            for number, each in enumerate(row.samples or (row,))
        ]

    def to_html(self, path: str | Path | None = None) -> str:
        """A page that needs nothing else; also written to `path`."""
        title = escape(f"{self.nla}: a reading")
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{title}</title></head>\n"
            '<body style="font-family: system-ui, sans-serif; max-width: 60rem; margin: 2rem auto">'
            f"\n<h1>{title}</h1>\n{_quoted(self.text)}{_html_table(self)}</body></html>\n"
        )
        return _written(page, path)


def _without(row: TokenReading, min_confidence: float) -> TokenReading:
    samples = tuple(each.model_copy(update=_kept(each, min_confidence)) for each in row.samples)
    return row.model_copy(update={"samples": samples, **_kept(row, min_confidence)})


def _kept(sample: Sample, min_confidence: float) -> dict[str, object]:
    """The fields of an explanation that change when its less certain claims are hidden."""
    text, claims, shift, hidden_to = sample.explanation, [], 0, 0
    for claim in sorted(sample.claims, key=lambda each: each.start):
        start, end = max(claim.start, hidden_to), claim.end
        if (claim.confidence or 0.0) >= min_confidence:
            moved = {"start": claim.start + shift, "end": claim.end + shift}
            claims.append(claim.model_copy(update=moved))
        elif end > start:
            text = text[: start + shift] + HIDDEN + text[end + shift :]
            shift, hidden_to = shift + len(HIDDEN) - (end - start), end
    return {"explanation": text, "claims": tuple(claims)}


CSV_COLUMNS = (
    *("position", "token", "sample", "explanation"),
    *("fidelity", "word", "cosine", "mse", "closed"),
)


def visible(row: TokenReading) -> str:
    """A token for the eye: its spaces and line ends shown; a bare vector by its number."""
    if not row.token:
        return f"vector {row.position}"
    marks = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})
    return "".join(char if char.isprintable() else "�" for char in row.token.translate(marks))


def fidelity_text(score: Score) -> Text:
    """The number and its word in the grade's colour, for a terminal."""
    from rich.text import Text

    return Text(f"{score.fidelity:5.2f} {score.word}", style=grade_named(score.word).terminal)


def _explanation_text(row: TokenReading) -> Text:
    """The explanation, then the other samples in grey. Never markup: brackets stay brackets."""
    from rich.text import Text

    text = Text(_shown(row))
    if row.claims:
        text.append(f"\n{_claims_line(row)}", style="cyan")
    chosen = False
    for each in row.samples if len(row.samples) > 1 else ():
        if not chosen and each.explanation == row.explanation:
            chosen = True
            continue
        text.append(f"\n{each.fidelity:.2f} {_shown(each)}", style="dim")
    return text


def _shown(sample: Sample) -> str:
    text = printable(sample.explanation)
    return text if sample.closed else f"{text} … (cut off)"


def _claims_line(sample: Sample) -> str:
    """Each claim with its confidence: `mood calm 97 %, topic sea 99 %`.

    None of an explanation that is not to be believed, with the reason in their place.
    """
    if grade_named(sample.word).key in UNBELIEVED:
        return f"claims not shown: the fidelity says {sample.word!r}"
    return ", ".join(
        f"{each.kind} {each.value}"
        + ("" if each.confidence is None else f" {100 * each.confidence:.0f} %")
        for each in sample.claims
    )


def _html_table(reading: Reading) -> str:
    rows = "\n".join(_html_row(row) for row in reading.tokens)
    style = "text-align: left; border-bottom: 1px solid #999"
    head = "".join(
        f'<th style="{style}">{name}</th>' for name in ("token", "explanation", "fidelity")
    )
    return (
        f'<table style="border-collapse: collapse">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>\n<p><small>{escape(reading._caption())}</small></p>\n"
    )


def _html_row(row: TokenReading) -> str:
    found = grade_named(row.word)
    cell = '<td style="text-align: left; vertical-align: top; padding: 0.2rem 0.6rem'
    return (
        f'<tr>{cell}; white-space: nowrap"><code>{escape(visible(row))}</code></td>'
        f'{cell}">{_html_samples(row)}</td>'
        f'{cell}; white-space: nowrap; color: {found.html}">{row.fidelity:.2f} {found.word}</td>'
        "</tr>"
    )


def _html_samples(row: TokenReading) -> str:
    shown = escape(_shown(row))
    if row.claims:
        shown += f"<br><small>{escape(_claims_line(row))}</small>"
    if len(row.samples) < 2:
        return shown
    items = "".join(f"<li>{each.fidelity:.2f} {escape(_shown(each))}</li>" for each in row.samples)
    details = f"<details><summary>samples</summary><ol>{items}</ol></details>"
    return shown + details


def _markdown(text: str) -> str:
    """Words of a stranger as Markdown that shows them: no markup, and one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _quoted(text: str | None) -> str:
    if text is None:
        return ""
    return f'<blockquote style="white-space: pre-wrap">{escape(text)}</blockquote>\n'


def _written(content: str, path: str | Path | None) -> str:
    if path is not None:
        write_text_atomic(path, content)
    return content
