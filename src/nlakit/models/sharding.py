"""A sharded model: each process keeps its part of every block; a block is whole while it runs.

FSDP2 (`torch.distributed.fsdp.fully_shard`) cuts the weights, keeps the parts and gathers them.
When to gather is decided here, since processes do not run the same forwards: one has more rows than
another, one evaluates alone. Whoever comes to a block asks for it. In each round all processes say
what they want, one wish is granted, and all take part in gathering it; a process that waits for the
others (`settle`) takes part until nobody wants anything. So none waits for what never comes,
whatever each of them runs. Gradients of trained weights are summed in such rounds too.

A process holds one block at a time. A backward needs the insides of blocks that have run before:
training forwards must therefore recompute them (`models.recompute`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nlakit.models.families import backbone_of, blocks_of, embedding_of, head_of

# FSDP2 and distributed tensors are imported where a model is cut: they take a second to load, which
# everybody would pay who reads a text.
if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

NOTHING = -1
GATHER, REDUCE = 0, 1


class Weights(nn.Module):
    """The modules whose weights are gathered together: what FSDP2 takes hold of. It is not run."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            self.add_module(str(index), module)


class Piece:
    """Weights of a model that are gathered together.

    Views of a model have the same hooks and so the same pieces (`models.adapters`).
    """

    def __init__(self, modules: list[nn.Module], mesh: DeviceMesh) -> None:
        from torch.distributed.fsdp import fully_shard

        self._weights: Any = fully_shard(Weights(modules), mesh=mesh)
        _make_parts(self._weights, mesh.device_type)
        self._parts: list[Any] = list(self._weights.parameters())
        self._whole: list[nn.Parameter] = []
        self.number = SHARDS.add(self)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Piece:
        return self

    def attach(self, module: nn.Module) -> None:
        """From now on the piece is whole whenever `module` runs, or its gradient is made."""
        module.register_forward_pre_hook(self.hold)
        module.register_forward_hook(self._hold_for_gradient)
        module.piece = self  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    def hold(self, *_: Any) -> None:
        """Make it whole, in place of the piece that was."""
        SHARDS.hold(self.number)

    def _hold_for_gradient(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self.hold)

    def gather(self) -> None:
        """Take part in making it whole."""
        # What is first made in inference mode could never take part in training.
        with torch.inference_mode(False), torch.no_grad():
            self._weights.unshard()
        self._whole = list(self._weights.parameters())

    def release(self) -> None:
        """Keep this process's part only."""
        self._weights.reshard()

    @property
    def has_gradients(self) -> bool:
        """Whether this process has made gradients that are not summed yet."""
        return any(weight.grad is not None for weight in self._whole)

    @torch.no_grad()
    def reduce(self, own: bool) -> None:
        """Take part in summing gradients; each process adds its part of the sum to its weights'.

        Args:
            own: whether this process's go in; if not, it helps with zeros.
        """
        from torch.distributed.tensor import DTensor, Partial

        for part, weight in zip(self._parts, self._whole, strict=True):
            given = weight.grad if own else None
            given = torch.zeros(weight.shape, device=weight.device) if given is None else given
            unsummed = DTensor.from_local(given.float(), part.device_mesh, [Partial()])
            summed = unsummed.redistribute(placements=part.placements)
            part.grad = summed if part.grad is None else part.grad + summed
            if own:
                weight.grad = None


def _make_parts(weights: nn.Module, device: str) -> None:
    """Memory for parts that are on the meta device; buffers stay, and one matrix stays one."""
    places = [
        (module, name, id(parameter))
        for module in weights.modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    buffers = [(m, dict(m.named_buffers(recurse=False))) for m in weights.modules()]
    weights.to_empty(device=device)
    for module, named in buffers:
        for name, buffer in named.items():
            setattr(module, name, buffer.to(device))
    made: dict[int, nn.Parameter] = {}
    for module, name, key in places:
        setattr(module, name, made.setdefault(key, getattr(module, name)))


class Shards:
    """The pieces of this process's models, and the rounds in which they are gathered.

    Pieces have the same numbers in every process, since all load the same models in the same order.
    """

    def __init__(self) -> None:
        self._pieces: WeakValueDictionary[int, Piece] = WeakValueDictionary()
        self._num_made = 0
        self._held = NOTHING

    @property
    def active(self) -> bool:
        """Whether there are, or were, any: the same in every process."""
        return self._num_made > 0

    def add(self, piece: Piece) -> int:
        """Take a piece in, until its model is gone; returns its number."""
        number = self._num_made
        self._pieces[number] = piece
        self._num_made += 1
        return number

    def hold(self, number: int) -> None:
        """Make a piece whole here, in place of the one that was."""
        if self._held == number:
            return
        self.release()
        self._ask(number, GATHER)
        self._held = number

    def release(self) -> None:
        """Hold nothing, and have the gradients summed of what was held."""
        if (piece := self._pieces.get(self._held)) is not None:
            piece.release()
            self._sum_gradients(piece)
        self._held = NOTHING

    def settle(self) -> None:
        """Hold nothing, and help the others until they have come to this place as well."""
        if not self.active:
            return
        self.release()
        # An embedding's gradient comes when its weights have long gone.
        for piece in list(self._pieces.values()):
            self._sum_gradients(piece)
        while self._round(NOTHING) != NOTHING:
            pass

    def _sum_gradients(self, piece: Piece) -> None:
        if piece.has_gradients:
            self._ask(piece.number, REDUCE)

    def _ask(self, number: int, deed: int) -> None:
        wish = 2 * number + deed
        while self._round(wish) != wish:
            pass

    def _round(self, wish: int) -> int:
        """All say what they want; does, and returns, what most of those who want anything do."""
        wishes = [torch.zeros(1, dtype=torch.long) for _ in range(dist.get_world_size())]
        dist.all_gather(wishes, torch.tensor([wish]))
        counted = Counter(each for one in wishes if (each := int(one)) != NOTHING)
        if not counted:
            return NOTHING
        granted = counted.most_common(1)[0][0]
        number, deed = divmod(granted, 2)
        piece = self._pieces[number]
        if deed == REDUCE:
            piece.reduce(own=granted == wish)
        else:
            piece.gather()
            if granted != wish:
                piece.release()
        return granted


SHARDS = Shards()
"""Of this process, as its process group is."""


def shard(model: Any, device: str, trained: bool) -> None:
    """Share out a model that is on the meta device; its weights are then there, unfilled.

    One piece a decoder block, and one each for embedding and head, or for the matrix that is both.
    Everything else, such as the final norm, every process has whole.
    """
    from torch.distributed.device_mesh import init_device_mesh

    model.requires_grad_(trained)
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for users in _users(model):
        weighty = [module for user in users for module in user.modules() if holds_weights(module)]
        piece = Piece(weighty, mesh)
        for user in users:
            piece.attach(user)
    for module in model.modules():
        _place(module, device)


def _users(model: Any) -> Iterator[list[nn.Module]]:
    """For each piece, the modules that need it when they run."""
    backbone = backbone_of(model)
    vocabulary = [m for m in (embedding_of(backbone), head_of(model)) if holds_weights(m)]
    if model.config.tie_word_embeddings:
        yield vocabulary
    else:
        yield from ([module] for module in vocabulary)
    yield from ([block] for block in blocks_of(backbone))


def _place(module: nn.Module, device: str) -> None:
    """Bring what is in no piece to the device: a module's other weights, unfilled, and buffers."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.is_meta:
            whole = torch.empty_like(parameter, device=device)
            setattr(module, name, nn.Parameter(whole, parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))


def holds_weights(module: nn.Module) -> bool:
    """Whether it is one of the modules that the others are put together from, with weights."""
    return not list(module.children()) and bool(list(module.parameters()))


def is_sharded(model: nn.Module) -> bool:
    """Whether a process has only a part of it."""
    return any(map(_is_part, model.parameters()))


def _is_part(weight: Tensor) -> bool:
    if not SHARDS.active:
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
    """Names and tensors of a model's `state_dict`, sorted.

    Of a sharded model they are whole copies on the CPU, which one process can go through while
    the others `settle`.
    """
    if not is_sharded(model):
        yield from sorted(model.state_dict().items())
        return
    # Listing a state makes FSDP2 give up what is held.
    SHARDS.release()
    modules = dict(model.named_modules())
    for name in sorted(model.state_dict()):
        parts = name.split(".")
        for depth in range(1, len(parts)):
            piece: Piece | None = getattr(modules[".".join(parts[:depth])], "piece", None)
            if piece is not None:
                piece.hold()
        weight: Tensor = getattr(modules[".".join(parts[:-1])], parts[-1])
        yield name, weight.detach().to("cpu", copy=True)
    SHARDS.release()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's `state_dict`; see `whole_weights`."""
    return dict(whole_weights(model)) if is_sharded(model) else model.state_dict()


def held_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights that this process keeps."""
    return sum(part.numel() * part.element_size() for part in map(own_part, model.parameters()))


@torch.no_grad()
def own_part(weight: Tensor) -> Tensor:
    """What this process keeps of a weight; its memory is the weight's."""
    part: Any = weight
    return part.to_local() if _is_part(weight) else weight
