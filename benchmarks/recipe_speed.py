"""A recipe of a released model on random weights of its shape: seconds a step, and memory.

    python -m benchmarks.recipe_speed recipes/qwen2.5-0.5b-1gpu.toml [--steps 5] [KEY=VALUE …]

The recipe's own pipeline makes a few steps of each stage that learns, on the device that is there,
from a base, a corpus and labels made on the spot; overrides are the recipe's. Prints one JSON
object: per stage the median seconds of a step after the first and the peak of the device's memory
(of the process on a CPU, so far), beside the peak that `nlakit plan` states for RL. Labels here
are shorter than a teacher's, so of the three stages RL is the one to compare with a plan.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from nlakit.cli.recipes import read_recipe
from nlakit.core.site import Site
from nlakit.models.target import Target
from nlakit.split import Split
from nlakit.storyworld.grammar import generate
from nlakit.train.corpus_world import train_model_recipe
from nlakit.train.model_recipe import ModelRecipe, ModelTarget
from nlakit.train.plan import device_named, plan
from nlakit.worlds.storyworld.target import special_ids
from nlakit.worlds.storyworld.tokenizer import MARKER

from .checkpoints import CONTEXT, make_tokenizer

STAGES = ("verbalizer", "reconstructor", "rl")
STORIES_A_DOCUMENT = 6
HELD_OUT = 8


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_intermixed_args()
    print(json.dumps(measure(asked.recipe, asked.overrides, asked.steps), indent=2))


def measure(path: Path, overrides: list[str], steps: int) -> dict[str, Any]:
    """Make `steps` steps of each stage of a recipe; returns the figures."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        asked = read_recipe(path, overrides)
        assert isinstance(asked, ModelRecipe), f"{path} makes a target of its own"
        labels = steps * asked.warm_start.batch_size + 256
        documents = -(-labels // asked.corpus.positions_per_document)
        recipe = read_recipe(path, [*overrides, *small(directory, documents, steps)])
        assert isinstance(recipe, ModelRecipe)
        make_base(recipe.target, directory / "base")
        make_corpus(documents, directory / "corpus.jsonl")
        stages = {stage: measure_stage(recipe, directory / "run", stage) for stage in STAGES}
    planned = plan(recipe, device_named(recipe.devices.kind), recipe.devices.count)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "recipe": recipe.name,
        "device": device,
        "stages": stages,
        "planned_peak_gib": round(planned.peak_bytes / 2**30, 2),
    }


def small(directory: Path, documents: int, steps: int) -> list[str]:
    """What is laid over the recipe: files of our own, and little work."""
    return [
        f"target.checkpoint={directory / 'base'}",
        f"target.marker={MARKER}",
        f"corpus.source={directory / 'corpus.jsonl'}",
        f"corpus.documents={documents}",
        f"corpus.held_out_documents={HELD_OUT}",
        "corpus.rl_documents=0",
        "teacher.model=fake",
        f"rl.steps={steps}",
        f"rl.evaluate_every={steps}",
    ]


def make_base(target: ModelTarget, directory: Path) -> None:
    """A random model of a recipe's shape, of Qwen2's blocks, in bfloat16."""
    shape, tokenizer = target.shape, make_tokenizer(target.shape.vocab_size)
    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=shape.tied_embeddings,
        initializer_range=shape.d_model**-0.5,
        **special_ids(tokenizer),
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    Target(model, tokenizer, Site(target.layer)).save(directory, torch.bfloat16)


def make_corpus(documents: int, path: Path) -> None:
    """Storyworld texts, several a document, of both splits."""
    made: list[str] = []
    counts: dict[Split, int] = {"train": 2 * documents, "heldout": 8 * HELD_OUT}
    for split, count in counts.items():
        stories = generate(1, split)
        for _ in range(count):
            parts = islice(stories, STORIES_A_DOCUMENT)
            made.append("\n\n".join(each.text for each in parts))
    lines = [json.dumps({"text": text}) for text in made]
    path.write_text("\n".join(lines), encoding="utf-8")


def measure_stage(recipe: ModelRecipe, directory: Path, stage: str) -> dict[str, float]:
    """Make one stage and what it needs."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    made = train_model_recipe(recipe, directory, only=stage)
    records = map(json.loads, (made / "metrics.jsonl").read_text().splitlines())
    seconds = [record["seconds"] for record in records if "seconds" in record]
    # The first loads kernels.
    median = statistics.median(seconds[1:] or seconds)
    return {"seconds_per_step": round(median, 3), "peak_gib": round(peak_bytes() / 2**30, 2)}


def peak_bytes() -> int:
    """The device's peak since it was last reset; of the whole process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
