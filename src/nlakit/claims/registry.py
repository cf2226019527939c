"""Claim systems by the name on a card.

Systems of prose are here. One of a world of its own is named by the entry point `nlakit.claims` of
the package that brings it, and imported when a pair asks for it.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from nlakit.errors import ConfigError

from .spans import SPANS
from .system import NO_CLAIMS, ClaimSystem
from .text.checking import TEXT

GROUP = "nlakit.claims"
BUILT_IN = {system.name: system for system in (NO_CLAIMS, SPANS, TEXT)}


@cache
def claim_system(name: str) -> ClaimSystem:
    """The system that a card or a calibrator names.

    Raises:
        ConfigError: no installed package has one of that name.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted([*BUILT_IN, *found]))
        raise ConfigError(
            f"Asked for the claims {name!r}; found {known}. Install the package that brings them "
            f"(its entry point is in the group {GROUP}), or put one of these on the card."
        )
    system = found[name].load()
    assert isinstance(system, ClaimSystem) and system.name == name, "an entry point of another kind"
    return system
