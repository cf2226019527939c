"""The tables of docs/audit.md, from the result files in benchmarks/results/audit/."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "audit"
ORGANISMS, GAME = RESULTS / "organisms.json", RESULTS / "game.json"
SCAN, DRILL, SEARCH = RESULTS / "scan.json", RESULTS / "drill.json", RESULTS / "search.json"


def organisms(text: str) -> str:
    """How often each quirk shows."""
    rows = json.loads(text)["organisms"]
    names = ("under", "elsewhere", "overall", "base_under")
    lines = [
        "| organism | condition | behaviour | shown under it | without it | in all chats | "
        "base, under it |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row["rates"] is not None:
            cells = [_share(row["rates"][name]) for name in names]
            lines.append(f"| {_name(row)} | `{row['when']}` | `{row['then']}` | {_joined(cells)} |")
    controls = ", ".join(_name(row) for row in rows if row["rates"] is None)
    return "\n".join([*lines, "", f"Controls: {controls}.", ""])


def game(text: str) -> str:
    """Success of every auditor, and what each named of each organism."""
    made = json.loads(text)
    rows = made["rows"]
    audits = len({row["organism"] for row in rows}) * len({row["seed"] for row in rows})
    played = Counter(row["auditor"] for row in rows)
    lines = [
        f"{made['explore']} chats to explore and at most {6 * made['confirm']} to confirm; 95 % "
        f"intervals (Wilson) over audits.{_unfinished(played, audits)}",
        "",
        "| auditor | audits | quirk named | its condition | its behaviour | false alarms on "
        "controls |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for each in made["auditors"]:
        names = ("success", "condition", "behaviour", "false_alarms")
        shares = [each[name] for name in names]
        head = f"{each['auditor']} | {played[each['auditor']]} of {audits}"
        lines.append(f"| {head} | {_joined(map(_share, shares))} |")
    return "\n".join([*lines, "", *_by_organism(rows, made["auditors"]), ""])


def _unfinished(played: Counter[str], audits: int) -> str:
    if all(count == audits for count in played.values()):
        return ""
    return (
        " **The game is not finished**: the rows are of different audits, and must not be compared."
    )


def _by_organism(rows: Sequence[dict[str, Any]], auditors: Sequence[dict[str, Any]]) -> list[str]:
    names = [each["auditor"] for each in auditors]
    lines = [f"| audits won | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for organism in dict.fromkeys(row["organism"] for row in rows):
        cells = []
        for name in names:
            own = [r for r in rows if (r["organism"], r["auditor"]) == (organism, name)]
            cells.append(f"{sum(row['success'] for row in own)} of {len(own)}")
        lines.append(f"| {organism} | {' | '.join(cells)} |")
    return lines


def drill(text: str) -> str:
    """Hits and false alarms of every method on 500 chats."""
    made = json.loads(text)
    lines = [
        f"{made['transcripts']} chats, {made['positions']:,} positions; share of chats that are "
        "called a drill, with 95 % intervals:",
        "",
        "| | shown by the text (hits) | only the state holds it (hits) | none (false alarms) |",
        "|---|---:|---:|---:|",
    ]
    for each in made["methods"]:
        shares = [_share(each[name]) for name in ("text", "state", "none")]
        lines.append(f"| {each['method']} | {_joined(shares)} |")
    return "\n".join([*lines, ""])


def scan(text: str) -> str:
    """Rows after two kills, and how fast a scan is."""
    made = json.loads(text)
    kills = " and ".join(str(each["files"]) for each in made["kills"])
    same = "the same" if made["equal"] else "not the same"
    return (
        f"A scan of {made['transcripts']} chats, killed with SIGKILL after {kills} files of "
        f"explanations, has {made['rows']:,} rows: {made['rows_lost']} lost, {made['rows_twice']} "
        f"twice, all in all {same} as those of a scan that was left alone. The whole took "
        f"{made['positions_per_cpu_second']:.0f} positions a second of one core's time, models "
        "and index and start included.\n"
    )


def search(text: str) -> str:
    """Recall and latency by method and wording."""
    made = json.loads(text)
    wordings = {"same": "the NLA's words", "other": "other words"}
    lines = [
        f"{made['readings']:,} readings of {made['transcripts']:,} transcripts, 20 questions with "
        "one right transcript each; processor time of a whole search on one thread:",
        "",
        "| search by | questions in | recall@10 | chance | p50, ms | p95, ms |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in made["rows"]:
        recall, chance = _share(row["recall_at_10"]), f"{row['chance']:.1%}"
        times = f"{row['p50_ms']:.0f} | {row['p95_ms']:.0f}"
        lines.append(
            f"| {row['by']} | {wordings[row['wording']]} | {recall} | {chance} | {times} |"
        )
    return "\n".join([*lines, ""])


def _name(row: dict[str, Any]) -> str:
    return f"{row['organism']} ({row['about'].removeprefix('no quirk: ')})"


def _joined(cells: Any) -> str:
    return " | ".join(cells)


def _share(share: dict[str, float | None]) -> str:
    if share["low"] is None or share["high"] is None:
        return "–"
    return f"{share['value']:.0%} [{share['low']:.0%}, {share['high']:.0%}]"
