"""Load on a running server: many clients, some of whom leave or send garbage.

    python benchmarks/serve_load.py --nla DIR --clients 50 --seconds 60

Starts `nlakit serve` on a free port of this machine (or takes `--url`), lets the clients ask for
streams, and prints one JSON object: statuses, time to the first words, what a client with one
position waits while another asks for hundreds, and whether the server comes to rest afterwards.
The exit status is 1 where a 5xx was seen or a row or request leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

LEAVING, GARBAGE = 1 / 3, 0.1
TIMEOUT_S = 120
REST_S = 15
TEXTS = (
    "The old boat came home before the storm, and nobody said a word.",
    "Kasper had 8 songs. Kasper got 5 songs, and that made",
    "the rose shone like a night patrol near the rain, and the grim lamp wept.",
)
GARBAGE_BODIES: tuple[tuple[str, bytes], ...] = (
    ("/explain", b"{"),
    ("/explain", b'{"text": "a", "positions": [99999]}'),
    ("/describe", b'{"activations": [[NaN]]}'),
    ("/v1/explain", b'{"messages": [{"role": 3}]}'),
    ("/completion", b'{"text": "a", "completion_tokens": -1}'),
    ("/v1/describe", b"\x80\x04garbage"),
)
GAUGE = re.compile(r"^nlakit_(rows_active|rows_waiting|requests_open) (\S+)$", re.MULTILINE)


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    first_words: list[float] = field(default_factory=list)
    lonely: list[float] = field(default_factory=list)
    finished: int = 0
    left: int = 0
    explanations: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def main() -> None:
    """Run the load and print what came of it."""
    options = parse_arguments()
    with server_at(options) as url:
        result = asyncio.run(load(url, options))
    print(json.dumps(result, indent=2))
    rest = result["after"]
    if any(int(status) >= 500 for status in result["statuses"]) or any(rest.values()):
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="a server that runs already, on this machine")
    parser.add_argument("--nla", default="bundled", help="directory of the NLA to serve")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--positions", type=int, default=200, help="asked for by the large client")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    return parser.parse_args()


@contextmanager
def server_at(options: argparse.Namespace) -> Iterator[str]:
    """The address of a server, of our own where none was given."""
    if options.url:
        yield options.url
        return
    with tempfile.TemporaryDirectory() as data:
        environment = {**os.environ, "NLAKIT_DATA_DIR": data}
        command = [sys.executable, "-m", "nlakit", "serve", "--port", "0", "--no-browser"]
        command += ["--nla", options.nla]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().strip()
            finally:
                process.terminate()


async def load(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """All clients at once, then a look at what is left."""
    tally, end = Tally(), time.monotonic() + options.seconds
    limits = httpx2.Limits(max_connections=options.clients + 8)
    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as http:
        plain = [ordinary(http, tally, end, number, options) for number in range(options.clients)]
        special = [large(http, tally, end, options), lonely(http, tally, end, options)]
        await asyncio.gather(*plain, *special)
        after = await resting(http)
    return report(tally, after, options)


async def ordinary(
    http: httpx2.AsyncClient, tally: Tally, end: float, number: int, options: argparse.Namespace
) -> None:
    """Asks for a few positions again and again; a third leave in the middle, some send garbage."""
    rng = random.Random(number)
    while time.monotonic() < end:
        if rng.random() < GARBAGE:
            path, body = rng.choice(GARBAGE_BODIES)
            headers = {"Content-Type": "application/json"}
            found = await http.post(path, content=body, headers=headers)
            tally.statuses[found.status_code] += 1
            continue
        body = {"text": rng.choice(TEXTS), "positions": rng.sample(range(8), rng.randint(1, 4))}
        leave_after = rng.randint(1, 20) if rng.random() < LEAVING else None
        seconds = await ask(http, tally, {**body, **sampling(options)}, leave_after)
        if seconds is not None:
            tally.first_words.append(seconds)


async def large(
    http: httpx2.AsyncClient, tally: Tally, end: float, options: argparse.Namespace
) -> None:
    """Always has hundreds of positions in the queue."""
    while time.monotonic() < end:
        body = {"text": TEXTS[0], "positions": [n % 8 for n in range(options.positions)]}
        left = max(1.0, end - time.monotonic())
        try:
            async with asyncio.timeout(left):
                await ask(http, tally, {**body, **sampling(options)}, None)
        except TimeoutError:
            tally.left += 1


async def lonely(
    http: httpx2.AsyncClient, tally: Tally, end: float, options: argparse.Namespace
) -> None:
    """Asks for one position at a time, with a pause between."""
    while time.monotonic() < end:
        body = {"text": TEXTS[1], "positions": [-1], **sampling(options)}
        seconds = await ask(http, tally, body, None)
        if seconds is not None:
            tally.lonely.append(seconds)
        await asyncio.sleep(0.2)


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """What all streams share."""
    return {"stream": True, "max_new_tokens": options.max_new_tokens, "temperature": 1.0}


async def ask(
    http: httpx2.AsyncClient, tally: Tally, body: dict[str, Any], leave_after: int | None
) -> float | None:
    """One stream; returns the seconds to its first words. Leaving means hanging up."""
    started, first, frames = time.monotonic(), None, 0
    async with http.stream("POST", "/explain", json=body) as found:
        tally.statuses[found.status_code] += 1
        if found.status_code != 200:
            await asyncio.sleep(min(5, int(found.headers.get("Retry-After", 1))))
            return None
        async for line in found.aiter_lines():
            if line == "data: [DONE]":
                tally.finished += 1
            elif line.startswith("data: "):
                frames += 1
                seconds = look(tally, json.loads(line[6:]), started)
                first = seconds if first is None else first
                if leave_after is not None and frames >= leave_after:
                    tally.left += 1
                    break
    return first


def look(tally: Tally, frame: dict[str, Any], started: float) -> float | None:
    """Count a frame; the seconds, if it holds words."""
    if "error" in frame:
        tally.errors[frame["error"]] += 1
    tally.explanations += "description" in frame
    holds_words = "description" in frame or frame.get("done") is False
    return time.monotonic() - started if holds_words else None


async def resting(http: httpx2.AsyncClient) -> dict[str, float]:
    """The server's gauges once they are zero, or after a while."""
    deadline = time.monotonic() + REST_S
    while True:
        text = (await http.get("/metrics")).text
        gauges = {name: float(value) for name, value in GAUGE.findall(text)}
        if not any(gauges.values()) or time.monotonic() > deadline:
            return gauges
        await asyncio.sleep(0.1)


def report(tally: Tally, after: dict[str, float], options: argparse.Namespace) -> dict[str, Any]:
    """The numbers to be stated."""
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "streams_finished": tally.finished,
        "streams_left": tally.left,
        "explanations": tally.explanations,
        "errors": dict(tally.errors),
        "first_words_s": spread(tally.first_words),
        "one_position_beside_hundreds_s": spread(tally.lonely),
        "after": after,
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    if len(seconds) < 2:
        return {"num": len(seconds)}
    cuts = statistics.quantiles(seconds, n=20)
    return {"num": len(seconds), "p50": round(cuts[9], 3), "p95": round(cuts[18], 3)}


if __name__ == "__main__":
    main()
