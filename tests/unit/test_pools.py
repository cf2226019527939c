"""Pools: what is asked of them wrongly, and what a worker tells. `e2e/test_ray.py` runs Ray."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from nlakit.cli.workers import WorkerOptions
from nlakit.data import pools
from nlakit.data.pools import HERE, Processes, wait_until_seen
from nlakit.data.ray_pool import DEADLY, LOST_AT_MOST, RayPool, _Attempts, _Worker
from nlakit.errors import InputError, MissingExtraError, UserError


def test_one_process_loads_once_and_not_at_all_for_nothing():
    loads, done = [], []

    def load():
        loads.append("tool")
        return "tool"

    assert list(HERE.run(load, lambda tool, job: done.append((tool, job)), [3, 1])) == [3, 1]
    assert done == [("tool", 3), ("tool", 1)] and loads == ["tool"]
    assert list(HERE.run(load, lambda tool, job: None, [])) == [] and loads == ["tool"]


def test_a_ray_worker_tells_what_a_person_can_put_right_and_raises_the_rest():
    loads, errors = [], {0: InputError("vector 7 is not finite"), 2: KeyError("ours")}

    def task(tool, job):
        if job in errors:
            raise errors[job]

    attempts = _Attempts()
    worker = _Worker(lambda: loads.append(1), task, [2, 0, 5], attempts.begin)
    answers = [worker({"job": np.array([number])}) for number in (1, 2)]
    assert [(int(a["job"][0]), a["problem"][0]) for a in answers] == [
        (1, "vector 7 is not finite"),
        (2, ""),
    ]
    assert loads == [1]
    with pytest.raises(KeyError, match="ours"):
        worker({"job": np.array([0])})
    begun = [worker({"job": np.array([2])})["problem"][0] for _ in range(LOST_AT_MOST + 1)]
    assert begun == [*[""] * LOST_AT_MOST, DEADLY]


def test_without_ray_the_install_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nlakit\[ray\]'"):
        list(RayPool(2).run(lambda: None, lambda tool, job: None, [1]))


def test_a_file_that_only_the_worker_sees_is_an_error(tmp_path, monkeypatch):
    answers = iter([False, True])
    monkeypatch.setattr(pools, "SEEN_POLL_S", 0.0)
    wait_until_seen(tmp_path / "late", lambda: next(answers))
    monkeypatch.setattr(pools, "SEEN_WITHIN_S", 0.0)
    with pytest.raises(UserError, match="every machine sees"):
        wait_until_seen(tmp_path / "never", lambda: False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 2, "ray": 2}, "Give one"),
        ({"ray_address": "auto"}, "need --ray"),
        ({"ray_gpus": 1.0}, "need --ray"),
        ({"ray": 0}, "found 0"),
        ({"ray": 1, "ray_gpus": -1.0}, "found -1"),
        ({"processes": 0}, "found 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        _ = WorkerOptions(**options).pool


def test_options_give_the_pool_and_the_device():
    assert WorkerOptions().pool == HERE == Processes(1)
    asked = WorkerOptions(ray=16, ray_address="auto", ray_gpus=0.5)
    assert asked.pool == RayPool(16, "auto", 0.5) and asked.device == "cuda"
    assert WorkerOptions(ray=2).device == "cpu"
