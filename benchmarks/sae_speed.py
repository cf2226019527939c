"""Training steps of a TopK autoencoder: ours beside SAELens's and sparsify's, on the same shapes.

    make test-saelens        # makes the environment that has the other two
    python -m benchmarks.sae_speed --python runs/saelens-tests/bin/python

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
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nlakit.config import write_text_atomic

from .measure import Done, Run, Task, ratio, summary
from .process import ROOT, Side, SideFailed, alternate
from .results import rounded

RESULT = ROOT / "benchmarks" / "results" / "sae" / "speed.json"
SHAPES: dict[str, dict[str, int]] = {
    "storyworld": {"d_in": 192, "d_sae": 768, "k": 12, "batch": 1024, "steps": 40},
    "SmolLM2": {"d_in": 576, "d_sae": 4608, "k": 32, "batch": 1024, "steps": 6},
}
LIBRARIES = ("saelens", "sparsify")
BLOCKS, ROUNDS = 2, 4


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
    config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=batch)
    trainer = SAETrainer(cfg=config, sae=coder, data_provider=iter(()))

    def step(x_ND: Any) -> None:
        trainer._train_step(sae=coder, sae_in=x_ND)
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


def compare(python: str) -> dict[str, Any]:
    """Every shape: the sides' medians, and ratios of processor time with intervals."""
    found: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        sides = [
            Side(f"sae_speed.{key}", shape, python=sys.executable if key == "ours" else python)
            for key in ("ours", *LIBRARIES)
        ]
        runs = alternate(sides, ROUNDS, BLOCKS)
        found[name] = {
            "shape": shape,
            "sides": {key: summary(kept) for key, kept in zip(SIDES, runs, strict=True)},
            "ratios": {
                key: ratio(_rates(runs[0]), _rates(kept))._asdict()
                for key, kept in zip(LIBRARIES, runs[1:], strict=True)
            },
        }
    return found


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
    options = parser.parse_args(arguments)
    try:
        found = compare(str(options.python))
    except SideFailed as error:
        print(error, file=sys.stderr)
        return 1
    write_text_atomic(RESULT, json.dumps(rounded(found), indent=1) + "\n")
    print(RESULT.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
