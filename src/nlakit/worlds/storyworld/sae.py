"""The storyworld's documents for sparse autoencoders: passages whose facts are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nlakit.models.target import Encoded, Target
from nlakit.sae.behaviour import Prompt
from nlakit.sae.dashboard import Activity
from nlakit.sae.extraction import read_activations
from nlakit.sae.judge import name_of
from nlakit.sae.shift import Labelled
from nlakit.sae.texts import Passage
from nlakit.split import Split
from nlakit.storyworld.document import Fact
from nlakit.storyworld.grammar import generate

from .documents import EncodedDocument, readable_documents, readable_positions

CORPUS_NAME = "storyworld"
LABEL_F1 = 0.6
"""From here on a latent is called by its fact."""


@dataclass(frozen=True)
class StoryworldTexts:
    """Documents of a seed, every position that NLAs are read at."""

    seed: int

    @property
    def name(self) -> str:
        """As recipes call it."""
        return CORPUS_NAME

    @property
    def fingerprint(self) -> str:
        """The world and the seed."""
        return f"{CORPUS_NAME}/{self.seed}"

    def passages(self, target: Target, split: Split, first_index: int = 0) -> Iterator[Passage]:
        """See `sae.texts.TextSource`; there is no end."""
        for made in readable_documents(target, generate(self.seed, split, first_index)):
            yield _passage(made)


def _passage(made: EncodedDocument) -> Passage:
    document = made.document
    tokens = [document.text[start:end] for start, end in made.offsets]
    encoded = Encoded(made.ids, made.offsets, tokens, document.text)
    positions = readable_positions(made)
    held = [
        [fact for fact in document.facts if fact.holds_at(made.offsets[position][1])]
        for position in positions
    ]
    facts = tuple(_names(each) for each in held)
    planned = tuple(_names(fact for fact in each if fact.planned) for each in held)
    return Passage(document.id, made.index, encoded, positions, facts, planned)


def _names(facts: Iterable[Fact]) -> frozenset[str]:
    return frozenset(name_of(fact.kind, fact.value) for fact in facts)


def fact_labels(activity: Activity) -> dict[int, str]:
    """Latents that say a fact, with the fact that each says best, and how well (F1).

    Known truth in place of a model that explains: nothing is asked and nothing is guessed.
    """
    return {
        latent: f"{name} (F1 {f1:.2f})"
        for latent, (name, f1) in best_facts(activity).items()
        if f1 >= LABEL_F1
    }


def best_facts(activity: Activity) -> dict[int, tuple[str, float]]:
    """Of each latent that is ever active the fact that it says best, and its F1.

    At each threshold a latent says a fact where it is above it; the best threshold counts.
    """
    names, facts_NF = _fact_table([f for passage in activity.passages for f in passage.facts or ()])
    held_F = facts_NF.sum(0)
    found = {}
    for latent in range(len(activity.starts) - 1):
        rows, values = activity.of(latent)
        if not len(rows):
            continue
        order = np.argsort(-values, kind="stable")
        said_N1 = np.arange(1, len(order) + 1)[:, None]
        f1_F = (2 * facts_NF[rows[order]].cumsum(0) / (said_N1 + held_F)).max(0)
        best = int(f1_F.argmax())
        found[latent] = names[best], float(f1_F[best])
    return found


def _fact_table(facts: Sequence[frozenset[str]]) -> tuple[list[str], np.ndarray]:
    """Every fact that occurs, and a column for each: 1 where it holds."""
    names = sorted({name for held in facts for name in held})
    column = {name: number for number, name in enumerate(names)}
    table_NF = np.zeros((len(facts), len(names)), dtype=np.int64)
    for row, held in enumerate(facts):
        table_NF[row, [column[name] for name in held]] = 1
    return names, table_NF


def rhyme_prompts(target: Target, texts: StoryworldTexts, count: int) -> list[Prompt]:
    """Couplets up to and with the rhyme that was planned; the wrong word is another's rhyme."""
    found: list[tuple[Passage, int]] = []
    for passage in texts.passages(target, "heldout"):
        cut = _up_to_rhyme(passage)
        if cut is not None:
            found.append((cut, cut.encoded.ids[-1]))
        if len(found) == count:
            break
    others = [token for _, token in found[1:]] + [found[0][1]]
    pairs = zip(found, others, strict=True)
    return [Prompt(passage, wrong) for (passage, right), wrong in pairs if wrong != right]


def _up_to_rhyme(passage: Passage) -> Passage | None:
    assert passage.planned is not None
    for number in range(1, len(passage.positions)):
        ended = passage.planned[number - 1] - passage.planned[number]
        position = passage.positions[number]
        if any(fact.startswith("rhyme=") for fact in ended):
            whole, end = passage.encoded, position + 1
            encoded = Encoded(whole.ids[:end], whole.offsets[:end], whole.tokens[:end], whole.text)
            kept = passage.positions[:number]
            return Passage(passage.id, passage.index, encoded, kept)
    return None


def two_facts(
    target: Target,
    texts: StoryworldTexts,
    wanted: tuple[str, str],
    spurious: tuple[str, str],
    split: Split,
    each_group: int,
) -> Labelled:
    """Activations at the last position of documents that have one of each pair of facts, as many of
    each of the four groups."""
    groups: dict[tuple[bool, bool], list[Passage]] = {
        (w, s): [] for w in (True, False) for s in (True, False)
    }
    for passage in texts.passages(target, split):
        held = (passage.facts or (frozenset(),))[-1]
        if not (held & set(wanted) and held & set(spurious)):
            continue
        group = groups[wanted[0] in held, spurious[0] in held]
        if len(group) < each_group:
            group.append(passage._replace(positions=passage.positions[-1:]))
        if all(len(group) == each_group for group in groups.values()):
            break
    x_ND = torch.cat([read_activations(target, group) for group in groups.values()])
    labels = [key for key, group in groups.items() for _ in group]
    answers = torch.tensor(labels)
    return Labelled(x_ND, answers[:, 0], answers[:, 1])
