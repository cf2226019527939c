"""What a recipe will take: tokens, arithmetic, memory, dollars and hours. Formulas: docs/plan.md.

Pure arithmetic on a recipe; opens no checkpoint and asks no device.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from nlakit.claims.grounding import SHUFFLES
from nlakit.config import FrozenModel
from nlakit.errors import ConfigError

from .model_recipe import LoraConfig, ModelRecipe, ModelShape

BYTES, GIB = 2, 1024**3
"""Bytes of a weight in bfloat16, and of a gibibyte."""
FULL_TRAINING_BYTES = 16
"""Per trained weight: float32 master copy, gradient and the two moments of Adam."""
AV_PREFIX_TOKENS, AV_SUFFIX_TOKENS, AR_PROMPT_TOKENS = 111, 14, 12
"""Of the reference's prompts under Qwen2.5 (method.md §1). The prefix is run once a batch."""
BASE_BYTES: dict[int | None, float] = {None: 2.0, 8: 1.0, 4: 0.516}
"""Of a weight of a frozen base's blocks, by `lora.base_bits`. In 4 bits: half a byte, a byte for 64
of them, 4 bytes for 256 of those."""
INSTRUCTION_TOKENS = 300
"""Of the teacher's instruction and the frame around the text."""
PLANNED_ROWS = 16
"""Of a micro-batch that the recipe leaves to the trainer, which takes more where memory is left."""
ACTIVATION_FACTOR = 16
"""Numbers kept per token, block and unit of d_model for a backward without checkpointing."""


class Device(FrozenModel):
    """One device.

    Attributes:
        flops: multiplications and additions a second that training reaches, all overheads in.
        bandwidth: bytes a second from memory, for decoding.
        memory: bytes.
    """

    name: str
    flops: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    memory: float = Field(gt=0)


UTILISATION = 0.4
"""Share of the peak that training of these models reaches."""
DEVICES = {
    # Peaks: dense bfloat16 and memory, from the makers' data sheets. CPUs differ tenfold: theirs
    # stands for any, and `nlakit plan` measures the machine that it runs on instead.
    each.name: each
    for each in (
        Device(name="a100", flops=312e12 * UTILISATION, bandwidth=2.0e12, memory=80 * GIB),
        Device(name="h100", flops=989e12 * UTILISATION, bandwidth=3.35e12, memory=80 * GIB),
        Device(name="h200", flops=989e12 * UTILISATION, bandwidth=4.8e12, memory=141e9),
        Device(name="rtx4090", flops=165e12 * UTILISATION, bandwidth=1.0e12, memory=24 * GIB),
        Device(name="cpu", flops=50e9, bandwidth=20e9, memory=16 * GIB),
    )
}


class Stage(FrozenModel):
    """One stage: `tokens` are those that go through a model, padding and shared prefixes apart."""

    name: str
    tokens: float
    flops: float
    hours: float


class Plan(FrozenModel):
    """What a recipe takes on `num_devices` devices. Memory is a device's peak, in bytes."""

    recipe: str
    device: str
    num_devices: int
    parameters: int
    stages: tuple[Stage, ...]
    memory_bytes: dict[str, float]
    device_memory_bytes: float
    label_dollars: float | None

    @property
    def flops(self) -> float:
        """Of all stages."""
        return sum(stage.flops for stage in self.stages)

    @property
    def hours(self) -> float:
        """Of all stages, one after the other."""
        return sum(stage.hours for stage in self.stages)

    @property
    def peak_bytes(self) -> float:
        """Of one device."""
        return sum(self.memory_bytes.values())


def device_named(name: str, flops: float | None = None) -> Device:
    """A device of the table, perhaps with a measured rate. Raises ConfigError."""
    if name not in DEVICES:
        raise ConfigError(f"Device {name!r} is not known. Known: {', '.join(sorted(DEVICES))}.")
    if flops is not None and flops <= 0:
        raise ConfigError(f"--flops {flops:g}: expected a positive number of operations a second.")
    return DEVICES[name] if flops is None else DEVICES[name].model_copy(update={"flops": flops})


def check_count(num_devices: int) -> None:
    """Raise `ConfigError` for fewer devices than one."""
    if num_devices < 1:
        raise ConfigError(f"--devices {num_devices}: expected at least 1.")


# -- arithmetic ------------------------------------------------------------------------------------
def forward_flops(
    shape: ModelShape, tokens: float, context: float, num_blocks: int, head_tokens: float
) -> float:
    """Operations of a forward: two a weight and token, and attention to `context` tokens each."""
    attention = 4 * shape.num_heads * shape.head_dim * context
    blocks = num_blocks * (2 * shape.block_parameters + attention)
    return tokens * blocks + head_tokens * 2 * shape.head_parameters


def training_factor(lora: bool, checkpointing: bool) -> float:
    """Forward and backward in units of the forward: 3, or 2 where weights are frozen (no gradient
    of theirs is made), and 1 more where the forward is recomputed."""
    return (2.0 if lora else 3.0) + (1.0 if checkpointing else 0.0)


def decode_seconds(
    shape: ModelShape, rows: float, new_tokens: int, context: float, device: Device
) -> float:
    """Writing `new_tokens` for `rows` at once: each step reads all weights, keys and values."""
    cache = rows * context * shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim * BYTES
    reading = (shape.parameters * BYTES + cache) / device.bandwidth
    computing = forward_flops(shape, rows, context, shape.num_layers, rows) / device.flops
    return new_tokens * max(reading, computing)


@dataclass(frozen=True)
class Setting:
    """What the stages of one plan share."""

    shape: ModelShape
    num_blocks: int
    factor: float
    device: Device
    num_devices: int
    prefix: int
    suffix: int
    ar_prompt: int

    def stage(self, name: str, tokens: float, flops: float, extra_seconds: float = 0.0) -> Stage:
        """A stage whose work is spread over the devices."""
        seconds = flops / self.device.flops + extra_seconds
        return Stage(name=name, tokens=tokens, flops=flops, hours=seconds / 3600 / self.num_devices)

    def av_flops(self, rows: float, answer: float) -> float:
        """A forward of the AV over `rows` answers; the shared prefix is left out."""
        width = 1 + self.suffix + answer
        context = self.prefix + width / 2
        return forward_flops(
            self.shape, rows * width, context, self.shape.num_layers, rows * answer
        )

    def ar_flops(self, rows: float, answer: float) -> float:
        """A forward of the AR over `rows` explanations."""
        width = self.ar_prompt + answer
        return forward_flops(self.shape, rows * width, width / 2, self.num_blocks, 0)

    def verbalizer(self, rows: float, answer: float, prefix: str = "") -> Stage:
        """An AV trained on `rows` labels."""
        tokens = (1 + self.suffix + answer) * rows
        return self.stage(f"{prefix}verbalizer", tokens, self.factor * self.av_flops(rows, answer))

    def reconstructor(self, rows: float, answer: float, name: str = "reconstructor") -> Stage:
        """An AR trained on `rows` explanations."""
        tokens = (self.ar_prompt + answer) * rows
        return self.stage(name, tokens, self.factor * self.ar_flops(rows, answer))

    def grounding(self, rows: float, answer: float, epochs: int) -> Stage:
        """Labels judged with the right vectors and with others, after two judges were each trained
        on half of them for so many epochs; 0 where the judge is there."""
        passes = self.factor * epochs + 1 + SHUFFLES
        tokens = (1 + self.suffix + answer) * rows * (epochs + 1 + SHUFFLES)
        return self.stage("grounding", tokens, passes * self.av_flops(rows, answer))

    def abstention(self, vectors: int, answer: int, left: int) -> Stage:
        """An explanation of each vector written, read once more without the vector, and what is
        left of it learned from."""
        width = 1 + self.suffix + answer
        seconds = decode_seconds(self.shape, vectors, answer, self.prefix + width / 2, self.device)
        learned = self.verbalizer(vectors, left)
        flops = learned.flops + self.av_flops(vectors, answer) + self.ar_flops(vectors, answer)
        return self.stage("abstention", learned.tokens + 2 * vectors * width, flops, seconds)

    def settling(self, vectors: int, rows: float, answer: int) -> Stage:
        """An explanation of each vector written, and the AR trained on `rows` of them."""
        width = 1 + self.suffix + answer
        seconds = decode_seconds(self.shape, vectors, answer, self.prefix + width / 2, self.device)
        learned = self.reconstructor(rows, answer)
        return self.stage("settling", learned.tokens + vectors * width, learned.flops, seconds)

    def rl(
        self, steps: int, rows: int, answer: int, name: str = "rl", *, judged: bool = False
    ) -> Stage:
        """Joint RL: write, score (policy, reference and perhaps a judge), update both."""
        width = 1 + self.suffix + answer
        written = forward_flops(
            self.shape, rows * width, self.prefix + width / 2, self.shape.num_layers, rows * answer
        )
        frozen = 1 + judged
        update = (self.factor + frozen) * self.av_flops(rows, answer)
        update += self.factor * self.ar_flops(rows, answer)
        # Each device writes its share of the rows at once, and reads all weights to do so.
        share = rows / self.num_devices
        writing = decode_seconds(self.shape, share, answer, self.prefix + width / 2, self.device)
        extra = steps * (writing * self.num_devices - written / self.device.flops)
        flops = steps * (written + update)
        return self.stage(name, float(steps * rows * width), flops, extra)


# -- model recipes -------------------------------------------------------------------------------
def plan(recipe: ModelRecipe, device: Device, num_devices: int = 1) -> Plan:
    """The plan of a model recipe. Raises `ConfigError` for fewer devices than one."""
    check_count(num_devices)
    shape, corpus = recipe.target.shape, recipe.corpus
    factor = training_factor(recipe.lora is not None, recipe.devices.gradient_checkpointing)
    setting = Setting(
        shape, recipe.target.layer + 1, factor, device, num_devices,
        AV_PREFIX_TOKENS, AV_SUFFIX_TOKENS, AR_PROMPT_TOKENS,
    )  # fmt: skip
    documents = corpus.documents + corpus.rl_documents
    documents += recipe.grounding.documents if recipe.grounding else 0
    documents += recipe.abstention.documents if recipe.abstention else 0
    documents += recipe.settling.documents if recipe.settling else 0
    tokens = float(documents * corpus.mean_tokens)
    read = forward_flops(shape, tokens, corpus.mean_tokens / 2, setting.num_blocks, 0)
    stages = (
        setting.stage("activations", tokens, read),
        *_plain_stages(recipe, setting),
        *_grounded_stages(recipe, setting),
        *_control_stages(recipe, setting),
    )
    return Plan(
        recipe=recipe.name,
        device=device.name,
        num_devices=num_devices,
        parameters=shape.parameters,
        stages=stages,
        memory_bytes=_memory(recipe, num_devices),
        device_memory_bytes=device.memory,
        label_dollars=_label_dollars(recipe),
    )


def _plain_stages(recipe: ModelRecipe, setting: Setting) -> list[Stage]:
    """Those of the pair without grounding that the recipe needs."""
    warm, rl, grounding = recipe.warm_start, recipe.rl, recipe.grounding
    rows, answer = _labels(recipe), warm.label_tokens
    epochs = warm.reconstructor_epochs or warm.epochs
    warm_start = [
        setting.verbalizer(rows * warm.epochs, answer),
        setting.reconstructor(rows * epochs, answer),
    ]
    if not recipe.has_plain_pair:
        # Where it judges other documents, the grounded pair goes on from it.
        return warm_start if grounding is not None and grounding.documents else []
    return [*warm_start, setting.rl(rl.steps, rl.vectors * rl.group, rl.max_new_tokens)]


def _grounded_stages(recipe: ModelRecipe, setting: Setting) -> list[Stage]:
    grounding, rl, settling = recipe.grounding, recipe.rl, recipe.settling
    if grounding is None:
        return []
    warm = grounding.warm_start or recipe.warm_start
    rows, answer = _labels(recipe, grounding.documents or None), warm.label_tokens
    epochs = warm.reconstructor_epochs or warm.epochs
    prefix = "grounded-"
    found = [
        setting.grounding(rows, answer, 0 if grounding.documents else grounding.epochs),
        setting.verbalizer(rows * warm.epochs, answer, prefix),
        setting.reconstructor(rows * epochs, answer, f"{prefix}reconstructor"),
        setting.rl(
            rl.steps,
            rl.vectors * rl.group,
            rl.max_new_tokens,
            f"{prefix}rl",
            judged=rl.judge_weight > 0,
        ),
    ]
    if recipe.abstention is not None:
        vectors = recipe.abstention.documents * recipe.corpus.positions_per_document
        found.append(setting.abstention(vectors, rl.max_new_tokens, recipe.abstention.label_tokens))
    if settling is not None:
        trained = settling.steps * settling.batch_size
        found.append(setting.settling(settling.vectors, trained, rl.max_new_tokens))
    return found


def _control_stages(recipe: ModelRecipe, setting: Setting) -> list[Stage]:
    if not recipe.has_controls:
        return []
    warm, rl = recipe.warm_start, recipe.rl
    epochs = warm.reconstructor_epochs or warm.epochs
    steps = epochs * _labels(recipe) / warm.batch_size
    steps += rl.steps * min(rl.reconstructor_updates, rl.group)
    each = setting.reconstructor(steps * rl.vectors, warm.label_tokens, "controls")
    controls = 1 + (recipe.has_grounding and recipe.has_plain_pair)
    return [setting.stage("controls", each.tokens * controls, each.flops * controls)]


def _labels(recipe: ModelRecipe, documents: int | None = None) -> float:
    """Rows that are labelled, of the warm start's documents or of others."""
    corpus = recipe.corpus
    return float((documents or corpus.documents) * corpus.positions_per_document)


def _label_dollars(recipe: ModelRecipe) -> float | None:
    """Rows × (instruction and half a document read, a label written) × price."""
    teacher, corpus = recipe.teacher, recipe.corpus
    if teacher.price is None:
        return None
    documents = corpus.documents + (recipe.grounding.documents if recipe.grounding else 0)
    rows = _labels(recipe, documents)
    read = rows * (INSTRUCTION_TOKENS + corpus.mean_tokens / 2)
    written = rows * recipe.warm_start.label_tokens
    dollars = (read * teacher.price[0] + written * teacher.price[1]) / 1e6
    return dollars * (0.5 if teacher.batch else 1.0)


def lora_parameters(shape: ModelShape, rank: int, num_blocks: int) -> int:
    """Weights of adapters on all seven matrices of `num_blocks` blocks."""
    query, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    d, inner = shape.d_model, shape.intermediate_size
    sides = 2 * (d + query) + 2 * (d + keys) + 3 * (d + inner)
    return num_blocks * rank * sides


def _memory(recipe: ModelRecipe, num_devices: int) -> dict[str, float]:
    """Bytes on one device in joint RL, the fullest stage."""
    lora = recipe.lora
    weights = _whole(recipe, num_devices) if lora is None else _adapted(recipe, lora, num_devices)
    return weights | _working_memory(recipe, num_devices)


def _adapted(recipe: ModelRecipe, lora: LoraConfig, num_devices: int) -> dict[str, float]:
    """One base serves target, AV, AR and the frozen start of both, which is adapters again.

    Every device has all adapters, with float32 copies of those at the start.
    """
    shape, num_blocks = recipe.target.shape, recipe.target.layer + 1
    blocks = shape.num_layers * shape.block_parameters
    base = blocks * BASE_BYTES[lora.base_bits] + (shape.parameters - blocks) * BYTES
    adapters = lora_parameters(shape, lora.rank, shape.num_layers) + shape.d_model**2
    adapters += lora_parameters(shape, lora.reconstructor_rank or lora.rank, num_blocks)
    judge = lora_parameters(shape, lora.rank, shape.num_layers) if recipe.rl.judge_weight else 0
    return {
        "frozen weights": base / _num_sharing(recipe, num_devices),
        # Weights in bfloat16 beside what the optimiser keeps.
        "trained weights": float(adapters * (FULL_TRAINING_BYTES + BYTES)),
        "frozen adapters": (adapters + judge) * 4.0,
    }


def _whole(recipe: ModelRecipe, num_devices: int) -> dict[str, float]:
    """Target, AV, AR and the frozen start of both have weights of their own; AR heads are whole."""
    shape = recipe.target.shape
    cut = (recipe.target.layer + 1) * shape.block_parameters + shape.head_parameters
    sharing, head = _num_sharing(recipe, num_devices), shape.d_model**2
    per_weight, frozen = FULL_TRAINING_BYTES + BYTES, 3 if recipe.rl.judge_weight else 2
    return {
        "frozen weights": (frozen * shape.parameters + cut) * BYTES / sharing + head * 4,
        "trained weights": (shape.parameters + cut) * per_weight / sharing + head * per_weight,
    }


def _num_sharing(recipe: ModelRecipe, num_devices: int) -> int:
    return num_devices if recipe.devices.parallel == "fsdp" else 1


def _working_memory(recipe: ModelRecipe, num_devices: int) -> dict[str, float]:
    """What the forwards of RL need beside the weights."""
    shape, devices = recipe.target.shape, recipe.devices
    width = AV_PREFIX_TOKENS + 1 + AV_SUFFIX_TOKENS + recipe.rl.max_new_tokens
    kept = 2 if devices.gradient_checkpointing else ACTIVATION_FACTOR
    micro_batch = recipe.rl.micro_batch or PLANNED_ROWS
    tokens = micro_batch * width
    gated = 3 * shape.intermediate_size if not devices.gradient_checkpointing else 0
    rows = recipe.rl.vectors * recipe.rl.group / num_devices
    per_token = shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim * BYTES
    return {
        "gathered weights": _gathered(recipe),
        "activations": tokens * shape.num_layers * (kept * shape.d_model + gated) * BYTES,
        "keys and values": rows * (width - AV_PREFIX_TOKENS) * per_token,
        "logits": micro_batch * recipe.rl.max_new_tokens * shape.vocab_size * 6.0,
    }


def _gathered(recipe: ModelRecipe) -> float:
    """What is whole of a sharded model: the root, the block that runs and the next one; and the
    larger of them as it is received. Of float32 and with gradients where it is trained."""
    if recipe.devices.parallel != "fsdp":
        return 0.0
    shape = recipe.target.shape
    root = shape.head_parameters * (1 if shape.tied_embeddings else 2)
    whole, received = root + 2 * shape.block_parameters, max(root, shape.block_parameters)
    if recipe.lora is not None:
        return float(whole + received) * BYTES
    return (2 * whole + received) * 4.0
