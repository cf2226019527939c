"""Our sides: what the package does by itself, and the same with its prefix sharing cut short."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nlakit.data.bulk import BulkPlan, Described, VectorSource, explain_vectors
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.models.precision import Precision, bring_to
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.train.config import RlConfig, TrainingSettings
from nlakit.train.learner import Learner, OptimizerConfig
from nlakit.train.memory import keep_freed_memory
from nlakit.train.rl import JointRl, joint_rl, rl_step

from . import checkpoints
from .flops import explain_flops
from .measure import Done, Task, peak_mib
from .specs import NEW_TOKENS, SPECS, Spec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OPTIMIZER = {"lr": 1e-4, "warmup_steps": 1}
STEPS = 1000
"""Of the schedule; no benchmark gets that far."""


class PartlyShared(Verbalizer):
    """A verbalizer of whose constant prefix the engine shares the first `num_shared` tokens only:
    the rest is run for every row, as if it were part of the slot's prompt."""

    def __init__(self, verbalizer: Verbalizer, num_shared: int) -> None:
        super().__init__(verbalizer.model, verbalizer.tokenizer, verbalizer.meta)
        self.eos_ids = verbalizer.eos_ids
        self._own_ids = self.prefix_ids[num_shared:]
        self._suffix_ids = self.suffix_ids
        self.prefix_ids = self.prefix_ids[:num_shared]
        # The engine reads the length only; the embeddings come from `body`.
        self.suffix_ids = [*self._own_ids, *self._suffix_ids]

    def body(self, scaled_BD: Tensor, ids_BT: Tensor) -> Tensor:
        """Embeddings of the rest of the prefix, slot, suffix and response."""
        shared, self.suffix_ids = self.suffix_ids, self._suffix_ids
        body_BSD = super().body(scaled_BD, ids_BT)
        self.suffix_ids = shared
        own = torch.tensor([self._own_ids], dtype=torch.long, device=ids_BT.device)
        own_BPD = self.model.get_input_embeddings()(own).expand(len(body_BSD), -1, -1)
        return torch.cat([own_BPD.to(body_BSD), body_BSD], dim=1)


def load_engine(
    model: str, max_rows: int = 64, shared: int | None = None, dtype: str = "float32"
) -> LocalEngine:
    """Verbalizer and reconstructor of a model; `shared` prefix tokens (None: all of them)."""
    verbalizer = checkpoints.load_verbalizer(model, DTYPES[dtype])
    if shared is not None:
        verbalizer = PartlyShared(verbalizer, shared)
    return LocalEngine(
        None, verbalizer, checkpoints.load_reconstructor(model, DTYPES[dtype]), max_rows
    )


def explain(
    model: str,
    rows: int,
    samples: int = 1,
    new_tokens: int = NEW_TOKENS,
    max_rows: int = 64,
    temperature: float = 1.0,
    shared: int | None = None,
    dtype: str = "float32",
) -> Task:
    """Explanations of random vectors, `rows` of them in all, `samples` of each vector."""
    spec = SPECS[model]
    engine = load_engine(model, max_rows, shared, dtype)
    vectors = checkpoints.vectors(spec, rows // samples)

    def run(num_tokens: int = new_tokens) -> Done:
        sampling = Sampling(samples, temperature, max_new_tokens=num_tokens)
        groups = engine.verbalize(vectors, sampling)
        return Done(sum(len(group) for group in groups))

    return Task(run, lambda: run(2), explain_flops(spec, rows, new_tokens))


def many_rows(model: str, rows: int, new_tokens: int, shard_rows: int = 1000) -> Task:
    """`rows` vectors on disk, explained into Parquet shards (`data.bulk`), unscored."""
    spec, engine = SPECS[model], load_engine(model)
    sampling = Sampling(temperature=1.0, max_new_tokens=new_tokens)

    def run(num_rows: int = rows) -> Done:
        start = peak_mib()
        with TemporaryDirectory(prefix="nlakit-bench-") as directory:
            source = VectorSource(write_vectors(Path(directory) / "vectors.npy", spec, num_rows))
            plan = BulkPlan(
                nla=model,
                nla_sha256="",
                vectors_sha256=source.sha256(),
                num_rows=num_rows,
                d_model=spec.d_model,
                shard_rows=shard_rows,
                samples=1,
                temperature=sampling.temperature,
                max_new_tokens=new_tokens,
                seed=sampling.seed,
            )
            output = Path(directory) / "explanations"
            explain_vectors(lambda: Unscored(engine, sampling), source, output, plan)
        return Done(num_rows, {"growth_mib": peak_mib() - start})

    return Task(run, lambda: run(shard_rows))


class Unscored(NamedTuple):
    """An engine as `data.bulk` asks for it."""

    engine: LocalEngine
    sampling: Sampling

    def describe_rows(self, vectors_ND: Tensor, first: int) -> list[Described]:
        """One answer a vector; the AR is not asked."""
        groups = self.engine.verbalize(vectors_ND, self.sampling, first=first)
        unknown = (math.nan, math.nan, math.nan)
        return [
            Described(first + row, 0, answer.text, answer.closed, *unknown)
            for row, (answer,) in enumerate(groups)
        ]


def write_vectors(path: Path, spec: Spec, count: int, chunk: int = 1000) -> Path:
    """An .npy of random vectors, never whole in memory."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, spec.d_model)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, count, chunk):
            some = checkpoints.vectors(spec, min(chunk, count - first), seed=first)
            file.write(some.numpy().tobytes())
    return path


def read_text(model: str, tokens: int, positions: int, new_tokens: int = 0) -> Task:
    """Activations at `positions` places of a text of `tokens`, explained if `new_tokens`."""
    target: Target = checkpoints.load_target(model)
    ids = torch.randint(300, 8000, (tokens,), generator=checkpoints.seeded(6)).tolist()
    places = list(range(tokens - positions, tokens))
    engine = load_engine(model) if new_tokens else None

    def run() -> Done:
        found = target.activations([ids], [places])[0]
        if engine is not None:
            engine.verbalize(found, Sampling(temperature=1.0, max_new_tokens=new_tokens))
        return Done(len(found))

    return Task(run, lambda: target.activations([ids[:8]]))


def train_step(model: str, rows: int, new_tokens: int = NEW_TOKENS) -> Task:
    """One step of the verbalizer's warm start, as `train.sft` takes it."""
    keep_freed_memory()
    verbalizer = checkpoints.load_verbalizer(model)
    bring_to(verbalizer.model, "auto")
    learner = new_learner(verbalizer.model)
    vectors, responses = training_rows(model, rows, new_tokens)

    def run() -> Done:
        logprobs_BT, mask_BT = verbalizer.logprobs(vectors, responses)
        loss = -(logprobs_BT * mask_BT).sum() / mask_BT.sum()
        loss.backward()
        learner.update(1)
        return Done(1)

    return Task(run, run)


def rl(model: str, vectors: int, group: int, new_tokens: int = NEW_TOKENS) -> Task:
    """One step of joint RL, as `train.rl` takes it, the reference policy included."""
    keep_freed_memory()
    joint = load_joint_rl(model, rl_config(vectors, group, new_tokens))
    pool = checkpoints.vectors(SPECS[model], 8 * vectors)

    def run() -> Done:
        rl_step(joint, pool, 1)
        return Done(1)

    return Task(run, run)


def load_joint_rl(model: str, config: RlConfig, precision: Precision = "auto") -> JointRl:
    """The pair, its frozen start, and the optimisers, from disk, as `train_rl` has them."""
    engine = load_engine(model, config.vectors * config.group)
    reference = checkpoints.load_verbalizer(model)
    settings = TrainingSettings(precision=precision)
    return joint_rl(engine, reference, engine.reconstructor, config, settings)


def new_learner(model: nn.Module) -> Learner:
    """The optimiser that both sides of a training comparison use."""
    return Learner(dict(model.named_parameters()), OptimizerConfig(**OPTIMIZER), STEPS)


def rl_config(vectors: int, group: int, new_tokens: int) -> RlConfig:
    """One step of joint RL, all rows in memory at once."""
    optimizer = OptimizerConfig.model_validate(OPTIMIZER)
    return RlConfig(
        steps=STEPS,
        vectors=vectors,
        group=group,
        max_new_tokens=new_tokens,
        micro_batch=vectors * group,
        verbalizer=optimizer,
        reconstructor=optimizer,
    )


def training_rows(model: str, rows: int, new_tokens: int) -> tuple[Tensor, list[list[int]]]:
    """Vectors and answers of random tokens, all of the same length."""
    spec = SPECS[model]
    ids = torch.randint(
        300, spec.vocab_size, (rows, new_tokens), generator=checkpoints.seeded(7)
    ).tolist()
    return checkpoints.vectors(spec, rows), ids


SIDES = {
    "explain": explain,
    "many_rows": many_rows,
    "read_text": read_text,
    "train_step": train_step,
    "rl": rl,
}
