"""Memory of one base with adapters against three checkpoints: RSS of fresh processes, as JSON.

    python -m benchmarks.one_base [--d-model 1024] [--layers 12] [--rank 16]

A seeded random model is saved once; a process each loads nothing, the base alone, the three roles
as one base with adapters, and the three roles as three checkpoints, and runs an extraction, a
scoring forward of the AV and a reconstruction. Each imports the same libraries first (PEFT's, with
bitsandbytes where it is installed, are 50 MiB of code whatever the model). The peak includes the
file that is read beside the weights it fills; what is held is the resident size at the end.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Role, measure_tokens
from nlakit.core.site import Site
from nlakit.models.adapters import adapted
from nlakit.models.families import backbone_of, truncated
from nlakit.models.lora import adapter_state
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.registry import bundled_path
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE
from nlakit.worlds.storyworld.tokenizer import MARKER

CASES = ("nothing", "base", "one_base", "three_checkpoints")
MIB = 1024**2


def main() -> None:
    """Measure every case in a process of its own and print the figures."""
    options = _parse()
    if options.case is not None:
        print(json.dumps(measure(options.case, Path(options.directory), options)))
        return
    with tempfile.TemporaryDirectory() as directory:
        weights = make_pair(Path(directory), options)
        found = {case: _in_process(case, directory, options) for case in CASES}
    figures: dict[str, Any] = {
        "weights_mib": round(weights / MIB, 1),
        "adapter_mib": round(found["one_base"]["adapter_mib"], 1),
    }
    for kind in ("peak_mib", "held_mib"):
        figures[kind] = {case: round(each[kind], 1) for case, each in found.items()}
        figures[kind] |= _ratios(found, kind)
    print(json.dumps(figures, indent=2))


def _ratios(found: dict[str, dict[str, float]], kind: str) -> dict[str, float | bool]:
    """Above an empty process, in units of the base; and whether 1.1 of it and adapters suffice."""
    above = {case: found[case][kind] - found["nothing"][kind] for case in CASES[1:]}
    allowed = 1.1 * above["base"] + found["one_base"]["adapter_mib"]
    return {
        "one_base_over_base": round(above["one_base"] / above["base"], 3),
        "three_checkpoints_over_base": round(above["three_checkpoints"] / above["base"], 3),
        "within": above["one_base"] <= allowed,
    }


def make_pair(directory: Path, options: argparse.Namespace) -> int:
    """Write target, AV and AR of random weights; returns the bytes of the target's."""
    donor = Target.load(bundled_path() / "target", 0)
    config = Qwen2Config(
        vocab_size=len(donor.tokenizer),
        hidden_size=options.d_model,
        intermediate_size=4 * options.d_model,
        num_hidden_layers=options.layers,
        num_attention_heads=options.d_model // 64,
        num_key_value_heads=options.d_model // 256,
        max_position_embeddings=512,
        bos_token_id=donor.tokenizer.bos_token_id,
        eos_token_id=donor.tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    target = Target(Qwen2ForCausalLM(config).eval(), donor.tokenizer, Site(layer_of(options)))
    target.save(directory / "target")
    Verbalizer(target.model, target.tokenizer, meta_for("av", target)).save(directory / "av")
    meta = meta_for("ar", target)
    Reconstructor.from_target(target.model, target.tokenizer, meta).save(directory / "ar")
    return sum(p.numel() * p.element_size() for p in target.model.parameters())


def layer_of(options: argparse.Namespace) -> int:
    """About two thirds of the depth."""
    return options.layers * 2 // 3


def meta_for(role: Role, target: Target) -> NlaMeta:
    """A contract for random weights."""
    return NlaMeta(
        role=role,
        d_model=target.d_model,
        extraction=Extraction(layer_index=target.site.layer, injection_scale=10.0),
        tokens=measure_tokens(target.tokenizer, MARKER, AV_TEMPLATE, AR_TEMPLATE),
        prompt_templates=PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
    )


def measure(case: str, directory: Path, options: argparse.Namespace) -> dict[str, float]:
    """Load one case, use it, and say the process's peak and what it holds, in MiB."""
    importlib.import_module("peft")
    adapter_bytes = 0
    if case != "nothing":
        target = Target.load(directory / "target", layer_of(options))
        vectors = target.activations([target.encode("Basil rowed by the pier.").ids])[0][-1:]
    if case == "one_base":
        adapter_bytes = use(*on_one_base(target, options.rank), vectors)
    if case == "three_checkpoints":
        pair = Verbalizer.load(directory / "av"), Reconstructor.load(directory / "ar")
        use(*pair, vectors)
    return memory_mib() | {"adapter_mib": adapter_bytes / MIB}


def on_one_base(target: Target, rank: int) -> tuple[Verbalizer, Reconstructor]:
    """AV and AR as adapters on the target's own weights."""
    model, tokenizer = target.model, target.tokenizer
    cut = truncated(backbone_of(model), target.site.num_blocks)
    views = [adapted(each, rank, rank, 0, "base") for each in (model, cut)]
    head = torch.nn.Linear(target.d_model, target.d_model, bias=False)
    return (
        Verbalizer(views[0], tokenizer, meta_for("av", target)),
        Reconstructor(views[1], head, tokenizer, meta_for("ar", target)),
    )


def use(verbalizer: Verbalizer, reconstructor: Reconstructor, vectors: torch.Tensor) -> int:
    """A forward of each. Returns the adapters' bytes."""
    with torch.no_grad():
        verbalizer.logprobs(vectors, [verbalizer.encode_response("A pier.")])
    reconstructor.reconstruct(["A pier."])
    adapters = (adapter_state(verbalizer.model), adapter_state(reconstructor.backbone))
    return sum(p.numel() * p.element_size() for each in adapters for p in each.values())


def memory_mib() -> dict[str, float]:
    """Highest and present resident size; `ru_maxrss` would begin with the parent process's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    names = {"peak_mib": "VmHWM", "held_mib": "VmRSS"}
    return {name: int(sizes[field].split()[0]) / 1024 for name, field in names.items()}


def _in_process(case: str, directory: str, options: argparse.Namespace) -> dict[str, float]:
    sizes = {"--d-model": options.d_model, "--layers": options.layers, "--rank": options.rank}
    flags = [part for name, value in sizes.items() for part in (name, str(value))]
    command = [sys.executable, "-m", "benchmarks.one_base", *flags]
    command += ["--case", case, "--directory", directory]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-model", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--case", choices=CASES, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--directory", default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
