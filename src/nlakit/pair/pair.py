"""The pair: text or vectors in, words with a score out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Unpack, overload

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.card import NlaCard
from nlakit.claims.confidence import ClaimConfidence
from nlakit.core.fidelity import Baseline, FveResult, RowErrors, fve, row_errors
from nlakit.core.site import Site
from nlakit.engines.base import (
    MAX_NEW_TOKENS,
    Completion,
    Engine,
    OnText,
    Sampling,
    sampling_for,
)
from nlakit.errors import InputError
from nlakit.models.chat_spans import Section
from nlakit.models.encoded import Encoded
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.conversation import (
    ChatFields,
    Conversation,
    Prompt,
    options_of,
    place_in_section,
    prepare,
)
from nlakit.pair.many import OnRows, read_together
from nlakit.pair.score import score_rows
from nlakit.pair.steer import STRENGTH, Edit, Steered, steer_at
from nlakit.pair.vectors import Vectors, as_rows
from nlakit.reading import ReadClaim, Reading, Sample, Score, TokenReading

Reconstruct = Callable[[list[str]], Tensor]
"""Explanations to vectors, [N, D]."""


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """A verbalizer and a reconstructor over their target: reads activations in words.

    Make one with `nlakit.load`.

    Attributes:
        engine: runs the models.
        target: encodes text; its activations are what is read.
        card: name, layer, variance and floors.
        mean_D: mean of the training vectors, each brought to norm √d_model; zero where the card
            knows no baseline.
        confidence: gives each claim its chance of being true; None: nobody calibrated this pair.
        warm_start: the pair as it was before RL; None: not kept, or not loaded.
        control_ar: an AR that never saw an explanation of the AV, trained on labels as long as the
            pair's own in all; None: not kept, or not loaded.
        weights: SHA-256 of its weight files by their names, where they were asked for.
        notes: what a reader of its figures has to know of how they were made.
    """

    engine: Engine
    target: Target
    card: NlaCard
    mean_D: Float[Tensor, " D"]
    confidence: ClaimConfidence | None = None
    warm_start: Engine | None = None
    control_ar: Reconstruct | None = None
    weights: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        card = self.card
        return (
            f"Pair({card.name!r}, block {card.layer}, d_model {card.d_model}, on "
            f"{self.target.model.device})"
        )

    @property
    def name(self) -> str:
        """What it is called."""
        return self.card.name

    @property
    def verbalizer(self) -> Verbalizer | None:
        """What gives probabilities of words; None where the engine does not have it here."""
        return self.engine.verbalizer

    @property
    def scale(self) -> float:
        """The norm √d_model, at which vectors are compared."""
        return math.sqrt(self.card.d_model)

    def named(self, name: str) -> Pair:
        """The same pair under another name."""
        return replace(self, card=self.card.model_copy(update={"name": name}))

    def against(self, baseline: Baseline, *notes: str) -> Pair:
        """The same pair, its scores held against another baseline."""
        card = self.card.model_copy(
            update={"variance": baseline.variance, "baseline": "training_mean"}
        )
        return replace(self, card=card, mean_D=baseline.mean_D, notes=(*self.notes, *notes))

    def explain(
        self,
        text: Conversation,
        positions: Sequence[int] | None = None,
        samples: int = 1,
        temperature: float | None = None,
        *,
        last: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int = 0,
        on_text: OnText | None = None,
        **chat: Unpack[ChatFields],
    ) -> Reading:
        """What the target is thinking at tokens of a text or of a conversation.

        Args:
            text: a text, or messages with `role` and `content`.
            positions: tokens to read, counted as the target does (a BOS is token 0), negative ones
                from the end; by default all that stand for characters of the text.
            samples: explanations per token; the best by fidelity is shown first.
            temperature: by default 0 for one sample and 1 for several.
            last: explain the last N tokens.
            on_text: called with (row, sample, explanation so far) while words are written.
            chat: of messages, `add_generation_prompt`, `continue_final_message`,
                `enable_thinking` and `tools`, as `apply_chat_template` knows them.

        Raises:
            InputError: empty or too long a text, a position outside it, a bad sampling setting.
        """
        sampling = sampling_for(samples, temperature, max_new_tokens, seed)
        prompt = self.prepare(text, **chat)
        encoded = prompt.encoded
        places = _places(encoded, self.target.tokenizer.bos_token_id, positions, last)
        vectors_PD = self.engine.extract(encoded, places)
        names = [(place, encoded.tokens[place]) for place in places]
        rows = self._read(vectors_PD, names, sampling, on_text)
        return self._reading(encoded.text, rows, prompt.notices)

    def describe(
        self,
        vectors: Vectors,
        samples: int = 1,
        temperature: float | None = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        site: Site | str | None = None,
        seed: int = 0,
        on_text: OnText | None = None,
    ) -> Reading:
        """What bare activations say; `vectors` is D or N x D, raw, as the site gives them.

        They may be tensors of any device and precision, arrays of numpy, or a list of them; a batch
        of one text, 1 x N x D, is that text's rows.

        Args:
            site: where they were read, as a `Site` or by TransformerLens's name of it, such as
                "blocks.20.hook_resid_post"; None: nobody checks that it is the pair's.

        Raises:
            InputError: no vectors, a wrong width, numbers that are not finite, another site.
        """
        sampling = sampling_for(samples, temperature, max_new_tokens, seed)
        self._check_site(site)
        vectors_ND = as_rows(vectors, self.card.d_model)
        names = [(row, "") for row in range(len(vectors_ND))]
        rows = self._read(vectors_ND, names, sampling, on_text)
        return self._reading(None, rows)

    def explain_many(
        self,
        texts: Sequence[Conversation],
        samples: int = 1,
        temperature: float | None = None,
        *,
        last: int | None = None,
        positions: Sequence[int] | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int = 0,
        progress: OnRows | bool = False,
    ) -> list[Reading]:
        """Readings of many texts, whose rows are written side by side.

        At temperature 0 they are those of `explain`; above it each row draws its own.

        Args:
            last, positions: of each text, as in `explain`.
            progress: True shows a bar on stderr; a function is called with (rows read, rows).

        Raises:
            InputError: as `explain`, with the number of the text; or there are none.
        """
        sampling = sampling_for(samples, temperature, max_new_tokens, seed)
        prompts = [self._numbered(number, text) for number, text in enumerate(texts)]
        bos = self.target.tokenizer.bos_token_id
        places = [_places(prompt.encoded, bos, positions, last) for prompt in prompts]
        read = partial(self._read, sampling=sampling, on_text=None)
        rows = read_together(
            self.engine, [each.encoded for each in prompts], places, read, progress
        )
        return [
            self._reading(prompt.encoded.text, tuple(found), prompt.notices)
            for prompt, found in zip(prompts, rows, strict=True)
        ]

    def _numbered(self, number: int, text: Conversation) -> Prompt:
        try:
            return self.prepare(text)
        except InputError as error:
            raise InputError(f"Text {number}: {error}") from error

    def _check_site(self, site: Site | str | None) -> None:
        """Raise `InputError` where vectors are of another site than the pair's."""
        if site is None:
            return
        found = Site.named(site) if isinstance(site, str) else site
        if found != Site(self.card.layer):
            raise InputError(
                f"The vectors are of the residual stream after block {found.layer}; "
                f"{self.card.name} reads block {self.card.layer}. Read them there."
            )

    @overload
    def reconstruct(self, explanation: str) -> Tensor: ...
    @overload
    def reconstruct(self, explanation: Sequence[str]) -> Tensor: ...
    def reconstruct(self, explanation: str | Sequence[str]) -> Tensor:
        """The vector an explanation stands for: D for one, N x D for several.

        Only its direction means something. Raises `InputError` for one that is too long.
        """
        several = [explanation] if isinstance(explanation, str) else list(explanation)
        rebuilt_ND = self.engine.reconstruct(several).cpu()
        return rebuilt_ND[0] if isinstance(explanation, str) else rebuilt_ND

    def score(self, explanation: str, vector: Vectors) -> Score:
        """How well an explanation, whoever wrote it, describes one activation.

        Raises:
            InputError: not one vector of the right width, or not finite.
        """
        vectors_ND = as_rows(vector, self.card.d_model)
        if len(vectors_ND) != 1:
            raise InputError(f"score compares one vector, found {len(vectors_ND)}. Give one row.")
        return self._scores(vectors_ND, [explanation])[0]

    def claims(
        self,
        completions: Sequence[Completion],
        scores: Sequence[Score],
        temperature: float = 0.0,
        vectors_ND: Float[Tensor, "N D"] | None = None,
    ) -> list[tuple[ReadClaim, ...]]:
        """Per explanation its claims, each with its confidence.

        None at all where the pair has no calibrator, or its engine no probabilities.

        Args:
            scores: of the completions, in their order.
            temperature: that they were sampled at.
            vectors_ND: the activations, one a completion: how far each is from those of training.
        """
        verbalizer = self.verbalizer
        if self.confidence is None or verbalizer is None:
            return [()] * len(completions)
        fidelities = [score.fidelity for score in scores]
        return self.confidence.score(
            verbalizer, self.mean_D, completions, fidelities, temperature, vectors_ND
        )

    def steer(
        self,
        text: Conversation,
        position: int,
        edit: Edit,
        alpha: float = STRENGTH,
        *,
        once: bool = False,
        section: Section | None = None,
        max_new_tokens: int = 20,
        **chat: Unpack[ChatFields],
    ) -> Steered:
        """Edit the words of the explanation at a token, and continue the text with that change.

        `alpha ‖h‖ Δ/‖Δ‖` is added at the site from that token on, h its activation and Δ the
        difference that the edit makes to the reconstruction. The continuation is greedy and starts
        after the text's last token.

        Args:
            position: as in `explain`; with a section, counted among its tokens.
            section: of a conversation, such as "thinking" or "tool_call".
            edit: words and what to put in their place, or the whole new explanation.
            alpha: strength, as a share of the activation's norm.
            once: change that token alone, and none of the later ones.
            chat: as in `explain`.

        Raises:
            InputError: as `explain`; or the explanation does not say a word that is to be edited.
        """
        prompt = self.prepare(text, **chat)
        encoded = prompt.encoded
        if section is None:
            (place,) = _checked_places([position], len(encoded.ids))
        else:
            place = place_in_section(prompt.spans, section, position)
        sampling = sampling_for(1, None, MAX_NEW_TOKENS, 0)
        ((answer,),) = self.engine.verbalize(self.engine.extract(encoded, [place]), sampling)
        return steer_at(
            self.engine,
            self.target,
            encoded.ids,
            place,
            answer.text,
            edit,
            alpha,
            max_new_tokens,
            once=once,
        )

    def answers(
        self,
        vectors_ND: Tensor,
        sampling: Sampling,
        on_text: OnText | None = None,
        first: int = 0,
    ) -> tuple[list[Completion], list[Score]]:
        """All answers and their scores, vector after vector, without claims.

        Vectors are numbered from `first`, which decides what is drawn (`Engine.verbalize`).

        Raises:
            InputError: vectors that cannot be read, an answer longer than the context.
        """
        groups = self.engine.verbalize(vectors_ND, sampling, on_text, first)
        flat = [answer for group in groups for answer in group]
        repeated_MD = vectors_ND.repeat_interleave(sampling.samples, dim=0)
        return flat, self._scores(repeated_MD, [answer.text for answer in flat])

    def encode(self, text: Conversation, **chat: Unpack[ChatFields]) -> Encoded:
        """A text or a conversation as the target reads it. Raises `InputError` as `explain`."""
        return self.prepare(text, **chat).encoded

    def prepare(self, text: Conversation, **chat: Unpack[ChatFields]) -> Prompt:
        """The same, with whose each token is, and what was left out."""
        options = options_of(chat)
        if isinstance(text, str) and chat:
            raise InputError(f"{', '.join(chat)} belongs to messages; found a text.")
        return prepare(self.target, text, options)

    def _read(
        self,
        vectors_ND: Tensor,
        names: Sequence[tuple[int, str]],
        sampling: Sampling,
        on_text: OnText | None,
        first: int = 0,
    ) -> tuple[TokenReading, ...]:
        flat, scores = self.answers(vectors_ND, sampling, on_text, first)
        repeated_MD = vectors_ND.repeat_interleave(sampling.samples, dim=0)
        claims = self.claims(flat, scores, sampling.temperature, repeated_MD)
        scored = [_sample(*each) for each in zip(flat, scores, claims, strict=True)]
        size = sampling.samples
        groups = [tuple(scored[start : start + size]) for start in range(0, len(scored), size)]
        return tuple(_token_reading(*pair) for pair in zip(names, groups, strict=True))

    def _reading(
        self, text: str | None, rows: tuple[TokenReading, ...], notices: tuple[str, ...] = ()
    ) -> Reading:
        return Reading(
            text=text,
            tokens=rows,
            nla=self.card.name,
            floors=self.card.floors,
            calibrated=self.confidence is not None and self.verbalizer is not None,
            notices=(*self.notes, *notices),
        )

    def rebuild(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Explanations as the pair's own AR reads them, on the CPU."""
        with torch.no_grad():
            return self.engine.reconstruct(list(texts)).float().cpu()

    def fve_of(
        self, vectors_ND: Float[Tensor, "N D"], rebuilt_ND: Float[Tensor, "N D"]
    ) -> FveResult:
        """FVE of N reconstructions, against the pair's mean."""
        return fve(vectors_ND, rebuilt_ND, self.mean_D, self.scale)

    def errors_of(
        self, vectors_ND: Float[Tensor, "N D"], rebuilt_ND: Float[Tensor, "N D"]
    ) -> RowErrors:
        """Both terms of FVE for each row."""
        return row_errors(vectors_ND, rebuilt_ND, self.mean_D, self.scale)

    def _scores(self, vectors_ND: Tensor, explanations: Sequence[str]) -> list[Score]:
        return score_rows(self.card, vectors_ND, self.rebuild(explanations))


def _sample(answer: Completion, score: Score, claims: tuple[ReadClaim, ...]) -> Sample:
    return Sample(
        explanation=answer.text, closed=answer.closed, claims=claims, **score.model_dump()
    )


def _token_reading(name: tuple[int, str], samples: tuple[Sample, ...]) -> TokenReading:
    best = max(samples, key=lambda each: each.fidelity)
    position, token = name
    return TokenReading(position=position, token=token, samples=samples, **best.model_dump())


def _places(
    encoded: Encoded, bos: object, positions: Sequence[int] | None, last: int | None
) -> list[int]:
    if positions is not None and last is not None:
        raise InputError("Both positions and last were given. Give one of them.")
    if positions is not None:
        return _checked_places(positions, len(encoded.ids))
    # A chat template may write the BOS out; its activation is the same in every text.
    pairs = enumerate(zip(encoded.ids, encoded.offsets, strict=True))
    places = [i for i, (token, (start, end)) in pairs if end > start and token != bos]
    if last is None:
        return places
    if last < 1:
        raise InputError(f"last must be 1 or more, found {last}.")
    return places[-last:]


def _checked_places(positions: Sequence[int], num_tokens: int) -> list[int]:
    bad = [place for place in positions if not -num_tokens <= place < num_tokens]
    if bad:
        raise InputError(
            f"Position {bad[0]} was asked for; the text has the tokens 0 to {num_tokens - 1}."
        )
    if not positions:
        raise InputError("The list of positions is empty. Give one, or leave it out for all.")
    return [place % num_tokens for place in positions]
