"""Readouts: the places that a plan's rules name, in the form in which a benchmark judges them."""

from __future__ import annotations

import json

import pytest

import nlakit
from nlakit.cli import run
from nlakit.errors import InputError
from nlakit.evals.readouts import PlannedItem, Positions, read_plan, rendered, resolve

CHAT = [
    "<|im_start|>", "user", "\n", "I", " paint", ".", " Help", " me", "!", "<|im_end|>", "\n",
    "<|im_start|>", "assistant", "\n",
]  # fmt: skip
LINES = ["The", " boat", ",", "\n", "a", " coat", "\n", "by", " the", " boat"]


@pytest.mark.parametrize(
    ("rule", "tokens", "places"),
    [
        ({"kind": "final_token"}, LINES, [9]),
        ({"kind": "offset_from_end", "k": 3}, LINES, [7]),
        ({"kind": "last_n", "n": 2}, LINES, [8, 9]),
        ({"kind": "all"}, LINES[:3], [0, 1, 2]),
        ({"kind": "positions", "positions": [4, 99, 2]}, LINES, [2, 4]),
        ({"kind": "line_one_newline"}, LINES, [6]),
        ({"kind": "from_token", "token": " boat"}, LINES[:4], [1, 2, 3]),
        ({"kind": "from_last_sentence_start"}, CHAT, [6, 7, 8, 9, 10, 11, 12, 13]),
        ({"kind": "suffix_text", "text": "by the boat"}, LINES, [7, 8, 9]),
        ({"kind": "suffix_text", "text": " a coat "}, LINES, [4, 5]),
        ({"kind": "suffix_text_then_tail", "text": "a coat"}, LINES, [4, 5, 6, 7, 8, 9]),
    ],
)
def test_rules_name_their_tokens(rule, tokens, places):
    assert resolve(Positions(**rule), tokens) == places


@pytest.mark.parametrize(
    "rule",
    [{"kind": "from_token", "token": "x"}, {"kind": "suffix_text", "text": "no such words"},
     {"kind": "offset_from_end", "k": 99}, {"kind": "positions", "positions": [99]}],
)  # fmt: skip
def test_a_rule_that_names_nothing_is_refused(rule):
    with pytest.raises(InputError, match=rule["kind"]):
        resolve(Positions(**rule), LINES)


def item(**fields) -> PlannedItem:
    given = {"family": "f", "id": "a", "layers": (20,), "positions": {"kind": "final_token"}}
    return PlannedItem.model_validate(given | fields)


def test_renders_are_texts_or_conversations():
    assert rendered(item(render="plain", text="A boat")) == ("A boat", {})
    turns, fields = rendered(
        item(render="chat_prefill", text="Why?", prefill="Answer:", system="S")
    )
    assert [each["role"] for each in turns] == ["system", "user", "assistant"]
    assert turns[-1]["content"] == "Answer:" and fields["continue_final_message"]
    asked, fields = rendered(item(render="chat_summarize", text="A tale.", suffix="\n\nSum up."))
    assert asked == [{"role": "user", "content": "A tale.\n\nSum up."}]
    assert fields == {"add_generation_prompt": True, "enable_thinking": False}
    with pytest.raises(InputError, match="tokenizer"):
        rendered(item(render="captured"))
    with pytest.raises(InputError, match="'prefill'"):
        rendered(item(render="chat_prefill", text="Why?"))


PLAN = [
    {"family": "poetry", "id": "sea", "render": "plain", "positions": {"kind": "last_n", "n": 2},
     "layers": [3], "text": "The lonely rose shone near the house,\n"},
    {"family": "chat", "id": "pier", "render": "chat", "layers": [20, 24],
     "positions": {"kind": "offset_from_end", "k": 1},
     "text": "I want to mend the boat by the pier."},
    {"family": "ids", "id": "captured", "render": "captured", "positions": {"kind": "all"},
     "layers": [20], "extra": {"input_ids": [1, 2]}},
]  # fmt: skip


def test_a_plan_is_read_resumed_and_told(tmp_path, capsys):
    plan, output = tmp_path / "plan.jsonl", tmp_path / "readouts.jsonl"
    plan.write_text("".join(json.dumps(each) + "\n" for each in PLAN), encoding="utf-8")
    command = ["readouts", str(plan), "--output", str(output), "--json", "--max-new-tokens", "8"]
    assert run(command) == 0
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert (made["items"], made["rows"], list(made["passed_over"])) == (2, 3, ["captured"])
    assert "other layers for 2 items" in " ".join(said.err.split())
    whole = output.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [sorted(row) for row in rows] == [["id", "layer", "pos", "samples", "token"]] * 3
    assert [(row["id"], row["token"], row["layer"]) for row in rows][:2] == [
        ("sea", ",", 3), ("sea", "\n", 3)]  # fmt: skip
    assert rows[2]["pos"] == -1
    pair = nlakit.load()
    own = pair.explain(PLAN[0]["text"], positions=[rows[0]["pos"]], max_new_tokens=8)
    assert rows[0]["samples"] == [own.tokens[0].explanation]
    # As SIGKILL leaves it in the middle of a line.
    output.write_text(whole[: len(whole) - 20], encoding="utf-8")
    assert run(command) == 0
    assert output.read_text(encoding="utf-8") == whole


def test_what_is_not_its_own_is_refused_and_left_as_it_is(tmp_path, capsys):
    plan, output = tmp_path / "plan.jsonl", tmp_path / "notes.jsonl"
    plan.write_text(json.dumps(PLAN[1]) + "\n", encoding="utf-8")
    output.write_text('{"mine": 1}\n', encoding="utf-8")
    command = ["readouts", str(plan), "--output", str(output), "--max-new-tokens", "4"]
    assert run(command) == 2 and "something else" in capsys.readouterr().err
    assert output.read_text(encoding="utf-8") == '{"mine": 1}\n'
    output.unlink()
    assert run(command) == 0
    whole = output.read_text(encoding="utf-8")
    assert run([*command, "--nla", "storyworld/grounded-warm-start"]) == 2
    assert run([*command, "--seed", "5"]) == 2
    assert "another NLA or other settings" in capsys.readouterr().err
    assert output.read_text(encoding="utf-8") == whole and run(command) == 0


def test_a_broken_plan_is_refused_by_its_line(tmp_path):
    path = tmp_path / "plan.jsonl"
    with pytest.raises(InputError, match="found no file"):
        read_plan(path)
    path.write_text(json.dumps(PLAN[0]) + '\n{"id": "x"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 2"):
        read_plan(path)
    path.write_text((json.dumps(PLAN[0]) + "\n") * 2, encoding="utf-8")
    with pytest.raises(InputError, match="several items 'sea'"):
        read_plan(path)
    marked = PLAN[0] | {"text": "one\u2028two"}
    path.write_text(json.dumps(marked, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [each.text for each in read_plan(path)] == ["one\u2028two"]
    rule = PLAN[0] | {"positions": {"kind": "last_n"}}
    path.write_text(json.dumps(rule) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="last_n needs 'n'"):
        read_plan(path)
