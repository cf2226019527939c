"""The first-time walk: each command of the docs on a clean clone, and the time that it takes.

    python -m benchmarks.walk DIRECTORY > benchmarks/results/walk.json

Clones this repository into DIRECTORY, makes a virtual environment there and goes from nothing to a
reading, to serving, to training the smoke recipe, to an NLA of an own model. What was done before
in DIRECTORY is not done again. A step that fails ends the walk with its output and exit status 1.
Seconds are of the processor, user and system, of a step's processes: a shared machine's clock would
say more about the others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "walk.json"
DONE_NAME = "walk.json"
TEXT = "Well now, Basil rowed by the pier. The boat was so"
SMALL = (
    "corpus.documents=60 corpus.rl_documents=40 corpus.minimum_position=8 "
    "corpus.held_out_documents=8 lora.rank=8 warm_start.batch_size=16 rl.steps=2 rl.vectors=4 "
    "rl.group=2 rl.max_new_tokens=24"
)
"""What `my-model.toml` is shrunk by: every stage runs, and nothing is learned."""
SERVE = """
nlakit serve --port 0 --no-browser > address.txt & server=$!
while [ ! -s address.txt ]; do sleep 0.2; done
python - <<'PY'
import json, urllib.request
address = open("address.txt").read().strip()
body = json.dumps({"text": "Well now, Basil rowed by the pier.", "positions": [-1]}).encode()
asked = urllib.request.Request(address + "/v1/explain", body, {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(asked))["results"][0]["description"])
for path in ("/docs", "/openapi.json", "/"):
    page = urllib.request.Request(address + path, headers={"Accept": "text/html"})
    print(path, urllib.request.urlopen(page).status)
PY
kill -INT $server; wait $server || true
"""
OWN = """
mkdir -p you && cp -r src/nlakit/assets/storyworld/target you/base
for split in train heldout; do
nlakit storyworld sample --documents 200 --split $split --json | python -c "
import json, sys
for each in json.load(sys.stdin)['documents']:
    print(json.dumps({'text': each['text']}))"
done > corpus.jsonl
awk '/^```toml/{f=1; next} /^```/{if (f) exit} f' docs/train-for-your-model.md > my-model.toml
nlakit plan my-model.toml
"""
HUGGING_FACE = """
head -40 corpus.jsonl | python -c "
import json, sys
for line in sys.stdin:
    print(json.loads(line)['text'].replace(chr(10), ' '))" > lines.txt
python recipes/minimal_hf.py you/base lines.txt warm_steps=20 rl_steps=2 batch=8
"""


class Step(NamedTuple):
    """What it is called, the command as a reader sees it, and the script that is run."""

    name: str
    shown: str
    script: str = ""


STEPS = (
    Step("an environment", "python3 -m venv .venv"),
    Step("install", "pip install -c constraints.txt -e ."),
    Step("a reading", f'nlakit explain "{TEXT}" --last 3'),
    Step("the demo", "nlakit demo"),
    Step("serve, ask, stop", "nlakit serve", SERVE),
    Step("train the smoke recipe", "nlakit train recipes/smoke.toml --output runs/smoke"),
    Step("read with it", f'nlakit explain --nla runs/smoke "{TEXT}" --last 3'),
    Step("plan an own model", "nlakit plan my-model.toml", OWN),
    Step("the extra for adapters", "pip install -c constraints.txt -e '.[lora]'"),
    Step(
        "train it, very small",
        "nlakit train my-model.toml …",
        f"nlakit train my-model.toml {SMALL}",
    ),
    Step("read with it", f'nlakit explain --nla runs/my-model "{TEXT}" --last 2'),
    Step("the one-file recipe", "python recipes/minimal_hf.py you/base …", HUGGING_FACE),
)


def main() -> None:
    """Walk, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path)
    print(json.dumps(walk(parser.parse_args().directory), indent=2))


def walk(directory: Path) -> dict[str, Any]:
    """Every step that has not been done."""
    clone, kept = directory / "nlakit", directory / DONE_NAME
    directory.mkdir(parents=True, exist_ok=True)
    if not clone.exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    done = json.loads(kept.read_text("utf-8")) if kept.exists() else []
    for step in STEPS[len(done) :]:
        done.append({"step": step.name, "command": step.shown, "cpu_s": taken(step, clone)})
        kept.write_text(json.dumps(done), encoding="utf-8")
        print(f"{step.name}: {done[-1]['cpu_s']} s", file=sys.stderr)
    return {"cores": os.cpu_count(), "python": sys.version.split()[0], "steps": done}


def taken(step: Step, clone: Path) -> float:
    """Processor seconds of one step; exits where it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}"
    environment["NLAKIT_DATA_DIR"] = str(clone / "runs" / "data")
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", step.script or step.shown],
        cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        print(f"{step.name} failed: {step.shown}\n{said[-2000:]}", file=sys.stderr)
        sys.exit(1)
    return round(usage.ru_utime + usage.ru_stime, 1)


def table(text: str) -> str:
    """The walk in a page."""
    found = json.loads(text)
    lines = [f"| step | command | s of {found['cores']} cores |", "|---|---|---:|"]
    for each in found["steps"]:
        command = re.sub(r"\s+", " ", each["command"])
        lines.append(f"| {each['step']} | `{command}` | {each['cpu_s']:.0f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
