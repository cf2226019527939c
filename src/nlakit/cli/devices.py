"""Where a verb's models run: options that several verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from nlakit.models.placement import Placement


@Parameter(name="*")
@dataclass(frozen=True)
class DeviceOptions:
    """A device of this machine, and a precision (`models.placement`)."""

    device: str = "auto"
    """Where models run: cpu, cuda, cuda:1 or mps; auto takes CUDA, else MPS, else the CPU."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of weights in memory; auto is float32 on a CPU, elsewhere as they are stored."""

    def placement(self) -> Placement:
        """Where that is on this machine. Raises `InputError`."""
        # Loads torch, which `--help` must not.
        from nlakit.models.placement import placement

        return placement(self.device, self.dtype)

    def chosen(self) -> dict[str, str]:
        """What was asked for, by `nlakit.load`'s names, what is left to it left out."""
        asked = {"device": self.device, "dtype": self.dtype}
        return {name: value for name, value in asked.items() if value != "auto"}


AUTOMATIC = DeviceOptions()
