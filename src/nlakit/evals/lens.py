"""The logit and the Jacobian lens: cheap readings of every block, to hold an NLA against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.saes.losses import output_kl
from nlakit.models.lens import Lens, residuals
from nlakit.models.target import Encoded, Target

from .section import Line, Section, share

ABOUT = (
    "each block's residual stream through the final norm and the head (logit), or through J first "
    "(Jacobian); KL: of the model's own next-token distribution from the lens's, in nats; agrees: "
    "its likeliest token is the model's; planned: of facts that are fixed and unsaid, those whose "
    "first token is among the lens's ten likeliest"
)
TOP_PLANNED = 10


class TokenProbability(FrozenModel):
    """A token that the lens expects next."""

    token: str
    probability: float


class LensLayer(FrozenModel):
    """What one block's residual stream would say next."""

    layer: int
    top: tuple[TokenProbability, ...]


class LensToken(FrozenModel):
    """One token of a text, block by block."""

    position: int
    token: str
    layers: tuple[LensLayer, ...]


class LensReading(FrozenModel):
    """A text under a lens."""

    schema_version: Literal[1] = 1
    kind: Literal["lens_reading"] = "lens_reading"
    lens: Literal["logit", "jacobian"]
    text: str
    tokens: tuple[LensToken, ...]


class LensText(NamedTuple):
    """One document for the evaluation.

    Attributes:
        positions: tokens that are read.
        planned: per position the first tokens of what is fixed and unsaid; None: nobody knows.
    """

    id: str
    ids: Sequence[int]
    positions: Sequence[int]
    planned: Sequence[Sequence[int]] | None = None


def read_lens(
    lens: Lens,
    target: Target,
    encoded: Encoded,
    positions: Sequence[int],
    layers: Sequence[int] | None = None,
    top: int = 5,
) -> LensReading:
    """The likeliest next tokens at each position, by block.

    Raises:
        InputError: a Jacobian lens without one of the blocks.
    """
    blocks = residuals(target, encoded.ids)
    chosen = layers_of(lens, target) if layers is None else layers
    places = list(positions)
    found = {layer: _top(lens, target, blocks[layer][places], layer, top) for layer in chosen}
    return LensReading(
        lens=lens.name,
        text=encoded.text,
        tokens=tuple(
            LensToken(
                position=position,
                token=encoded.tokens[position],
                layers=tuple(LensLayer(layer=n, top=found[n][row]) for n in chosen),
            )
            for row, position in enumerate(places)
        ),
    )


def layers_of(lens: Lens, target: Target) -> list[int]:
    """The blocks that a lens reads."""
    return sorted(lens.jacobians) or list(range(target.model.config.num_hidden_layers))


def _top(
    lens: Lens, target: Target, residual_ND: Tensor, layer: int, top: int
) -> list[tuple[TokenProbability, ...]]:
    found = lens.logits(target, residual_ND, layer).softmax(-1).topk(top)
    return [
        tuple(
            TokenProbability(token=str(target.tokenizer.decode([token])), probability=probability)
            for token, probability in zip(tokens, probabilities, strict=True)
        )
        for tokens, probabilities in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]


def lens_section(
    target: Target, lenses: Sequence[Lens], texts: Sequence[LensText], name: str, seed: int
) -> Section:
    """Every lens at every block on the same texts.

    Raises:
        InputError: fewer than two documents with a next token.
    """
    rows = list(_rows(target, texts))
    documents = [each.id for each in texts for _ in each.positions]
    lines = [
        _line(lens, layer, target, rows, documents)
        for lens in lenses
        for layer in layers_of(lens, target)
    ]
    return Section(
        name="lens",
        title="logit and Jacobian lens by block",
        about=ABOUT,
        nla=name,
        documents=len(texts),
        rows=len(documents),
        seed=seed,
        temperature=0.0,
        lines=tuple(lines),
    )


class _Row(NamedTuple):
    """One document: residuals after every block at its positions, and the model's own logits."""

    blocks: list[Float[Tensor, "P D"]]
    own_PV: Float[Tensor, "P V"]
    planned: Sequence[Sequence[int]] | None


def _rows(target: Target, texts: Sequence[LensText]) -> Iterator[_Row]:
    own = Lens()
    last = target.model.config.num_hidden_layers - 1
    for text in texts:
        blocks = [each[list(text.positions)] for each in residuals(target, text.ids)]
        # The last block's logit lens is the model itself.
        yield _Row(blocks, own.logits(target, blocks[last], last), text.planned)


def _line(
    lens: Lens, layer: int, target: Target, rows: Sequence[_Row], documents: Sequence[str]
) -> Line:
    kl, agrees = [], []
    named, named_documents = [], []
    start = 0
    for row in rows:
        logits_PV = lens.logits(target, row.blocks[layer], layer)
        kl += output_kl(row.own_PV, logits_PV).tolist()
        agrees += (logits_PV.argmax(-1) == row.own_PV.argmax(-1)).tolist()
        likeliest_PK = logits_PV.topk(TOP_PLANNED).indices.tolist()
        for position, wanted in enumerate(row.planned or ()):
            named += [token in likeliest_PK[position] for token in wanted]
            named_documents += [documents[start + position]] * len(wanted)
        start += len(logits_PV)
    figures = {"KL": share(kl, documents), "agrees": share(agrees, documents)}
    if named:
        figures["planned"] = share(named, named_documents)
    return Line(name=f"{lens.name} {layer}", figures=figures)
