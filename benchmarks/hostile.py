"""Ten thousand hostile requests against a running server, 150 hostile files against its loaders.

    python -m benchmarks.hostile --requests 10000 --files 150

Prints one JSON object: answers by status and by kind of attack, the longest time any of them took,
the longest time that an honest client waited for `/v1/health` meanwhile, the highest memory of the
server, and what became of each kind of file. The exit status is 1 where one of these does not hold,
and `violations` says which: no status of 500 or more; no traceback in the log; nothing takes longer
than 5 s; afterwards nothing is left in the queue; every file is read or refused by name, within 5 s
and within the memory that is stated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import struct
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import hostile_files
from benchmarks.hostile_requests import Attack, attacks
from benchmarks.serve_load import save
from benchmarks.served import Served, serve

LONGEST_S = 5.0
GIVE_UP_S = 30.0
LEAVES_AFTER = 300
"""Bytes of an answer, after which some clients go."""
MOMENT_S = 0.3
GUARDED_SHARE = 5
"""One request in so many goes to a server that asks for a secret."""


@dataclass
class Seen:
    """What came back."""

    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    slow: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)

    def note(self, attack: Attack, status: str, seconds: float) -> None:
        self.statuses[attack.kind][status] += 1
        self.longest[attack.kind] = max(self.longest[attack.kind], seconds)
        if seconds > LONGEST_S:
            self.slow.append(f"{seconds:.1f} s: {attack.kind} {attack.raw[:120]!r}")
        if status.startswith("5"):
            self.failures.append(f"{status}: {attack.kind} {attack.raw[:300]!r}")


def main() -> None:
    """Send them, and say what became of the server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nla", default="bundled")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=150)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="file for the figures, written as they come")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if options.requests:
        result["requests"] = against_servers(options)
        save(result, options.output)
    if options.files:
        result["files"] = hostile_files.run(options.files, options.seed)
    result["violations"] = violations(result)
    save(result, options.output)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["violations"] else 0)


def against_servers(options: argparse.Namespace) -> dict[str, Any]:
    """One server that anybody may ask, and one with a secret."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "secret"
        path.write_text(secrets.token_hex(8))
        path.chmod(0o600)
        with serve(options.nla) as opened, serve(options.nla, "--secret-file", str(path)) as closed:
            seen = asyncio.run(attack_both(opened, closed, options))
            return {**report(seen), **{"servers": [state(each, path) for each in (opened, closed)]}}


async def attack_both(opened: Served, closed: Served, options: argparse.Namespace) -> Seen:
    """All attacks, from many clients at once, with an honest one beside them."""
    seen = Seen()
    d_model = (await asyncio.to_thread(httpx2.get, opened.url)).json()["d_model"]
    left: Iterator[tuple[int, Attack]] = enumerate(attacks(options.seed, options.requests, d_model))
    honest = asyncio.ensure_future(ask_health(opened, seen))
    await asyncio.gather(*(client(left, opened, closed, seen) for _ in range(options.clients)))
    honest.cancel()
    await asyncio.gather(honest, return_exceptions=True)
    return seen


async def client(
    left: Iterable[tuple[int, Attack]], opened: Served, closed: Served, seen: Seen
) -> None:
    for number, attack in left:
        server = closed if number % GUARDED_SHARE == 0 else opened
        started = time.monotonic()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                status = await send(attack, server.port)
        except TimeoutError:
            status = "none"
        except OSError:
            status = "closed"
        seen.note(attack, status, time.monotonic() - started)


async def send(attack: Attack, port: int) -> str:
    """The status of the answer; "closed" where there is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(attack.raw)
        if attack.leaves == "resets":
            reset(writer)
            return "left"
        await writer.drain()
        if attack.leaves == "stalls":
            await asyncio.sleep(1)
        elif attack.leaves == "waits":
            return await first_line(reader, MOMENT_S)
        elif attack.leaves == "goes":
            await reader.read(LEAVES_AFTER)
            return "left"
        return await whole(reader)
    finally:
        writer.close()


async def whole(reader: asyncio.StreamReader) -> str:
    """Read to the end."""
    start = await reader.read(65_536)
    while await reader.read(65_536):
        pass
    return status_in(start)


async def first_line(reader: asyncio.StreamReader, seconds: float) -> str:
    """What comes within a moment, from a server that waits for more."""
    try:
        async with asyncio.timeout(seconds):
            return status_in(await reader.read(65_536))
    except TimeoutError:
        return "left"


def status_in(start: bytes) -> str:
    words = start.split(b" ", 2)
    return words[1].decode("ascii", "replace") if len(words) > 2 else "closed"


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, as a process that dies does."""
    import socket

    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def ask_health(server: Served, seen: Seen) -> None:
    """An honest client, five times a second."""
    async with httpx2.AsyncClient(base_url=server.url, timeout=GIVE_UP_S) as http:
        while True:
            started = time.monotonic()
            found = await http.get("/v1/health")
            seen.health_s.append(time.monotonic() - started)
            if found.status_code != 200:
                seen.failures.append(f"{found.status_code}: health")
            await asyncio.sleep(0.2)


def state(server: Served, secret: Path) -> dict[str, Any]:
    """What is left of a server once nobody asks any more."""
    headers = {"X-SECRET-KEY": secret.read_text()}
    deadline = time.monotonic() + 15
    while True:
        health = httpx2.get(f"{server.url}/v1/health", headers=headers, timeout=GIVE_UP_S).json()
        left = {name: health[name] for name in ("requests", "rows_active", "rows_waiting")}
        if not any(left.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return {
        **{"status": health["status"], "left": left, "usage": server.usage()},
        **{"tracebacks": server.tracebacks(), "log_bytes": server.log_bytes()},
    }


def report(seen: Seen) -> dict[str, Any]:
    """The numbers of an attack."""
    total = sum(sum(each.values()) for each in seen.statuses.values())
    return {
        "num": total,
        "statuses": {kind: dict(sorted(each.items())) for kind, each in seen.statuses.items()},
        "longest_s": {kind: round(each, 3) for kind, each in seen.longest.items()},
        "health_longest_s": round(max(seen.health_s, default=0.0), 3),
        "slow": seen.slow[:20],
        "failures": seen.failures[:20],
    }


def violations(result: dict[str, Any]) -> list[str]:
    """What does not hold."""
    found = []
    if requests := result.get("requests"):
        checks = {
            "a status of 500 or more": bool(requests["failures"]),
            "a request took longer than 5 s": bool(requests["slow"]),
            "an honest client waited": requests["health_longest_s"] > LONGEST_S,
            "a traceback in a log": any(each["tracebacks"] for each in requests["servers"]),
            "something is left": any(any(e["left"].values()) for e in requests["servers"]),
            "a server is not well": any(each["status"] != "ok" for each in requests["servers"]),
        }
        found += [name for name, is_violated in checks.items() if is_violated]
    return found + result.get("files", {}).get("violations", [])


if __name__ == "__main__":
    main()
