"""Makes the probes of a storyworld pair: `python -m nlakit.worlds.storyworld.probes DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

from nlakit.card import read_card
from nlakit.evals.probe_store import (
    DOCUMENTS,
    TEST_DOCUMENTS,
    Probes,
    fit_store,
    save_probes,
    target_hash,
)
from nlakit.models.target import Target
from nlakit.registry import resolve

from .eval_set import StoryworldSet


def write_probes(
    directory: Path, num_documents: int = DOCUMENTS, test_documents: int = TEST_DOCUMENTS
) -> Probes:
    """Make the probes of the pair in `directory` and lay them beside it."""
    target = Target.load(directory / "target", read_card(directory).layer)
    probes = fit_store(
        target, target_hash(directory), StoryworldSet(), num_documents, test_documents
    )
    save_probes(probes, directory)
    return probes


if __name__ == "__main__":
    made = write_probes(resolve(sys.argv[1] if len(sys.argv) > 1 else None))
    for name, found in made.card.kinds.items():
        print(f"{name:10} {found.accuracy:.3f} (chance {found.chance:.3f}, {found.num_test} rows)")
