"""Training steps of a TopK autoencoder: ours beside SAELens's and sparsify's, on the same shapes.

    make test-saelens        # makes the environment that has the other two
    python -m benchmarks.sae_speed --python runs/saelens-tests/bin/python
    python -m benchmarks.sae_speed --python … --tiny    # in seconds: does it run?

Each side is its library's own step on batches of the same random rows in memory: forward, backward,
Adam, and what it does about dead latents and decoder norms. One thread each, in turn. Ratios are of
processor time, so that other work on the machine counts for less; they are per row, higher is
faster. sparsify's trainer reads a model's activations itself, so its step is written out here as
its `Trainer.fit` has it, with its own coder and fused decoder, and torch's Adam, which it takes
where bitsandbytes is absent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nlakit.config import write_text_atomic

from .measure import Done, Run, Task, ratio, summary
from .process import Side, SideFailed, alternate
from .results import machine, rounded
from .sae_tables import SPEED

Shape = dict[str, int]
SHAPES: dict[str, Shape] = {
    "storyworld": {"d_in": 192, "d_sae": 768, "k": 12, "batch": 1024, "steps": 40},
    "SmolLM2": {"d_in": 576, "d_sae": 4608, "k": 32, "batch": 1024, "steps": 6},
}
TINY: dict[str, Shape] = {"tiny": {"d_in": 8, "d_sae": 32, "k": 2, "batch": 16, "steps": 2}}
LIBRARIES = {"saelens": "sae-lens", "sparsify": "eai-sparsify"}
"""Distributions by side."""
BLOCKS, ROUNDS = 2, 4
BUDGET_S = 150.0
"""Of running, a shape; starting the libraries' processes comes on top."""


def _task(step: Callable[[Any], object], d_in: int, batch: int, steps: int) -> Task:
    import torch

    torch.set_num_threads(1)
    seeds = torch.Generator().manual_seed(0)
    batches = [torch.randn(batch, d_in, generator=seeds) for _ in range(4)]

    def run() -> Done:
        for number in range(steps):
            step(batches[number % len(batches)])
        return Done(steps * batch)

    return Task(run, warm=lambda: step(batches[0]))


def ours(d_in: int, d_sae: int, k: int, batch: int, steps: int) -> Task:
    """`sae.trainer.SaeTrainer`."""
    import torch

    from nlakit.sae.architectures.base import Batch
    from nlakit.sae.architectures.topk import TopKSettings
    from nlakit.sae.trainer import SaeTrainer

    settings = TopKSettings(d_sae=d_sae, k=k, steps=10**6, batch_size=batch)
    seeds = torch.Generator().manual_seed(0)
    trainer = SaeTrainer(settings, torch.randn(4 * batch, d_in, generator=seeds), seeds)
    # Not a step that measures itself; those are one in fifty.
    return _task(lambda x_ND: trainer.step(Batch(x_ND), 1), d_in, batch, steps)


def saelens(d_in: int, d_sae: int, k: int, batch: int, steps: int) -> Task:
    """`sae_lens.training.sae_trainer.SAETrainer`."""
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.saes.topk_sae import (  # pyright: ignore[reportMissingImports]
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    coder = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k))
    # The runner's config sets lr_end, a tenth of the rate, before it makes this one.
    config = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=batch, lr_end=3e-5
    )
    trainer = SAETrainer(cfg=config, sae=coder, data_provider=iter(()))

    def step(x_ND: Any) -> None:
        trainer.step(x_ND)
        trainer.n_training_steps += 1

    return _task(step, d_in, batch, steps)


def sparsify(d_in: int, d_sae: int, k: int, batch: int, steps: int) -> Task:
    """`sparsify.SparseCoder`, stepped as `sparsify.Trainer.fit` does."""
    import torch
    from sparsify import (  # pyright: ignore[reportMissingImports]
        SparseCoder,
        SparseCoderConfig,
    )

    coder = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k), "cpu", dtype=torch.float32)
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-3)
    fired = torch.zeros(d_sae, dtype=torch.bool)
    silent = torch.zeros(d_sae, dtype=torch.int64)

    def step(x_ND: Any) -> None:
        coder.set_decoder_norm_to_unit_norm()
        total_variance = (x_ND - x_ND.mean(0)).pow(2).sum()
        out = coder(x=x_ND, y=x_ND, dead_mask=None, total_variance=total_variance)
        fired[out.latent_indices.flatten()] = True
        (out.fvu + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        silent.add_(len(x_ND))
        silent[fired] = 0
        fired.zero_()

    return _task(step, d_in, batch, steps)


SIDES = {"ours": ours, "saelens": saelens, "sparsify": sparsify}


def compare(python: str, shapes: Mapping[str, Shape] = SHAPES) -> dict[str, Any]:
    """Every shape: the sides' medians, and ratios of processor time with intervals.

    Raises:
        SideFailed: a library cannot be imported there, or its step fails.
    """
    versions = {key: _version(python, name) for key, name in LIBRARIES.items()}
    found = {name: _compared(python, shape) for name, shape in shapes.items()}
    return {"machine": machine(), "versions": versions, "shapes": found}


def _compared(python: str, shape: Shape) -> dict[str, Any]:
    sides = [
        Side(f"sae_speed.{key}", shape, python=sys.executable if key == "ours" else python)
        for key in SIDES
    ]
    runs = dict(zip(SIDES, alternate(sides, ROUNDS, BLOCKS, BUDGET_S), strict=True))
    return {
        "shape": shape,
        "sides": {key: summary(kept) for key, kept in runs.items()},
        "ratios": {
            key: ratio(_rates(runs["ours"]), _rates(runs[key]))._asdict() for key in LIBRARIES
        },
    }


def _version(python: str, distribution: str) -> str:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise SideFailed(f"{python} has no {distribution}; `make test-saelens` installs it.")
    return asked.stdout.strip()


def _rates(runs: Sequence[Run]) -> list[float]:
    return [run.items / run.cpu_s for run in runs]


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sae_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", type=Path, required=True, help="of the environment with both")
    parser.add_argument("--output", type=Path, help=f"by default {SPEED.name} in results/sae")
    parser.add_argument("--tiny", action="store_true", help="small shapes; printed, not kept")
    options = parser.parse_args(arguments)
    try:
        found = compare(str(options.python), TINY if options.tiny else SHAPES)
    except SideFailed as error:
        print(error, file=sys.stderr)
        return 1
    text = json.dumps(rounded(found), indent=1) + "\n"
    output = options.output or (None if options.tiny else SPEED)
    if output is None:
        print(text, end="")
    else:
        write_text_atomic(output, text)
        print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
