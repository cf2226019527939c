# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Measure a method of your own
#
# Any function from activations to words can stand in for the verbalizer. Here is a deliberately poor
# one: it says the same of everything. The floors give it away.

# %%
import torch

import nlakit
from nlakit.core.fidelity import fve
from nlakit.fidelity_scale import FidelityScale
from nlakit.worlds.storyworld.extraction import sample_storyworld

pair = nlakit.load()
rows = sample_storyworld(pair.target, seed=90_001, split="heldout", num_documents=60)
print(rows.vectors_ND.shape)

# %% [markdown]
# The pair's own verbalizer, and yours, on the same held-out activations:


# %%
def always_the_same(vectors_ND: torch.Tensor) -> list[str]:
    return ["A calm story about the sea, told by a sailor."] * len(vectors_ND)


def the_pair(vectors_ND: torch.Tensor) -> list[str]:
    return [token.explanation for token in pair.describe(vectors_ND).tokens]


def measured(method) -> float:
    rebuilt_ND = pair.reconstruct(method(rows.vectors_ND))
    return float(fve(rows.vectors_ND, rebuilt_ND, pair.mean_D, pair.scale).fve)


# %%
scale = FidelityScale(pair.card.floors)
figures = {method.__name__: measured(method) for method in (the_pair, always_the_same)}
for name, value in figures.items():
    print(f"{name:>16} {value:6.2f}  {scale.grade(value).word}")
assert figures["the_pair"] > 0.6 > scale.knowing_nothing > figures["always_the_same"]

# %% [markdown]
# FVE is not truth. `nlakit bench-truth` checks every claim of a method against the storyworld's state;
# [Compare your method](../leaderboard.md) has the rules.
