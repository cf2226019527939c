"""The client for event loops: many requests at once, as many as were allowed, none left behind."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from nlakit import AsyncRemotePair
from nlakit.errors import InputError, RemoteError
from nlakit.reading import Reading


class FakePair:
    """Answers, where there is a gate when it opens; counts who waits."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate, self.lock = gate, threading.Lock()
        self.asked: list[str] = []
        self.inside = self.most = 0

    def explain(self, text: str, **fields: Any) -> Reading:
        with self.lock:
            self.asked.append(text)
            self.inside += 1
            self.most = max(self.most, self.inside)
        if self.gate is not None:
            self.gate.wait()
        with self.lock:
            self.inside -= 1
        if text == "bad":
            raise RemoteError("refused")
        return Reading(text=f"{text} {fields}", tokens=(), nla="fake")

    describe = explain


async def collected(
    pair: AsyncRemotePair, texts: list[str], **fields: Any
) -> dict[int, str | None]:
    return {number: each.text async for number, each in pair.explain_many(texts, **fields)}


def test_every_text_has_its_reading_by_number():
    async def go() -> None:
        async with AsyncRemotePair(FakePair(), concurrency=3) as pair:
            found = await collected(pair, ["a", "b", "c", "d"], last=1)
            assert found == {n: f"{text} {{'last': 1}}" for n, text in enumerate("abcd")}
            assert (await pair.describe("v")).text == "v {}"

    asyncio.run(go())


def test_no_more_requests_are_in_flight_than_were_allowed_and_the_loop_goes_on():
    gate = threading.Event()
    fake = FakePair(gate)

    async def go() -> None:
        async with AsyncRemotePair(fake, concurrency=2) as pair:
            task = asyncio.create_task(collected(pair, ["a", "b", "c", "d", "e"]))
            while fake.inside < 2:  # the loop runs while two threads wait
                await asyncio.sleep(0)
            gate.set()
            assert len(await task) == 5

    asyncio.run(go())
    assert fake.most == 2


def test_a_failure_is_raised_and_what_waits_is_not_asked():
    fake = FakePair()

    async def go() -> None:
        async with AsyncRemotePair(fake, concurrency=1) as pair:
            with pytest.raises(RemoteError, match="refused"):
                await collected(pair, ["bad", *"abcdefgh"])

    asyncio.run(go())
    assert fake.asked[0] == "bad"


def test_nobody_asks_for_less_than_one_at_once():
    with pytest.raises(InputError, match="concurrency"):
        AsyncRemotePair(FakePair(), concurrency=0)
