"""A scan that is killed for good, and run again."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from itertools import islice

import pytest
from support.killed import killed

from nlakit.storyworld.grammar import generate

pytestmark = pytest.mark.e2e
COMMAND = [sys.executable, "-m", "nlakit", "scan"]


def rows(project) -> list[tuple]:
    with sqlite3.connect(project / "index.sqlite") as database:
        query = "SELECT transcript, position, sample, explanation FROM readings ORDER BY id"
        return list(database.execute(query))


def test_a_scan_killed_with_signal_9_loses_no_row_and_reads_none_twice(tmp_path):
    chats = (made for made in generate(5, "heldout") if made.messages)
    lines = [
        json.dumps({"messages": [{"role": m.role, "content": m.content} for m in made.messages]})
        for made in islice(chats, 18)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines))
    options = [str(path), "--every", "5", "--json"]
    whole = subprocess.run([*COMMAND, str(tmp_path / "whole"), *options], capture_output=True)
    told = json.loads(whole.stdout)
    assert whole.returncode == 0 and told["transcripts"] == 18
    shards = "*/batch-00000/explanations/explanations-*.parquet"
    killed(shards, 1, ["scan", str(tmp_path / "p"), *options])
    assert rows(tmp_path / "p") == [], "killed before its batch was whole"
    again = subprocess.run([*COMMAND, str(tmp_path / "p"), *options], capture_output=True)
    assert again.returncode == 0 and rows(tmp_path / "p") == rows(tmp_path / "whole")
    assert len(rows(tmp_path / "p")) == told["positions"]
