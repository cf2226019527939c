"""Each finding of the attack, shown on the sources that had it and on these.

    python -m benchmarks.attacks [--write] [--only NAME ...] [--part files] [--source old]

Takes the base commit's sources from Git into a temporary directory, and sends the same probes to
both: files and runs in processes of their own (`attack_files`), requests over HTTP
(`attack_requests`). What no probe can show from outside is shown by a mutation: the fix is taken
out of a copy of these sources, and the test that is named must fail there. Prints one JSON object;
`--write` adds it to `benchmarks/results/attacks.json`, of which `docs/render.py` makes tables. The
exit status is 1 where these sources do not hold, the base does, or a mutation passes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import attack_requests, served
from benchmarks.attack_table import FILES, FINDINGS, MUTATIONS, REQUESTS, Mutation

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "attacks.json"
BASE = "1e93461"
SECRET = "open-sesame"  # noqa: S105 - of a server that lives for seconds


PARTS = ("files", "requests", "mutations")


def main() -> int:
    """Returns 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--only", nargs="*", default=[], help="names of probes or mutations")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--source", choices=("old", "new"), action="append")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    parts, labels = asked.part or PARTS, asked.source or ("old", "new")
    with tempfile.TemporaryDirectory() as made:
        old = archive(asked.base, Path(made) / "old", "src", "recipes")
        sources = {name: {"old": old, "new": ROOT}[name] for name in labels}
        found = {
            "base": asked.base,
            "probes": probed(sources, asked.only, parts),
            "mutations": mutated(Path(made) / "mutated", asked.only, parts),
        }
    print(json.dumps(found, indent=2))
    if asked.write:
        add_to_results(found)
    return 1 if violations(found) else 0


def add_to_results(found: dict[str, Any]) -> None:
    """Put what was seen beside what earlier runs saw of other parts."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if kept.get("base") != found["base"]:
        kept = {"base": found["base"], "probes": {}, "mutations": {}}
    for name, each in found["probes"].items():
        kept["probes"].setdefault(name, {}).update(each)
    kept["mutations"] |= found["mutations"]
    for kind, named in (("probes", {**FILES, **REQUESTS}), ("mutations", MUTATIONS)):
        kept[kind] = {name: kept[kind][name] for name in named if name in kept[kind]}
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def violations(found: dict[str, Any]) -> list[str]:
    """What does not hold, and what shows nothing: a finding that the base does not have."""
    wrong = {"old": True, "new": False}
    broken = [
        f"{name}: {label} {'holds' if held else 'does not hold'}"
        for name, each in found["probes"].items()
        for label, held in wrong.items()
        if label in each and each[label]["held"] is held
    ]
    passing = [name for name, each in found["mutations"].items() if not each["failed"]]
    return broken + [f"{name}: the test passes without the fix" for name in passing]


def archive(commit: str, directory: Path, *paths: str) -> Path:
    """The sources of a commit."""
    raw = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, *paths], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as files:
        files.extractall(directory, filter="data")
    return directory


# -- probes ----------------------------------------------------------------------------------------
def probed(sources: dict[str, Path], only: list[str], parts: Sequence[str]) -> dict[str, Any]:
    """What each probe saw with each of the sources."""
    found: dict[str, Any] = {}
    for label, source in sources.items():
        outcomes: dict[str, tuple[bool, str]] = {}
        outcomes |= of_files(source, only) if "files" in parts else {}
        outcomes |= of_requests(source, only) if "requests" in parts else {}
        for name, (held, said) in outcomes.items():
            found.setdefault(name, {})[label] = {"held": held, "said": said}
            print(f"{label} {name}: {held}, {said}", file=sys.stderr, flush=True)
    return found


def chosen(names: Any, only: list[str]) -> list[str]:
    return [name for name in names if not only or name in only]


def of_files(source: Path, only: list[str]) -> dict[str, tuple[bool, str]]:
    names = chosen(FINDINGS["files"], only)
    if not names:
        return {}
    script = Path(__file__).with_name("attack_files.py")
    result = subprocess.run(
        [sys.executable, str(script), str(source), *names],
        env=environment(source), stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return json.loads(result.stdout.splitlines()[-1])


def environment(source: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(source / "src"), "HF_HUB_OFFLINE": "1"}


def of_requests(source: Path, only: list[str]) -> dict[str, tuple[bool, str]]:
    """Each probe with servers of its own: what one breaks, the next does not meet."""
    names = chosen(FINDINGS["requests"], only)
    if not names:
        return {}
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    found = {}
    left = list(names)
    while left:
        with both_servers(source) as server:
            while left:
                name = left.pop(0)
                found[name] = one_request(name, server)
                if name in FINDINGS["breaking"]:
                    break
    return found


def one_request(name: str, server: attack_requests.Server) -> tuple[bool, str]:
    try:
        return attack_requests.PROBES[name](server)
    except (httpx2.HTTPError, OSError, ValueError, KeyError) as error:
        return False, f"{type(error).__name__}: {error}"[:110]


@contextmanager
def both_servers(source: Path) -> Iterator[attack_requests.Server]:
    """The bundled pair served by these sources, without and with a secret."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as made:
        secret = Path(made) / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        os.environ["PYTHONPATH"] = str(source / "src")
        try:
            with (
                served.serve("bundled") as opened,
                served.serve("bundled", "--secret-file", str(secret)) as guarded,
            ):
                yield attack_requests.Server(
                    opened.url,
                    opened.log.parent / "data" / "readings.sqlite3",
                    lambda: opened.usage()["peak_mb"] + guarded.usage()["peak_mb"],
                    opened.tracebacks,
                    guarded.url,
                    httpx2.get(opened.url).json()["d_model"],
                )
        finally:
            os.environ.pop("PYTHONPATH")
            if before is not None:
                os.environ["PYTHONPATH"] = before


# -- mutations -------------------------------------------------------------------------------------
def mutated(directory: Path, only: list[str], parts: Sequence[str]) -> dict[str, Any]:
    """Whether the named test fails where the fix is taken out."""
    names = chosen(MUTATIONS, only) if "mutations" in parts else []
    if not names:
        return {}
    copy = archive("HEAD", directory, "src", "tests", "benchmarks", "recipes", "pyproject.toml")
    return {name: one_mutation(copy, MUTATIONS[name]) for name in names}


def one_mutation(copy: Path, mutation: Mutation) -> dict[str, Any]:
    path = copy / "src" / "nlakit" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.right) != 1:
        raise SystemExit(
            f"{mutation.file} has {mutation.right!r} {text.count(mutation.right)} times"
        )
    path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")
    try:
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", mutation.test],
            cwd=copy, env=environment(copy), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    finally:
        path.write_text(text, encoding="utf-8")
    said = [line for line in result.stdout.splitlines() if line.startswith("E  ")]
    print(f"mutation of {mutation.file}: {result.returncode}", file=sys.stderr, flush=True)
    return {"failed": result.returncode == 1, "said": said[0][4:].strip()[:110] if said else ""}


if __name__ == "__main__":
    sys.exit(main())
