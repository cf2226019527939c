"""A sharded model: each process keeps its part of every weight, and a block is whole while it runs.

PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`) does it: one unit per decoder block, and the
root for embedding, head and final norm. Its hooks gather a unit's weights before it runs, free them
afterwards, gather them again for a gradient, and give each process the sum of its part's gradients.
Views of a model (`models.adapters`) are other modules over the same weights; so what FSDP2 takes
hold of is a `Unit`, a module with those weights that runs whatever it is given, and the blocks of
every view run through it.

Gathering is a collective: **all processes must run the same units in the same order**, so that each
does as much work as the others. Where they have rows of their own, `in_step` and `anywhere` make it
so; everything else all of them run alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nlakit.models.families import backbone_of, blocks_of, embedding_of, head_of

# FSDP2 and distributed tensors are imported where a model is cut: they take a second to load, which
# everybody would pay who reads a text.
if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T")


class Unit(nn.Module):
    """Modules whose weights are gathered together, and the units inside it.

    As a module it runs any function, while its weights are whole.
    """

    def __init__(self, weighty: list[nn.Module], inner: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.weighty, self.inner = nn.ModuleList(weighty), nn.ModuleList(inner)

    def forward(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)


class Runner:
    """Runs modules through a unit; the same object for all views of them."""

    def __init__(self, unit: Any, is_root: bool) -> None:
        self._unit, self._is_root, self._runs = unit, is_root, False

    def __deepcopy__(self, _memo: dict[int, Any]) -> Runner:
        return self

    def __call__(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `run` returns; inside of such a call the weights are there already."""
        if self._runs:
            return run(*args, **kwargs)
        self._runs = True
        try:
            found = self._unit(run, *args, **kwargs)
        finally:
            self._runs = False
        if self._is_root and not torch.is_grad_enabled():
            self._forget()
        return found

    def _forget(self) -> None:
        """No backward will ask in which order the units ran; FSDP2 would remember every forward."""
        if hasattr(self._unit, "reset_iter_state"):  # torch 2.13
            self._unit.reset_iter_state()


class Sharded:
    """Mixed into the class of a module that runs through a unit."""

    through: Runner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.through(super().forward, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


@cache
def _sharded(kind: type) -> type:
    return type(f"Sharded{kind.__name__}", (Sharded, kind), {})


def _run_through(module: Any, runner: Runner) -> None:
    # As FSDP2 itself does it. A subclass is copied with the module, where a replaced method would
    # stay bound to the original.
    module.__class__ = _sharded(type(module))
    module.through = runner


def shard(model: Any, device: str, trained: bool) -> None:
    """Share out a model that is on the meta device; its weights are then there, unfilled."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model.requires_grad_(trained)
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    backbone = backbone_of(model)
    blocks = list(blocks_of(backbone))
    units: list[Any] = [Unit(_weighty(block)) for block in blocks]
    inside = {module for block in blocks for module in block.modules()}
    root: Any = Unit([each for each in _weighty(model) if each not in inside], units)
    for unit in (*units, root):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        # Losses are divided by counts of the whole batch: gradients are summed.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    _materialize(model, device)
    at_root = Runner(root, is_root=True)
    for module in (backbone, embedding_of(backbone), head_of(model)):
        _run_through(module, at_root)
    for block, unit in zip(blocks, units, strict=True):
        _run_through(block, Runner(unit, is_root=False))
    _gather_once(root)


def _weighty(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if holds_weights(module)]


def holds_weights(module: nn.Module) -> bool:
    """Whether it is one of the modules that the others are put together from, with weights."""
    return not list(module.children()) and bool(list(module.parameters()))


def _materialize(model: nn.Module, device: str) -> None:
    """Memory for parts that are on the meta device; buffers move, and one matrix stays one."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, part in module.named_parameters(recurse=False):
            if part not in made:
                empty = torch.empty_like(part, device=device)
                made[part] = nn.Parameter(empty, part.requires_grad)
            setattr(module, name, made[part])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def _gather_once(root: Any) -> None:
    """Let FSDP2 see which unit is the root, and make the tensors that it gathers into: made in
    inference mode, they could never take part in training."""
    root(lambda: None)
    for unit in (root, *root.inner):
        unit.unshard()
        unit.reshard()


# -- the same work in every process ----------------------------------------------------------------
def is_sharded(model: nn.Module) -> bool:
    """Whether a process has only a part of it."""
    return any(isinstance(module, Sharded) for module in model.modules())


def at_root(backbone: Any, run: Callable[[], T]) -> T:
    """What `run` returns. Where the backbone is sharded, embedding, head and norm are gathered once
    for all that it does; of each block's weights it asks when it runs the block."""
    return backbone.through(run) if isinstance(backbone, Sharded) else run()


def in_step(model: nn.Module, batches: Iterable[T], spare: T) -> Iterator[tuple[T, bool]]:
    """Each batch, and True; of a sharded model then `spare`, and False, until this process has had
    as many as the one that has most. What comes of a spare one must count for nothing."""
    if not is_sharded(model):
        yield from ((batch, True) for batch in batches)
        return
    own = list(batches)
    num_spare = _largest(len(own)) - len(own)  # before the first of them runs
    yield from ((batch, True) for batch in own)
    yield from ((spare, False) for _ in range(num_spare))


def anywhere(model: nn.Module, busy: bool) -> bool:
    """Whether this process is busy, or, where the model is sharded, any that shares it."""
    return _largest(int(busy)) > 0 if is_sharded(model) else busy


def _largest(number: int) -> int:
    """Of what the processes say."""
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


# -- weights ---------------------------------------------------------------------------------------
def _is_part(weight: Tensor) -> bool:
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(weight, DTensor)


def write_weight(weight: Tensor, whole: Tensor) -> None:
    """Copy a tensor into a weight, or this process's part of it into a part."""
    if _is_part(weight):
        from torch.distributed.tensor import distribute_tensor

        part: Any = weight
        whole = distribute_tensor(whole, part.device_mesh, part.placements, src_data_rank=None)
    weight.copy_(whole)


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a model's `state_dict`, sorted; those of a sharded one are made whole
    one after the other, in every process."""
    for name, weight in sorted(model.state_dict().items()):
        part: DTensor | Any = weight
        yield name, part.full_tensor() if _is_part(weight) else weight


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's `state_dict`. All processes that share a sharded one must ask; the first gets whole
    copies on the CPU, the others nothing."""
    if not is_sharded(model):
        return model.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: Any = get_model_state_dict(model, options=options)
    return found


def held_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights that this process keeps."""
    return sum(part.numel() * part.element_size() for part in map(own_part, model.parameters()))


@torch.no_grad()
def own_part(weight: Tensor) -> Tensor:
    """What this process keeps of a weight; its memory is the weight's."""
    part: Any = weight
    return part.to_local() if _is_part(weight) else weight
