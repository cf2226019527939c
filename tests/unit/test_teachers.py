"""Teachers against a local server that misbehaves: nothing is lost, and nothing paid twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.serving import until
from support.teacher_server import GOOD, READ, WRITTEN, teacher_server

from nlakit.data.labels import Place, TeacherLabel
from nlakit.errors import ConfigError, RemoteError
from nlakit.teachers import batches
from nlakit.teachers.cache import AnswerCache
from nlakit.teachers.chat import Answer, AnthropicApi, OpenAICompatibleApi
from nlakit.teachers.cost import Budget, BudgetSpent, Price, estimate
from nlakit.teachers.fake import FakeTeacher
from nlakit.teachers.http import Patience
from nlakit.teachers.joined import JoinedTeacher
from nlakit.teachers.named import names_of, paid_of, teacher_named
from nlakit.teachers.prompt import BRIEF, to_label
from nlakit.teachers.remote import RemoteTeacher
from nlakit.teachers.rewriting import PARAPHRASE, SUMMARY, translation
from nlakit.teachers.text import TextTeacher

SECRET = "sk-never-shown"
QUICK = Patience(tries=4, first_wait=0.01)
HASTY = Patience(tries=50, first_wait=0.01, timeout=0.3)
PRICE = Price(input=3, output=15)
COST = (READ * 3 + WRITTEN * 15) / 1e6
LABEL = "A story about a cat.\n\nEnds in a comma; a verb follows."


def places(count, start=0):
    return [Place(f"text number {n}", 0, n, 5) for n in range(start, start + count)]


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


@pytest.fixture
def cache(tmp_path):
    made = AnswerCache(tmp_path / "answers.sqlite")
    yield made
    made.close()


def teacher(server, cache, *, budget=None, patience=QUICK, **options):
    api = AnthropicApi("claude-x", server.url, max_tokens=50)
    return RemoteTeacher(api, cache, budget or Budget(None, PRICE), patience=patience, **options)


# -- what the server does --------------------------------------------------------------------------
def test_an_answer_that_does_not_come_is_asked_for_again(cache):
    with teacher_server("slow") as server:
        asking = teacher(server, cache, patience=HASTY)
        assert asking.label(places(1)[0]).explanation == LABEL
        assert asking.retries >= 1


@pytest.mark.parametrize("trouble", [429, 500, 529, "malformed", "cut"])
def test_passing_troubles_are_waited_out(cache, trouble):
    with teacher_server(trouble) as server:
        asking = teacher(server, cache)
        assert asking.label(places(1)[0]).explanation == LABEL
        assert asking.retries == 1


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_for_good_is_not_retried_and_shows_no_key(cache, status):
    with teacher_server(status) as server, pytest.raises(RemoteError) as error:
        teacher(server, cache).label_many(places(1))
    assert error.value.status == status
    assert f"told to say {status}" in str(error.value)
    assert ("ANTHROPIC_API_KEY" in str(error.value)) == (status == 401)
    assert SECRET not in str(error.value)
    assert len(server.headers_seen) == 1


def test_a_server_that_keeps_failing_is_given_up(cache):
    with teacher_server(*[500] * 4) as server, pytest.raises(RemoteError, match="failed 4 times"):
        teacher(server, cache).label_many(places(1))


@pytest.mark.parametrize(
    ("text", "stop", "reason"),
    [
        (GOOD, "max_tokens", "truncated"),
        ("I cannot.", "refusal", "refused"),
        ("no tags", "end_turn", "no explanation in tags"),
        ("<explanation>one, unclosed\n\ntwo", "end_turn", "no explanation in tags"),
        ("<explanation>only one</explanation>", "end_turn", "fewer than two features"),
    ],
)
def test_bad_answers_are_data_with_a_reason(cache, text, stop, reason):
    with teacher_server(text=text, stop=stop) as server:
        found = teacher(server, cache).label(places(1)[0])
    assert (found.explanation, found.refusal) == (None, reason)
    assert cache.paid("anthropic:claude-x") == (READ, WRITTEN)


@pytest.mark.parametrize(
    ("text", "stop", "found"),
    [
        (" preface <explanation>\nUn conte.\n</explanation>", "end_turn", ("Un conte.", None)),
        ("Un conte.", "end_turn", (None, "no explanation in tags")),
        ("<explanation> </explanation>", "end_turn", (None, "an empty explanation")),
        ("<explanation>Un conte", "max_tokens", (None, "truncated")),
    ],
)
def test_a_teacher_says_an_explanation_again(cache, text, stop, found):
    with teacher_server(text=text, stop=stop) as server:
        asking = teacher(server, cache, task=translation("French"))
        label = asking.label(Place("A story.", 0, 0, 8))
        assert (label.explanation, label.refusal) == found
        sent = server.asked[0]
    assert "into French" in sent["system"]
    assert "<explanation>\nA story.\n</explanation>" in sent["messages"][0]["content"]


def test_tasks_share_a_cache_and_no_answer(cache):
    place = Place("A story.", 0, 0, 8)
    with teacher_server() as server:
        for task in (PARAPHRASE, SUMMARY, translation("French"), translation("Spanish"), SUMMARY):
            teacher(server, cache, task=task).label(place)
        teacher(server, cache).label(place)
        assert server.paid == 5


def test_the_storyworld_s_teacher_has_one_language(tmp_path):
    with pytest.raises(ConfigError, match="writes labels only"):
        teacher_named("storyworld", tmp_path / "answers.sqlite", task=translation("French"))


@pytest.mark.parametrize(
    ("text", "stop", "found"),
    [
        ("It is of Mr. J. Poe.\nAnd more.", "end_turn", ("It is of Mr. J. Poe.", None)),
        ('He says "No!" And he', "max_tokens", ('He says "No!"', None)),
        ("A chat about\nboats.", "end_turn", ("A chat about boats.", None)),
        ("A chat about 2.5 boats", "max_tokens", (None, "no whole sentence")),
        ("boats " * 41 + ".", "end_turn", (None, "a sentence of more than 40 words")),
        ("I will not. No.", "refusal", (None, "refused")),
    ],
)
def test_a_small_model_is_asked_for_one_sentence(cache, text, stop, found):
    with teacher_server(text=text, stop=stop) as server:
        asking = teacher(server, cache, task=BRIEF)
        label = asking.label(Place("far " * 300 + "near", 0, 0, 8))
        assert (label.explanation, label.refusal) == found
        shown = server.asked[0]["messages"][0]["content"]
    assert shown.endswith("far near") and len(shown) == 500
    # Labels that are there are taken for a teacher's by its name; answers are paid for by model.
    assert asking.name == "anthropic:claude-x (brief)"
    assert cache.paid("anthropic:claude-x") == (READ, WRITTEN)


def test_teachers_write_a_label_together(tmp_path):
    cache, place = tmp_path / "answers.sqlite", Place("Nets and boats", 0, 0, 14)
    by_rule = teacher_named("text", cache).label(place)
    joined = teacher_named("fake+text", cache)
    label = joined.label(place)
    assert label.explanation == f"{teacher_named('fake', cache).label(place).explanation}\n\n" + (
        by_rule.explanation or ""
    )
    assert label.claims == by_rule.claims
    assert joined.name == "fake + text-0"
    other = teacher_named("text+fake", cache)
    assert other.label(place).explanation != label.explanation
    assert other.key(place) != joined.key(place)


def test_a_teacher_without_a_label_leaves_the_other_s(tmp_path):
    place, empty = Place("Nets and boats", 0, 0, 14), Place("", 0, 0, 0)
    joined = JoinedTeacher([FakeTeacher(lambda _: None), TextTeacher()])
    found, nothing = joined.label_many([place, empty])
    assert found == TextTeacher().label(place)
    assert nothing == TeacherLabel(None, refusal="the script refuses")


def test_joined_teachers_have_one_bill_and_plain_paths(tmp_path):
    assert names_of("hf:a+b/c+d+text") == ["hf:a+b/c+d", "text"]
    assert names_of("text+openai:x") == ["text", "openai:x"]
    assert names_of("hf:text+") == ["hf:text+"]
    with pytest.raises(ConfigError, match="2 of its teachers are on servers"):
        teacher_named("openai:a+anthropic:b", tmp_path / "answers.sqlite")
    joined = teacher_named("text+openai:a", tmp_path / "answers.sqlite", price=PRICE, budget=1)
    paid = paid_of(joined)
    assert paid is not None and paid.budget.limit == 1
    assert paid_of(teacher_named("text", tmp_path / "answers.sqlite")) is None


def test_openai_compatible_servers_are_understood(cache):
    with teacher_server(stop="stop") as server:
        api = OpenAICompatibleApi("llama", server.url + "/v1")
        asking = RemoteTeacher(api, cache, Budget(None, None), patience=QUICK)
        assert asking.label(places(1)[0]).explanation == LABEL
        assert [turn["role"] for turn in server.asked[0]["messages"]] == ["system", "user"]
        assert "text number 0" in server.asked[0]["messages"][1]["content"]
        server.stop = "length"
        assert asking.label(places(1, 1)[0]).refusal == "truncated"


def test_keys_come_from_the_environment_only(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        AnthropicApi("claude-x").headers()
    monkeypatch.delenv("OPENAI_API_KEY")
    assert OpenAICompatibleApi("x", "http://localhost/v1").headers() == {}
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        OpenAICompatibleApi("x").headers()


def test_no_more_questions_at_once_than_asked_for(cache):
    with teacher_server() as server:
        server.crowd = threading.Barrier(3)
        teacher(server, cache, concurrency=3).label_many(places(12))
        assert server.most_at_once == 3


# -- what is paid ----------------------------------------------------------------------------------
def test_equal_texts_are_asked_once_and_never_again(cache):
    with teacher_server() as server:
        teacher(server, cache).label_many(places(3) + places(3))
        teacher(server, cache).label_many(places(4))
        assert server.paid == 4


def test_a_notebook_whose_loop_runs_gets_its_labels(cache):
    async def cell(server):
        return teacher(server, cache).label_many(places(3))

    with teacher_server() as server, ThreadPoolExecutor(1) as notebook:
        assert len(notebook.submit(asyncio.run, cell(server)).result()) == 3


def test_budget_stops_before_it_is_passed_and_goes_on_later(cache):
    worst = Budget(None, PRICE).worst_case("x" * 2000, 50)
    limit = 3 * COST + worst
    with teacher_server() as server:
        budget = Budget(limit, PRICE)
        with pytest.raises(BudgetSpent, match="nothing is paid for twice"):
            teacher(server, cache, budget=budget, concurrency=1).label_many(places(50))
        first = server.paid
        assert 0 < first < 50
        assert budget.spent == pytest.approx(first * COST)
        assert budget.spent <= limit
        assert budget.reserved == pytest.approx(0)
        teacher(server, cache).label_many(places(50))
        assert server.paid == 50


def test_budget_without_a_price_is_refused():
    with pytest.raises(ConfigError, match="--price"):
        Budget(5.0, None)


def test_estimate_is_tokens_times_price():
    found = estimate(["x" * 4000] * 10, PRICE)
    assert (found.input_tokens, found.output_tokens) == (10_000, 1500)
    assert found.dollars == pytest.approx(0.03 + 0.0225)


KILLED = """
import sys
from nlakit.data.labels import Place, TeacherLabel
from nlakit.teachers.cache import AnswerCache
from nlakit.teachers.chat import AnthropicApi
from nlakit.teachers.cost import Budget
from nlakit.teachers.remote import RemoteTeacher
cache = AnswerCache(sys.argv[2])
api = AnthropicApi("claude-x", sys.argv[1])
asking = RemoteTeacher(api, cache, Budget(None, None), concurrency=1)
asking.label_many([Place(f"text number {n}", 0, n, 5) for n in range(300)])
"""


def test_a_killed_run_pays_again_for_no_more_than_was_in_flight(tmp_path):
    path = tmp_path / "answers.sqlite"
    with teacher_server() as server:
        server.pause_at = 5
        process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(path)])
        until(lambda: len(server.headers_seen) == 6)  # five are paid, one is in flight
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        server.resume.set()
        cache = AnswerCache(path)
        teacher(server, cache).label_many(places(300))
        assert 300 <= server.paid <= 301
        cache.close()


# -- batches ---------------------------------------------------------------------------------------
def test_batches_answer_all_and_are_fetched_once(cache):
    with teacher_server() as server:
        asking = teacher(server, cache, batch=True)
        assert {each.explanation for each in asking.label_many(places(5))} == {LABEL}
        assert asking.budget.spent == pytest.approx(5 * COST)
        asking.label_many(places(5))
        assert (server.batch_posts, server.paid) == (1, 5)
        assert cache.pending_batches(asking.name) == []


def test_a_run_killed_while_a_batch_waits_fetches_it(cache, monkeypatch):
    async def killed(*_):
        raise KeyboardInterrupt

    with teacher_server() as server:
        with monkeypatch.context() as patch:
            patch.setattr(batches.BatchClient, "_collect", killed)
            with pytest.raises(KeyboardInterrupt):
                teacher(server, cache, batch=True).label_many(places(5))
        teacher(server, cache, batch=True).label_many(places(5))
        assert (server.batch_posts, server.paid) == (1, 5)


# -- parts -----------------------------------------------------------------------------------------
def test_labels_keep_paragraphs_and_drop_what_surrounds_them():
    answer = Answer(text=f"Sure!\n{GOOD}\nbye", outcome="complete", input_tokens=1, output_tokens=1)
    assert to_label(answer).explanation == LABEL
    assert json.loads(answer.model_dump_json())["outcome"] == "complete"
