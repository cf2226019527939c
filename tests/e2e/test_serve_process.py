"""The installed command: its address, draining, and what survives a `kill -9`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from support.serving import WAIT_S, save_nla

from nlakit.serve.store import ReadingStore

SOURCE = Path(__file__).parents[2] / "src"
START_S = 120
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def nla_dir(tmp_path_factory) -> Path:
    return save_nla(tmp_path_factory.mktemp("nla"))


def command(data: Path, *options: str) -> dict:
    """How `nlakit serve` is started."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "NLAKIT_DATA_DIR": str(data)}
    arguments = [sys.executable, "-m", "nlakit", "serve", "--no-browser", *options]
    return {"args": arguments, "env": environment, "text": True, "stderr": subprocess.PIPE}


@pytest.fixture
def server(nla_dir, tmp_path) -> Iterator[tuple[subprocess.Popen, str]]:
    """A running server, and the address it printed."""
    options = command(tmp_path, "--port", "0", "--nla", str(nla_dir))
    with subprocess.Popen(**options, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            address = process.stdout.readline().strip()
            assert address, process.stderr.read()
            yield process, address
        finally:
            process.kill()


def test_it_says_its_address_answers_and_drains(server):
    process, address = server
    assert address.startswith("http://127.0.0.1:") and not address.endswith(":0")
    assert httpx2.get(address, timeout=WAIT_S).json()["verbalizer_model"] == "tiny/av"
    body = {"text": "the cat sat on the mat", "max_new_tokens": 200, "stream": True}
    with httpx2.stream("POST", f"{address}/explain", json=body, timeout=WAIT_S) as found:
        lines = found.iter_lines()
        head = json.loads(next(lines).removeprefix("data: "))
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line.startswith("data: ")]
    finals = [line for line in rest if '"description"' in line]
    assert len(finals) == head["total"] and rest[-1] == "data: [DONE]"
    assert process.wait(WAIT_S) == 0


def test_what_was_acknowledged_survives_a_kill(server, tmp_path):
    process, address = server
    acknowledged: dict[str, str] = {}
    enough = threading.Event()

    def write(writer: int) -> None:
        for number in range(10_000):
            title = f"reading {writer} {number}"
            try:
                reading = {"title": title, "reading": {"text": "x" * 2000}}
                found = httpx2.post(f"{address}/v1/readings", json=reading, timeout=WAIT_S)
            except httpx2.HTTPError:
                return
            acknowledged[found.json()["id"]] = title
            if len(acknowledged) > 30:
                enough.set()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    assert enough.wait(WAIT_S)
    process.send_signal(signal.SIGKILL)
    for writer in writers:
        writer.join()
    store = ReadingStore(tmp_path)
    for reading_id, title in acknowledged.items():
        saved = store.get(reading_id)
        assert saved is not None and saved.title == title
        assert store.find(title, 100, 0)[1] >= 1
    store.close()


def test_what_cannot_be_served_is_refused(nla_dir, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            **command(tmp_path, "--port", port, "--nla", str(nla_dir)), timeout=START_S
        )
    assert result.returncode == 2 and "Give another --port" in result.stderr
    result = subprocess.run(**command(tmp_path, "--host", "0.0.0.0"), timeout=START_S)
    assert result.returncode == 2 and "--secret-file" in result.stderr
    occupied = tmp_path / "a file"
    occupied.write_text("no directory")
    result = subprocess.run(
        **command(occupied, "--port", "0", "--nla", str(nla_dir)), timeout=START_S
    )
    assert result.returncode == 2 and "NLAKIT_DATA_DIR" in result.stderr
    assert "Traceback" not in result.stderr
