"""`nlakit reading-map`: what two NLAs say of the same tokens, on one map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from nlakit.audit.embed import EmbedderName, embedder
from nlakit.audit.reading_map import reading_map as make
from nlakit.config import write_text_atomic
from nlakit.sae.dual_map import DualMap, plot

from .devices import AUTOMATIC, DeviceOptions
from .dual_map import summary
from .eval.common import (
    STORYWORLD_DOCUMENTS,
    CorpusOptions,
    Documents,
    Seed,
    Temperature,
    measuring,
)
from .pairs import BUNDLED, PairOptions


def reading_map(
    other: Annotated[str, Parameter(help="The second NLA, named or a directory, as in --nla.")],
    /,
    *,
    output: Annotated[Path, Parameter(negative=())],
    documents: Documents = 300,
    seed: Seed = 1,
    temperature: Temperature = 0.0,
    embedder_name: Annotated[EmbedderName, Parameter(name="--embedder")] = "auto",
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    on: CorpusOptions = STORYWORLD_DOCUMENTS,
) -> None:
    """Read one token of each document with two NLAs, embed the words, and fit one UMAP to both.

    Parameters
    ----------
    output
        File for the map; its picture lies beside it. `nlakit serve --reading-map` shows the map.
    embedder_name
        minilm, wordllama, words (the same words only), or the best that is installed.
    """
    by = embedder(embedder_name)
    second = PairOptions(nla=other)
    for each in (pair, second):
        each.check()
    with measuring():
        eval_set = on.eval_set(pair)
        loaded = [each.load_for_evaluation(eval_set, devices) for each in (pair, second)]
        found = make(loaded[0], loaded[1], eval_set, by, documents, seed, temperature)
    write_text_atomic(output, found.model_dump_json() + "\n")
    write_text_atomic(output.with_suffix(".svg"), plot(found))
    console = Console()
    console.print(summary(found))
    console.print(same_token(found))


def same_token(found: DualMap) -> Table:
    """How alike two readings of one token are, for a terminal."""
    assert found.same_token is not None
    of = found.same_token
    table = Table(caption=f"cosines of embeddings ({of.embedder}), 95 % intervals by document")
    for name in ("at the same token", "of another document", "the same words"):
        table.add_column(name, justify="right")
    cells = (
        f"{of.cosine:.3f} [{of.interval.low:.3f}, {of.interval.high:.3f}]",
        f"{of.other_document:.3f} [{of.other_document_interval.low:.3f}, "
        f"{of.other_document_interval.high:.3f}]",
        f"{of.identical:.2f}",
    )
    table.add_row(*cells)
    return table
