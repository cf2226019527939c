"""`nlakit thinking`: a chain of thought beside what is read behind it, and its answer steered."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nlakit.audit.thinking import ChainOfThought, answer_after, chain_of_thought
from nlakit.errors import InputError
from nlakit.pair.steer import STRENGTH, Edit, Steered

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .requests import AS_GIVEN, ChatOptions, read_request


def thinking(
    messages: str | None = None,
    /,
    *,
    file: Annotated[Path | None, Parameter(negative=())] = None,
    at: int | None = None,
    edit: tuple[str, ...] = (),
    alpha: float = STRENGTH,
    once: Annotated[bool, Parameter(negative=())] = False,
    max_new_tokens: int = 60,
    json: Annotated[bool, Parameter(negative=())] = False,
    chat: ChatOptions = AS_GIVEN,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """What thinking sections say beside what the NLA reads there, sentence by sentence.

    With --at and --edit the target answers anew, without and with one thought changed.

    Parameters
    ----------
    messages
        Messages as JSON; "-" or nothing reads standard input.
    file
        Read the messages from this file.
    at
        A token of a thinking section, as the table numbers it: whose explanation is edited.
    edit
        OLD=NEW, words of that explanation and what to put in their place; or the whole new one.
    alpha
        Strength of the change, as a share of the activation's norm.
    once
        Change that token alone, and none of the later ones.
    max_new_tokens
        Longest answer, in tokens.
    json
        Print one JSON object.
    devices
        Where models run.
    """
    if (at is None) != (not edit):
        raise InputError("--at and --edit go together: a token, and what its explanation becomes.")
    request = read_request(messages, file, chat)
    loaded = pair.load(devices)
    if at is None:
        made = chain_of_thought(loaded, request.content, **request.fields)
        _print(made.to_json()) if json else _show_chain(made)
        return
    change = edit_of(edit)
    steered = answer_after(
        loaded, request.content, at, change, alpha, max_new_tokens, once=once, **request.fields
    )
    _print(vars(steered)) if json else _show_answers(steered)


def edit_of(given: tuple[str, ...]) -> Edit:
    """Pairs OLD=NEW as a mapping; one text without = is the whole new explanation.

    Raises:
        InputError: several texts, and one of them has no =.
    """
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    without = [each for each in given if "=" not in each]
    if without:
        raise InputError(f"--edit {without[0]!r}: expected OLD=NEW.")
    return dict(each.split("=", 1) for each in given)


def _print(record: object) -> None:
    sys.stdout.write(json_module.dumps(record, ensure_ascii=False, indent=2) + "\n")


def _show_chain(made: ChainOfThought) -> None:
    table = Table("token", "the thinking says", "the NLA reads", "said", "fidelity")
    for each in made.thoughts:
        said = "–" if each.said is None else f"{each.said:.0%}"
        fidelity = "–" if each.fidelity is None else f"{each.fidelity:.2f}"
        row = (str(each.position), each.says, each.explanation, said, fidelity)
        table.add_row(*map(Text, row))
    Console().print(table)
    for notice in made.notices:
        Console().print(notice, style="dim", markup=False, highlight=False)


def _show_answers(made: Steered) -> None:
    console = Console()
    rows = {
        "read": made.original,
        "edited": made.edited,
        "answer": made.plain,
        "answer, edited": made.steered,
        "shift": f"{made.shift:.2f}",
        "KL on unrelated texts": f"{made.side_effect:.3f}",
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console.print(table)
