"""Scanning: which tokens are read, and that nothing is lost or read twice."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from support.chats import THINKING
from support.serving import tiny_nla

from nlakit.audit.positions import Selection, Sheet, choose
from nlakit.audit.project import Project
from nlakit.audit.scan import Scanner, transcript_id
from nlakit.data.bulk import VectorSource
from nlakit.data.corpora import Corpus
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.errors import InputError, ResumeError
from nlakit.models.chat import Chat
from nlakit.models.chat_spans import NO_SPAN
from nlakit.models.encoded import Encoded
from nlakit.models.target import Target
from nlakit.pair.bulk import BulkReader
from nlakit.transcript import parse_messages

from .test_chat import CALL, assistant, user, with_template

SAMPLING = Sampling(samples=1, temperature=0.0, max_new_tokens=4, seed=0)


def sheet_of(*messages) -> Sheet:
    made = Chat(with_template(THINKING), parse_messages(list(messages)))
    return Sheet(made.encoded, made.spans)


def words_of(sheet: Sheet, **selection) -> str:
    return "".join(sheet.encoded.tokens[p] for p in choose(sheet, Selection(**selection), "x"))


SHEET = sheet_of(
    user("The cat sat. The dog ran."),
    assistant("I will see.", reasoning_content="They hide. They wait.", tool_calls=[CALL]),
    {"role": "tool", "content": "high water"},
)


def test_the_last_token_of_each_turn_is_the_default():
    last = [choose(SHEET, Selection(), "x"), choose(SHEET, Selection(last_of_turns=True), "x")]
    assert last[0] == last[1] and len(last[0]) == 3
    text = SHEET.encoded.text
    ends = [text[: SHEET.encoded.offsets[p][1]] for p in last[0]]
    # A token that straddles the footer is what is said.
    assert "dog ran." in ends[0][-12:] and "water" in ends[2][-8:]
    assert "}}\n</tool_call>" in ends[1][-20:]


def test_every_kth_token_leaves_out_what_the_template_wrote():
    everything = words_of(SHEET, every=1)
    assert "The cat sat. The dog ran." in everything and "<|im_start|>" not in everything
    assert len(choose(SHEET, Selection(every=4), "x")) == -(
        -len(choose(SHEET, Selection(every=1), "x")) // 4
    )


def test_random_tokens_are_a_function_of_seed_and_name():
    first, again, other = (choose(SHEET, Selection(random=5, seed=seed), "x") for seed in (1, 1, 2))
    assert first == again != other and len(first) == 5
    assert choose(SHEET, Selection(random=10_000), "x") == choose(SHEET, Selection(every=1), "x")


def test_calls_thoughts_matches_and_roles_choose_their_own():
    sections = {SHEET.spans[p].section for p in choose(SHEET, Selection(tool_calls=True), "x")}
    assert "tool_call" in sections
    thinking = [SHEET.spans[p].section for p in choose(SHEET, Selection(thinking=True), "x")]
    assert set(thinking) == {"thinking"} and len(thinking) >= 2
    assert "dog" in words_of(SHEET, around=r"dog \w+", radius=0)
    roles = {SHEET.spans[p].role for p in choose(SHEET, Selection(every=1, roles=("tool",)), "x")}
    assert roles == {"tool"}
    with pytest.raises(InputError, match="no regular expression"):
        choose(SHEET, Selection(around="("), "x")


def test_of_a_text_every_token_counts():
    encoded = Encoded([1, 5, 6], [(0, 0), (0, 3), (3, 7)], ["<s>", "The", " cat"], "The cat")
    sheet = Sheet(encoded, [NO_SPAN] * 3)
    assert choose(sheet, Selection(every=1), "x") == [1, 2]
    assert choose(sheet, Selection(), "x") == [2]


# -- scanning --------------------------------------------------------------------------------------
CHATS = [
    [user(f"Where is the cat {n}?"), assistant(f"In house {n}, by the pier.")] for n in range(6)
]


@pytest.fixture
def pair():
    return tiny_nla()


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(
        "".join(json.dumps({"id": n, "messages": c}) + "\n" for n, c in enumerate(CHATS))
    )
    return str(path)


def project_at(path, pair) -> Project:
    from nlakit.audit.project import ProjectCard

    card = ProjectCard(
        **{"nla": pair.name, "nla_sha256": "a", "target_sha256": "b", "layer": pair.card.layer},
        **{"d_model": pair.card.d_model, "baseline": "training_mean", "dtype": "float32"},
        **{"samples": 1, "temperature": 0.0, "max_new_tokens": 4, "seed": 0},
    )
    return Project.create(path, card)


def scanner(path, pair, **options) -> Scanner:
    return Scanner(project_at(path, pair), pair, SAMPLING, **options)


def contents(path) -> list[tuple]:
    with Project.open(path).index() as index:
        return [(r.transcript, r.position, r.sample, r.explanation) for r in index.readings()]


EVERY = Selection(every=3)


def test_a_scan_reads_each_position_once_and_what_is_new_later(tmp_path, pair, chats):
    first = scanner(tmp_path / "p", pair).scan([chats], EVERY)
    rows = contents(tmp_path / "p")
    assert (first.transcripts, first.positions) == (6, len(rows)) and len(set(rows)) == len(rows)
    again = scanner(tmp_path / "p", pair).scan([chats], EVERY)
    assert (again.positions, again.known) == (0, 6)
    more = scanner(tmp_path / "p", pair).scan([chats], Selection(every=1))
    assert more.positions > 0 and len(contents(tmp_path / "p")) == first.positions + more.positions
    (table, _) = sorted((tmp_path / "p" / "readings").glob("*.parquet"))
    assert pq.read_table(table).num_rows == first.positions


def test_readings_belong_to_their_tokens(tmp_path, pair, chats):
    scanner(tmp_path / "p", pair, batch_positions=7).scan([chats], EVERY)
    project = Project.open(tmp_path / "p")
    with project.index() as index:
        row = index.readings()[5]
        text = index.transcript(row.transcript).text
    assert text[row.char_start : row.char_end] == row.token
    source = VectorSource(project.batch(row.batch) / "activations")
    vector = source.read(range(row.row, row.row + 1))
    (document,) = (d for d in Corpus(chats) if transcript_id(d) == row.transcript)
    encoded = pair.target.encode_messages(document.messages)
    alone = pair.target.activations([encoded.ids], [[row.position]])[0]
    assert float((vector - alone).abs().max()) < 1e-5


class Killed(BaseException):
    """What ends a process at any point."""


def dies_at_once(*arguments):
    raise Killed


@pytest.mark.parametrize("after", range(5))
def test_a_killed_scan_goes_on_to_the_same_readings(tmp_path, pair, chats, monkeypatch, after):
    scanner(tmp_path / "whole", pair, batch_positions=7).scan([chats], EVERY)
    calls = []
    describe = BulkReader.describe_rows

    def dies(self, vectors_ND, first):
        calls.append(first)
        if len(calls) == after + 1:
            raise Killed
        return describe(self, vectors_ND, first)

    monkeypatch.setattr(BulkReader, "describe_rows", dies)
    monkeypatch.setattr("nlakit.audit.scan.SHARD_ROWS", 3)
    with pytest.raises(Killed):
        scanner(tmp_path / "p", pair, batch_positions=7).scan([chats], EVERY)
    monkeypatch.setattr(BulkReader, "describe_rows", describe)
    scanner(tmp_path / "p", pair, batch_positions=7).scan([chats], EVERY)
    assert contents(tmp_path / "p") == contents(tmp_path / "whole")


def test_a_scan_killed_before_its_index_loses_nothing(tmp_path, pair, chats, monkeypatch):
    scanner(tmp_path / "whole", pair).scan([chats], EVERY)
    with monkeypatch.context() as patch:
        patch.setattr(
            "nlakit.audit.index.Index.add_batch", lambda *a: (_ for _ in ()).throw(Killed())
        )
        with pytest.raises(Killed):
            scanner(tmp_path / "p", pair).scan([chats], EVERY)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"messages": CHATS[0][:1]}))
    # Even where something else is asked for, what was begun is finished first.
    scanner(tmp_path / "p", pair).scan([str(other)], EVERY)
    assert set(contents(tmp_path / "whole")) < set(contents(tmp_path / "p"))


def test_a_budget_stops_and_the_next_scan_goes_on(tmp_path, pair, chats):
    whole = scanner(tmp_path / "whole", pair).scan([chats], EVERY).positions
    first = scanner(tmp_path / "p", pair, budget=10).scan([chats], EVERY)
    assert (first.positions, first.left) == (10, whole - 10)
    scanner(tmp_path / "p", pair).scan([chats], EVERY)
    assert contents(tmp_path / "p") == sorted(
        contents(tmp_path / "p"), key=contents(tmp_path / "p").index
    )
    assert set(contents(tmp_path / "p")) == set(contents(tmp_path / "whole"))


def test_an_estimate_reads_nothing(tmp_path, pair, chats):
    made = scanner(tmp_path / "p", pair)
    expected = made.estimate([chats], EVERY)
    assert expected.transcripts == 6 and expected.seconds > 0 and contents(tmp_path / "p") == []
    assert made.scan([chats], EVERY).positions == expected.positions


def test_long_and_unreadable_transcripts_are_counted(tmp_path, pair, chats):
    path = tmp_path / "odd.jsonl"
    long = [user("the cat " * 2000), assistant("x")]
    rows = [json.dumps({"messages": long}), '{"text": "half \\ud83d"}', '{"text": "the cat sat"}']
    path.write_text("\n".join(rows))
    found = scanner(tmp_path / "p", pair).scan([str(path)], Selection(random=4))
    assert (found.transcripts, found.truncated, found.refused) == (2, 1, 1)
    assert "surrogate" in found.reasons[0]
    with Project.open(tmp_path / "p").index() as index:
        assert "past the target's context" in index.transcripts()[0].notes[-1]
    with pytest.raises(InputError, match="no transcript can be read"):
        empty = tmp_path / "none.jsonl"
        empty.write_text('{"text": "half \\ud83d"}')
        scanner(tmp_path / "q", pair).scan([str(empty)], EVERY)


def test_an_activation_past_float16_is_passed_over(tmp_path, pair, chats):
    # A copy: every test of the process has the same tiny target.
    model = copy.deepcopy(pair.target.model).half()
    with torch.no_grad():
        for layer in model.model.layers[: pair.card.layer + 1]:
            layer.mlp.down_proj.weight.fill_(30_000)
    target = Target(model, pair.target.tokenizer, pair.target.site)
    engine = LocalEngine(target, pair.engine.verbalizer, pair.engine.reconstructor)
    made = scanner(tmp_path / "p", replace(pair, target=target, engine=engine))
    found = made.scan([chats], EVERY)
    assert contents(tmp_path / "p") == [] and found.positions > 0
    assert f"{found.positions} activations are not finite in float16" in found.reasons[0]


def test_a_project_of_another_pair_or_of_something_else_is_refused(tmp_path, pair):
    project = project_at(tmp_path / "p", pair)
    with pytest.raises(ResumeError, match="seed was 0, is 1"):
        Project.create(tmp_path / "p", project.card.model_copy(update={"seed": 1}))
    with pytest.raises(ResumeError, match="holds something else"):
        Project.create(tmp_path, project.card)
    with pytest.raises(InputError, match="is no project"):
        Project.open(tmp_path / "q")
