"""Who is written next. No model, no HTTP."""

from __future__ import annotations

import pytest

from nlakit.engines.base import Sampling
from nlakit.serve.clients import Client, Turns, network_of
from nlakit.serve.queue import (
    Busy,
    FairQueue,
    Outcome,
    ScoredSample,
    Ticket,
    Unavailable,
)

GREEDY = Sampling()
SAMPLE = ScoredSample("a", True, 0.1, 0.9, 0.8)


def named(client: str) -> Client:
    """A client of its own address; `a1` and `a2` share one."""
    return Client(client[0], client[1:])


def started(queue: FairQueue, client: str, num_rows: int, sampling: Sampling = GREEDY):
    job = queue.open(named(client), num_rows)
    queue.start(job, [None] * num_rows, sampling, range(num_rows))
    return job


def clients(tickets: list[Ticket]) -> str:
    return "".join(ticket.job.client.address for ticket in tickets)


def test_clients_take_turns():
    queue = FairQueue(max_rows=7, max_requests=9, max_unfinished_rows=999)
    for client, rows in (("a", 500), ("b", 2), ("c", 1)):
        started(queue, client, rows)
    assert clients(queue.take(0)) == "abcabaa"


def test_turns_go_on_where_they_stopped():
    queue = FairQueue(max_rows=2, max_requests=9, max_unfinished_rows=999)
    for client in "abc":
        started(queue, client, 4)
    assert clients(queue.take(0)) == "ab"
    assert clients(queue.take(0)) == "ca"


def test_requests_of_one_client_take_turns_too():
    queue = FairQueue(max_rows=4, max_requests=9, max_unfinished_rows=999)
    first, second = started(queue, "a", 9), started(queue, "a", 9)
    assert [ticket.job for ticket in queue.take(0)] == [first, second, first, second]


def test_a_free_place_goes_to_whom_has_the_fewest():
    queue = FairQueue(max_rows=8, max_requests=99, max_unfinished_rows=999)
    big = started(queue, "a", 500)
    queue.take(0)
    queue.take(7)
    for client in "bcd":
        started(queue, client, 3)
    for _ in range(6):
        queue.left(Ticket(big, 0, 0))
    # "a" has one left: it is its turn again when the others have one too.
    assert clients(queue.take(1)) == "bcdabc"


def test_a_request_that_waits_does_not_stand_behind_others_of_its_client():
    queue = FairQueue(max_rows=4, max_requests=99, max_unfinished_rows=999)
    first = started(queue, "a", 9)
    queue.take(0)
    small = started(queue, "a", 1)
    queue.left(Ticket(first, 0, 0))
    assert [ticket.job for ticket in queue.take(3)] == [small]


def test_calls_take_turns_too():
    turns: Turns[int] = Turns()
    for client, item in (("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5)):
        turns.push(named(client), item)
    assert len(turns) == 5
    assert [turns.pop() for _ in range(5)] == [1, 4, 5, 2, 3]
    assert not turns


def test_addresses_take_turns_before_the_names_at_them_do():
    turns: Turns[int] = Turns()
    for client, item in (("a1", 1), ("a2", 2), ("a3", 3), ("a1", 4), ("b1", 5), ("b1", 6)):
        turns.push(named(client), item)
    assert turns.waiting(named("a1")) == 2 and turns.waiting(named("c1")) == 0
    assert [turns.pop() for _ in range(6)] == [1, 5, 2, 6, 3, 4]


def test_invented_names_take_no_places_from_another_address():
    queue = FairQueue(max_rows=8, max_requests=99, max_unfinished_rows=999)
    for number in range(9):
        started(queue, f"a{number}", 9)
    started(queue, "b", 9)
    assert sorted(clients(queue.take(0))) == list("aaaaabbb")  # the last one is kept for newcomers


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_an_address_stands_for_what_its_owner_cannot_choose(host, network):
    assert network_of(host) == network


def test_some_places_are_kept_for_newcomers():
    queue = FairQueue(max_rows=16, max_requests=9, max_unfinished_rows=999)
    big = started(queue, "a", 500)
    assert len(queue.take(0)) == 14 and queue.take(14) == []
    small = started(queue, "a", 1)
    assert [ticket.job for ticket in queue.take(14)] == [small]
    queue.left(Ticket(big, 0, 0))
    assert queue.take(14) == []  # still the two last places
    assert [ticket.job for ticket in queue.take(13)] == [big]


def test_places_come_in_the_order_asked_for():
    queue = FairQueue(max_rows=9, max_requests=9, max_unfinished_rows=999)
    job = queue.open(named("a"), 3)
    queue.start(job, [None] * 3, Sampling(samples=2, temperature=1.0), [2, 0])
    assert [ticket[1:] for ticket in queue.take(0)] == [(2, 0), (2, 1), (0, 0), (0, 1)]


def test_a_full_queue_says_when_to_come_back():
    queue = FairQueue(max_rows=10, max_requests=4, max_unfinished_rows=40)
    queue.row_seconds = 2.0
    job = started(queue, "a", 40)
    with pytest.raises(Busy, match="40 explanations") as refusal:
        queue.open(named("b"), 21)
    assert refusal.value.retry_after == 10  # four rounds wait, and its own
    for client in "bcd":
        queue.open(named(client), 0)
    with pytest.raises(Busy, match="4 requests are open"):
        queue.open(named("e"), 0)
    queue.close(job)
    assert queue.open(named("c"), 40).num_rows == 40


def test_a_full_queue_takes_everybodys_share():
    queue = FairQueue(max_rows=8, max_requests=99, max_unfinished_rows=40)
    started(queue, "a", 20)
    started(queue, "b", 20)
    started(queue, "c1", 1)
    assert queue.num_unfinished == 41
    with pytest.raises(Busy, match="41 explanations"):
        queue.open(named("a"), 1)
    assert queue.open(named("c1"), 12).num_rows == 12
    with pytest.raises(Busy):
        queue.open(named("c1"), 1)


def test_finished_rows_do_not_count_however_long_their_answer_is_read():
    queue = FairQueue(max_rows=8, max_requests=99, max_unfinished_rows=8)
    job = started(queue, "a", 8)
    tickets = [*queue.take(0), *queue.take(7)]
    with pytest.raises(Busy):
        queue.open(named("a"), 1)
    for ticket in tickets:
        queue.left(ticket, 1.0)
        job.tell_sample(ticket, SAMPLE)
    assert queue.num_open == 1 and queue.num_unfinished == 8 - len(tickets)
    assert queue.open(named("a"), len(tickets)).num_rows == len(tickets)


def test_samples_that_are_all_the_same_count_once():
    queue = FairQueue(max_rows=8, max_requests=99, max_unfinished_rows=8)
    job = queue.open(named("a"), 32)
    assert queue.num_unfinished == 32
    queue.start(job, [None] * 2, Sampling(samples=16), range(2))
    assert queue.num_unfinished == 2


def test_one_address_or_one_client_does_not_have_all_requests():
    queue = FairQueue(max_rows=8, max_requests=8, max_unfinished_rows=999)
    for number in (1, 1, 1, 1, 2, 3):
        queue.open(named(f"a{number}"), 0)
    with pytest.raises(Busy, match="6 requests from this address"):
        queue.open(named("a4"), 0)
    queue.open(named("b1"), 0)
    queue.close(queue._open[6])
    with pytest.raises(Busy, match="4 requests of this client"):
        queue.open(named("a1"), 0)
    assert queue.open(named("a4"), 0).number == 8


def test_a_request_larger_than_the_bound_is_taken_when_nothing_else_waits():
    queue = FairQueue(max_rows=2, max_requests=2, max_unfinished_rows=5)
    assert queue.open(named("a"), 50).number == 1


def test_closing_forgets_what_waits():
    queue = FairQueue(max_rows=2, max_requests=9, max_unfinished_rows=99)
    job = started(queue, "a", 9)
    queue.take(0)
    queue.close(job)
    queue.close(job)
    assert (queue.num_waiting, queue.num_open, queue.take(0)) == (0, 0, [])
    late = queue.open(named("b"), 1)
    queue.close(late)
    queue.start(late, [None], GREEDY, [0])
    assert queue.num_waiting == 0


def test_position_counts_requests_without_a_row():
    queue = FairQueue(max_rows=1, max_requests=9, max_unfinished_rows=99)
    jobs = [started(queue, client, 2) for client in "abc"]
    queue.take(0)
    assert [queue.position(job) for job in jobs] == [0, 1, 2]
    queue.close(jobs[1])
    assert queue.position(jobs[2]) == 1


def test_a_place_ends_with_its_last_sample():
    queue = FairQueue(max_rows=9, max_requests=9, max_unfinished_rows=99)
    job = started(queue, "a", 1, Sampling(samples=2, temperature=1.0))
    job.tell_progress(0, "<explanation>a")
    assert job.news() == ({0: "<explanation>a"}, [], None)
    job.tell_sample(Ticket(job, 0, 1), SAMPLE._replace(text="second"))
    assert job.news() == ({}, [], None)
    job.tell_sample(Ticket(job, 0, 0), SAMPLE._replace(text="first"))
    progress, (outcome,), _ = job.news()
    assert progress == {}
    assert [sample.text for sample in outcome.samples] == ["first", "second"]


def test_the_last_words_are_told_with_the_outcome():
    queue = FairQueue(max_rows=9, max_requests=9, max_unfinished_rows=99)
    job = started(queue, "a", 1)
    (ticket,) = queue.take(0)
    job.tell_progress(0, "<explanation>a</explanation>")
    job.tell_sample(ticket, SAMPLE)
    assert job.news()[0] == {0: "<explanation>a</explanation>"}
    job.tell_progress(0, "half")
    job.tell_error(0, "broken")
    assert job.news()[0] == {}


def test_greedy_samples_are_one_row():
    queue = FairQueue(max_rows=9, max_requests=9, max_unfinished_rows=99)
    job = started(queue, "a", 1, Sampling(samples=3))
    (ticket,) = queue.take(0)
    job.tell_sample(ticket, SAMPLE)
    assert job.news()[1] == [Outcome(0, (SAMPLE,) * 3)]


def test_a_failed_place_ends_once():
    queue = FairQueue(max_rows=9, max_requests=9, max_unfinished_rows=99)
    job = started(queue, "a", 2, Sampling(samples=2, temperature=1.0))
    job.tell_error(0, "first")
    job.tell_error(0, "second")
    assert job.news()[1] == [Outcome(0, error="first")]
    assert [ticket.place for ticket in queue.take(0)] == [1, 1]


def test_a_stopped_queue_takes_nothing_in_and_tells_all():
    queue = FairQueue(max_rows=9, max_requests=9, max_unfinished_rows=99)
    job = started(queue, "a", 2)
    queue.stop("closing", fail_open=True)
    assert job.news()[2] == "closing"
    with pytest.raises(Unavailable, match="closing"):
        queue.open(named("b"), 1)
