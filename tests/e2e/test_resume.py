"""A killed run loses nothing, and a grounded one publishes what it is to be compared with."""

import hashlib
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.recipes import start

pytestmark = pytest.mark.e2e

MICRO = (
    "checkpoint_every=3", "target.steps=12", "target.probe_every=12", "target.hidden_size=48",
    "target.tokenizer_documents=100", "target.vocab_size=640", "target.batch_size=4",
    "extraction.documents=80", "verbalizer.steps=4", "verbalizer.batch_size=8",
    "verbalizer.held_out=16", "reconstructor.steps=4", "reconstructor.batch_size=8",
    "reconstructor.held_out=16", "rl.steps=8", "rl.vectors=2", "rl.group=2",
    "rl.max_new_tokens=12", "rl.evaluate_every=4", "rl.evaluation_documents=8",
    "report.documents=32",
)  # fmt: skip
SFT = "{ steps = 2, batch_size = 8, held_out = 16, optimizer = { lr = 1e-3 } }"
GROUNDED = (
    *MICRO, "grounding.documents=16", "grounding.extra_documents=4",
    "grounding.curve_rows=8", f"grounding.judge={SFT}",
    f"grounding.verbalizer={SFT}", f"grounding.reconstructor={SFT}",
    "grounded_rl={ steps = 2, vectors = 2, group = 2, max_new_tokens = 12, evaluate_every = 2, "
    "evaluation_documents = 8, verbalizer = { lr = 1e-4 }, reconstructor = { lr = 1e-3 } }",
)  # fmt: skip


def kill_after(process: subprocess.Popen[bytes], log: Path, num_lines: int) -> None:
    """SIGKILL the run as soon as a stage has logged so many steps."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("\n") >= num_lines:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


def weights(pair: Path) -> dict[str, str]:
    files = sorted(pair.rglob("*.safetensors"))
    return {str(f.relative_to(pair)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_killed_run_ends_as_the_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, *MICRO).wait() == 0
    kill_after(start(killed, *MICRO), killed / "1-target" / "metrics.jsonl", 5)
    kill_after(start(killed, *MICRO), killed / "5-rl" / "metrics.jsonl", 6)
    assert start(killed, *MICRO).wait() == 0
    assert len(weights(whole / "nla")) == 9  # five models, two heads, the mean, the probes
    assert weights(killed / "nla") == weights(whole / "nla")


def test_grounded_recipe_publishes_its_rows(tmp_path):
    assert start(tmp_path, *GROUNDED).wait() == 0
    made = {str(file.parent) for file in map(Path, weights(tmp_path / "nla"))}
    pairs = {"", "warm_start/", "rows/plain-warm-start/", "rows/plain-rl/"}
    assert made == {f"{pair}{part}" for pair in pairs for part in ("av", "ar")} | {
        ".", "target", "control_ar", "rows/plain-rl/control_ar",
    }  # fmt: skip
    report = json.loads((tmp_path / "nla" / "report.json").read_text())
    assert report["fve_control_ar"] is not None
    assert (tmp_path / "nla" / "run" / "curves.json").exists()
