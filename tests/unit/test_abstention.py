"""What an AV learns to leave out: what its own words were unsure of, and not what was false."""

import math

import pytest

from nlakit.claims.text.checking import TEXT
from nlakit.errors import InputError
from nlakit.train.abstention import Written, WrittenClaim, calibrator_of, left_of
from nlakit.train.config import AbstentionConfig
from nlakit.worlds.storyworld.claims import STORYWORLD


def written(form: tuple[float, str], last: tuple[float, str]) -> Written:
    """A reading whose two claims have these probabilities and verdicts."""
    text = 'A novel.\n\nIt ends on "boat".'
    rows = zip(TEXT.find(text), (form, last), strict=True)
    claims = tuple(
        WrittenClaim(
            kind=claim.kind, value=claim.value, start=claim.start, end=claim.end,
            logprob=math.log(probability), lowest=math.log(probability), information=1.0,
            fidelity=0.5, verdict=verdict,
        )
        for claim, (probability, verdict) in rows
    )  # fmt: skip
    return Written(explanation=text, claims=claims)


SURE, UNSURE = 0.95, 0.3
READ = [
    *(written((SURE, "true"), (SURE, "true")) for _ in range(38)),
    *(written((SURE, "true"), (UNSURE, "false")) for _ in range(30)),
    *(written((SURE, "true"), (UNSURE, "true")) for _ in range(10)),
    *(written((SURE, "false"), (SURE, "false")) for _ in range(2)),
]


def test_what_is_left_out_is_unsure_and_true_or_false():
    calibrator = calibrator_of(READ)
    for verdict in ("true", "false", "uncheckable"):
        unsure = written((SURE, verdict), (UNSURE, verdict))
        assert left_of(unsure, calibrator, 0.5, TEXT) == "A novel."
        sure = written((SURE, verdict), (SURE, verdict))
        assert left_of(sure, calibrator, 0.5, TEXT) == sure.explanation


def test_a_lower_bound_leaves_more():
    calibrator = calibrator_of(READ)
    unsure = written((SURE, "true"), (UNSURE, "true"))
    assert left_of(unsure, calibrator, 0.05, TEXT) == unsure.explanation
    nothing = written((UNSURE, "true"), (UNSURE, "true"))
    assert left_of(nothing, calibrator, 0.9, TEXT) == ""


def test_claims_that_nobody_can_check_teach_nothing():
    unchecked = [written((SURE, "uncheckable"), (UNSURE, "uncheckable"))] * 50
    assert calibrator_of([*READ, *unchecked]) == calibrator_of(READ)
    with pytest.raises(InputError, match="true and false claims"):
        calibrator_of(unchecked)


def test_what_was_written_is_read_back_as_it_was():
    (claim, _) = READ[0].claims
    again = Written.model_validate_json(READ[0].model_dump_json())
    assert again == READ[0] and again.claims[0].features == claim.features


@pytest.mark.parametrize(("rows", "steps", "held_out"), [(1000, 28, 100), (4000, 117, 256)])
def test_one_pass_over_what_is_left(rows, steps, held_out):
    config = AbstentionConfig(documents=1, optimizer={"lr": 1e-3}, batch_size=32)
    training = config.training(rows)
    assert (training.steps, training.held_out) == (steps, held_out)


def test_the_storyworlds_words_without_a_claim_are_the_teachers_and_claim_the_rest():
    text = "A gloomy tale about the sea, told by a sailor. Mira wants to hide the rope."
    found = STORYWORLD.find(text)
    gone = [claim for claim in found if claim.kind == "goal"]
    left = STORYWORLD.without(text, gone)
    kept = {(claim.kind, claim.value) for claim in found} - {("goal", "hide")}
    assert {(claim.kind, claim.value) for claim in STORYWORLD.find(left)} == kept
    assert STORYWORLD.without(text, found) == ""
    assert STORYWORLD.without(text, gone) == left, "the same whenever it is asked for"
