"""The command line: help without torch, results on stdout only, errors with status 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nlakit
from nlakit.cli import EXIT_STATUSES, run
from nlakit.cli.explain import parse_positions
from nlakit.cli.requests import ChatOptions, read_request, read_text
from nlakit.cli.results import chosen_format, give_reading
from nlakit.console import notice, quietly, tell
from nlakit.errors import InputError
from nlakit.reading import Reading, TokenReading

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


def command(
    *arguments: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`nlakit` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "nlakit", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        env=os.environ | {"PYTHONPATH": str(SOURCE)} | environment,
        cwd=ROOT,
        check=False,
    )


def test_help_names_the_verbs_and_loads_little():
    # Each module takes time at every start; they were 238 when this was written.
    result = command("--help", PYTHONPROFILEIMPORTTIME="1")
    assert all(verb in result.stdout for verb in ("explain", "demo", "eval", "train", "storyworld"))
    assert 100 < result.stderr.count("import time:") < 350


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

    monkeypatch.setattr("nlakit.cli.quietly", interrupted)
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


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_is_printed(flag, capsys):
    assert run([flag]) == 0
    assert capsys.readouterr().out == f"{nlakit.__version__}\n"


def test_help_has_every_exit_status(capsys):
    assert run(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("\n", " ").split())
    assert all(f"{status} {said}" in shown for status, said in EXIT_STATUSES.items())


@pytest.mark.parametrize("arguments", [["-q", "plan"], ["plan", "--quiet"], ["plan"]])
def test_quiet_anywhere_silences_notices_and_not_errors(arguments, monkeypatch, capsys):
    monkeypatch.setattr("nlakit.cli.plan.read_recipe", lambda *_: notice("a notice") or _refuse())
    assert run([*arguments, "some.toml"]) == 2
    said = capsys.readouterr().err
    assert "refused" in said
    assert ("a notice" in said) == (arguments == ["plan"])
    assert "NLAKIT_QUIET" not in os.environ


def _refuse():
    raise InputError("refused")


def test_what_was_quiet_before_is_quiet_after(monkeypatch):
    monkeypatch.setenv("NLAKIT_QUIET", "yes")
    with quietly(True):
        assert os.environ["NLAKIT_QUIET"] == "1"
    assert os.environ["NLAKIT_QUIET"] == "yes"


def test_a_text_that_looks_like_an_option_is_a_text(monkeypatch, capsys):
    def read(text, *_):
        raise InputError(f"asked to read {text!r}")

    monkeypatch.setattr("nlakit.cli.explain.read_request", read)
    assert run(["explain", "--samples", "2", "--", "-q"]) == 2
    assert "asked to read '-q'" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_and_options(shell, capsys):
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("compare-models", "storyworld", "max-new-tokens"))


SAID = "A sum | of *two* numbers, planned\nand unsaid."


@pytest.fixture
def reading():
    row = TokenReading(
        position=3, token=" so", explanation=SAID, fidelity=0.5, cosine=0.8, mse=0.4, word="partly"
    )
    return Reading(text="and so", tokens=(row,), nla="fake", floors={"mean": 0.0})


def test_a_reading_is_given_in_every_format(reading, capsys):
    shown = {}
    for format in ("table", "json", "csv", "md", "html"):
        give_reading(reading, format, None)
        shown[format] = capsys.readouterr().out
    assert "planned" in shown["table"]
    assert Reading.from_json(shown["json"]) == reading
    assert shown["csv"].splitlines()[0].startswith("position,token,sample")
    assert shown["html"].startswith("<!doctype html>")
    row = r"| ·so | A sum \| of \*two\* numbers, planned and unsaid. | 0.50 partly |"
    assert row in shown["md"].splitlines()


def test_a_file_gets_the_reading_and_stdout_nothing(reading, tmp_path, capsys):
    path = tmp_path / "reading.csv"
    give_reading(reading, chosen_format(None, False, path), path)
    output = capsys.readouterr()
    assert output.out == "" and str(path) in output.err
    assert path.read_text() == reading.to_csv()


@pytest.mark.parametrize(
    ("format", "json", "name", "said"),
    [
        ("csv", True, None, "--json"),
        (None, False, "reading", "csv, md or html"),
        ("table", False, "reading.csv", "csv, md or html"),
        (None, True, "nowhere/reading.json", "not there"),
        ("md", False, "", "is a directory"),
    ],
)
def test_formats_that_do_not_go_together_are_refused(format, json, name, said, tmp_path):
    with pytest.raises(InputError, match=said):
        chosen_format(format, json, None if name is None else tmp_path / name)


@pytest.mark.parametrize(
    ("format", "json", "name", "expected"),
    [
        (None, False, None, "table"),
        (None, True, None, "json"),
        (None, False, "r.MD", "md"),
        ("csv", False, "r.txt", "csv"),
    ],
)
def test_the_format_is_named_or_the_file_s(format, json, name, expected, tmp_path):
    assert chosen_format(format, json, None if name is None else tmp_path / name) == expected


def test_in_a_terminal_sentences_wrap_and_paths_stay_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    path = "/a" * 30
    tell(f"Some words that are too long for one line, and then a path: {path}")
    lines = capsys.readouterr().out.splitlines()
    assert path in [line.strip() for line in lines]
    assert all(len(line) <= 40 for line in lines if path not in line) and len(lines) > 2


def test_elsewhere_a_sentence_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    tell("Some words that are too long for one line of 40 columns, said [bold]as[/bold] they are.")
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["explain", "--help"],
        ["eval", "--help"],
        ["bogus"],
        ["explain", "text", "--nla", "nowhere"],
        ["plan", "recipes/qwen2.5-7b-8gpu.toml"],
        ["storyworld", "sample", "--documents", "1"],
    ],
)
def test_no_line_is_wider_than_the_terminal(arguments):
    # A process of its own: in one that has printed before, the width is known.
    found = command(*arguments, COLUMNS="60", TTY_COMPATIBLE="1")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", found.stdout + found.stderr)
    assert plain and max(map(len, plain.splitlines())) <= 60
