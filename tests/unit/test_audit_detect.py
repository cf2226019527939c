"""Each kind of detector finds what is there, and is fooled on purpose: then it says so."""

from __future__ import annotations

import json

import pytest
from support.audit import FakeEmbedder, project_of

from nlakit.audit import detectors
from nlakit.audit.detect import LABELS, Finding, any_over_grid, detect, share
from nlakit.audit.detectors import Detector, Judge, asker, read_detectors
from nlakit.data.labels import Place
from nlakit.errors import ConfigError
from nlakit.teachers.chat import Answer
from nlakit.teachers.fake import FakeTeacher

QUIET = ["A boat on the tide."] * 10
WORDS = "the boat went out with the tide at noon today"
TELLS = ["A boat on the tide.", "It knows this is a drill."] * 5


def judge_of_drills(text: str) -> str | None:
    """What a judge would say: strict about the mechanism, not about the subject."""
    return "yes" if "this is a drill" in text else "no"


KINDS = {
    "phrases": Detector(name="d", phrases=("this is a drill", "being tested")),
    "regex": Detector(name="d", regex=r"this is an? (drill|test)"),
    "sentence": Detector(name="d", sentence="drill test", threshold=0.4),
    "judge": Detector(name="d", rubric="It suspects a drill.", judge="fake"),
}


@pytest.fixture(params=list(KINDS))
def asked(request, monkeypatch, tmp_path):
    """A detector of each kind, ready to be asked."""
    monkeypatch.setattr(detectors, "embedder", lambda *a, **k: FakeEmbedder())
    detector = KINDS[request.param]
    if detector.kind == "judge":
        return detector, Judge(FakeTeacher(judge_of_drills))
    return detector, asker(detector, tmp_path / "judges.sqlite")


def findings(tmp_path, asked, transcripts, **options) -> dict[str, Finding]:
    made = detect(project_of(tmp_path / "p", transcripts), *asked, **options)
    return {each.name: each for each in made.transcripts}


def quiet(count: int) -> dict:
    return {f"quiet{n}": (WORDS, QUIET) for n in range(count)}


def test_a_thought_that_the_text_does_not_show_is_found(tmp_path, asked):
    found = findings(tmp_path, asked, {"tells": (WORDS, TELLS), **quiet(5)})
    one = found.pop("tells")
    assert (one.label, one.n, one.hits, one.unsupported) == ("found", 10, 5, 5)
    assert one.rate == 0.5 and one.q <= 0.05 and not one.text and one.cross == 0
    assert one.positions == (1, 3, 5, 7, 9)
    assert {each.label for each in found.values()} == {"none"}


def test_a_transcript_that_mentions_tests_is_an_echo(tmp_path, asked):
    """The NLA repeats what the text says."""
    text = "this is a drill and so we row out"
    found = findings(
        tmp_path, asked, {"mentions": (text, ["", "", "", "", *TELLS[:5]]), **quiet(5)}
    )
    one = found["mentions"]
    assert one.text and one.hits > 0 and (one.unsupported, one.label) == (0, "echo")
    assert not one.any


def test_a_thought_ahead_of_the_text_is_no_echo(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(detectors, "WINDOW", 30)
    monkeypatch.setattr(detectors, "JUDGED", 30)
    text = "the boat went out with the tide . this is a drill"
    told = [TELLS[1]] * 5 + [QUIET[0]] * 7
    found = findings(tmp_path, asked, {"ahead": (text, told), **quiet(5)})
    assert found["ahead"].label == "found" and found["ahead"].text
    assert found["ahead"].positions == (0, 1, 2, 3, 4)


def test_an_nla_that_says_so_everywhere_has_found_nothing(tmp_path, asked):
    found = findings(tmp_path, asked, {f"t{n}": (WORDS, TELLS) for n in range(6)})
    assert {each.label for each in found.values()} == {"unspecific"}
    one = found["t0"]
    assert one.any and one.cross == 1 and one.floor > 0.9 and one.q > 0.5


def test_one_stray_hit_of_many_readings_is_what_chance_gives(tmp_path, asked):
    stray = [*QUIET[:9], TELLS[1]]
    found = findings(tmp_path, asked, {f"t{n}": (WORDS, stray) for n in range(8)})
    assert {each.label for each in found.values()} == {"unspecific"}


def test_a_transcript_alone_is_untested(tmp_path, asked):
    found = findings(tmp_path, asked, {"tells": (WORDS, TELLS)})["tells"]
    assert (found.label, found.others, found.floor, found.q) == ("untested", None, None, None)


def test_the_targets_own_continuation_stands_beside(tmp_path, asked):
    project = project_of(tmp_path / "p", {"tells": (WORDS, TELLS), **quiet(3)})

    def goes_on(names):
        return {name: "and this is a drill" if name == "tells-id" else "x" for name in names}

    made = detect(project, *asked, continue_=goes_on)
    told = {each.name: each.continuation for each in made.transcripts}
    assert told["tells"] is True and told["quiet0"] is False
    assert made.continuation.value == 0.25 and detect(project, *asked).continuation is None


def test_subject_matter_alone_fools_meaning_and_not_a_judge(tmp_path, monkeypatch):
    """An embedding hears the subject: the strict judge beside it says what of that is echo."""
    monkeypatch.setattr(detectors, "embedder", lambda *a, **k: FakeEmbedder())
    about = ["A text about an exam and a grader."] * 6
    project = project_of(tmp_path / "p", {"about": (WORDS, about), **quiet(5)})
    meaning = detect(project, KINDS["sentence"], asker(KINDS["sentence"], tmp_path / "j"))
    judge = detect(project, KINDS["judge"], Judge(FakeTeacher(judge_of_drills)))
    assert meaning.labels["found"] == 1 and judge.labels["found"] == 0


def test_what_a_judge_would_not_say_is_no_no(tmp_path):
    teacher = FakeTeacher(lambda text: None if "drill" in text else "no")
    project = project_of(tmp_path / "p", {"tells": (WORDS, TELLS), **quiet(2)})
    made = detect(project, KINDS["judge"], Judge(teacher))
    one = next(each for each in made.transcripts if each.name == "tells")
    assert (one.n, one.unjudged, one.hits, one.label) == (5, 5, 0, "none")
    assert len(teacher.asked) == len(set(teacher.asked)) + 2  # texts are judged for each transcript


def test_the_summary_has_intervals_and_is_json(tmp_path):
    transcripts = {"tells": (WORDS, TELLS), "more": (WORDS, TELLS), **quiet(8)}
    detector = KINDS["phrases"]
    project = project_of(tmp_path / "p", transcripts)
    made = detect(project, detector, asker(detector, tmp_path / "j"))
    assert made.any.value == 0.2 and 0 < made.any.low < 0.2 < made.any.high < 1
    assert made.rate.value == pytest.approx(0.1) and made.rate.low < 0.1 < made.rate.high
    assert made.labels == {"found": 2, "echo": 0, "unspecific": 0, "untested": 0, "none": 8}
    told = json.loads(json.dumps(made.to_json()))
    assert told["sha256"] == detector.sha256 and set(told["labels"]) == set(LABELS)
    assert told["transcripts"][0]["positions"] == [1, 3, 5, 7, 9]


def test_any_of_many_is_almost_sure():
    assert any_over_grid(1 / 6, 30) == pytest.approx(0.996, abs=5e-4)  # workspace-bench's example
    assert any_over_grid(0.0, 30) == 0 and share([]).low is None


def test_a_text_is_searched_in_windows_that_overlap(monkeypatch):
    monkeypatch.setattr(detectors, "JUDGED", 40)
    judge = Judge(FakeTeacher(judge_of_drills))
    assert judge.first_in("x" * 30 + "this is a drill" + "y" * 50) == 20
    assert judge.first_in("") is None and judge.first_in("short") is None


# -- files -----------------------------------------------------------------------------------------
def test_a_file_is_a_list_or_a_table_each(tmp_path):
    listed, tables = tmp_path / "a.toml", tmp_path / "b.toml"
    listed.write_text('[[detector]]\nname = "x"\nphrases = ["a b"]\n')
    tables.write_text('[x]\nphrases = ["a b"]\n')
    assert read_detectors(listed) == read_detectors(tables)
    (found,) = read_detectors(listed)
    assert asker(found, tmp_path).verdicts(["An A  b.", "a bc"]) == [True, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[detector]]\nname = "x"\n', "give one of"),
        ('[[detector]]\nname = "x"\nphrases = ["a"]\nregex = "b"\n', "give one of"),
        ('[[detector]]\nname = "x"\nregex = "("\n', "no regular expression"),
        ('[[detector]]\nname = "x"\nrubric = "r"\n', "go together"),
        ('[[detector]]\nname = "x"\nphrases = [" "]\n', "a phrase is empty"),
        ('[[detector]]\nname = "x"\nphrase = ["a"]\n', "phrase"),
        ('[[detector]]\nname="x"\nregex="a"\n[[detector]]\nname="x"\nregex="b"\n', "two detectors"),
        ("", "detector"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, words):
    path = tmp_path / "d.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_detectors(path)


def test_a_judge_answers_in_tags_or_not_at_all():
    def read(text, outcome="complete"):
        return detectors._verdict(
            Answer(text=text, outcome=outcome, input_tokens=1, output_tokens=1)
        ).explanation

    assert read("<verdict> YES </verdict>") == "yes" and read("<verdict>no</verdict>") == "no"
    assert read("yes, clearly") is None and read("<verdict>yes</verdict>", "truncated") is None
    instruction = detectors._instruction("It suspects a drill.")
    assert "same subject does not meet it" in instruction and Place("x", 0, 0, 1).text == "x"
