"""Stages: what is run, in which order, by whom."""

from __future__ import annotations

import pytest

from nlakit.data.locks import locked
from nlakit.errors import ConfigError, ResumeError
from nlakit.train.stage import Stage, needed_for, run_stages

READS = {"corpus": (), "labels": ("corpus",), "av": ("labels",), "ar": ("labels",),
         "report": ("av",)}  # fmt: skip


def stages_in(root, ran: list[str]) -> list[Stage]:
    """Each writes a file that is called as it is."""

    def stage(name: str) -> Stage:
        def run() -> None:
            ran.append(name)
            (root / name).touch()

        return Stage(name, READS[name], (root / name,), run)

    return [stage(name) for name in READS]


def names(stages: list[Stage]) -> list[str]:
    return [stage.name for stage in stages]


def test_only_what_the_last_stage_reads_is_run(tmp_path):
    stages = stages_in(tmp_path, [])
    assert names(needed_for(stages, "report")) == ["corpus", "labels", "av", "report"]
    assert names(needed_for(stages, "ar")) == ["corpus", "labels", "ar"]


def test_stages_run_in_order_and_the_resumed_run_says_what_was_done(tmp_path, capsys):
    ran: list[str] = []
    run_stages("test", tmp_path, stages_in(tmp_path, ran), "labels")
    assert ran == ["corpus", "labels"]
    assert "Resuming" not in capsys.readouterr().err
    run_stages("test", tmp_path, stages_in(tmp_path, ran))
    assert ran == ["corpus", "labels", "corpus", "labels", "av", "report"]
    assert "Resuming; done before: corpus, labels." in capsys.readouterr().err


def test_an_unknown_stage_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(ConfigError, match="no stage 'rl'. The stages are corpus, labels, av"):
        run_stages("test", tmp_path, stages_in(tmp_path, []), "rl")


def test_a_stage_that_another_process_runs_is_refused_but_not_one_that_is_done(tmp_path):
    ran: list[str] = []
    stages = stages_in(tmp_path, ran)
    with locked(tmp_path, ".labels.lock"):
        with pytest.raises(ResumeError, match="is writing there"):
            run_stages("test", tmp_path, stages, "ar")
        (tmp_path / "labels").touch()
        run_stages("test", tmp_path, stages, "ar")
    assert ran == ["corpus", "corpus", "labels", "ar"]
