"""Load on a running server: many clients, some leaving or sending garbage, and who waits for whom.

    python -m benchmarks.serve_load --nla DIR --clients 50 --seconds 60 --rounds 3 --output FILE

Starts `nlakit serve` on a free port of this machine and prints one JSON object: what a client with
one position waits alone, beside a request of 500 positions, beside two clients that always ask for
512 positions in 16 samples each, and under the whole load, several times over; the statuses; the
time to the first words; memory and descriptors; whether the server comes to rest afterwards. The
exit status is 1 where one of these does not hold, and `violations` says which:

- no answer has a status of 500 or more, no stream ends without its `[DONE]`, no log a traceback;
- after each round no row, no waiting row and no request is left;
- from the first round to the last, memory and descriptors do not grow;
- beside the large request a single position takes (p95) a quarter of its time at the most;
- beside the two largest requests it takes (p95) 3 s, and is never told 429;
- under load the first words of a single position come (p95) within twice the time of the others'.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.served import Served, serve

LEAVING, GARBAGE = 1 / 3, 0.1
TIMEOUT_S = 120
REST_S = 15
LONGEST = 3
"""The load goes on, for so many times its seconds at most, until the samples are enough."""
FAIR_SHARE, FAIR_FACTOR = 0.25, 2
LARGEST_POSITIONS, LARGEST_SAMPLES = 512, 16
BESIDE_LARGEST_S = 3.0
GROWTH_MB, GROWTH_DESCRIPTORS = 64, 8
"""What may be between the first round and the last: allocators keep some, connections rest."""
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
    with serve(options.nla, "--max-rows", str(options.max_rows)) as server:
        result = asyncio.run(measure(server, options))
        result["tracebacks"], result["log_bytes"] = server.tracebacks(), server.log_bytes()
    result["violations"] = violations(result)
    save(result, options.output)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["violations"] else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nla", default="bundled", help="name or directory of the NLA to serve")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=30, help="of single positions, at least")
    parser.add_argument("--positions", type=int, default=500, help="asked for by the large client")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--max-rows", type=int, default=64)
    parser.add_argument("--output", type=Path, help="file for the figures, written as they come")
    return parser.parse_args()


def save(result: dict[str, Any], output: Path | None) -> None:
    """Keep what there is so far."""
    if output is not None:
        output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


async def measure(server: Served, options: argparse.Namespace) -> dict[str, Any]:
    """One position alone, beside hundreds, beside thousands, under the whole load."""
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    limits = httpx2.Limits(max_connections=options.clients + 8)
    async with httpx2.AsyncClient(base_url=server.url, timeout=TIMEOUT_S, limits=limits) as http:
        alone, beside, largest = Tally(), Tally(), Tally()
        names = ("clients", "seconds", "positions", "samples")
        result: dict[str, Any] = {name: getattr(options, name) for name in names}
        await lonely(http, Tally(), options, 3)  # what is made at first use is no wait of anybody's
        say("alone")
        await lonely(http, alone, options, options.samples)
        result["alone"] = waits(alone.lonely)
        say("beside a large request")
        await beside_large(http, beside, options)
        result["beside_large"] = {**waits(beside.lonely), "large_s": round(beside.large_s[0], 3)}
        say("beside the largest requests")
        await beside_largest(http, largest, options)
        result["beside_largest"] = {**waits(largest.lonely), "refused": largest.statuses[429]}
        save(result, options.output)
        result["rounds"] = []
        for number in range(options.rounds):
            say(f"under load, round {number + 1}")
            result["rounds"].append(await one_round(http, server, options))
            save(result, options.output)
    return result


async def one_round(
    http: httpx2.AsyncClient, server: Served, options: argparse.Namespace
) -> dict[str, Any]:
    """The whole load once, and what is left of it."""
    loaded = Tally()
    await load(http, loaded, options)
    left = await resting(http)
    return {"load": report(loaded), "after": left, "usage": server.usage()}


async def beside_largest(
    http: httpx2.AsyncClient, tally: Tally, options: argparse.Namespace
) -> None:
    """One position at a time, while two clients always ask for all that one request may."""
    done = asyncio.Event()
    others = [
        asyncio.ensure_future(largest(http, f"largest-{number}", options, done))
        for number in range(2)
    ]
    await asyncio.sleep(3)
    await lonely(http, tally, options, options.samples)
    done.set()
    for other in others:
        other.cancel()  # they hang up in the middle
    await asyncio.gather(*others, return_exceptions=True)
    await resting(http)


async def largest(
    http: httpx2.AsyncClient, name: str, options: argparse.Namespace, done: asyncio.Event
) -> None:
    """One client that asks for all positions and samples there may be, again and again."""
    positions = [number % 8 for number in range(LARGEST_POSITIONS)]
    body = {"text": TEXTS[0], "positions": positions, **sampling(options)}
    body |= {"samples": LARGEST_SAMPLES, "stream": False}
    while not done.is_set():
        headers = {"X-Client-Id": name}
        await http.post("/v1/explain", json=body, headers=headers, timeout=None)


async def beside_large(http: httpx2.AsyncClient, tally: Tally, options: argparse.Namespace) -> None:
    """One position at a time, while another client always has a request of hundreds running."""
    done = asyncio.Event()
    hundreds = asyncio.ensure_future(large(http, tally, options, done.is_set))
    await asyncio.sleep(1)
    await lonely(http, tally, options, options.samples)
    done.set()
    await hundreds


async def load(http: httpx2.AsyncClient, tally: Tally, options: argparse.Namespace) -> None:
    """All clients at once, until the time is over and the single positions are enough."""
    started = time.monotonic()

    def is_over() -> bool:
        seconds = time.monotonic() - started
        enough = len(tally.lonely.whole) >= options.samples
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
    beside, largest_ones = result["beside_large"], result["beside_largest"]
    rounds, wanted = result["rounds"], result["samples"]
    samples = [result["alone"]["num"], beside["num"], largest_ones["num"]]
    samples += [each["load"]["one_position"]["num"] for each in rounds]
    if min(samples) < wanted:
        return [f"fewer than {wanted} samples: {samples}"]
    first, last = rounds[0]["usage"], rounds[-1]["usage"]
    checks = {
        "a traceback in the log": result["tracebacks"] > 0,
        "a single position waits for the large request": beside["whole_s"]["p95"]
        > FAIR_SHARE * beside["large_s"],
        "a single position waits for the largest requests": largest_ones["whole_s"]["p95"]
        > BESIDE_LARGEST_S,
        "a single position is refused beside the largest requests": largest_ones["refused"] > 0,
        "memory grows": grown(first, last, "resident_mb") > GROWTH_MB,
        "descriptors grow": grown(first, last, "descriptors") > GROWTH_DESCRIPTORS,
    }
    found = [name for name, is_violated in checks.items() if is_violated]
    return found + sorted({name for each in rounds for name in violations_of(each)})


def violations_of(each: dict[str, Any]) -> list[str]:
    """What does not hold of one round."""
    loaded = each["load"]
    one = loaded["one_position"]
    checks = {
        "a status of 500 or more": any(int(status) >= 500 for status in loaded["statuses"]),
        "a stream without its end": loaded["streams_cut_short"] > 0,
        "rows or requests are left": any(each["after"].values()),
        "under load a single position waits longer than others": one["first_words_s"]["p95"]
        > FAIR_FACTOR * loaded["first_words_s"]["p95"],
    }
    return [name for name, is_violated in checks.items() if is_violated]


def grown(first: dict[str, float], last: dict[str, float], name: str) -> float:
    """By how much a figure is higher at the end than after the first round."""
    return last.get(name, 0.0) - first.get(name, 0.0)


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
