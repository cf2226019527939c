"""Dashboards: what a latent is about, from the texts in which it is active and the tokens it
promotes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.errors import InputError
from nlakit.models.families import backbone_of, family_of, head_of
from nlakit.models.target import Target

from .autoencoder import SparseAutoencoder
from .extraction import read_activations
from .measure import check_fits
from .texts import Passage

TOP_EXAMPLES, QUANTILES, PER_QUANTILE = 20, 5, 5
"""SAEDashboard's numbers."""
WINDOW = 64
"""Tokens of a longer text that are shown, around the strongest."""
NUM_TOKENS, NUM_NEIGHBOURS, NUM_BARS = 10, 8, 40
PASSAGES_PER_PASS = 64

Progress = Callable[[int, int], None]


class Example(FrozenModel):
    """A stretch of a text, with the latent's activation at each token."""

    document: str
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    peak: int
    """The token for which it was chosen."""
    interval: tuple[float, float] | None = None
    """The strengths that it is an example of; None: it is one of the strongest."""
    interval_share: float | None = None
    """Share of the latent's activations within those."""


class Histogram(FrozenModel):
    """Bars by the middle of their interval."""

    values: tuple[float, ...]
    heights: tuple[float, ...]


class TokenWeight(FrozenModel):
    """How far a latent's direction moves a token's logit."""

    token: str
    value: float


class Neighbour(FrozenModel):
    """Another latent whose direction is close."""

    latent: int
    cosine: float


class DirectionReading(FrozenModel):
    """What an NLA says of a latent's direction. It was never trained on such a vector."""

    nla: str
    latent: int
    label: str | None
    vector: Literal["direction", "mean + direction"]
    explanation: str
    fidelity: float
    """Of the vector that was read, as of any activation."""
    off_manifold: float
    """Cosine of the vector with the mean activation over that of an average activation with it:
    near 0 for a bare direction, far above 1 for one that adds little to the mean."""
    says_it: bool
    """Whether AR(explanation), at the norm of the vector, has the latent active."""


class Dashboard(FrozenModel):
    """One latent."""

    latent: int
    label: str | None = None
    density: float
    """Share of the read tokens at which it is active."""
    max_activation: float
    promoted: tuple[TokenWeight, ...]
    suppressed: tuple[TokenWeight, ...]
    activations: Histogram
    """Of tokens at which it is active."""
    logits: Histogram
    neighbours: tuple[Neighbour, ...]
    """Latents of the same dictionary by cosine of decoder rows."""
    examples: tuple[Example, ...]
    """The strongest, one a text, then some of each fifth of the range of strengths."""
    readings: tuple[DirectionReading, ...] = ()
    """What an NLA said of its direction, where it was asked (`nlakit dashboards read`)."""


@dataclass(frozen=True)
class Activity:
    """Where each latent of an autoencoder is active in some passages, sorted by latent.

    Attributes:
        starts: [d_sae + 1], the entries of latent i are `starts[i]:starts[i + 1]`.
        rows: of each entry the number of the read token over all passages.
        values: of each entry the activation.
        first_rows: [passages + 1], the first read token of each passage.
    """

    passages: Sequence[Passage]
    starts: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    first_rows: np.ndarray

    @property
    def num_rows(self) -> int:
        """Read tokens in all."""
        return int(self.first_rows[-1])

    def of(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and values at which a latent is active."""
        part = slice(self.starts[latent], self.starts[latent + 1])
        return self.rows[part], self.values[part]

    def passage_of(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of the passages that rows are in."""
        return np.searchsorted(self.first_rows, rows, side="right") - 1


def read_activity(
    sae: SparseAutoencoder,
    target: Target,
    passages: Sequence[Passage],
    progress: Progress | None = None,
) -> Activity:
    """Encode passages and keep what is active.

    Raises:
        InputError: an autoencoder of another site, or no passage.
    """
    check_fits(sae, target)
    if not passages:
        raise InputError("There is no text to make dashboards from.")
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    done = 0
    for start in range(0, len(passages), PASSAGES_PER_PASS):
        batch = list(passages[start : start + PASSAGES_PER_PASS])
        latents_NM = sae.encode(read_activations(target, batch).to(sae.device)).cpu()
        rows, latents = latents_NM.nonzero(as_tuple=True)
        values = latents_NM[rows, latents].float().numpy()
        parts.append(((rows + done).numpy(), latents.numpy(), values))
        done += len(latents_NM)
        if progress is not None:
            progress(start + len(batch), len(passages))
    rows, latents, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.lexsort((rows, latents))
    starts = np.searchsorted(latents[order], np.arange(sae.config.d_sae + 1))
    sizes = [0, *(len(each.positions) for each in passages)]
    return Activity(passages, starts, rows[order], values[order], np.cumsum(sizes))


def build_dashboards(
    sae: SparseAutoencoder,
    target: Target,
    activity: Activity,
    *,
    latents: Sequence[int] | None = None,
    labels: Mapping[int, str] | None = None,
) -> Iterator[Dashboard]:
    """Dashboards of the latents asked for (default: all), those never active among them."""
    chosen = range(sae.config.d_sae) if latents is None else latents
    directions_MD = sae.directions
    cosines_MM = cosine_table(directions_MD)
    for latent in chosen:
        logits_V = direct_logits(target, directions_MD[latent])
        rows, values = activity.of(latent)
        yield Dashboard(
            latent=latent,
            label=(labels or {}).get(latent),
            density=len(rows) / activity.num_rows,
            max_activation=float(values.max()) if len(values) else 0.0,
            promoted=_tokens(target, logits_V),
            suppressed=_tokens(target, -logits_V, sign=-1),
            activations=_histogram(values),
            logits=_histogram(logits_V.numpy()),
            neighbours=_neighbours(cosines_MM[latent]),
            examples=tuple(_examples(activity, latent)),
        )


def cosine_table(directions_MD: Tensor) -> Tensor:
    """Cosine of every latent with every other; -1 with itself."""
    cosines_MM = directions_MD @ directions_MD.T
    return cosines_MM.fill_diagonal_(-1).cpu()


@torch.no_grad()
def direct_logits(target: Target, direction_D: Tensor) -> Tensor:
    """What a direction alone does to next-token logits, through the final norm and the head.

    A norm takes the direction to its own scale, so this says which tokens, not how strongly.
    """
    model = target.model
    norm = getattr(backbone_of(model), family_of(model.config.model_type).final_norm)
    pair_2D = torch.stack([direction_D, torch.zeros_like(direction_D)])
    pair_2D = pair_2D.to(device=model.device, dtype=model.dtype)
    with_2V = head_of(model)(norm(pair_2D)).float()
    return (with_2V[0] - with_2V[1]).cpu()


def _tokens(target: Target, logits_V: Tensor, sign: int = 1) -> tuple[TokenWeight, ...]:
    vocabulary = min(len(target.tokenizer), len(logits_V))
    found = logits_V[:vocabulary].topk(min(NUM_TOKENS, vocabulary))
    return tuple(
        TokenWeight(token=token_text(target, index), value=sign * value)
        for value, index in zip(found.values.tolist(), found.indices.tolist(), strict=True)
    )


def token_text(target: Target, token_id: int) -> str:
    """The characters of a token, or its name where it has none of its own."""
    text = str(target.tokenizer.decode([token_id]))
    return text or str(target.tokenizer.convert_ids_to_tokens(token_id))


def _histogram(values: np.ndarray) -> Histogram:
    if not len(values):
        return Histogram(values=(), heights=())
    heights, edges = np.histogram(values, bins=NUM_BARS)
    middles = (edges[:-1] + edges[1:]) / 2
    return Histogram(values=tuple(middles.tolist()), heights=tuple(map(float, heights)))


def _neighbours(cosines_M: Tensor) -> tuple[Neighbour, ...]:
    found = cosines_M.topk(min(NUM_NEIGHBOURS, len(cosines_M) - 1))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return tuple(Neighbour(latent=index, cosine=cosine) for index, cosine in pairs)


def _examples(activity: Activity, latent: int) -> Iterator[Example]:
    rows, values = activity.of(latent)
    if not len(rows):
        return
    passages = activity.passage_of(rows)
    by_strength = np.argsort(-values, kind="stable")
    _, first = np.unique(passages[by_strength], return_index=True)
    for entry in by_strength[np.sort(first)][:TOP_EXAMPLES]:
        yield _example(activity, latent, int(entry), None, None)
    edges = np.linspace(0, values.max(), QUANTILES + 1)
    for low, high in reversed(list(zip(edges, edges[1:], strict=False))):
        inside = np.flatnonzero((values > low) & (values <= high))
        # Evenly over the interval's tokens: no luck is involved.
        step = max(1, len(inside) // PER_QUANTILE)
        for entry in inside[::step][:PER_QUANTILE]:
            interval, share = (float(low), float(high)), len(inside) / len(values)
            yield _example(activity, latent, int(entry), interval, share)


def _example(
    activity: Activity,
    latent: int,
    entry: int,
    interval: tuple[float, float] | None,
    share: float | None,
) -> Example:
    rows, values = activity.of(latent)
    number = int(activity.passage_of(rows[[entry]])[0])
    passage, first = activity.passages[number], int(activity.first_rows[number])
    inside = (rows >= first) & (rows < activity.first_rows[number + 1])
    dense = np.zeros(len(passage.encoded.ids))
    positions = np.asarray(passage.positions)
    dense[positions[rows[inside] - first]] = values[inside]
    peak = int(positions[rows[entry] - first])
    start = max(0, min(peak - WINDOW // 2, len(dense) - WINDOW))
    shown = slice(start, start + WINDOW)
    return Example(
        document=passage.id,
        tokens=tuple(passage.encoded.tokens[shown]),
        values=tuple(dense[shown].tolist()),
        peak=peak - start,
        interval=interval,
        interval_share=share,
    )
