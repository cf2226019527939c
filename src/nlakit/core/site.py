"""Where in a model an activation is read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nlakit.errors import InputError

HOOK = re.compile(r"blocks\.(?P<block>\d+)\.hook_resid_(?P<at>pre|post)")
POINTS = ("block_output",)


@dataclass(frozen=True)
class Site:
    """The residual stream after block `layer` (counted from 0).

    Raises:
        InputError: a negative layer, or a point that nothing reads.
    """

    layer: int
    point: str = "block_output"

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise InputError(f"Site: layer must be 0 or more, found {self.layer}.")
        if self.point not in POINTS:
            raise InputError(f"Site: point must be one of {POINTS}, found {self.point!r}.")

    @classmethod
    def named(cls, hook: str) -> Site:
        """The site by TransformerLens's name: `blocks.20.hook_resid_post`, or the
        `hook_resid_pre` of the block after it.

        Raises:
            InputError: a name of anything but the residual stream between blocks.
        """
        found = HOOK.fullmatch(hook)
        if found is None or (found["at"], found["block"]) == ("pre", "0"):
            raise InputError(
                f"Site {hook!r}: nlakit reads the residual stream after a block, such as "
                "blocks.20.hook_resid_post."
            )
        return cls(int(found["block"]) - (found["at"] == "pre"))

    @property
    def num_blocks(self) -> int:
        """How many blocks must run to reach the site."""
        return self.layer + 1

    @property
    def hidden_states_index(self) -> int:
        """Index in Hugging Face's `hidden_states`, whose entry 0 is the embedding."""
        return self.layer + 1

    def check_depth(self, num_layers: int) -> None:
        """Raise `InputError` when a model of `num_layers` blocks does not have this site."""
        if self.layer >= num_layers:
            raise InputError(
                f"Layer {self.layer} was asked for; the model has blocks 0 to {num_layers - 1}. "
                "Choose one of those."
            )
