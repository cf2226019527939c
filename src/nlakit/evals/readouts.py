"""Readings of the positions that a read plan names, as benchmarks of readouts judge them.

A plan is JSONL, one item a line: what the target is to read, how it is rendered, and a rule for the
positions. Readouts are JSONL, one position a line: item, layer, position, token, samples. Both are
those of camilablank/workspace-bench (`docs/producing_readouts.md` there). Beside the readouts
stands NAME.made.json: which NLA wrote them, and how, so that no other run goes on with them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pydantic
from pydantic import Field

from nlakit.config import FrozenModel, describe_errors, write_text_atomic
from nlakit.engines.base import MAX_NEW_TOKENS, sampling_for
from nlakit.errors import InputError
from nlakit.pair.conversation import ChatFields
from nlakit.pair.pair import Pair

Render = Literal[
    "plain", "bare", "chat", "chat_context", "chat_prefill", "chat_dm", "chat_summarize", "captured"
]
T = TypeVar("T")
SENTENCE_END = re.compile(r"[.!?]\s*$")


class Positions(FrozenModel):
    """A rule for the positions to read, by `kind`; the other fields are those of some kinds."""

    kind: Literal[
        "final_token",
        "offset_from_end",
        "last_n",
        "all",
        "positions",
        "line_one_newline",
        "from_token",
        "from_last_sentence_start",
        "suffix_text",
        "suffix_text_then_tail",
    ]
    k: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1)
    positions: tuple[int, ...] | None = None
    token: str | None = None
    text: str | None = None

    @pydantic.model_validator(mode="after")
    def _says_enough(self) -> Positions:
        needed = {
            "offset_from_end": "k",
            "last_n": "n",
            "positions": "positions",
            "from_token": "token",
            "suffix_text": "text",
            "suffix_text_then_tail": "text",
        }.get(self.kind)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"{self.kind} needs {needed!r}")
        return self


class PlannedItem(FrozenModel):
    """One line of a plan."""

    family: str
    id: str
    render: Render
    positions: Positions
    layers: tuple[int, ...]
    text: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    system: str | None = None
    prefill: str | None = None
    suffix: str | None = None
    assistant: str | None = None
    note: str = ""
    extra: dict[str, Any] = {}


class MadeBy(FrozenModel):
    """What decides the words of readouts."""

    nla: str
    weights_sha256: str
    layer: int
    samples: int
    temperature: float | None
    seed: int
    max_new_tokens: int


class Readouts(NamedTuple):
    """What was written.

    Attributes:
        items, rows: read in all, those of an earlier run included.
        passed_over: why, by the id of each item that was not read.
        other_layers: items whose plan does not name the pair's layer.
    """

    items: int
    rows: int
    passed_over: dict[str, str]
    other_layers: int


def read_plan(path: Path) -> list[PlannedItem]:
    """The items of a plan. Raises `InputError` that names the line."""
    if not path.is_file():
        raise InputError(f"Asked for the plan {path}; found no file there.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Give the JSONL of a plan.") from error
    found: list[PlannedItem] = []
    # Not `splitlines`: a line of JSON may hold other marks that it takes for a line's end.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(PlannedItem.model_validate_json(line))
        except pydantic.ValidationError as error:
            where = f"{path}, line {number}"
            raise InputError(describe_errors(PlannedItem, error, where)) from error
    if not found:
        raise InputError(f"{path} plans nothing. Give a plan with an item a line.")
    twice = [item for item, count in Counter(each.id for each in found).items() if count > 1]
    if twice:
        raise InputError(
            f"{path} has several items {twice[0]!r}. Give the plan of one family, where each has "
            "an id of its own."
        )
    return found


def write_readouts(
    pair: Pair,
    plan: Sequence[PlannedItem],
    output: Path,
    weights_sha256: str,
    samples: int = 1,
    temperature: float | None = None,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> Readouts:
    """Read every position of a plan at the pair's layer; items that are whole in `output` stay.

    An NLA reads one layer, whatever the plan lists. What cannot be read is passed over, as are
    items of captured token ids, which are another tokenizer's.

    Args:
        weights_sha256: of the pair: only its own readouts are gone on with.
        progress: called with (items done, items).

    Raises:
        InputError: a bad sampling setting, or the output is there and is no run's of these
            settings; it is left as it is.
    """
    sampling_for(samples, temperature, max_new_tokens, seed)
    made_by = MadeBy(
        nla=pair.name,
        weights_sha256=weights_sha256,
        layer=pair.card.layer,
        samples=samples,
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    _check_own(output, made_by)
    jobs, passed_over = _jobs(pair, plan)
    written = _rows_of(output)
    kept = {
        job.id: written[job.id]
        for job in jobs
        if [row["pos"] for row in written.get(job.id, ())] == job.named
    }
    write_text_atomic(output, "".join(line for rows in kept.values() for line in _lines(rows)))
    with output.open("a", encoding="utf-8") as file:
        for number, job in enumerate(jobs, 1):
            if job.id not in kept:
                reading = pair.explain(
                    job.content,
                    positions=job.places,
                    samples=samples,
                    temperature=temperature,
                    seed=seed,
                    max_new_tokens=max_new_tokens,
                    **job.fields,
                )
                kept[job.id] = [
                    {
                        "id": job.id,
                        "layer": pair.card.layer,
                        "pos": named,
                        "token": row.token,
                        "samples": [each.explanation for each in row.samples or (row,)],
                    }
                    for named, row in zip(job.named, reading.tokens, strict=True)
                ]
                file.write("".join(_lines(kept[job.id])))
                file.flush()
            if progress is not None:
                progress(len(passed_over) + number, len(plan))
    return Readouts(
        items=len(kept),
        rows=sum(map(len, kept.values())),
        passed_over=passed_over,
        other_layers=sum(pair.card.layer not in item.layers for item in plan),
    )


class _Job(NamedTuple):
    """An item as the pair reads it.

    Attributes:
        places: tokens to read.
        named: the same as judges of the item call them.
    """

    id: str
    content: str | list[dict[str, Any]]
    fields: ChatFields
    places: list[int]
    named: list[int]


def _jobs(pair: Pair, plan: Sequence[PlannedItem]) -> tuple[list[_Job], dict[str, str]]:
    """What can be read of a plan; and of each other item why not."""
    jobs, passed_over = [], {}
    for item in plan:
        try:
            content, fields = rendered(item)
            tokens = pair.prepare(content, **fields).encoded.tokens
            places = resolve(item.positions, tokens)
        except InputError as error:
            passed_over[item.id] = str(error)
            continue
        # Judges of these items count from the end.
        before = len(tokens) if item.positions.kind == "offset_from_end" else 0
        jobs.append(_Job(item.id, content, fields, places, [at - before for at in places]))
    return jobs, passed_over


# -- rendering -----------------------------------------------------------------------------------
def rendered(item: PlannedItem) -> tuple[str | list[dict[str, Any]], ChatFields]:
    """What the target is given for an item. Raises `InputError` for one that cannot be rendered."""
    if item.render == "captured":
        raise InputError("token ids of another model's tokenizer")
    if item.render in ("plain", "bare"):
        return _given(item.text, "text"), {}
    if item.render == "chat_context":
        messages = [dict(each) for each in _given(item.messages, "messages")]
        return messages, {"add_generation_prompt": True, "enable_thinking": False}
    text = _given(item.text, "text")
    messages = [{"role": "system", "content": item.system}] if item.system else []
    messages.append({"role": "user", "content": text + (item.suffix or "")})
    if item.render == "chat_prefill":
        messages.append({"role": "assistant", "content": _given(item.prefill, "prefill")})
        return messages, {"continue_final_message": True, "enable_thinking": False}
    if item.render == "chat_dm":
        messages.append({"role": "assistant", "content": _given(item.assistant, "assistant")})
        return messages, {}
    return messages, {"add_generation_prompt": True, "enable_thinking": False}


def _given(value: T | None, name: str) -> T:
    if value is None:
        raise InputError(f"the plan gives no {name!r}")
    return value


# -- positions -----------------------------------------------------------------------------------
def resolve(rule: Positions, tokens: Sequence[str]) -> list[int]:
    """The positions that a rule selects among tokens. Raises `InputError` where there are none."""
    found = sorted(set(_resolved(rule, tokens)))
    if not found:
        raise InputError(f"no token of the render is its {rule.kind!r}")
    return found


def _resolved(rule: Positions, tokens: Sequence[str]) -> Iterable[int]:
    end = len(tokens)
    if rule.kind in ("suffix_text", "suffix_text_then_tail"):
        spelling = _spelling(tokens, rule.text or "")
        return range(spelling.start, end) if spelling and "tail" in rule.kind else spelling
    if rule.kind in ("positions", "line_one_newline", "offset_from_end"):
        given = {
            "positions": rule.positions or (),
            "line_one_newline": [at for at, token in enumerate(tokens) if "\n" in token][-1:],
            "offset_from_end": [end - (rule.k or 0)],
        }[rule.kind]
        return [at for at in given if 0 <= at < end]
    start = {
        "all": 0,
        "final_token": end - 1,
        "last_n": max(0, end - (rule.n or 0)),
        "from_token": next((at for at, token in enumerate(tokens) if token == rule.token), end),
        "from_last_sentence_start": _last_sentence(tokens),
    }[rule.kind]
    return range(start, end)


def _last_sentence(tokens: Sequence[str]) -> int:
    """Where the last sentence of the last user turn begins; 0 for another chat format's render."""
    headers = [
        at for at in range(len(tokens) - 1) if tokens[at : at + 2] == ["<|im_start|>", "user"]
    ]
    if not headers:
        return 0
    start = headers[-1] + 3
    stop = next((at for at in range(start, len(tokens)) if tokens[at] == "<|im_end|>"), len(tokens))
    ends = [at for at in range(start, stop - 1) if SENTENCE_END.search(tokens[at])]
    return ends[-1] + 1 if ends else start


def _spelling(tokens: Sequence[str], text: str) -> range:
    """The last tokens that spell a text, whatever blanks stand around it."""
    wanted = text.strip()
    for start in range(len(tokens) - 1, -1, -1):
        if not "".join(tokens[start:]).lstrip().startswith(wanted):
            continue
        spelled = ""
        for stop in range(start, len(tokens)):
            spelled = (spelled + tokens[stop]).lstrip()
            if len(spelled) >= len(wanted):
                return range(start, stop + 1)
    return range(0)


# -- the file ------------------------------------------------------------------------------------
def _check_own(output: Path, made_by: MadeBy) -> None:
    """Claim a file for a run; raises `InputError` where it is somebody else's."""
    if output.is_dir():
        raise InputError(f"{output} is a directory. Give a file for the readouts.")
    beside = output.with_name(f"{output.name}.made.json")
    known = beside.read_text(encoding="utf-8") if beside.is_file() else None
    own = made_by.model_dump_json(indent=2) + "\n"
    if output.exists() and known != own:
        whose = "another NLA or other settings" if known else "something else"
        raise InputError(
            f"{output} is there, and is of {whose}. It is left as it is: give another --output."
        )
    write_text_atomic(beside, own)


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _rows_of(output: Path) -> dict[str, list[dict[str, Any]]]:
    """What an earlier run left, by item; its last line may be cut off."""
    rows: dict[str, list[dict[str, Any]]] = {}
    if output.exists():
        for line in output.read_text(encoding="utf-8").split("\n"):
            try:
                row = json.loads(line)
                rows.setdefault(row["id"], []).append(row)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
    return rows
