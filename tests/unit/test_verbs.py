"""Every verb that reads a pair takes any pair, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from nlakit.cli import app, run
from nlakit.cli.devices import DeviceOptions
from nlakit.cli.pairs import PairOptions

READ_NO_PAIR = {
    "train": "makes one, as its recipe says",
    "plan": "says what a recipe takes",
    "sweep": "trains warm starts, as its recipe says",
    "pack": "copies what a run made",
    "label": "asks a teacher for labels of texts",
    "completion": "prints a script for a shell",
    "storyworld sample": "prints documents",
    "storyworld organisms": "makes targets, as its recipe says",
    "search": "reads a project of readings",
    "themes": "reads a project of readings",
    "thought-map": "reads a project of readings",
    "convert": "writes a GGUF file as a directory",
    "dual-map": "compares two dictionaries",
    "dashboards show": "reads a store",
    "dashboards export": "reads a store",
    "dashboards import": "writes a store",
}
READ_AN_SAE = (
    "features",
    "dashboards build",
    "dashboards search",
    "eval sae",
    "eval autointerp",
    "eval lens",
    "steer-latent",
    "lens fit",
)
"""Or a lens, and its target, which runs somewhere."""
OPTIONS = ("--nla", "--av", "--ar", "--target", "--mean", "--device", "--dtype")


def verbs(group: Any = app, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its full name, with the function behind it."""
    for word in group:
        if word.startswith("-"):
            continue
        inner = group[word]
        if any(not each.startswith("-") for each in inner):
            yield from verbs(inner, f"{name}{word} ")
        else:
            yield f"{name}{word}", inner.default_command


VERBS = dict(verbs())


def options_of(function: Any) -> set[Any]:
    return set(get_type_hints(function).values()) & {PairOptions, DeviceOptions}


def test_there_are_verbs():
    assert {"explain", "eval compare", "bench-truth"} <= VERBS.keys() and len(VERBS) > 20
    assert {*READ_NO_PAIR, *READ_AN_SAE} <= VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_reads_a_pair_has_the_options_of_all_pairs_and_devices(verb):
    expected = set() if verb in READ_NO_PAIR else {DeviceOptions}
    if verb not in (*READ_NO_PAIR, *READ_AN_SAE):
        expected |= {PairOptions}
    assert options_of(VERBS[verb]) == expected


@pytest.mark.parametrize(
    "verb", [verb for verb in VERBS if verb not in (*READ_NO_PAIR, *READ_AN_SAE)]
)
def test_help_names_each_option_once(verb, capsys):
    assert run([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert [f"{option} " in shown for option in OPTIONS] == [True] * len(OPTIONS)


WITHOUT_JSON = {
    "completion": "prints a script",
    "dashboards build": "prints the store's path on a line",
    "dashboards export": "prints the directory on a line",
    "dashboards import": "prints the store's path on a line",
    "demo": "is for people",
    "dual-map": "writes JSON into a file",
    "lens fit": "prints the lens's path on a line",
    "mcp": "speaks a protocol",
    "reading-map": "writes JSON into a file",
    "serve": "prints its address on a line",
    "train": "prints the run's directory on a line",
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_script_gets_json_from_every_verb_that_has_more_than_a_line_to_say(verb):
    assert ("json" in get_type_hints(VERBS[verb])) != (verb in WITHOUT_JSON)
