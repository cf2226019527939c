"""Threads beside the event loop: turns, bounds, and what is given up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from nlakit.serve.clients import Client
from nlakit.serve.queue import Busy, Unavailable
from nlakit.serve.workers import Workers

ANN, BOB = Client("ann"), Client("bob")


@pytest.fixture
def workers():
    made = Workers("tests", max_waiting=8)
    yield made
    made.stop()


def test_clients_take_turns_and_errors_belong_to_who_asked(workers):
    order: list[str] = []

    async def ask(client: Client, name: str) -> str:
        def work() -> str:
            order.append(name)
            if name == "a2":
                raise ArithmeticError(name)
            return name

        return await workers.run(client, work)

    async def main() -> list:
        asked = [(ANN, "a1"), (ANN, "a2"), (ANN, "a3"), (BOB, "b1")]
        return await asyncio.gather(*(ask(*each) for each in asked), return_exceptions=True)

    found = asyncio.run(main())
    assert order == ["a1", "a2", "b1", "a3"]
    assert found[0] == "a1" and isinstance(found[1], ArithmeticError) and found[3] == "b1"


def test_one_client_fills_only_its_share(workers):
    async def main() -> None:
        gate = threading.Event()
        tasks = [asyncio.ensure_future(workers.run(ANN, gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)  # one runs, two wait
        with pytest.raises(Busy, match="2 requests wait for tests") as refusal:
            await workers.run(ANN, gate.wait)
        assert refusal.value.retry_after >= 1
        bob = asyncio.ensure_future(workers.run(BOB, lambda: "bob"))
        gate.set()
        assert await asyncio.gather(*tasks, bob) == [True, True, True, "bob"]

    asyncio.run(main())


def test_what_takes_too_long_is_given_up_and_its_thread_waited_for(workers):
    ran = []

    async def main() -> None:
        gate = threading.Event()
        first = asyncio.ensure_future(workers.run(ANN, gate.wait, 0.1))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="longer than 0.05 s"):
            await workers.run(BOB, lambda: ran.append("late"), 0.05)
        with pytest.raises(Unavailable):
            await first
        gate.set()
        assert await workers.run(BOB, lambda: "next") == "next"

    asyncio.run(main())
    assert ran == []


def test_who_leaves_while_it_waits_holds_up_nobody(workers):
    async def main() -> None:
        gate = threading.Event()
        first = asyncio.ensure_future(workers.run(ANN, gate.wait))
        gone = asyncio.ensure_future(workers.run(ANN, lambda: "gone"))
        last = asyncio.ensure_future(workers.run(BOB, lambda: "last"))
        await asyncio.sleep(0)
        gone.cancel()
        gate.set()
        assert await first and await last == "last"

    asyncio.run(main())


def test_stopped_workers_take_nothing(workers):
    workers.stop()
    with pytest.raises(Unavailable, match="shutting down"):
        asyncio.run(workers.run(ANN, lambda: 1))
