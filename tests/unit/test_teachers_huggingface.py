"""A chat model on this machine as teacher: where its answers end, and that each is written once."""

from __future__ import annotations

import json

import pytest
import torch
from support.families import make
from support.serving import tiny_tokenizer

from nlakit.core.site import Site
from nlakit.data.labels import Place
from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.teachers.base import TeacherLabel
from nlakit.teachers.cache import AnswerCache
from nlakit.teachers.huggingface import HuggingFaceTeacher
from nlakit.teachers.named import teacher_named
from nlakit.teachers.prompt import Task

TASK = Task("Say it.", str, lambda answer: TeacherLabel(answer.text, refusal=answer.outcome))
PLACES = [Place(f"Basil rowed {n} times.", 0, n, 5) for n in range(5)]


def save(directory, dtype=torch.float32):
    tokenizer = tiny_tokenizer()
    Target(make("qwen2", len(tokenizer)), tokenizer, Site(1)).save(directory, dtype)
    return directory


@pytest.fixture
def chat_model(tmp_path):
    return save(tmp_path / "chat")


@pytest.fixture
def cache(tmp_path):
    made = AnswerCache(tmp_path / "answers.sqlite")
    yield made
    made.close()


def teacher(directory, cache, **options):
    return HuggingFaceTeacher(
        directory, cache, max_tokens=6, batch_size=2, task=TASK, device="cpu", **options
    )


def written(asking, place):
    """Ids of the answer to a place, by the model alone."""
    turn = {"role": "user", "content": f"Say it.\n\n{place.text}"}
    prompt = asking.tokenizer.apply_chat_template(
        [turn], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = asking.model.generate(**prompt, max_new_tokens=6, do_sample=False)
    return out[0, prompt["input_ids"].shape[1] :].tolist()


def end_with(directory, file, ids):
    path = directory / file
    raw = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**raw, "eos_token_id": ids}))


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_an_answer_ends_at_any_id_that_a_config_names(chat_model, cache, file):
    plain = teacher(chat_model, cache)
    ids = written(plain, PLACES[0])
    assert len(ids) == 6 and plain.label(PLACES[0]).refusal == "truncated"
    stop = next(each for each in ids if each != ids[0])
    end_with(chat_model, file, [plain.tokenizer.eos_token_id, stop])
    cut = ids[: ids.index(stop)]
    fresh = AnswerCache(chat_model / "fresh.sqlite")
    ending = teacher(chat_model, fresh)
    found = ending.label(PLACES[0])
    assert (found.explanation, found.refusal) == (plain.tokenizer.decode(cut), "complete")
    answer = fresh.get(ending.key(PLACES[0]))
    assert answer is not None and answer.output_tokens == len(cut)


def test_a_killed_run_writes_the_rest_only(chat_model, cache, monkeypatch):
    expected = [each.explanation for each in teacher(chat_model, cache).label_many(PLACES)]
    assert len(set(expected)) > 1
    again, asked = AnswerCache(chat_model / "again.sqlite"), []
    killed = teacher(chat_model, again)
    generate = killed.model.generate

    def once(*args, **options):
        asked.append(len(options["input_ids"]))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return generate(*args, **options)

    monkeypatch.setattr(killed.model, "generate", once)
    with pytest.raises(KeyboardInterrupt):
        killed.label_many(PLACES)
    found = killed.label_many([*PLACES, PLACES[0]])
    assert [each.explanation for each in found] == [*expected, expected[0]]
    assert asked == [2, 2, 2, 1]


def test_answered_questions_load_no_weights_and_belong_to_the_weights(chat_model, cache, tmp_path):
    first = teacher(chat_model, cache)
    found = first.label_many(PLACES)
    later = teacher(chat_model, cache)
    assert later.label_many(PLACES) == found
    assert "model" not in vars(later) and "model" in vars(first)
    (tmp_path / "other").mkdir()
    other = teacher(save(tmp_path / "other" / "chat", torch.bfloat16), cache)
    assert other.name == first.name and other.key(PLACES[0]) != first.key(PLACES[0])


def test_an_accelerator_gets_the_checkpoint_s_dtype(tmp_path, cache, monkeypatch):
    directory = save(tmp_path / "chat", torch.bfloat16)
    assert teacher(directory, cache).model.dtype == torch.float32
    # "meta" stands in for a device that is not a CPU.
    assert HuggingFaceTeacher(directory, cache, device="meta").model.dtype == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    named = teacher_named(f"hf:{directory}", tmp_path / "named.sqlite")
    assert isinstance(named, HuggingFaceTeacher) and named.device == "cuda"


def test_a_model_that_does_not_chat_is_refused(chat_model, cache):
    (chat_model / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        teacher(chat_model, cache)
