"""Corpora: every form gives the same documents, and broken ones say where."""

from __future__ import annotations

import copy
import gzip
import json
import lzma
import os
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nlakit.data import corpus_extraction, sources
from nlakit.data.corpora import Corpus
from nlakit.data.corpus_extraction import Workers, extract_corpus
from nlakit.data.shards import ShardReader
from nlakit.errors import InputError, MissingExtraError, ResumeError

TEXTS = [f"Document {n} goes on and on about the number {n}. " * 8 for n in range(40)]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def extract(target, corpus, directory, **changes):
    options = {"num_documents": 9, "positions_per_document": 3, "shard_rows": 12} | changes
    return extract_corpus(
        target, Corpus(str(corpus)), directory, minimum_position=20, max_tokens=60, **options
    )


def test_every_form_gives_the_same_documents(jsonl, tmp_path):
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "corpus.parquet")
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number:03d}.txt").write_text(text)
    expected = [(each.id, each.text, each.split) for each in Corpus(str(jsonl))]
    assert [text for _, text, _ in expected] == TEXTS
    for source in (tmp_path / "corpus.parquet", folder):
        assert [(d.id, d.text, d.split) for d in Corpus(str(source))] == expected


def test_splits_part_documents_by_content(jsonl):
    corpus = Corpus(str(jsonl))
    train, held_out = ({d.id for d in corpus.documents(s)} for s in ("train", "heldout"))
    assert held_out and not train & held_out
    assert len(train | held_out) == len(TEXTS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"corpus.jsonl:41: not JSON"),
        ('{"txt": "x"}', r"corpus.jsonl:41: found a row with 'txt'.*`text` or `messages`"),
        ('{"messages": [{"role": "user"}]}', r"corpus.jsonl:41, message 0: it has no content"),
        ('{"text": "x", "messages": [{"role": "user", "content": "x"}]}', "either `text` or"),
        ('{"text": "half \\ud83d of a pair"}', r"corpus.jsonl:41: character 5 is .*surrogate"),
        ('{"text": 3}', r"corpus.jsonl:41: `text` is a int, not a string"),
        ('{"text": ' + "9" * 5000 + "}", r"corpus.jsonl:41: not JSON: Exceeds the limit"),
        ('["x"]', r"corpus.jsonl:41: found \['x'\]"),
    ],
)
def test_a_broken_line_is_named(jsonl, line, message):
    with jsonl.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=message):
        list(Corpus(str(jsonl)))


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_a_packed_file_cut_short_is_named(tmp_path, suffix, pack, kept):
    raw = pack(b"".join(b'{"text": "%d"}\n' % number for number in range(9999)))
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(InputError, match=f"jsonl.{suffix} cannot be unpacked"):
        list(Corpus(str(path)))


def test_missing_corpora_and_extras_are_named(tmp_path):
    with pytest.raises(InputError, match="there is nothing"):
        list(Corpus(str(tmp_path / "none.jsonl")))
    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"nlakit\[datasets\]"):
            list(Corpus("hf:somebody/something"))


def test_links_to_devices_and_pipes_are_no_files_of_a_folder(tmp_path):
    (tmp_path / "good.txt").write_text(TEXTS[0])
    (tmp_path / "zeros.txt").symlink_to("/dev/zero")
    (tmp_path / "zeros.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert [each.text for each in Corpus(str(tmp_path))] == TEXTS[:1]
    for name in ("zeros.txt", "zeros.json", "pipe.jsonl"):
        with pytest.raises(InputError, match="there is nothing"):
            list(Corpus(str(tmp_path / name)))


def test_a_text_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_CHARS", 1000)
    for name in ("c.txt", "c.json", "c.jsonl"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 1 << 24)  # sparse: it takes no room
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=f"{path.name}: a text of more than 1,000 characters"):
            list(Corpus(str(path)))
    (tmp_path / "d.txt").write_text("a" * 1000)
    assert len(next(iter(Corpus(str(tmp_path / "d.txt")))).text or "") == 1000


EMPTY = [{"text": ""}, {"text": None}, {"text": " \n"}, {"messages": []}, {"text": None, "id": 3}]


def test_rows_without_a_text_are_passed_over_and_counted(tiny_target, jsonl, tmp_path):
    """Numbers of documents stay those of rows, and a shard made again counts the same."""
    full = jsonl.read_text().splitlines(keepends=True)
    empty = [json.dumps(each) + "\n" for each in EMPTY]
    jsonl.write_text("".join([*full[:3], *empty, *full[3:]]))
    assert [each.index for each in Corpus(str(jsonl))] == [0, 1, 2, *range(8, 45)]
    manifest = extract(tiny_target, jsonl, tmp_path / "shards")
    assert (manifest.num_documents, manifest.num_empty) == (9, 5)
    (tmp_path / "shards" / "shard-00000.json").unlink()
    assert extract(tiny_target, jsonl, tmp_path / "shards") == manifest
    options = {"workers": Workers(FromTheEnd(), lambda: tiny_target)}
    assert extract(tiny_target, jsonl, tmp_path / "shared", **options) == manifest


def test_empty_rows_of_a_table_are_passed_over(tmp_path):
    pq.write_table(pa.table({"text": ["", TEXTS[0], None]}), tmp_path / "corpus.parquet")
    assert [each.text for each in Corpus(str(tmp_path / "corpus.parquet"))] == TEXTS[:1]


class FakeHub:
    """Stands in for `datasets`: one dataset, whose configurations must be named."""

    def __init__(self, rows):
        self.rows, self.asked = rows, []

    def load_dataset(self, path, name=None, *, split, streaming):
        self.asked.append((path, name, split, streaming))
        if name is None:
            raise ValueError("Config name is missing. Pick one of en, fr")
        return iter(self.rows)


@pytest.fixture
def hub(monkeypatch):
    rows = [{"body": TEXTS[0], "url": "x"}, {"body": "", "url": "y"}, {"body": TEXTS[1], "id": 7}]
    fake = FakeHub(rows)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fake.load_dataset))
    return fake


def test_a_parquet_bomb_is_read_a_little_at_a_time(tmp_path):
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 300), pa.array(["a" * 65_536]))
    pq.write_table(pa.table({"text": text}), tmp_path / "corpus.parquet", store_schema=False)
    assert (tmp_path / "corpus.parquet").stat().st_size < 10_000
    before = pa.total_allocated_bytes()
    assert next(iter(Corpus(str(tmp_path / "corpus.parquet")))).text == "a" * 65_536
    assert pa.total_allocated_bytes() - before < 8 << 20


def test_parquet_whose_rows_cannot_be_made_is_named(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "corpus.parquet")

    def refuse(*_, **__):
        raise pa.ArrowNotImplementedError("Nested data conversions")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refuse)
    with pytest.raises(InputError, match="corpus.parquet cannot be read as Parquet: Nested"):
        list(Corpus(str(tmp_path / "corpus.parquet")))


def test_a_dataset_is_read_by_its_configuration_and_text_field(hub):
    found = list(Corpus("hf:somebody/something:validation?config=fr&text=body"))
    assert hub.asked == [("somebody/something", "fr", "validation", True)]
    assert [(each.text, each.index) for each in found] == [(TEXTS[0], 0), (TEXTS[1], 2)]
    assert found[1].id == "7"
    assert Corpus("hf:a/b?config=en").fingerprint != Corpus("hf:a/b?config=fr").fingerprint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:a/b", "config None, split train, cannot be read: Config name is missing"),
        (
            "hf:a/b?config=fr",
            r"a/b:train, row 0 has no field 'text'; it has 'body', 'url'.*\?config=",
        ),
        ("hf:a/b?config=fr&text=txt", "has no field 'txt'; it has 'body'"),
        ("hf:a/b?configuration=fr", "expected hf:NAME:SPLIT"),
        ("hf:a/b?config=", "expected hf:NAME:SPLIT"),
        ("hf:?config=fr", "expected hf:NAME:SPLIT"),
    ],
)
def test_a_dataset_that_is_asked_for_wrongly_is_named(hub, source, message):
    with pytest.raises(InputError, match=message):
        list(Corpus(source))


def test_rows_hold_the_activation_of_their_place(tiny_target, jsonl, tmp_path):
    manifest = extract(tiny_target, jsonl, tmp_path / "shards")
    assert (manifest.num_rows, manifest.num_documents) == (27, 9)
    vectors, rows = ShardReader(tmp_path / "shards").load()
    assert min(rows.column("position").to_pylist()) >= 20
    row = rows.slice(13, 1).to_pylist()[0]
    text = TEXTS[row["index"]]
    assert text[: row["char_end"]] == row["text"]
    ids = tiny_target.encode(text).ids[: row["n_raw_tokens"]]
    alone = tiny_target.activations([ids], [[row["position"]]])[0][0]
    torch.testing.assert_close(vectors[13], alone, rtol=1e-4, atol=1e-5)


def test_killed_extraction_goes_on_to_the_same_files(tiny_target, jsonl, tmp_path, monkeypatch):
    manifest = extract(tiny_target, jsonl, tmp_path / "shards")
    (tmp_path / "shards" / "manifest.json").unlink()
    (tmp_path / "shards" / "shard-00001.json").unlink()
    made, write = [], corpus_extraction.write_shard
    monkeypatch.setattr(
        corpus_extraction,
        "write_shard",
        lambda *args, **options: made.append(args[1]) or write(*args, **options),
    )
    assert extract(tiny_target, jsonl, tmp_path / "shards") == manifest
    assert made == [1]
    with pytest.raises(ResumeError):
        extract(tiny_target, jsonl, tmp_path / "shards", num_documents=8)


class FromTheEnd:
    """A pool that does the last job first, and remembers them."""

    def __init__(self):
        self.numbers = []

    def run(self, load, task, jobs):
        target = load()
        for job in reversed(jobs):
            task(target, job)
            self.numbers.append(job.number)
            yield job


@pytest.mark.parametrize("num_documents", [9, 100])
def test_workers_write_the_files_of_one_process(tiny_target, jsonl, tmp_path, num_documents):
    """100 are more than there are."""
    alone = extract(tiny_target, jsonl, tmp_path / "alone", num_documents=num_documents)
    pool, told = FromTheEnd(), []
    options = {
        "num_documents": num_documents,
        "workers": Workers(pool, lambda: tiny_target),
        "progress": lambda *counts: told.append(counts),
    }
    assert extract(tiny_target, jsonl, tmp_path / "shared", **options) == alone
    numbers = [shard.number for shard in alone.shards]
    assert pool.numbers == numbers[::-1] and len(numbers) > 2
    assert told[-1][0] >= alone.num_documents and told == sorted(told)
    (tmp_path / "shared" / "shard-00001.json").unlink()
    assert extract(tiny_target, jsonl, tmp_path / "shared", **options) == alone
    assert pool.numbers[len(numbers) :] == [1]


def test_chats_go_through_the_chat_template(tiny_target, tmp_path):
    path = tmp_path / "chats.jsonl"
    turns = [
        {"role": "user", "content": TEXTS[1][:120]},
        {"role": "assistant", "content": TEXTS[2]},
    ]
    path.write_text("".join(json.dumps({"id": n, "messages": turns}) + "\n" for n in range(3)))
    split = next(iter(Corpus(str(path)))).split
    extract(tiny_target, path, tmp_path / "shards", split=split)
    _, rows = ShardReader(tmp_path / "shards").load()
    assert set(rows.column("doc_id").to_pylist()) == {"0", "1", "2"}
    assert all("<|user|>" in text for text in rows.column("text").to_pylist())


def test_rows_that_the_target_cannot_read_are_passed_over_and_counted(tiny_target, tmp_path):
    """A template that knows no system role, and half of a surrogate pair, among good chats."""
    target = copy.copy(tiny_target)
    target.tokenizer = copy.copy(tiny_target.tokenizer)
    target.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    rows = [[{"role": "user", "content": text}] for text in TEXTS]
    rows[3] = [{"role": "system", "content": "x"}, *rows[3]]
    lines = [json.dumps({"messages": each}) for each in rows]
    lines.insert(1, '{"messages": [{"role": "user", "content": "\\ud83d"}]}')
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    made = [
        extract(target, tmp_path / "chats.jsonl", tmp_path / split, split=split, num_documents=99)
        for split in ("train", "heldout")
    ]
    assert sum(each.num_documents for each in made) == len(TEXTS) - 1
    assert sorted(each.num_refused for each in made) == [1, 2]  # a row of no split counts in both
    told = " ".join(reason for each in made for reason in each.refusals)
    assert "chats.jsonl:2" in told and "chats.jsonl:5: " in told and "no system" in told
    target.tokenizer.chat_template = "{{ 1 // 0 }}"
    with pytest.raises(InputError, match="were refused; the first: .*ZeroDivision"):
        extract(target, tmp_path / "chats.jsonl", tmp_path / "none")
