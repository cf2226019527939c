"""The docs' tables of what a server bears: facts of the interface, kills, hostile clients, load."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

LOAD_ROWS = {
    "streams to their end": ("load", "streams_finished"),
    "streams left by their clients": ("load", "streams_left"),
    "streams cut short": ("load", "streams_cut_short"),
    "explanations": ("load", "explanations"),
    "answers by status": ("load", "statuses"),
    "first words, p50, s": ("load", "first_words_s", "p50"),
    "first words, p95, s": ("load", "first_words_s", "p95"),
    "first words of a single position, p95, s": ("load", "one_position", "first_words_s", "p95"),
    "left afterwards": ("after",),
    "resident memory, MB": ("usage", "resident_mb"),
    "descriptors": ("usage", "descriptors"),
}
LOAD_FACTS = {
    "A single position alone, p95, seconds": ("alone", "whole_s", "p95"),
    "Beside one request of 500 positions": ("beside_large", "whole_s", "p95"),
    "That request itself": ("beside_large", "large_s"),
    "A single position beside two clients that always ask for 512 positions in 16 samples": (
        "beside_largest", "whole_s", "p95",
    ),
    "Of these, told 429": ("beside_largest", "refused"),
    "Tracebacks in the log": ("tracebacks",),
}  # fmt: skip


def wire_table(text: str) -> str:
    """How many facts of the interface hold, and each that does not."""
    found = json.loads(text)
    facts, differences = found["facts"], found["differences"]
    lines = [f"Of {facts} facts {facts - len(differences)} hold; {len(differences)} differ."]
    lines += [f"- {words}: {said}" for words, said in differences.items()]
    return "\n".join([*lines, ""])


def kills_table(text: str) -> str:
    """What was killed how often, and what was left."""
    lines = ["| what was killed | kills | runs that ended | result |", "|---|---:|---:|---|"]
    for verb, each in json.loads(text).items():
        lines.append(f"| {verb} | {each['kills']} | {each.get('runs', '–')} | {_left(each)} |")
    return "\n".join([*lines, ""])


def _left(each: dict[str, Any]) -> str:
    """What a kill changed."""
    if "lost" in each:
        return f"of {each['acknowledged']:,} readings that were acknowledged {each['lost']} lost"
    told = f"{each['files']} files a run, {len(each['differing'])} of them different"
    if not each["answers"]:
        return told
    return f"{told}; {each['asked_again']} of {each['answers'] * each['runs']:,} labels asked again"


def hostile_table(text: str) -> str:
    """What hostile requests and files did."""
    found = json.loads(text)
    requests, files = found["requests"], found["files"]
    usage = [each["usage"] for each in requests["servers"]]
    statuses = Counter[str]()
    for each in requests["statuses"].values():
        statuses.update(each)
    rows = {
        "hostile requests": f"{requests['num']:,}",
        "answers": ", ".join(f"{name}: {count:,}" for name, count in sorted(statuses.items())),
        "the longest of them": f"{max(requests['longest_s'].values()):.2f} s",
        "the longest wait of an honest client": f"{requests['health_longest_s']:.2f} s",
        "peak memory of the two servers": " and ".join(f"{u['peak_mb']:.0f} MB" for u in usage),
        "tracebacks in their logs": str(sum(each["tracebacks"] for each in requests["servers"])),
        "hostile files": f"{files['num']}",
        "the longest of them to read or refuse": f"{files['longest_s']:.2f} s",
        "the most memory that one of them took": f"{files['peak_more_mb']} MB",
        "violations": ", ".join(found["violations"]) or "none",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items()), ""])


def load_table(text: str) -> str:
    """What many clients saw."""
    found = json.loads(text)
    lines = ["| | " + " | ".join(f"round {n + 1}" for n in range(len(found["rounds"]))) + " |"]
    lines.append("|---|" + "---:|" * len(found["rounds"]))
    for words, value in LOAD_ROWS.items():
        cells = (_shown(_path(each, value)) for each in found["rounds"])
        lines.append(f"| {words} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"{words}: {_shown(_path(found, value))}." for words, value in LOAD_FACTS.items()]
    lines.append(f"Violations: {', '.join(found['violations']) or 'none'}.")
    return "\n".join([*lines, ""])


def _path(found: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        found = found[name]
    return found


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(each)}" for name, each in value.items())
    return f"{value:.2f}" if isinstance(value, float) and value % 1 else f"{value:,.0f}"


def page_table(text: str) -> str:
    """How soon the page answers (`page_speed`)."""
    found = json.loads(text)
    lines = [
        f"| from a click, slowest of {found['runs']} runs | seconds |",
        "|---|---:|",
        f"| the first words | {found['first_words_s']:.2f} |",
        f"| a token explained and scored | {found['one_token_s']:.2f} |",
        f"| a passage of {found['tokens']} tokens explained and scored "
        f"| {found['whole_passage_s']:.2f} |",
        f"| a token, beside another client's {found['beside']} positions "
        f"| {found['click_beside_s']:.2f} |",
        "",
        f"The page's main thread was held up for {found['longest_task_ms']} ms at most.",
    ]
    return "\n".join([*lines, ""])
