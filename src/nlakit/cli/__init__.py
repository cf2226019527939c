"""The command `nlakit`, one file a verb.

Commands are named here and imported when they are used, so that `nlakit --help` loads no torch.
What a person can put right goes to stderr in red with exit status 2; stdout holds results only.
`EXIT_STATUSES` has every status.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from nlakit import __version__
from nlakit.console import quietly, tell
from nlakit.errors import UserError
from nlakit.printable import printable, write_escapes

FAULT, USER_ERROR, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
EXIT_STATUSES = {
    0: "done",
    FAULT: "`nlakit doctor` found something that fails; anywhere else a fault of nlakit",
    USER_ERROR: "something that you can put right; stderr says what was asked, found, and to do",
    INTERRUPTED: "Ctrl-C; long work goes on when the same command is run again",
    BROKEN_PIPE: "whoever read the output has gone, such as `head`",
}
"""What a script may rely on. Help and the reference render it."""
FULL = (errno.ENOSPC, errno.EDQUOT)

app = cyclopts.App(
    name="nlakit",
    version=__version__,
    version_flags=("--version", "-V"),
    suppress_keyboard_interrupt=False,
    help="Read what a language model is thinking, in words, and how far to believe it.",
    help_format="plaintext",
    help_epilogue="\n".join(
        ["Exit status:", *(f"  {status:<4} {said}" for status, said in EXIT_STATUSES.items())]
    ),
)
app.command(
    "nlakit.cli.explain:explain", name="explain", help="Read a text with an NLA, token by token."
)
app.command(
    "nlakit.cli.describe:describe",
    name="describe",
    help="Explain a file of activations, however long, into Parquet.",
)
app.command(
    "nlakit.cli.doctor:doctor", name="doctor", help="Say what is wrong with a pair, and what to do."
)
app.command(
    "nlakit.cli.export:export", name="export", help="Write a pair for others, with a model card."
)
app.command(
    "nlakit.cli.convert:convert", name="convert", help="Write a GGUF file as a model directory."
)
app.command("nlakit.cli.demo:demo", name="demo", help="Read a few passages beside the truth.")
app.command(
    "nlakit.cli.serve:serve", name="serve", help="Serve an NLA: a page to read in, and an API."
)
app.command("nlakit.cli.train:train", name="train", help="Make an NLA from a recipe.")
app.command("nlakit.cli.extract:extract", name="extract", help="Read the activations of a corpus.")
app.command(
    "nlakit.cli.sweep:sweep", name="sweep", help="Compare layers of a model by a recipe's labels."
)
app.command(
    "nlakit.cli.pack:pack", name="pack", help="Lay a finished run into the package and assets."
)
app.command("nlakit.cli.plan:plan", name="plan", help="Say what a recipe will take; run nothing.")
app.command(
    "nlakit.cli.label:label", name="label", help="Ask a teacher for the labels of activations."
)
app.command(
    "nlakit.cli.scan:scan", name="scan", help="Read many transcripts into a project of readings."
)
app.command(
    "nlakit.cli.search:search", name="search", help="Search what an NLA said of many transcripts."
)
app.command("nlakit.cli.search:themes", name="themes", help="Cluster what an NLA said into themes.")

app.command(
    "nlakit.cli.features:features",
    name="features",
    help="Show the latents of a sparse autoencoder in a text.",
)
app.command(
    "nlakit.cli.steer_latent:steer_latent",
    name="steer-latent",
    help="Give a latent another value, and read what the target writes then.",
)
app.command(
    "nlakit.cli.dual_map:dual_map",
    name="dual-map",
    help="Put two dictionaries of one site on one map.",
)
app.command(
    "nlakit.cli.reading_map:reading_map",
    name="reading-map",
    help="Put what two NLAs say of the same tokens on one map.",
)
app.command(
    "nlakit.cli.witness:witness",
    name="witness",
    help="Show which latents an NLA's explanations keep, lose and invent.",
)
lenses = cyclopts.App(name="lens", help="Lenses: next tokens by block.", help_format="plaintext")
lenses.command("nlakit.cli.lens:fit", name="fit", help="Fit the Jacobian lens of a model.")
app.command(lenses)
dashboards = cyclopts.App(
    name="dashboards",
    help="What the latents of a sparse autoencoder are about.",
    help_format="plaintext",
)
for _verb, (_name, _help) in {
    "build": ("build", "Make a dashboard of every latent."),
    "show": ("show", "Show the dashboard of a latent."),
    "search": ("search", "Find latents by words, or by a text in which they are active."),
    "export": ("export", "Write dashboards for Neuronpedia."),
    "import": ("import_", "Read dashboards that others have made."),
    "read": ("read", "Let an NLA read the directions of latents."),
}.items():
    dashboards.command(f"nlakit.cli.dashboards:{_name}", name=_verb, help=_help)
app.command(dashboards)
app.command(
    "nlakit.cli.detect:detect",
    name="detect",
    help="Ask detectors of every reading, beside what chance and the text explain.",
)
app.command(
    "nlakit.cli.compare_models:compare_models",
    name="compare-models",
    help="Read the same transcripts with two models, and say what differs.",
)
app.command(
    "nlakit.cli.thought_map:thought_map",
    name="thought-map",
    help="How the thoughts of one transcript move.",
)
app.command(
    "nlakit.cli.thinking:thinking",
    name="thinking",
    help="Show what an NLA reads behind a chain of thought.",
)
app.command(
    "nlakit.cli.audit_game:audit_game",
    name="audit-game",
    help="Let auditors name the quirks of model organisms.",
)
app.command(
    "nlakit.cli.mcp:mcp", name="mcp", help="Serve a project and a pair as tools for an agent."
)

app.command(
    "nlakit.cli.readouts:readouts",
    name="readouts",
    help="Read the positions of a benchmark's plan.",
)

evaluation = cyclopts.App(
    name="eval", help="Measure an NLA beside its floors.", help_format="plaintext"
)
for _verb, (_file, _help) in {
    "storyworld": ("report", "Against the storyworld, where the truth is known."),
    "corpus": ("report", "On held-out documents of your own text."),
    "private-code": ("private_code", "FVE that is left when explanations are paraphrased."),
    "cause": ("sections", "What reconstructions do in the target, beside codes of equal size."),
    "suffix": ("sections", "Which continuation of the same document the explanation fits."),
    "where": ("sections", "At which tokens, and with which claims, it reads well."),
    "baselines": ("sections", "What explanations add to baselines that read text or logits."),
    "round-trips": ("sections", "What survives reading, rebuilding and reading again."),
    "planned": ("storyworld", "Whether what is planned but unsaid is named, and how far ahead."),
    "steer": ("storyworld", "Whether the target takes up a word edited into an explanation."),
    "confidence": ("confidence", "Whether a claim is as likely as its confidence says."),
    "select": ("sections", "What the best of several explanations costs and buys."),
    "compare": ("compare", "Whether one pair is truer than another, on the same rows."),
    "sae": ("sae", "A sparse autoencoder, on held-out texts."),
    "witness": ("sae", "Which latents of an autoencoder the explanations keep."),
    "latent-claims": ("sae", "Claims judged by latents, where the truth is known."),
    "autointerp": ("autointerp", "Whether explanations of latents say when they are active."),
    "lens": ("lens", "The logit and the Jacobian lens at every block."),
    "latent-facts": ("sae", "Latents and explanations against the same known facts."),
}.items():
    _name = _verb.replace("-", "_")
    evaluation.command(f"nlakit.cli.eval.{_file}:{_name}", name=_verb, help=_help)
app.command(evaluation)
app.command(
    "nlakit.cli.bench_truth:bench_truth",
    name="bench-truth",
    help="Compare NLA methods where the truth is known.",
)

world = cyclopts.App(
    name="storyworld", help="Look into the world of the bundled NLA.", help_format="plaintext"
)
world.command(
    "nlakit.cli.storyworld:sample",
    name="sample",
    help="Print documents with their facts and states.",
)
world.command(
    "nlakit.cli.audit_game:organisms",
    name="organisms",
    help="Train variants of the target with one known quirk each.",
)
app.command(world)


app.command(
    "nlakit.cli.completion:completion",
    name="completion",
    help="Print the completion script of a shell.",
)


app.meta.suppress_keyboard_interrupt = False


@app.meta.default
def launch(
    *arguments: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    quiet: Annotated[
        bool,
        Parameter(name=("--quiet", "-q"), negative=(), help="No progress and no notices."),
    ] = False,
) -> None:
    """Run a command. -q may stand anywhere."""
    with quietly(quiet):
        app(arguments, exit_on_error=False, print_error=False, result_action="return_none")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with one of `EXIT_STATUSES`."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        write_escapes(stream)
    try:
        app.meta(
            list(arguments),
            exit_on_error=False,
            print_error=False,
            result_action="return_none",
        )
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        return _refuse(f"{_usage_message(error)}\nSee nlakit --help.")
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _hush()
    except OSError as error:
        if error.errno in FULL:
            return _refuse(_full_message(error))
        if error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}. Check the path, and its permissions.")
    return 0


def _full_message(error: OSError) -> str:
    where = "" if error.filename is None else f" ({error.filename})"
    return (
        f"The disk is full, or a quota is used up{where}. Free some space and run the same command "
        "again: long work goes on where it stopped."
    )


def _refuse(message: str) -> int:
    tell(printable(message), Console(stderr=True), "red")
    return USER_ERROR


def _usage_message(error: cyclopts.CycloptsError) -> str:
    return str(error).strip() or type(error).__name__


def _hush() -> int:
    """Whoever read our output has gone. Nothing may be written at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
