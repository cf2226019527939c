"""Load on a running server: many clients, some leaving or sending garbage, and who waits for whom.

    python benchmarks/serve_load.py --nla DIR --clients 50 --seconds 60

Starts `nlakit serve` on a free port of this machine (or takes `--url`) and prints one JSON object:
what a client with one position waits alone, beside a request of 500 positions, and under the whole
load; the statuses; the time to the first words; and whether the server comes to rest afterwards.
The exit status is 1 where one of these does not hold, and `violations` says which:

- no answer has a status of 500 or more, and no stream ends without its `[DONE]`;
- afterwards no row, no waiting row and no request is left;
- beside the large request a single position takes (p95) a quarter of its time at the most;
- under load the first words of a single position come (p95) within twice the time of the others'.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

LEAVING, GARBAGE = 1 / 3, 0.1
TIMEOUT_S = 120
REST_S = 15
MIN_SAMPLES = 30
LONGEST = 3
"""The load goes on, for so many times its seconds at most, until the samples are enough."""
FAIR_SHARE, FAIR_FACTOR = 0.25, 2
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
class Waits:
    """Seconds that single positions took: to their first words, and to their end."""

    first_words: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    first_words: list[float] = field(default_factory=list)
    lonely: Waits = field(default_factory=Waits)
    large_s: list[float] = field(default_factory=list)
    finished: int = 0
    left: int = 0
    cut_short: int = 0
    explanations: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def main() -> None:
    """Run the load and print what came of it."""
    options = parse_arguments()
    with server_at(options) as url:
        result = asyncio.run(measure(url, options))
    result["violations"] = violations(result)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["violations"] else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="a server that runs already, on this machine")
    parser.add_argument("--nla", default="bundled", help="directory of the NLA to serve")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--positions", type=int, default=500, help="asked for by the large client")
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


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """One position alone, beside hundreds, under the whole load; then a look at what is left."""
    limits = httpx2.Limits(max_connections=options.clients + 8)
    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as http:
        alone, beside, loaded = Tally(), Tally(), Tally()
        await lonely(http, Tally(), options, 3)  # what is made at first use is no wait of anybody's
        await lonely(http, alone, options, MIN_SAMPLES)
        await beside_large(http, beside, options)
        await load(http, loaded, options)
        after = await resting(http)
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "positions": options.positions,
        "alone": waits(alone.lonely),
        "beside_large": {**waits(beside.lonely), "large_s": round(beside.large_s[0], 3)},
        "load": report(loaded),
        "after": after,
    }


async def beside_large(http: httpx2.AsyncClient, tally: Tally, options: argparse.Namespace) -> None:
    """One position at a time, while another client always has a request of hundreds running."""
    done = asyncio.Event()
    hundreds = asyncio.ensure_future(large(http, tally, options, done.is_set))
    await asyncio.sleep(1)
    await lonely(http, tally, options, MIN_SAMPLES)
    done.set()
    await hundreds


async def load(http: httpx2.AsyncClient, tally: Tally, options: argparse.Namespace) -> None:
    """All clients at once, until the time is over and the single positions are enough."""
    started = time.monotonic()

    def is_over() -> bool:
        seconds = time.monotonic() - started
        enough = len(tally.lonely.whole) >= MIN_SAMPLES
        return seconds > options.seconds * (1 if enough else LONGEST)

    plain = [ordinary(http, tally, number, options, is_over) for number in range(options.clients)]
    hundreds = asyncio.ensure_future(large(http, tally, options, is_over))
    one = asyncio.ensure_future(lonely(http, tally, options, None, is_over))
    await asyncio.gather(*plain, one)
    hundreds.cancel()  # it hangs up in the middle, as some do
    await asyncio.gather(hundreds, return_exceptions=True)


async def ordinary(
    http: httpx2.AsyncClient,
    tally: Tally,
    number: int,
    options: argparse.Namespace,
    is_over: Callable[[], bool],
) -> None:
    """Asks for a few positions again and again; a third leave in the middle, some send garbage."""
    rng, name = random.Random(number), f"ordinary-{number}"
    while not is_over():
        if rng.random() < GARBAGE:
            path, body = rng.choice(GARBAGE_BODIES)
            headers = {"Content-Type": "application/json", "X-Client-Id": name}
            found = await http.post(path, content=body, headers=headers)
            tally.statuses[found.status_code] += 1
            continue
        body = {"text": rng.choice(TEXTS), "positions": rng.sample(range(8), rng.randint(1, 4))}
        leave_after = rng.randint(1, 20) if rng.random() < LEAVING else None
        seconds = await ask(http, tally, name, {**body, **sampling(options)}, leave_after)
        if seconds is not None:
            tally.first_words.append(seconds)


async def large(
    http: httpx2.AsyncClient,
    tally: Tally,
    options: argparse.Namespace,
    is_over: Callable[[], bool],
) -> None:
    """Always has hundreds of positions in the queue; notes how long each request takes."""
    body = {"text": TEXTS[0], "positions": [n % 8 for n in range(options.positions)]}
    while not is_over():
        started = time.monotonic()
        if await ask(http, tally, "large", {**body, **sampling(options)}) is not None:
            tally.large_s.append(time.monotonic() - started)


async def lonely(
    http: httpx2.AsyncClient,
    tally: Tally,
    options: argparse.Namespace,
    most: int | None,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Asks for one position at a time, so many times at most, with a pause between."""
    body = {"text": TEXTS[1], "positions": [-1], **sampling(options)}
    while not is_over() and (most is None or len(tally.lonely.whole) < most):
        started = time.monotonic()
        seconds = await ask(http, tally, "lonely", body)
        if seconds is not None:
            tally.lonely.first_words.append(seconds)
            tally.lonely.whole.append(time.monotonic() - started)
        await asyncio.sleep(0.2)


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """What all streams share."""
    return {"stream": True, "max_new_tokens": options.max_new_tokens, "temperature": 1.0}


async def ask(
    http: httpx2.AsyncClient,
    tally: Tally,
    client: str,
    body: dict[str, Any],
    leave_after: int | None = None,
) -> float | None:
    """One stream; returns the seconds to its first words. Leaving means hanging up."""
    started, first, frames, ended = time.monotonic(), None, 0, False
    headers = {"X-Client-Id": client}
    async with http.stream("POST", "/explain", json=body, headers=headers) as found:
        tally.statuses[found.status_code] += 1
        if found.status_code != 200:
            await asyncio.sleep(min(5, int(found.headers.get("Retry-After", 1))))
            return None
        async for line in found.aiter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                frames += 1
                seconds = look(tally, json.loads(line[6:]), started)
                first = seconds if first is None else first
                if leave_after is not None and frames >= leave_after:
                    tally.left += 1
                    return first
    tally.finished += ended
    tally.cut_short += not ended
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


def report(tally: Tally) -> dict[str, Any]:
    """The numbers of the load."""
    return {
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "streams_finished": tally.finished,
        "streams_left": tally.left,
        "streams_cut_short": tally.cut_short,
        "explanations": tally.explanations,
        "errors": dict(tally.errors),
        "first_words_s": spread(tally.first_words),
        "one_position": waits(tally.lonely),
    }


def violations(result: dict[str, Any]) -> list[str]:
    """What does not hold of what the server promises."""
    loaded, beside = result["load"], result["beside_large"]
    one, large_s = loaded["one_position"], beside["large_s"]
    samples = [result["alone"]["num"], beside["num"], one["num"], loaded["first_words_s"]["num"]]
    if min(samples) < MIN_SAMPLES:
        return [f"fewer than {MIN_SAMPLES} samples: {samples}"]
    checks = {
        "a status of 500 or more": any(int(status) >= 500 for status in loaded["statuses"]),
        "a stream without its end": loaded["streams_cut_short"] > 0,
        "rows or requests are left": any(result["after"].values()),
        "a single position waits for the large request": beside["whole_s"]["p95"]
        > FAIR_SHARE * large_s,
        "under load a single position waits longer than others": one["first_words_s"]["p95"]
        > FAIR_FACTOR * loaded["first_words_s"]["p95"],
    }
    return [name for name, is_violated in checks.items() if is_violated]


def waits(of: Waits) -> dict[str, Any]:
    """How long single positions took."""
    return {
        "num": len(of.whole),
        "first_words_s": spread(of.first_words),
        "whole_s": spread(of.whole),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    if len(seconds) < 2:
        return {"num": len(seconds)}
    cuts = statistics.quantiles(seconds, n=20)
    return {"num": len(seconds), "p50": round(cuts[9], 3), "p95": round(cuts[18], 3)}


if __name__ == "__main__":
    main()
