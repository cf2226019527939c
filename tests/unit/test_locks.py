"""One writer at a time in a directory, whatever becomes of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nlakit.data.locks import LOCK_NAME, locked
from nlakit.errors import ResumeError

HOLD = """
import sys, time
from nlakit.data.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(directory) -> subprocess.Popen[str]:
    """A process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_by_the_number_of_the_first(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(ResumeError, match=f"process {process.pid} is writing there"):
            locked(tmp_path).__enter__()
    finally:
        end(process)


def test_a_killed_process_leaves_no_lock_and_its_half_files_go(tmp_path):
    process = hold(tmp_path)
    (tmp_path / f".model.{process.pid}.tmp").mkdir()
    (tmp_path / f".model.{process.pid}.tmp" / "half").touch()
    (tmp_path / f".shard-00000.parquet.{process.pid}.tmp").touch()
    (tmp_path / ".hidden").touch()
    end(process)
    with locked(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK_NAME, ".hidden"}
    assert (tmp_path / LOCK_NAME).read_bytes() == b""


def test_an_error_inside_gives_the_lock_back(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass
