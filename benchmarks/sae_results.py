"""What docs/sae.md says of the storyworld's autoencoders, measured again.

    nlakit train recipes/sae-storyworld.toml
    python -m benchmarks.sae_results RUN
    python -m benchmarks.sae_results RUN --only circuit

RUN is the directory that training made (runs/sae-storyworld). Results go to benchmarks/results/sae,
the picture of the dual map to docs/; `python docs/render.py` renders the tables. The other tables
of the page are sections: `nlakit eval witness`, `latent-claims` and `lens` with `--output
benchmarks/results/sections`, and `nlakit eval latent-facts --output
benchmarks/results/sae/beside.json`. All from two seeds of documents that no training saw.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from torch import Tensor

from nlakit import sae
from nlakit.audit.embed import embedder
from nlakit.audit.reading_map import reading_map
from nlakit.cli.pairs import PairOptions
from nlakit.config import FrozenModel, write_text_atomic
from nlakit.errors import UserError
from nlakit.models.target import Target
from nlakit.registry import bundled_path
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.circuit import circuit
from nlakit.sae.circuit_graph import GraphSite, at_layer, circuit_graph
from nlakit.sae.dashboard import read_activity
from nlakit.sae.dual_map import dual_map, plot
from nlakit.sae.extraction import read_activations
from nlakit.sae.measure import measure
from nlakit.sae.run import SAE_DIRECTORY
from nlakit.sae.shift import Labelled, shift
from nlakit.sae.texts import Passage
from nlakit.worlds.storyworld.eval_set import StoryworldSet
from nlakit.worlds.storyworld.sae import StoryworldTexts, fact_labels, rhyme_prompts, two_facts

from .process import ROOT
from .sae_rhymes import rhyme_latents
from .sae_tables import CIRCUIT, DUAL, GRAPH, READINGS, REPORTS, RHYMES, SHIFT

PICTURE = ROOT / "docs" / "sae-dual-map.svg"
PICTURED = "end-to-end"
READING_PICTURE, READING_SEED = ROOT / "docs" / "sae-reading-map.svg", 1
OTHER_NLA = "storyworld/plain-rl"
"""Beside the bundled one: RL without grounding."""
REPORT_SEED, LABEL_SEED, PROMPT_SEED, SHIFT_SEED = 90_001, 90_002, 90_003, 71
DOCUMENTS = 300
PROMPTS = 120
"""Half of them to choose latents on."""
WORD_PROMPTS = 400
"""So that each of the 16 rhyme words has enough of them in both halves."""
WANTED, SPURIOUS = ("topic=sea", "topic=garden"), ("mood=cheerful", "mood=gloomy")
ROWS_PER_GROUP = {"train": 100, "test": 60, "balanced": 60}
COMPARED = ("downstream", "end-to-end")
"""With TopK trained on activations alone, as dual maps."""
MAIN = "topk"
GRAPH_SITES = ("early", MAIN, "late")
"""Dictionaries of blocks 1, 3 and 4."""
NODE_THRESHOLD, EDGE_THRESHOLD = 0.2, 0.05
"""Of the graph's nodes and edges, in logits."""


class Run:
    """A finished training run, and what is read of its target once."""

    def __init__(self, directory: Path, names: Sequence[str] | None = None) -> None:
        self.directory = directory
        trained = sorted(path.parent.name for path in directory.glob(f"*/{SAE_DIRECTORY}"))
        layer = self.load(MAIN).config.layer or 0
        # Dictionaries of other blocks are for graphs.
        here = [name for name in trained if self.load(name).config.layer == layer]
        self.names = here if names is None else names
        self.target = Target.load(bundled_path() / "target", layer)

    def load(self, name: str) -> SparseAutoencoder:
        """One of its autoencoders. Raises `InputError` where there is none."""
        return sae.load(self.directory / name / SAE_DIRECTORY)

    def full_name(self, name: str) -> str:
        """As reports call it."""
        return f"{self.directory.name}/{name}"

    @cached_property
    def passages(self) -> list[Passage]:
        """Documents that latents are named by, and that means are taken from."""
        texts = StoryworldTexts(LABEL_SEED)
        return list(islice(texts.passages(self.target, "heldout"), DOCUMENTS))

    @cached_property
    def labels(self) -> dict[int, str]:
        """The facts that latents of the main one say."""
        return fact_labels(read_activity(self.load(MAIN), self.target, self.passages))

    @cached_property
    def reference_ND(self) -> Tensor:
        """Activations of the same documents."""
        return read_activations(self.target, self.passages)


def reports(run: Run) -> None:
    """Every autoencoder of the run on held-out documents."""
    for name in run.names:
        found = measure(
            run.load(name),
            run.target,
            StoryworldTexts(REPORT_SEED),
            name=run.full_name(name),
            documents=DOCUMENTS,
            seed=REPORT_SEED,
        )
        _write(REPORTS / f"{name}.json", found)


def rhyme_graph(run: Run) -> None:
    """The same behaviour through three blocks."""
    prompts = rhyme_prompts(run.target, StoryworldTexts(PROMPT_SEED), PROMPTS)
    half = len(prompts) // 2
    found = circuit_graph(
        [_graph_site(run, name) for name in GRAPH_SITES],
        run.target,
        prompts[:half],
        prompts[half:],
        behaviour="The planned rhyme against another",
        node_threshold=NODE_THRESHOLD,
        edge_threshold=EDGE_THRESHOLD,
    )
    _write(GRAPH, found)


def rhyme_words(run: Run) -> None:
    """The answer that is known of the same behaviour: a latent for each word."""
    prompts = rhyme_prompts(run.target, StoryworldTexts(PROMPT_SEED), WORD_PROMPTS)
    half = len(prompts) // 2
    for name in GRAPH_SITES:
        site = _graph_site(run, name)
        here = at_layer(run.target, site.sae.config.layer or 0)
        found = rhyme_latents(
            site.sae, here, prompts[:half], prompts[half:], site.reference_ND, site.name
        )
        _write(RHYMES / f"{name}.json", found)


def _graph_site(run: Run, name: str) -> GraphSite:
    autoencoder = run.load(name)
    here = at_layer(run.target, autoencoder.config.layer or 0)
    labels = fact_labels(read_activity(autoencoder, here, run.passages))
    reference_ND = read_activations(here, run.passages)
    return GraphSite(run.full_name(name), autoencoder, reference_ND, labels)


def rhyme_circuit(run: Run) -> None:
    """Latents that the planned rhyme depends on."""
    prompts = rhyme_prompts(run.target, StoryworldTexts(PROMPT_SEED), PROMPTS)
    half = len(prompts) // 2
    found = circuit(
        run.load(MAIN),
        run.target,
        prompts[:half],
        prompts[half:],
        run.reference_ND,
        name=run.full_name(MAIN),
        behaviour="The planned rhyme against another",
        labels=run.labels,
    )
    _write(CIRCUIT, found)


def topic_without_mood(run: Run) -> None:
    """A head that should read the topic, trained where topic and mood agree."""
    rows = {
        name: two_facts(
            run.target, StoryworldTexts(SHIFT_SEED + number), WANTED, SPURIOUS, "train", count
        )
        for number, (name, count) in enumerate(ROWS_PER_GROUP.items())
    }
    same_N = rows["train"].wanted_N == rows["train"].spurious_N
    ambiguous = Labelled(*(each[same_N] for each in rows["train"]))
    kind = SPURIOUS[0].partition("=")[0]
    marked = [latent for latent, label in run.labels.items() if label.startswith(f"{kind}=")]
    names = (run.full_name(MAIN), _question(WANTED), _question(SPURIOUS))
    found = shift(run.load(MAIN), ambiguous, rows["balanced"], rows["test"], marked, names=names)
    _write(SHIFT, found)


def dual_maps(run: Run) -> None:
    """TopK trained on activations alone beside the spliced ones, all latents of both."""
    for name in COMPARED:
        pair = (run.load(MAIN), run.load(name))
        latents = (range(pair[0].config.d_sae), range(pair[1].config.d_sae))
        found = dual_map(pair, latents, (f"{MAIN}, local", name))
        if name == PICTURED:
            write_text_atomic(PICTURE, plot(found))
        # The points are many, and the picture has them.
        _write(DUAL / f"dual-{name}.json", found, exclude={"points"})


def readings(_: Run) -> None:
    """Two bundled NLAs at the same tokens; of the best embedder that is installed."""
    eval_set = StoryworldSet()
    pairs = [PairOptions(nla=name).load_for_evaluation(eval_set) for name in (None, OTHER_NLA)]
    found = reading_map(pairs[0], pairs[1], eval_set, embedder(), DOCUMENTS, READING_SEED)
    write_text_atomic(READING_PICTURE, plot(found))
    _write(READINGS, found, exclude={"points"})


def _question(pair: tuple[str, str]) -> str:
    kind, _, first = pair[0].partition("=")
    return f"{kind}: {first} or {pair[1].partition('=')[2]}"


def _write(path: Path, found: FrozenModel, exclude: set[str] | None = None) -> None:
    write_text_atomic(path, found.model_dump_json(indent=2, exclude=exclude) + "\n")
    print(path.relative_to(ROOT), flush=True)


PARTS: dict[str, Callable[[Run], None]] = {
    "circuit": rhyme_circuit,
    "graph": rhyme_graph,
    "words": rhyme_words,
    "shift": topic_without_mood,
    "dual": dual_maps,
    "readings": readings,
    "reports": reports,
}


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sae_results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", choices=PARTS, help="one of the results")
    parser.add_argument("--name", action="append", help="reports of this one; may be repeated")
    options = parser.parse_args(arguments)
    try:
        run = Run(options.run, options.name)
        for name, make in PARTS.items():
            if options.only in (None, name):
                make(run)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
