"""The command line: help without torch, results on stdout only, errors with status 2."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nlakit
from nlakit.cli import run
from nlakit.cli.explain import parse_positions
from nlakit.cli.requests import ChatOptions, read_request, read_text
from nlakit.errors import InputError

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


def command(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """`nlakit` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "nlakit", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        check=False,
    )


def cpu_seconds() -> float:
    """Processor time of finished child processes: a busy machine does not lengthen it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_names_the_verbs_within_half_a_second():
    seconds = []
    for _ in range(3):
        started = cpu_seconds()
        result = command("--help")
        seconds.append(cpu_seconds() - started)
    assert all(verb in result.stdout for verb in ("explain", "demo", "eval", "train", "storyworld"))
    assert min(seconds) < 0.5


def test_public_names_are_there_and_listed():
    assert all(getattr(nlakit, name) is not None for name in nlakit.__all__)
    assert set(nlakit.__all__) <= set(dir(nlakit))
    with pytest.raises(AttributeError, match="nonsense"):
        nlakit.nonsense  # noqa: B018


def test_version_is_the_project_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert nlakit.__version__ == project["version"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["explain", "text", "--bogus"],
        ["explain", "text", "--last", "many"],
        ["explain", "text", "--last"],
        ["storyworld", "sample", "--genre", "sonnet"],
        ["storyworld", "sample", "--documents", "0"],
        ["explain", "text", "--nla", "nowhere"],
        ["explain", "text", "--file", "also"],
        ["explain", "text", "--tokens", "--last", "2"],
        ["train", "nowhere.toml"],
    ],
)
def test_what_a_person_can_put_right_exits_2_with_clean_stdout(arguments, capsys):
    assert run(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.strip() and "Traceback" not in output.err


def test_a_bare_command_prints_its_help(capsys):
    assert run(["storyworld"]) == 0
    assert "sample" in capsys.readouterr().out


def test_sample_prints_documents_with_their_states(capsys):
    assert run(["storyworld", "sample", "--documents", "2", "--seed", "5", "--json"]) == 0
    documents = json.loads(capsys.readouterr().out)["documents"]
    assert len(documents) == 2
    for document in documents:
        states = document["states"]
        assert [state["char_end"] for state in states] == sorted(s["char_end"] for s in states)
        assert states[-1]["char_end"] == len(document["text"])
        assert states[-1]["facts"]["language"] in ("english", "spanish")


def test_sample_is_the_same_for_a_seed_and_not_for_another(capsys):
    outputs = []
    for seed in ("5", "5", "6"):
        run(["storyworld", "sample", "--documents", "1", "--seed", seed, "--json"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_sample_keeps_to_the_genre(capsys):
    run(["storyworld", "sample", "--documents", "2", "--genre", "couplet", "--json"])
    documents = json.loads(capsys.readouterr().out)["documents"]
    assert {document["genre"] for document in documents} == {"couplet"}
    assert any("rhyme" in state["facts"] for d in documents for state in d["states"])


def test_a_reader_that_goes_away_is_no_error():
    arguments = f"{sys.executable} -m nlakit storyworld sample --documents 400 --json | head -1"
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    result = subprocess.run(
        arguments, shell=True, capture_output=True, text=True, env=environment, check=True
    )
    assert (result.stdout, result.stderr) == ("{\n", "")


def test_ctrl_c_exits_130(monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nlakit.cli.app", interrupted)
    assert run(["demo"]) == 130


@pytest.mark.parametrize(
    ("text", "places"),
    [("0", [0]), ("0,4-7", [0, 4, 5, 6, 7]), (" 2 , 1 ", [2, 1]), ("-1,0", [-1, 0])],
)
def test_positions_are_numbers_and_ranges(text, places):
    assert parse_positions(text) == places


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-4-7", "-"])
def test_other_positions_are_refused(text):
    with pytest.raises(InputError, match=re.escape(repr(text))):
        parse_positions(text)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match="UTF-8"):
        read_text(None, path)


@pytest.mark.parametrize(
    "verb",
    [
        "private-code",
        "cause",
        "baselines",
        "round-trips",
        "planned",
        "steer",
        "confidence",
        "select",
        "compare plain-rl",
    ],
)
def test_every_evaluation_is_a_verb_that_refuses_a_pair_that_is_not_there(verb, tmp_path, capsys):
    assert run(["eval", *verb.split(), "--nla", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_rows_outside_the_package_are_refused_by_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NLAKIT_ASSETS", str(tmp_path))
    assert run(["eval", "storyworld", "--nla", "plain-rl"]) == 2
    assert "'plain-rl'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--samples", "0"], "samples"),
        (["--temperature", "-1"], "temperature"),
        (["--positions", "x"], "--positions"),
        (["--min-confidence", "2"], "--min-confidence"),
        (["--add-generation-prompt"], "belongs to messages"),
        (["--messages"], "--messages"),
        (["--nla", "nowhere"], "nowhere"),
        (["--av", "x"], "both --av and --ar"),
        (["--dtype", "int4"], "int4"),
    ],
)
def test_bad_arguments_are_refused_before_a_model_is_loaded(arguments, said, monkeypatch, capsys):
    def loaded(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("nlakit.pair.load.load_models", loaded)
    assert run(["explain", "some text", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_messages_are_told_from_prose(capsys, monkeypatch):
    text = '[{"role": "user", "content": "When is it high?"}]'
    assert read_request(text, None).content == [{"role": "user", "content": "When is it high?"}]
    assert "--no-messages" in capsys.readouterr().err
    assert read_request(text, None, ChatOptions(messages=False)).content == text
    assert read_request('["a", "b"]', None).content == '["a", "b"]'
    assert read_request("{not json", None).content == "{not json"
    with pytest.raises(InputError, match="tools"):
        read_request('{"messages": [{"role": "user", "content": "a"}], "tools": 3}', None)


def test_a_byte_order_mark_in_a_file_is_no_token(tmp_path):
    from nlakit.cli.requests import read_text

    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfMary had")
    assert read_text(None, path) == "Mary had"
