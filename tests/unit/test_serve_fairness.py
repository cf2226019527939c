"""What a small request waits for beside a large one, counted in rounds of the runner: no clock."""

from __future__ import annotations

import pytest
import torch
from support.serving import D_MODEL, ScriptedEngine, ScriptedSession, scripted_nla

from nlakit.engines.base import Sampling
from nlakit.serve.clients import Client
from nlakit.serve.metrics import Metrics
from nlakit.serve.queue import FairQueue, Job
from nlakit.serve.runner import CALLS_S, Runner


def run_by_hand(monkeypatch, seconds_a_round: float = 0.02):
    """A runner without its thread, and a function that does one round and moves the clock."""
    clock = [1.0]
    monkeypatch.setattr("nlakit.serve.runner.now", lambda: clock[0])
    engine = ScriptedEngine(words=lambda row: "w " * 30)
    queue = FairQueue(max_rows=64, max_requests=128, max_unfinished_rows=16_384)
    runner = Runner(scripted_nla(engine), queue, Metrics())

    def one_round(times: int = 1) -> None:
        for _ in range(times):
            runner._round()
            clock[0] += seconds_a_round

    return runner, one_round, clock


def ask_for(runner: Runner, client: Client, num_rows: int) -> Job:
    job = runner.queue.open(client, num_rows, watched=True)
    runner.queue.start(job, torch.ones(num_rows, D_MODEL), Sampling(), range(num_rows))
    return job


def rounds_until_answered(job: Job, one_round) -> tuple[int, int]:
    """Rounds to a request's first words, and to its end."""
    first = 0
    for number in range(1, 100):
        one_round()
        progress, outcomes, _ = job.news()
        if progress and not first:
            first = number
        if outcomes:
            return first, number
    raise AssertionError("never answered")


@pytest.mark.parametrize("click", [Client("a", "click"), Client("b", "click")])
def test_a_click_takes_no_more_steps_while_500_positions_of_another_client_run(monkeypatch, click):
    runner, one_round, _ = run_by_hand(monkeypatch)
    idle = rounds_until_answered(ask_for(runner, click, 1), one_round)
    large = ask_for(runner, Client("a", "all"), 500)
    one_round(3)
    assert len(runner._batches) == 56 and runner.queue.num_waiting == 444
    busy = rounds_until_answered(ask_for(runner, click, 1), one_round)
    assert busy == idle and busy[0] == 1
    assert large.num_unfinished > 400


def test_a_click_is_written_in_the_time_of_a_few_steps_of_a_large_batch(monkeypatch):
    """On a CPU a step takes the longer the more rows it has; here a millisecond a row."""
    runner, one_round, clock = run_by_hand(monkeypatch, seconds_a_round=0.0)
    step = ScriptedSession.step

    def timed(session: ScriptedSession) -> None:
        clock[0] += 0.001 * len(session.rows)
        step(session)

    monkeypatch.setattr(ScriptedSession, "step", timed)
    large = ask_for(runner, Client("a", "all"), 500)
    one_round(3)
    started, tokens = clock[0], sum(len(row.ids) for row in runner._batches.rows)
    first, answered = rounds_until_answered(ask_for(runner, Client("b", "click"), 1), one_round)
    assert first == 1 and answered <= 2  # 30 words alone would be 30 rounds
    assert clock[0] - started <= answered * 2 * 0.056 + 0.001  # and half of the time at most
    assert sum(len(row.ids) for row in runner._batches.rows) == tokens + 56 * answered
    assert large.num_unfinished == 500


@pytest.mark.parametrize(("num_large", "apart"), [(0, 0), (9, 8)])
def test_small_requests_are_apart_from_large_ones_and_else_together(monkeypatch, num_large, apart):
    runner, one_round, _ = run_by_hand(monkeypatch)
    large = [ask_for(runner, Client("a", "all"), num_large)] if num_large else []
    jobs = [ask_for(runner, Client("a", str(number)), 1) for number in range(20)]
    one_round()
    assert runner.engine.most_rows == 20 + num_large - apart
    one_round(40)
    assert all(job.news()[1] for job in [*large, *jobs])


def test_a_small_call_waits_for_one_of_each_other_client(monkeypatch):
    runner, one_round, clock = run_by_hand(monkeypatch)

    def slow() -> None:
        clock[0] += CALLS_S

    others = [runner.call(slow, Client("a", "all")) for _ in range(40)]
    mine = runner.call(lambda: 7, Client("b", "click"))
    one_round(2)
    assert mine.done() and sum(each.done() for each in others) <= 2
