"""Hostile files and broken runs, one probe a finding: `attacks.py` runs them with two sources.

    PYTHONPATH=SOURCE/src python benchmarks/attack_files.py SOURCE

Prints one JSON object: for each probe whether the sources hold, and what was seen. Each probe runs
in a process of its own, which is ended after some seconds. It uses only what both sources have.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sqlite3
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from nlakit.cli import run
from nlakit.errors import UserError
from nlakit.registry import bundled_path

Outcome = tuple[bool, str]
"""Whether the sources hold, and what was seen."""
MOST_BYTES, MIB = 6 << 30, 1 << 20
LONGEST_S = 20.0
RECIPES = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "recipes"
PROBES: dict[str, tuple[Callable[[Path], Outcome], float]] = {}
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}a{% endfor %}{% endfor %}"


def probe(seconds: float = LONGEST_S) -> Callable[[Callable[[Path], Outcome]], Any]:
    """Name a function as a probe that may take so long."""

    def keep(function: Callable[[Path], Outcome]) -> Callable[[Path], Outcome]:
        PROBES[function.__name__] = (function, seconds)
        return function

    return keep


def ending(text: str) -> str:
    """The last words of a message, without the directory of this run."""
    words = " ".join(re.sub(r"\S*/tmp\w{8}/?", "", text).split())
    return words if len(words) <= 90 else words[-90:].partition(" ")[2]


def refused(read: Callable[[], Any], words: str = "") -> Outcome:
    """A user's error, with these words, is the right answer."""
    try:
        read()
    except UserError as error:
        return words in str(error), f"refused: {ending(str(error))}"
    return False, "taken without a word"


def command(*words: str | Path) -> tuple[int, str]:
    """Exit status and stderr of `nlakit`."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        return run([str(word) for word in words]), said.getvalue()


def exits_2(*words: str | Path) -> Outcome:
    """The right answer to what cannot be done."""
    code, said = command(*words)
    return code == 2, f"exit {code}: {ending(said)}"


# -- contracts, cards, templates -------------------------------------------------------------------
def sidecar(room: Path, text: str | bytes) -> Callable[[], Any]:
    from nlakit.contract import META_NAME, read_meta

    (room / META_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    return lambda: read_meta(room)


@probe()
def yaml_aliases(room: Path) -> Outcome:
    levels = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    levels += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return refused(sidecar(room, "\n".join([*levels, "kind: *a9"])), "alias")


@probe()
def a_large_sidecar(room: Path) -> Outcome:
    return refused(sidecar(room, b"text:\n" + b"- {a: [1, 2], b: c}\n" * 400_000))


@probe()
def a_pipe_as_sidecar(room: Path) -> Outcome:
    from nlakit.contract import META_NAME, read_meta

    os.mkfifo(room / META_NAME)
    return refused(lambda: read_meta(room), "pipe")


@probe()
def deep_json(room: Path) -> Outcome:
    from nlakit.card import read_card
    from nlakit.models.io import load_backbone

    shutil.copytree(bundled_path() / "target", room / "target")
    for path, read in (
        (room / "nla.json", lambda: read_card(room)),
        (room / "target" / "config.json", lambda: load_backbone(room / "target")),
    ):
        path.write_text("[" * 100_000)
        found = refused(read)
        if not found[0]:
            return found
    return found


def rendering(template: str) -> Callable[[], Any]:
    from nlakit.contract import read_meta, render_av
    from nlakit.models.io import load_tokenizer

    tokenizer = load_tokenizer(bundled_path() / "av")
    tokenizer.chat_template = template
    return lambda: render_av(read_meta(bundled_path() / "av"), tokenizer)


@probe()
def an_endless_template(room: Path) -> Outcome:
    return refused(rendering(LOOPS), "steps")


@probe()
def a_template_that_raises(room: Path) -> Outcome:
    return refused(rendering("{{ 1 // 0 }}"), "chat_template")


@probe()
def a_huge_template(room: Path) -> Outcome:
    from nlakit.models.io import load_tokenizer

    shutil.copytree(bundled_path() / "av", room / "av")
    (room / "av" / "chat_template.jinja").write_text("a" * (8 << 20))
    return refused(lambda: load_tokenizer(room / "av"), "bytes")


@probe()
def an_escape_in_a_name(room: Path) -> Outcome:
    from nlakit.card import read_card

    raw = json.loads((bundled_path() / "nla.json").read_text(encoding="utf-8"))
    (room / "nla.json").write_text(json.dumps(raw | {"name": "a\x1b[2Jb"}))
    return refused(lambda: read_card(room), "control characters")


# -- weights ---------------------------------------------------------------------------------------
def model(room: Path) -> Path:
    """A copy of a model, to be spoiled."""
    return Path(shutil.copytree(bundled_path() / "target", room / "target"))


def loading(directory: Path) -> Callable[[], Any]:
    from nlakit.models.io import load_backbone

    return lambda: load_backbone(directory)


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@probe()
def a_pipe_as_weights(room: Path) -> Outcome:
    path = model(room) / "model.safetensors"
    path.unlink()
    os.mkfifo(path)
    return refused(loading(path.parent), "not a file")


@probe()
def nan_weights(room: Path) -> Outcome:
    from safetensors.torch import load_file, save_file

    path = model(room) / "model.safetensors"
    weights = load_file(path)
    name = next(each for each in weights if "mlp" in each)
    weights[name][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    return refused(loading(path.parent), "NaN")


@probe()
def a_config_of_wrong_types(room: Path) -> Outcome:
    directory = model(room)
    for changes in ({"hidden_size": None}, {"num_attention_heads": 0}, {"vocab_size": 10**12}):
        shutil.copy(bundled_path() / "target" / "config.json", directory)
        edit(directory, **changes)
        found = refused(loading(directory))
        if not found[0]:
            return found
    return found


@probe()
def an_index_of_wrong_types(room: Path) -> Outcome:
    directory = model(room)
    (directory / "model.safetensors").rename(directory / "a.safetensors")
    for weight_map in ({"a": 3}, "a.safetensors", {"a": "../b.safetensors"}):
        index = directory / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        found = refused(loading(directory))
        if not found[0]:
            return found
    return found


@probe()
def a_config_that_has_code_fetched(room: Path) -> Outcome:
    from transformers import modeling_utils

    asked: list[Any] = []
    setattr(modeling_utils, "is_kernels_available", lambda: True)  # noqa: B010
    fetch = lambda *args, **_: asked.append(args)  # noqa: E731
    setattr(modeling_utils, "lazy_import_flash_attention", fetch)  # noqa: B010
    directory = model(room)
    edit(directory, _attn_implementation="owner/x")
    try:
        loading(directory)()
    except Exception as error:  # noqa: BLE001 - what follows from code that is not there
        return not asked, f"asked for {asked or 'nothing'}, then {type(error).__name__}"
    return not asked, f"asked for {asked or 'nothing'}"


# -- vectors and corpora ---------------------------------------------------------------------------
@probe()
def an_npz_named_npy(room: Path) -> Outcome:
    from nlakit.data.bulk import VectorSource

    with (room / "v.npy").open("wb") as file:
        np.savez(file, a=np.zeros((4, 8), np.float32))
    return refused(lambda: VectorSource(room / "v.npy").read(range(2)), "npy")


@probe()
def an_endless_text_in_a_corpus(room: Path) -> Outcome:
    """Links to devices and pipes are no files; a sparse file of any size is one."""
    from nlakit.data.corpora import Corpus

    (room / "good.txt").write_text("A story.")
    (room / "device.txt").symlink_to("/dev/zero")
    found = [each.text for each in Corpus(str(room))]
    assert found == ["A story."], f"{len(found)} documents"
    (room / "sparse.txt").touch()
    os.truncate(room / "sparse.txt", 1 << 40)
    return refused(lambda: list(Corpus(str(room))), "sparse.txt")


@probe(60)
def a_parquet_bomb(room: Path) -> Outcome:
    """Four gigabytes of text in some kilobytes: to be read a little at a time."""
    from itertools import islice

    from nlakit.data.corpora import Corpus

    text = pa.DictionaryArray.from_arrays(pa.array([0] * 4000), pa.array(["a" * MIB]))
    turn = pa.StructArray.from_arrays([text, text], ["role", "content"])
    messages = pa.ListArray.from_arrays(pa.array(range(4001), pa.int32()), turn)
    pq.write_table(pa.table({"messages": messages}), room / "c.parquet")
    size = (room / "c.parquet").stat().st_size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(1 for _ in islice(Corpus(str(room / "c.parquet")), 5))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    return count == 5 and more < 1024, f"{count} rows of {size >> 10} kB take {more} MB"


# -- the server's own files ------------------------------------------------------------------------
@probe()
def small_frames_are_not_held_back(room: Path) -> Outcome:
    import socket

    from nlakit.cli.serve import bind

    with bind("127.0.0.1", 0) as listener:
        return listener.proto == socket.IPPROTO_TCP, f"a socket of protocol {listener.proto}"


@probe()
def readings_that_others_can_read(room: Path) -> Outcome:
    from nlakit.serve.store import ReadingStore

    os.umask(0o022)
    ReadingStore(room / "data").close()
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (room / "data", *room.glob("data/*"))]
    return not any(mode & 0o077 for mode in modes), f"modes {' '.join(map(oct, modes))}"


@probe()
def a_secret_that_others_can_read(room: Path) -> Outcome:
    from nlakit.cli.serve import read_secret

    (room / "secret").write_text("hush-hush\n")
    (room / "secret").chmod(0o644)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        read_secret(room / "secret")
    return "chmod" in said.getvalue(), ending(said.getvalue()) or "no warning"


class Meanwhile:
    """A database in which something happens between a look-up and what follows from it."""

    def __init__(self, connection: Any, happens: Callable[[], None]) -> None:
        self.connection, self.happens = connection, happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def execute(self, text: str, *values: Any) -> Any:
        found = self.connection.execute(text, *values)
        if text.startswith("SELECT number"):
            self.happens()
        return found


@probe()
def two_servers_in_one_directory(room: Path) -> Outcome:
    """One saves while the other deletes: it goes first, or it waits."""
    from nlakit.serve.store import ReadingStore

    first, second = ReadingStore(room), ReadingStore(room)
    ours, saved = first.add("ours", {}), []
    saving = threading.Thread(target=lambda: saved.append(second.add("theirs", {})))

    def save() -> None:
        saving.start()
        saving.join(1.0)

    first._connection = Meanwhile(first._connection, save)  # pyright: ignore
    try:
        deleted = first.delete(ours.id)
    except sqlite3.Error as error:
        return False, f"refused: {error}"
    saving.join()
    return deleted and len(saved) == 1, "saved and deleted"


# -- runs ------------------------------------------------------------------------------------------
def vectors(room: Path, count: int = 12) -> Path:
    width = json.loads((bundled_path() / "nla.json").read_text(encoding="utf-8"))["d_model"]
    path = room / "vectors.npy"
    np.save(path, np.random.default_rng(0).standard_normal((count, width), dtype=np.float32))
    return path


def describing(room: Path) -> list[str | Path]:
    more = ["--shard-rows", "3", "--max-new-tokens", "4"]
    return ["describe", vectors(room), "--output", room / "out", *more]


def extracting(room: Path, output: str, documents: int) -> list[str | Path]:
    lines = [json.dumps({"text": f"The cat number {n} sat on the mat. " * 4}) for n in range(20)]
    (room / "corpus.jsonl").write_text("\n".join(lines))
    sizes = ["--documents", str(documents), "--minimum-position", "4", "--shard-rows", "10"]
    target = ["--target", bundled_path() / "target", "--layer", "4"]
    return [
        "extract", *target, "--corpus", room / "corpus.jsonl", *sizes, "--output", room / output,
    ]  # fmt: skip


@probe(120)
def a_full_disk(room: Path) -> Outcome:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    found: Outcome = (True, "")
    for words in (describing(room), extracting(room, "activations", 6)):
        sync, os.fsync = os.fsync, full
        try:
            found = exits_2(*words)
        finally:
            os.fsync = sync
        if not found[0]:
            return found
    return found


@probe(120)
def swapped_explanations(room: Path) -> Outcome:
    words = describing(room)
    assert command(*words)[0] == 0
    first, second = (room / "out" / f"explanations-0000{n}.parquet" for n in (0, 1))
    right = first.read_bytes()
    first.write_bytes(second.read_bytes())
    (room / "out" / "manifest.json").unlink()
    code, _ = command(*words)
    same = first.read_bytes() == right
    return code == 2 or same, f"exit {code}, {'written again' if same else 'taken as it was'}"


@probe(120)
def labels_of_other_activations(room: Path) -> Outcome:
    for name, documents in (("one", 4), ("two", 6)):
        assert command(*extracting(room, name, documents))[0] == 0
    into = ["--teacher", "fake", "--output", room / "labels"]
    assert command("label", room / "one", *into)[0] == 0
    before = (room / "labels" / "labels.json").read_bytes()
    code, said = command("label", room / "two", *into)
    kept = (room / "labels" / "labels.json").read_bytes() == before
    return code == 2 and kept, f"exit {code}, {'kept' if kept else 'overwritten'}"


@probe(120)
def swapped_labels(room: Path) -> Outcome:
    from nlakit.data.labels import read_labels
    from nlakit.data.shards import ShardReader

    assert command(*extracting(room, "activations", 6))[0] == 0
    words = ["--teacher", "fake", "--output", room / "labels"]
    assert command("label", room / "activations", *words)[0] == 0
    first, second = (room / "labels" / f"labels-0000{n}.parquet" for n in (0, 1))
    first.write_bytes(second.read_bytes())
    manifest = ShardReader(room / "activations").manifest
    return refused(lambda: read_labels(room / "labels", manifest), "corrupt")


@probe(120)
def a_stray_file_among_shards(room: Path) -> Outcome:
    words = extracting(room, "activations", 6)
    assert command(*words)[0] == 0
    whole = (room / "activations" / "shard-00000.parquet").read_bytes()
    (room / "activations" / "manifest.json").unlink()
    (room / "activations" / "shard-mine.json").write_text("{}")
    code, said = command(*words)
    same = (room / "activations" / "shard-00000.parquet").read_bytes() == whole
    return code == 0 and same, f"exit {code}, {ending(said)[-60:]}"


@probe(200)
def a_strangers_file_in_an_export(room: Path) -> Outcome:
    assert command("export", "--output", room / "out")[0] == 0
    (room / "out" / "av" / "mine.txt").write_text("mine")
    code, _ = command("export", "--output", room / "out")
    kept = (room / "out" / "av" / "mine.txt").exists()
    return code == 2 and kept, f"exit {code}, the file is {'kept' if kept else 'gone'}"


@probe(120)
def scales_of_an_export(room: Path) -> Outcome:
    assert command("export", "--output", room / "out")[0] == 0
    raw = yaml.safe_load((room / "out" / "ar" / "nla_meta.yaml").read_text(encoding="utf-8"))
    found = raw["extraction"]["mse_scale"]
    return isinstance(found, float), f"mse_scale: {found}"


TRAINING = (
    *("target.steps=40", "target.hidden_size=48", "target.tokenizer_documents=100"),
    *("target.vocab_size=512", "target.batch_size=2", "checkpoint_every=1"),
)


@probe(200)
def two_trainings_in_one_directory(room: Path) -> Outcome:
    words = ["train", RECIPES / "smoke.toml", *TRAINING, "--output", room / "out"]
    first, log = forked(words, room / "first"), room / "out" / "1-target" / "metrics.jsonl"
    try:
        until = time.monotonic() + 120
        while not log.exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert log.exists(), "the first training did not begin"
        code = ended(forked(words, room / "said"), 30)
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    said = (room / "said").read_text() if code is not None else ""
    ends = f"exits {code}: {ending(said)}"
    return "writing there" in said, f"the second {'writes, too' if code is None else ends}"


def forked(words: list[str | Path], output: Path) -> int:
    """A child that runs a command and writes what it said."""
    process = os.fork()
    if process == 0:
        code, said = 1, ""
        try:
            code, said = command(*words)
        except Exception as error:  # noqa: BLE001 - the parent looks at it
            said = f"traceback: {type(error).__name__}: {error}"
        output.write_text(said)
        os._exit(code)
    return process


def ended(process: int, seconds: float) -> int | None:
    """The exit status of a child; None, after it was killed, where it goes on."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


# -- running ---------------------------------------------------------------------------------------
def apart(name: str) -> Outcome:
    """One probe in a process of its own."""
    _, seconds = PROBES[name]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as made:
        process = context.Process(target=_run, args=(name, Path(made), theirs))
        process.start()
        theirs.close()
        found: Outcome = (False, f"no end after {seconds:g} s")
        if ours.poll(seconds):
            with contextlib.suppress(EOFError):
                found = (False, "the process died")
                found = ours.recv()
        process.kill()
        process.join()
    return found


def _run(name: str, room: Path, told: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    function, _ = PROBES[name]
    with quiet():
        try:
            found = function(room)
        except Exception as error:  # noqa: BLE001 - a traceback is what we look for
            found = (False, f"traceback: {type(error).__name__}: {ending(str(error))}")
    told.send((found[0], found[1][:110]))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on the real stdout and stderr."""
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
        yield


if __name__ == "__main__":
    import torch

    import nlakit.serve.store  # noqa: F401 - once, for all children
    from nlakit.models.io import load_backbone

    torch.set_num_threads(1)
    load_backbone(bundled_path() / "target")
    chosen = sys.argv[2:] or list(PROBES)
    print(json.dumps({name: apart(name) for name in chosen}))
