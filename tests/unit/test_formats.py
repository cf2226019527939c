"""Every format of conversations gives the same messages, and says what it left out."""

from __future__ import annotations

import json
import struct
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlakit.data.corpora import Corpus
from nlakit.data.formats import NAMES, row_format
from nlakit.errors import InputError, UnreadableError
from nlakit.transcript import Message, ToolCall

ASKED = "When is high water?"
CALL = ToolCall("tides", {"port": "Ayr"}, "c1")
EXPECTED = (
    Message.of("user", ASKED),
    Message.of("assistant", "Let me see.", thinking="They sail.", tool_calls=[CALL]),
    Message.of("tool", "14:10", tool_call_id="c1"),
    Message.of("assistant", "At ten past two."),
)

OPENAI = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": ASKED}]},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "They sail.",
            "refusal": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "tides", "arguments": '{"port": "Ayr"}'},
                }
            ],
        },
        {"role": "tool", "content": "14:10", "tool_call_id": "c1"},
        {"role": "assistant", "content": "At ten past two."},
    ]
}
ANTHROPIC = {
    "messages": [
        {"role": "user", "content": ASKED},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "They sail.", "signature": "x"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "c1", "name": "tides", "input": {"port": "Ayr"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [{"type": "text", "text": "14:10"}, {"type": "image"}],
                }
            ],
        },
        {"role": "assistant", "content": "At ten past two."},
    ]
}
AGENT = [
    {"role": "user", "content": ASKED, "source": "input"},
    {
        "role": "assistant",
        "content": [
            {"type": "reasoning", "reasoning": "They sail."},
            {"type": "text", "text": "Let me see."},
        ],
        "tool_calls": [{"id": "c1", "function": "tides", "arguments": {"port": "Ayr"}}],
    },
    {"role": "tool", "content": "14:10", "tool_call_id": "c1"},
    {"role": "assistant", "content": "At ten past two."},
]
DOCENT = {"id": "run", "transcripts": [{"messages": AGENT}], "metadata": {"model": "m"}}
ATIF = {
    "schema_version": "ATIF-v1.4",
    "session_id": "s1",
    "agent": {"name": "a", "model_name": "m"},
    "steps": [
        {"source": "user", "message": ASKED},
        {
            "source": "agent",
            "message": "Let me see.",
            "reasoning_content": "They sail.",
            "tool_calls": [
                {"tool_call_id": "c1", "function_name": "tides", "arguments": {"port": "Ayr"}}
            ],
            "observation": {"results": [{"source_call_id": "c1", "content": "14:10"}]},
        },
        {"source": "agent", "message": "At ten past two."},
    ],
}
INSPECT = {"id": 1, "epoch": 1, "input": ASKED, "messages": AGENT, "scores": {"ok": {"value": "C"}}}
CLAUDE = [
    {"type": "summary", "summary": "tides"},
    {"type": "user", "uuid": "1", "sessionId": "s", "message": {"role": "user", "content": ASKED}},
    *(
        {
            "type": "assistant",
            "uuid": str(2 + number),
            "message": {"id": "m1", "role": "assistant", "model": "m", "content": [block]},
        }
        for number, block in enumerate(ANTHROPIC["messages"][1]["content"])
    ),
    {"type": "user", "uuid": "9", "message": ANTHROPIC["messages"][2]},
    {"type": "user", "uuid": "9", "message": ANTHROPIC["messages"][2]},
    {"type": "assistant", "isSidechain": True, "message": {"role": "assistant", "content": "x"}},
    {"type": "assistant", "message": {"id": "m2", **ANTHROPIC["messages"][3]}},
    {"type": "file-history-snapshot", "isSidechain": False},
]


def plain(messages):
    """What messages say: role, text, thoughts, calls."""
    return [
        (m.role, m.text, m.thinking, m.tool_calls, m.fields.get("tool_call_id")) for m in messages
    ]


def read(tmp_path, row, name="x.jsonl"):
    path = tmp_path / name
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return list(Corpus(str(path)))


@pytest.mark.parametrize(
    "row", [OPENAI, ANTHROPIC, DOCENT, ATIF, {"conversations": OPENAI["messages"]}]
)
def test_formats_of_rows_say_the_same(tmp_path, row):
    (document,) = read(tmp_path, row)
    assert plain(document.messages) == plain(EXPECTED)
    (nested,) = read(tmp_path, row, "deep.json")
    assert plain(nested.messages) == plain(EXPECTED)


def test_formats_survive_a_table(tmp_path):
    messages = [{"role": "user", "content": ASKED}, *OPENAI["messages"][1:]]
    row = {"messages": messages}
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "x.parquet")
    found = list(Corpus(str(tmp_path / "x.parquet")))
    assert [plain(each.messages) for each in found] == [plain(EXPECTED)] * 2
    assert found[0].id == read(tmp_path, row)[0].id


def test_a_system_line_beside_openais_messages_loses_no_calls(tmp_path):
    (document,) = read(tmp_path, OPENAI | {"system": "Be brief."})
    assert plain(document.messages) == plain([Message.of("system", "Be brief."), *EXPECTED])
    again = {"messages": [{"role": "system", "content": "Be brief."}, *OPENAI["messages"]]}
    (same,) = read(tmp_path, again | {"system": "Be brief."})
    assert plain(same.messages) == plain(document.messages)


def test_thoughts_in_blocks_beside_openais_calls_lose_none(tmp_path):
    thought = {"type": "thinking", "thinking": "They sail."}
    turn = {**OPENAI["messages"][1], "content": [thought, {"type": "text", "text": "Let me see."}]}
    (document,) = read(tmp_path, {"messages": [{"role": "user", "content": ASKED}, turn]})
    assert document.messages[1].tool_calls == EXPECTED[1].tool_calls
    assert document.messages[1].fields["content"][0] == thought


def test_a_tool_that_the_provider_ran_answers_behind_its_call(tmp_path):
    content = [
        {"type": "server_tool_use", "id": "c1", "name": "web_search", "input": {"query": "tides"}},
        {"type": "web_search_tool_result", "tool_use_id": "c1", "content": [{"type": "text",
                                                                             "text": "14:10"}]},
        {"type": "text", "text": "At ten past two."},
    ]  # fmt: skip
    asked = {"role": "user", "content": ASKED}
    thinks = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}]}
    row = {"messages": [asked, thinks, {"role": "assistant", "content": content}]}
    (document,) = read(tmp_path, row)
    assert [(m.role, m.text) for m in document.messages[2:]] == [
        ("assistant", ""),
        ("tool", "14:10"),
        ("assistant", "At ten past two."),
    ]
    used = {"type": "tool_use", "id": "c1", "name": "search", "arguments": "{}", "result": "14:10"}
    logged = {"messages": [{"role": "assistant", "content": [used]}], "id": 1, "epoch": 1}
    (other,) = read(tmp_path, {"eval": {}, "samples": [logged]}, "log.json")
    assert [(m.role, m.text) for m in other.messages] == [("assistant", ""), ("tool", "14:10")]


def test_the_interface_before_tools_is_that_of_today(tmp_path):
    schema = {"name": "tides", "parameters": {"type": "object"}}
    call = {"name": "tides", "arguments": "{}"}
    messages = [
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "tides", "content": "14:10"},
        {"role": "assistant", "content": None, "refusal": "I cannot say."},
    ]
    (document,) = read(tmp_path, {"messages": messages, "functions": [schema]})
    assert document.tools == ({"type": "function", "function": schema},)
    assert document.messages[0].tool_calls[0].name == "tides"
    assert [(m.role, m.text) for m in document.messages[1:]] == [
        ("tool", "14:10"),
        ("assistant", "I cannot say."),
    ]
    (flat,) = read(tmp_path, {"messages": messages, "tools": [{"type": "function", **schema}]})
    assert flat.tools == document.tools


def test_arguments_of_other_calls_are_none_of_this_one(tmp_path):
    def row(arguments):
        call = {"type": "function", "function": {"name": "write", "arguments": arguments}}
        return {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}

    rows = [row({"content": "a", "text": "b"}), row({"path": "c"})]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    found = [each.messages[0] for each in Corpus(str(tmp_path / "x.parquet"))]
    arguments = [each.tool_calls[0].arguments for each in found]
    assert arguments == [{"content": "a", "text": "b"}, {"path": "c"}]
    assert all(each.fields["content"] is None for each in found)


def test_what_a_reader_leaves_out_is_told(tmp_path):
    (document,) = read(tmp_path, ANTHROPIC | {"system": "Be brief.", "id": "a"})
    assert document.messages[0] == Message.of("system", "Be brief.")
    assert document.notes == ("1 x image left out",) and document.id == "a"


def test_wildchat_keeps_what_is_said_and_notes_what_is_known(tmp_path):
    turns = [
        {"role": "user", "content": "The boats", "language": "English", "redacted": True},
        {"role": "assistant", "content": "came home", "toxic": False, "redacted": False},
    ]
    row = {"conversation_hash": "h", "model": "gpt", "turn": 1, "conversation": turns}
    (document,) = read(tmp_path, row)
    assert document.messages[0].fields == {"role": "user", "content": "The boats"}
    assert (document.id, document.metadata["model"]) == ("h", "gpt")
    assert "1 messages were redacted" in document.notes[0]


def test_sharegpt_has_names_of_its_own(tmp_path):
    turns = [
        {"from": "human", "value": ASKED},
        {"from": "function_call", "value": '{"name": "tides", "arguments": {"port": "Ayr"}}'},
        {"from": "observation", "value": "14:10"},
        {"from": "gpt", "value": "At ten past two."},
    ]
    (document,) = read(tmp_path, {"conversations": turns, "system": "Be brief."})
    assert [m.role for m in document.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert document.messages[2].tool_calls == (ToolCall("tides", {"port": "Ayr"}),)
    with pytest.raises(InputError, match="turn 0.*`from` to be one of"):
        read(tmp_path, {"conversations": [{"from": "nobody", "value": "x"}]})


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "The boats", "input": "", "output": "came home"},
        {"prompt": "The boats", "completion": "came home"},
        {
            "prompt": [{"role": "user", "content": "The boats"}],
            "response": [{"role": "assistant", "content": "came home"}],
        },
        {
            "custom_id": "1",
            "body": {
                "messages": [
                    {"role": "user", "content": "The boats"},
                    {"role": "assistant", "content": "came home"},
                ]
            },
        },
    ],
)
def test_a_question_and_an_answer_are_a_chat(tmp_path, row):
    (document,) = read(tmp_path, row)
    assert [(m.role, m.text) for m in document.messages] == [
        ("user", "The boats"),
        ("assistant", "came home"),
    ]


def test_a_session_of_claude_code_is_one_transcript(tmp_path):
    path = tmp_path / "7c1.jsonl"
    lines = [json.dumps(each) for each in CLAUDE]
    path.write_text("\n".join([*lines, '{"type": "user", "half']), encoding="utf-8")
    (document,) = Corpus(str(path))
    assert plain(document.messages) == plain(EXPECTED)
    assert document.id == "7c1" and document.metadata["model"] == "m"
    told = " ".join(document.notes)
    for what in ("side chain", "summary record", "no JSON", "file-history-snapshot", "image"):
        assert what in told


def test_a_branch_that_was_given_up_is_no_part_of_a_session(tmp_path):
    def record(uuid, parent, kind, content):
        message = {"role": kind, "content": content}
        return {"type": kind, "sessionId": "s", "uuid": uuid, "parentUuid": parent,
                "message": message}  # fmt: skip

    records = [
        record("1", None, "user", "boats?"),
        record("2", "1", "assistant", "which?"),
        record("3", "2", "user", "all"),
        record("4", "3", "assistant", [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]),
        record("5", "4", "user", [{"type": "tool_result", "tool_use_id": "c", "content": "x"}]),
        record("6", "2", "user", "the red one"),
        record("7", "6", "assistant", "at ten"),
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    (document,) = Corpus(str(tmp_path / "x.jsonl"))
    assert [m.text for m in document.messages] == ["boats?", "which?", "the red one", "at ten"]
    assert document.notes == ("3 x record of a branch that was given up left out",)


def test_a_file_of_nothing_but_a_side_chain_is_read(tmp_path):
    records = [{**each, "isSidechain": True} for each in CLAUDE[1:5]]
    path = tmp_path / "agent-1.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    (document,) = Corpus(str(path))
    assert [m.role for m in document.messages] == ["user", "assistant"]


def test_a_trajectory_of_swe_agent_is_its_history_or_what_the_model_was_shown(tmp_path):
    history = [
        {"role": "system", "content": "You fix.", "agent": "main"},
        {"role": "user", "content": [{"type": "text", "text": "Do."}], "agent": "main"},
        {"role": "assistant", "content": "ls", "thought": "ls", "action": "ls", "agent": "main"},
        {"role": "user", "content": "other", "agent": "side"},
    ]
    step = {"response": "ls", "thought": "ls", "action": "ls", "observation": "a.py", "state": {}}
    row = {"trajectory": [step | {"query": history[:2]}], "history": history, "info": {"cost": 1}}
    (document,) = read(tmp_path, row, "x.traj")
    assert [(m.role, m.text) for m in document.messages] == [
        ("system", "You fix."),
        ("user", "Do."),
        ("assistant", "ls"),
    ]
    assert "another agent" in document.notes[0] and document.metadata["cost"] == 1
    (older,) = read(tmp_path, {"trajectory": [step | {"messages": history[:2]}]}, "y.traj")
    assert [m.text for m in older.messages] == ["You fix.", "Do.", "ls", "a.py"]


def with_zstd(path) -> None:
    """Rewrite a zip whose members are stored so that they are zstd, as Inspect writes them."""
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    packed = [(name, data, pa.compress(data, codec="zstd", asbytes=True)) for name, data in members]
    with zipfile.ZipFile(path, "w") as new:
        for name, _, squeezed in packed:
            new.writestr(name, squeezed)
    raw = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = raw.find(mark)
        while place >= 0:
            raw[place + at : place + at + 2] = struct.pack("<H", 93)
            place = raw.find(mark, place + 4)
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("zstd", [False, True])
def test_a_log_of_inspect_gives_a_transcript_a_sample(tmp_path, zstd):
    path = tmp_path / "log.eval"
    attached = json.loads(json.dumps(INSPECT).replace('"14:10"', '"attachment://ab"'))
    shell = {"id": 2, "epoch": 1, "uuid": "u2", "message_refs": [[0, 1], [2, 3]]}
    with zipfile.ZipFile(path, "w") as file:
        header = {"eval": {"task": "t", "model": "m"}}
        for name, value in {
            "header.json": header,
            "samples/1_epoch_1.json": attached | {"attachments": {"ab": "14:10"}},
            "samples/2_epoch_1/sample.json": shell,
            "samples/2_epoch_1/messages/0.json": AGENT[:1],
            "samples/2_epoch_1/messages/1.json": [{"role": "user", "content": "no"}],
            "samples/2_epoch_1/messages/2.json": [
                {"role": "assistant", "content": "attachment://1", "x": float("nan")}
            ],
            "samples/2_epoch_1/attachments/0.json": ["no", "yes"],
            "_journal/summaries/1.json": [],
        }.items():
            file.writestr(name, json.dumps(value))
    if zstd:
        with_zstd(path)
    first, second = Corpus(str(path))
    assert plain(first.messages) == plain(EXPECTED)
    assert first.metadata["score_ok"] == "C" and first.metadata["task"] == "t"
    assert [m.text for m in second.messages] == [ASKED, "yes"] and second.id == "u2"


def test_logs_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "log.eval"
    path.write_bytes(b"PK no")
    with pytest.raises(InputError, match="log.eval is not an Inspect log"):
        list(Corpus(str(path)))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("samples/1_epoch_1.json", "{half")
    with pytest.raises(InputError, match="1_epoch_1.json cannot be read"):
        list(Corpus(str(path)))


def test_a_log_of_inspect_may_be_json(tmp_path):
    (document,) = read(tmp_path, {"eval": {"task": "t"}, "samples": [INSPECT]}, "log.json")
    assert plain(document.messages) == plain(EXPECTED) and document.id == "1_epoch_1"
    lost = json.loads(json.dumps(INSPECT).replace('"14:10"', '"attachment://ab"'))
    (other,) = read(tmp_path, {"eval": {}, "samples": [lost]}, "lost.json")
    assert other.notes == ("1 x attachment that is not in the log left out",)


def test_a_folder_holds_files_of_every_kind_and_what_is_no_transcript_is_passed_over(tmp_path):
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "a.txt").write_text("\ufeffplain text", encoding="utf-8")
    read(tmp_path, ATIF, "trajectory.json")
    read(tmp_path, OPENAI, "z.jsonl")
    found = list(Corpus(str(tmp_path)))
    assert [each.index for each in found] == [0, 1, 2]
    assert found[0].text == "plain text" and all(each.messages for each in found[1:])


def test_a_row_of_several_transcripts_counts_as_several(tmp_path):
    run = {"id": "r", "transcripts": {"a": {"messages": AGENT}, "b": {"messages": AGENT[:1]}}}
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(run)}\n{json.dumps({'text': 'more'})}\n")
    assert [(d.id, d.index) for d in Corpus(str(path))][:2] == [("r/a", 0), ("r/b", 1)]
    assert list(Corpus(str(path)))[2].index == 2


def test_half_a_surrogate_pair_is_a_row_that_cannot_be_read(tmp_path):
    path = tmp_path / "x.jsonl"
    turns = '{"messages": [{"role": "user", "content": "a \\ud83d"}]}'
    path.write_text(turns + '\n{"text": "fine"}\n')
    with pytest.raises(UnreadableError, match="x.jsonl:1.*surrogate"):
        list(Corpus(str(path)))
    refused = []
    corpus = Corpus(str(path))
    both = [d for s in ("train", "heldout") for d in corpus.documents(s, 0, None, refused.append)]
    assert [d.text for d in both] == ["fine"] and [r.index for r in refused] == [0, 0]


def test_no_format_takes_what_it_does_not_know():
    assert row_format({"title": "x", "body": "y"}) is None and "wildchat" in NAMES
