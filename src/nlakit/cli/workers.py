"""Who does a long run's shards: options that several verbs share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cyclopts import Parameter

from nlakit.data.pools import HERE as THIS_PROCESS
from nlakit.data.pools import Pool, Processes
from nlakit.data.ray_pool import RayPool
from nlakit.errors import InputError
from nlakit.models.placement import AUTO, Placement, placement, precision

from .devices import DeviceOptions


@Parameter(name="*")
@dataclass(frozen=True)
class WorkerOptions:
    """Processes on this machine, or Ray workers."""

    processes: int = 1
    """How many work side by side, each with the models in its memory."""

    ray: int | None = None
    """So many Ray workers instead, on this machine unless an address is given."""

    ray_address: str | None = None
    """A running Ray cluster, such as "auto" on one of its machines; all must see the same files."""

    ray_gpus: float = 0.0
    """GPUs of each Ray worker, or a share of one; its models are put there."""

    @property
    def pool(self) -> Pool:
        """Raises `InputError` for options that do not go together."""
        if self.ray is None:
            if self.ray_address is not None or self.ray_gpus:
                raise InputError("--ray-address and --ray-gpus need --ray N: how many workers.")
            return Processes(self.processes)
        if self.processes != 1:
            raise InputError(
                f"Both --processes {self.processes} and --ray {self.ray} were given. Give one."
            )
        return RayPool(self.ray, self.ray_address, self.ray_gpus)

    @property
    def device(self) -> str:
        """Where a worker puts its models."""
        return "cuda" if self.ray_gpus else "cpu"


HERE = WorkerOptions()


def place_models(devices: DeviceOptions, workers: WorkerOptions) -> Placement:
    """Where whoever does the work has the models. Raises `InputError`.

    The precision is decided here, once: it decides what the shards hold.
    """
    if workers.ray is not None:
        if devices.device != AUTO:
            raise InputError("--ray-gpus says where Ray's workers run. Leave out --device.")
        # Of a worker's machine, which need not be this one.
        device = torch.device(workers.device)
        return Placement(device, precision(device, devices.dtype))
    several = workers.pool != THIS_PROCESS
    device = workers.device if several and devices.device == AUTO else devices.device
    return placement(device, devices.dtype)
