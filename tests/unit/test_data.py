"""Activations, labels and training files: what goes in comes out, and what is broken is refused."""

from __future__ import annotations

import random
from itertools import islice

import pyarrow as pa
import pytest
import torch

from nlakit.contract import (
    DatasetExtraction,
    DatasetMeta,
    PromptTemplates,
    measure_tokens,
)
from nlakit.data import shards
from nlakit.data.datasets import (
    PairSet,
    export_parquet,
    import_parquet,
    join,
    load_pairs,
    training_mean,
)
from nlakit.data.labels import write_labels
from nlakit.data.shards import ShardReader
from nlakit.errors import CheckpointError, InputError, ResumeError
from nlakit.storyworld.grammar import document, generate
from nlakit.storyworld.teacher import label
from nlakit.teachers.fake import FakeTeacher
from nlakit.worlds.storyworld.documents import (
    encode_document,
    readable_documents,
    sample_positions,
    states_of,
)
from nlakit.worlds.storyworld.extraction import extract_storyworld, sample_storyworld
from nlakit.worlds.storyworld.teacher import StoryworldTeacher

AV, AR = "Say: <concept>{injection_char}</concept> now.", "Text: {explanation} <summary>"


def extract(target, directory, **changes):
    plan = {"seed": 3, "split": "train", "num_documents": 9} | changes
    return extract_storyworld(target, directory, **plan, positions_per_document=4, shard_rows=16)


@pytest.fixture
def extracted(tiny_target, tmp_path):
    return tmp_path, extract(tiny_target, tmp_path / "shards")


# -- documents -------------------------------------------------------------------------------------
def test_chat_roles_are_special_tokens_and_offsets_are_into_the_text(tiny_target):
    made = document(2, 0, "chat")
    encoded = encode_document(tiny_target, made)
    names = tiny_target.tokenizer.convert_ids_to_tokens(encoded.ids)
    assert names[:2] == ["<|bos|>", "<|system|>"]
    roles = [p for p, name in enumerate(names) if name == "<|assistant|>"]
    assert [made.text[slice(*encoded.offsets[p])] for p in roles] == ["<|assistant|>"] * 2


def test_plain_documents_start_with_bos_and_cover_the_text(tiny_target):
    made = document(2, 0, "story")
    encoded = encode_document(tiny_target, made)
    assert encoded.ids[0] == tiny_target.tokenizer.bos_token_id
    assert encoded.offsets[0] == (0, 0)
    assert "".join(made.text[a:b] for a, b in encoded.offsets) == made.text


def test_documents_past_the_context_are_passed_over(tiny_target, monkeypatch):
    made = list(islice(generate(3, "train"), 30))
    lengths = [len(encode_document(tiny_target, each).ids) for each in made]
    limit = sorted(lengths)[15]
    monkeypatch.setattr(tiny_target.model.config, "max_position_embeddings", limit)
    kept = [each.document for each in readable_documents(tiny_target, made)]
    assert kept == [each for each, length in zip(made, lengths, strict=True) if length <= limit]


def test_positions_are_distinct_ordered_and_behind_the_head(tiny_target):
    encoded = encode_document(tiny_target, document(2, 0, "story"))
    found = sample_positions(encoded, 10, random.Random(0))
    assert found == sorted(set(found))
    assert len(found) == 10
    assert min(found) >= 8
    assert len(sample_positions(encoded, 10_000, random.Random(0))) == len(encoded.ids) - 8


# -- extraction ------------------------------------------------------------------------------------
def test_rows_hold_the_activation_of_their_place(tiny_target):
    vectors, rows = sample_storyworld(tiny_target, 3, "heldout", 5, 3)
    assert (len(vectors), rows.num_rows, len(rows.column("doc_id").unique())) == (15, 15, 5)
    row = rows.slice(7, 1).to_pylist()[0]
    made = document(row["seed"], row["index"])
    ids = encode_document(tiny_target, made).ids[: row["n_raw_tokens"]]
    assert made.text[: row["char_end"]] == row["text"]
    assert ids[row["position"]] == row["token_id"]
    alone = tiny_target.activations([ids], [[row["position"]]])[0][0]
    torch.testing.assert_close(vectors[7], alone, rtol=1e-4, atol=1e-5)


def test_states_of_rows_are_those_of_their_documents(tiny_target):
    _, rows = sample_storyworld(tiny_target, 3, "train", 4, 2)
    states = states_of(rows)
    assert [" ".join(state.last_words)[-3:] for state in states] == [
        " ".join(text.replace("<|", " ").replace("|>", ": ").split())[-3:]
        for text in rows.column("text").to_pylist()
    ]


def test_extraction_is_sharded_by_document(extracted):
    directory, manifest = extracted
    assert [record.num_documents for record in manifest.shards] == [4, 4, 1]
    assert (manifest.num_rows, manifest.d_model, manifest.layer) == (36, 16, 0)
    vectors, rows = ShardReader(directory / "shards").load()
    assert vectors.shape == (36, 16)
    found = list(dict.fromkeys(rows.column("text").to_pylist()))
    expected = list(islice(generate(3, "train"), 9))
    assert len(found) == 36
    assert list(dict.fromkeys(rows.column("doc_id").to_pylist())) == [d.id for d in expected]


def test_killed_extraction_continues_to_the_same_files(tiny_target, extracted, monkeypatch):
    directory, manifest = extracted
    (directory / "shards" / "manifest.json").unlink()
    (directory / "shards" / "shard-00001.json").unlink()
    (directory / "shards" / "shard-00002.safetensors").write_bytes(b"half")
    made = []
    original = shards.write_shard
    monkeypatch.setattr(
        "nlakit.worlds.storyworld.extraction.write_shard",
        lambda *args, **kwargs: made.append(args[1]) or original(*args, **kwargs),
    )
    assert extract(tiny_target, directory / "shards") == manifest
    assert made == [1, 2]


def test_another_seed_or_target_is_refused(tiny_target, extracted):
    directory, _ = extracted
    with pytest.raises(ResumeError, match="another seed"):
        extract(tiny_target, directory / "shards", seed=4)
    assert len(ShardReader(directory / "shards")) == 36


def test_rare_facts_are_gathered_where_they_hold(tiny_target, tmp_path):
    everywhere = extract(tiny_target, tmp_path / "all")
    manifest = extract(tiny_target, tmp_path / "rhymes", about=("rhyme",))
    vectors, rows = ShardReader(tmp_path / "rhymes").load()
    assert manifest.num_documents == 9
    assert 9 <= len(vectors) <= 36
    assert all("rhyme" in state.facts for state in states_of(rows))
    assert len(set(rows.column("doc_id").to_pylist())) == 9
    assert manifest.config_hash != everywhere.config_hash


def test_corrupt_shard_is_refused(extracted):
    directory, _ = extracted
    path = directory / "shards" / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="shard-00001.safetensors is corrupt"):
        ShardReader(directory / "shards").load()


def test_unfinished_extraction_is_refused(extracted):
    directory, _ = extracted
    (directory / "shards" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="did not finish"):
        ShardReader(directory / "shards")


def test_missing_shard_is_refused(extracted):
    directory, _ = extracted
    (directory / "shards" / "shard-00002.parquet").unlink()
    with pytest.raises(CheckpointError, match="shard-00002.parquet is missing"):
        list(ShardReader(directory / "shards"))


# -- labels ----------------------------------------------------------------------------------------
def test_storyworld_labels_are_the_teachers_of_each_place(extracted):
    directory, _ = extracted
    write_labels(directory / "shards", StoryworldTeacher(), directory / "labels")
    pairs = load_pairs(directory / "shards", directory / "labels")
    row = pairs.rows.slice(20, 1).to_pylist()[0]
    made = document(row["seed"], row["index"])
    assert pairs.explanations[20] == label(made, row["char_end"]).text
    assert len(pairs) == len(pairs.vectors) == 36


def test_labels_are_asked_once(extracted):
    directory, _ = extracted
    teacher = FakeTeacher(lambda text: text[-5:])
    write_labels(directory / "shards", teacher, directory / "labels")
    (directory / "labels" / "labels-00001.parquet").unlink()
    num_first = len(teacher.asked)
    write_labels(directory / "shards", teacher, directory / "labels")
    pairs = load_pairs(directory / "shards", directory / "labels")
    assert len(teacher.asked) - num_first == 16
    assert list(pairs.explanations) == [text[-5:] for text in pairs.rows.column("text").to_pylist()]


def told(text: str) -> str:
    return text[-5:]


def label_files(directory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "labels").iterdir()}


@pytest.mark.parametrize("finished", [True, False])
def test_another_teachers_set_is_refused_and_left_as_it_is(extracted, finished):
    directory, _ = extracted
    write_labels(directory / "shards", FakeTeacher(told), directory / "labels")
    if not finished:
        (directory / "labels" / "labels.json").unlink()
    before = label_files(directory)
    with pytest.raises(ResumeError, match="which holds labels of 'fake' of these activations"):
        write_labels(directory / "shards", StoryworldTeacher(), directory / "labels")
    assert label_files(directory) == before


def test_labels_of_other_activations_are_not_written_over(extracted, tiny_target, tmp_path):
    directory, _ = extracted
    write_labels(directory / "shards", FakeTeacher(told), directory / "labels")
    extract_storyworld(tiny_target, tmp_path / "others", seed=8, split="train", num_documents=3)
    with pytest.raises(ResumeError, match="of other activations"):
        write_labels(tmp_path / "others", FakeTeacher(told), directory / "labels")


def test_parts_of_an_unknown_set_are_not_written_over(extracted):
    directory, _ = extracted
    write_labels(directory / "shards", FakeTeacher(told), directory / "labels")
    for name in ("labels.json", "plan.json"):
        (directory / "labels" / name).unlink()
    with pytest.raises(ResumeError, match="without a plan.json"):
        write_labels(directory / "shards", FakeTeacher(told), directory / "labels")


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(path, other) -> None:
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", ["flipped", "swapped"])
def test_a_damaged_part_is_labelled_again_and_alone(extracted, damage, finished):
    directory, _ = extracted
    teacher, labels = FakeTeacher(told), directory / "labels"
    write_labels(directory / "shards", teacher, labels)
    before, num_first = label_files(directory), len(teacher.asked)
    if not finished:
        (labels / "labels.json").unlink()
    if damage == "flipped":
        flip(labels / "labels-00001.parquet")
    else:
        swap(labels / "labels-00000.parquet", labels / "labels-00001.parquet")
    write_labels(directory / "shards", teacher, labels)
    assert label_files(directory) == before
    assert len(teacher.asked) - num_first == (16 if damage == "flipped" else 32)


def test_a_damaged_part_of_a_finished_set_is_not_read(extracted):
    directory, _ = extracted
    write_labels(directory / "shards", FakeTeacher(told), directory / "labels")
    flip(directory / "labels" / "labels-00000.parquet")
    with pytest.raises(CheckpointError, match="labels-00000.parquet is corrupt"):
        load_pairs(directory / "shards", directory / "labels")


def test_stray_files_among_shards_are_passed_over(extracted, tiny_target):
    directory, manifest = extracted
    for name in ("shard-copy.json", "shard-00001 (1).json", "notes.txt"):
        (directory / "shards" / name).write_text("{", encoding="utf-8")
    (directory / "shards" / "manifest.json").unlink()
    assert extract(tiny_target, directory / "shards") == manifest


def test_a_record_of_another_shard_is_no_record(extracted, tiny_target):
    directory, manifest = extracted
    shards = directory / "shards"
    for suffix in ("json", "parquet", "safetensors"):
        swap(shards / f"shard-00000.{suffix}", shards / f"shard-00001.{suffix}")
    assert extract(tiny_target, shards) == manifest
    assert len(ShardReader(shards).load()[0]) == manifest.num_rows


def test_refused_rows_are_counted_and_dropped(extracted):
    directory, _ = extracted
    teacher = FakeTeacher(lambda text: None if len(text) % 2 else f"{len(text)} characters")
    found = write_labels(directory / "shards", teacher, directory / "labels")
    pairs = load_pairs(directory / "shards", directory / "labels")
    texts = pairs.rows.column("text").to_pylist()
    assert 0 < found.num_refused < 36
    assert len(pairs.vectors) == len(texts) == 36 - found.num_refused
    assert list(pairs.explanations) == [f"{len(text)} characters" for text in texts]


def test_labels_of_other_activations_are_refused(tiny_target, extracted):
    directory, _ = extracted
    write_labels(directory / "shards", FakeTeacher(str), directory / "labels")
    extract(tiny_target, directory / "other", seed=8)
    with pytest.raises(CheckpointError, match="other activations"):
        load_pairs(directory / "other", directory / "labels")


# -- the reference's files -------------------------------------------------------------------------
def dataset_meta(target, d_model=16):
    return DatasetMeta(
        extraction=DatasetExtraction(d_model=d_model, layer_index=0),
        tokens=measure_tokens(target.tokenizer, "㈎", AV, AR),
        prompt_templates=PromptTemplates(av=AV, ar=AR),
    )


def small_pairs(target):
    vectors, rows = sample_storyworld(target, 3, "train", 3, 2)
    return PairSet(vectors, [f"explanation {row} {{x}}" for row in range(6)], rows)


@pytest.mark.parametrize("kind", ["av_sft", "ar_sft"])
def test_dataset_files_come_back_as_they_were(tiny_target, tmp_path, kind):
    pairs, path = small_pairs(tiny_target), tmp_path / "train.parquet"
    export_parquet(path, pairs, kind, dataset_meta(tiny_target))
    found, meta = import_parquet(path)
    torch.testing.assert_close(found.vectors, pairs.vectors, rtol=0, atol=0)
    assert found.explanations == pairs.explanations
    assert meta == dataset_meta(tiny_target)
    assert found.rows.column("doc_id").to_pylist() == pairs.rows.column("doc_id").to_pylist()


def test_dataset_columns_are_the_references(tiny_target, tmp_path):
    path = tmp_path / "train.parquet"
    export_parquet(path, small_pairs(tiny_target), "av_sft", dataset_meta(tiny_target))
    table = pa.parquet.read_table(path)
    row = table.slice(0, 1).to_pylist()[0]
    assert row["prompt"] == [{"role": "user", "content": "Say: <concept><INJECT></concept> now."}]
    assert row["response"] == "<explanation>explanation 0 {x}</explanation>"
    assert table.schema.field("activation_vector").type == pa.list_(pa.float32(), 16)
    assert set(table.column_names) >= {"n_raw_tokens", "activation_layer", "doc_id"}


def test_dataset_of_another_width_is_refused(tiny_target, tmp_path):
    with pytest.raises(InputError, match="d_model 8, found 16"):
        export_parquet(
            tmp_path / "x.parquet", small_pairs(tiny_target), "rl", dataset_meta(tiny_target, 8)
        )
    assert list(tmp_path.iterdir()) == []


def test_joined_sets_keep_each_vector_beside_its_text(extracted):
    directory, _ = extracted
    write_labels(directory / "shards", StoryworldTeacher(), directory / "labels")
    pairs = load_pairs(directory / "shards", directory / "labels")
    both = join(PairSet(-pairs.vectors[:], ["x"] * len(pairs), pairs.rows), pairs)
    num = len(pairs)
    assert both.explanations == ["x"] * num + list(pairs.explanations)
    torch.testing.assert_close(both.vectors[num:], -both.vectors[:num])
    assert both.rows.slice(num) == pairs.rows


def test_training_mean_normalises_each_row_first():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 10.0]])
    torch.testing.assert_close(training_mean(vectors, 5.0), torch.tensor([1.5, 4.5]))
