"""`nlakit dashboards`: what the latents of a sparse autoencoder are about."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nlakit.console import notice
from nlakit.errors import InputError
from nlakit.sae import neuronpedia
from nlakit.sae.dashboard import Dashboard, DirectionReading, build_dashboards, read_activity
from nlakit.sae.extraction import read_activations
from nlakit.sae.features import features_of
from nlakit.sae.neuronpedia import Source
from nlakit.sae.store import STORE_NAME, DashboardStore, Found
from nlakit.sae.witness import read_directions
from nlakit.worlds.storyworld.sae import CORPUS_NAME, fact_labels

from .devices import AUTOMATIC, DeviceOptions
from .features import labels_of
from .pairs import BUNDLED, PairOptions
from .progress import counting_progress
from .saes import find_sae, load_sae, target_of, texts_of

Sae = Annotated[str, Parameter(help="Directory of an autoencoder, or a name of one trained here.")]
Store = Annotated[
    Path | None,
    Parameter(negative=(), help="The store; by default the one beside the autoencoder."),
]
Json = Annotated[bool, Parameter(negative=(), help="Print one JSON object.")]
Format = Literal["saedashboard", "neuronpedia"]
SHOWN_EXAMPLES = 6


def build(
    *,
    sae: Sae,
    store: Store = None,
    corpus: str = CORPUS_NAME,
    documents: int = 1000,
    seed: int = 90_002,
    max_tokens: int = 256,
    target: str | None = None,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Make a dashboard of every latent from held-out texts.

    In the storyworld a latent that says a known fact is labelled with it.

    Parameters
    ----------
    corpus
        storyworld, or a corpus as `nlakit extract` takes it.
    documents
        Held-out documents.
    seed
        Decides which, in the storyworld.
    max_tokens
        Of each document of a corpus.
    target
        The model whose activations it reads; by default the one that it names.
    devices
        Where the target runs.
    """
    autoencoder = load_sae(sae)
    model = target_of(autoencoder, target, devices)
    autoencoder = autoencoder.to(model.model.device)
    source = texts_of(corpus, seed, max_tokens)
    passages = list(islice(source.passages(model, "heldout"), documents))
    with counting_progress("reading") as progress:
        activity = read_activity(autoencoder, model, passages, progress)
    labels = fact_labels(activity) if corpus == CORPUS_NAME else {}
    about = {
        "sae": sae,
        "model": autoencoder.config.model or "",
        "layer": str(model.site.layer),
        "corpus": source.name,
        "documents": str(len(passages)),
        "tokens": str(activity.num_rows),
    }
    path = store or find_sae(sae) / STORE_NAME
    with DashboardStore(path) as opened:
        made = build_dashboards(autoencoder, model, activity, labels=labels)
        count = opened.write(_counted(made, autoencoder.config.d_sae), about)
    notice(f"{count} dashboards.")
    print(path)


def _counted(dashboards: Iterator[Dashboard], total: int) -> Iterator[Dashboard]:
    with counting_progress("dashboards") as progress:
        for done, each in enumerate(dashboards, start=1):
            yield each
            if progress is not None:
                progress(done, total)


def show(latent: int, /, *, sae: Sae, store: Store = None, json: Json = False) -> None:
    """Show the dashboard of a latent.

    Parameters
    ----------
    latent
        Its number.
    """
    with DashboardStore(existing(sae, store)) as opened:
        found = opened.dashboard(latent)
    if json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
        return
    console = Console()
    title = f"latent {latent}" + (f": {found.label}" if found.label else "")
    console.print(f"{title}\nactive at {found.density:.2%} of tokens", markup=False)
    console.print(f"promotes {' '.join(repr(e.token) for e in found.promoted)}", markup=False)
    for each in found.examples[:SHOWN_EXAMPLES]:
        console.print(marked(each.tokens, each.values))
    for each in found.readings:
        console.print(told(each))


def marked(tokens: tuple[str, ...], values: tuple[float, ...]) -> Text:
    """A stretch of text, its active tokens set off."""
    line, most = Text(), max(values, default=0.0)
    for token, value in zip(tokens, values, strict=True):
        style = "" if value <= 0 else "bold yellow" if value >= most / 2 else "yellow"
        line.append(token, style)
    return line


def search(
    query: str,
    /,
    *,
    sae: Sae,
    store: Store = None,
    by: Literal["words", "text"] = "words",
    limit: int = 20,
    target: str | None = None,
    devices: DeviceOptions = AUTOMATIC,
    json: Json = False,
) -> None:
    """Find latents by words of their dashboards, or by a text in which they are active.

    Parameters
    ----------
    query
        Words of labels, promoted tokens and examples; or with --by text, a text of your own.
    by
        What the query is.
    limit
        Latents at most.
    target
        For --by text, the model whose activations it reads.
    devices
        Where it runs.
    """
    with DashboardStore(existing(sae, store)) as opened:
        if by == "words":
            found = opened.search(query, limit)
        else:
            autoencoder = load_sae(sae)
            model = target_of(autoencoder, target, devices)
            autoencoder = autoencoder.to(model.model.device)
            read = features_of(autoencoder, model, model.encode(query), name=sae, top=100)
            found = opened.search_by_text(read, limit)
    if json:
        sys.stdout.write(TypeAdapter(list[Found]).dump_json(found, indent=2).decode() + "\n")
        return
    table = Table()
    for name in ("latent", "label", "density", "score"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for each in found:
        cells = (f"{each.density:.2%}", f"{each.score:.2f}")
        table.add_row(str(each.latent), Text(each.label or ""), *cells)
    Console().print(table)


def export(
    *,
    sae: Sae,
    output: Annotated[Path, Parameter(negative=())],
    store: Store = None,
    format: Format = "neuronpedia",
    model_id: str | None = None,
    sae_set: str = "nlakit",
) -> None:
    """Write dashboards for Neuronpedia.

    Parameters
    ----------
    output
        Directory.
    format
        saedashboard: the batches that Neuronpedia imports; neuronpedia: its exports.
    model_id
        Neuronpedia's name of the target; by default the last part of its name here.
    sae_set
        Neuronpedia's name of the set: the source is called LAYER-SET.
    """
    with DashboardStore(existing(sae, store)) as opened:
        about = opened.about()
        named = model_id or Path(about.get("model") or "model").name
        source = Source(
            model_id=named,
            layer=int(about.get("layer", 0)),
            sae_set=sae_set,
            dataset=about.get("corpus", ""),
            num_prompts=int(about.get("documents", 0)),
        )
        if format == "saedashboard":
            neuronpedia.write_saedashboard(opened, source, output)
            print(output)
        else:
            print(neuronpedia.write_neuronpedia(opened, source, output))


READERS: dict[str, Callable[[Path], Iterator[Dashboard]]] = {
    "saedashboard": neuronpedia.read_saedashboard,
    "neuronpedia": neuronpedia.read_neuronpedia,
}


def import_(
    directory: Path, /, *, store: Annotated[Path, Parameter(negative=())], format: Format
) -> None:
    """Read dashboards that others have made into a store.

    Parameters
    ----------
    directory
        SAEDashboard's batches, or MODEL/LAYER-SET of a Neuronpedia export.
    store
        File to put them in.
    format
        Whose they are.
    """
    with DashboardStore(store) as opened:
        count = opened.write(READERS[format](directory), {"source": format})
    notice(f"{count} dashboards.")
    print(store)


def read(
    *latents: int,
    sae: Sae,
    store: Store = None,
    corpus: str = CORPUS_NAME,
    documents: int = 100,
    seed: int = 90_002,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
    json: Json = False,
) -> None:
    """Let an NLA read decoder directions: each alone, and added to the mean activation.

    No activation looks like a bare direction: what is said of one is a hint, with its fidelity.
    Where there are dashboards, what was said is kept in them.

    Parameters
    ----------
    latents
        Their numbers.
    corpus
        Texts that mean and strengths are taken from: storyworld, or a corpus.
    documents
        How many of them.
    seed
        Decides which, in the storyworld.
    """
    if not latents:
        raise InputError("No latent was named. Give numbers, such as 5 7.")
    loaded = pair.load(devices)
    target = loaded.target
    autoencoder = load_sae(sae).to(target.model.device)
    passages = list(islice(texts_of(corpus, seed).passages(target, "heldout"), documents))
    path = store or find_sae(sae) / STORE_NAME
    sample_ND = read_activations(target, passages)
    found = read_directions(loaded, autoencoder, latents, sample_ND, labels_of(path))
    if json:
        adapter = TypeAdapter(list[DirectionReading])
        sys.stdout.write(adapter.dump_json(found, indent=2).decode() + "\n")
    else:
        console = Console()
        for each in found:
            console.print(told(each))
    keep(path, found)


def keep(path: Path, readings: Sequence[DirectionReading]) -> None:
    """Put readings into a store, if there is one, and say so."""
    if not path.exists():
        return
    with DashboardStore(path) as opened:
        count = opened.keep_readings(readings)
    notice(f"Kept {count} of {len(readings)} readings in {path}.")


def told(reading: DirectionReading) -> Text:
    """What an NLA said of a direction, and how far to believe it."""
    name = f"{reading.latent} {reading.label}" if reading.label else str(reading.latent)
    again = "active again" if reading.says_it else "not active again"
    trust = f"off-manifold {reading.off_manifold:.2f}, fidelity {reading.fidelity:.2f}, {again}"
    return Text(f"{name} ({reading.vector}, {trust}): {reading.explanation}")


def existing(sae: str, store: Path | None) -> Path:
    """The store to read. Raises `InputError` where there is none."""
    path = store or find_sae(sae) / STORE_NAME
    if not path.exists():
        raise InputError(
            f"There are no dashboards at {path}. Make them: nlakit dashboards build --sae {sae}"
        )
    return path
