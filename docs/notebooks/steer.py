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
# # Steer by an edited explanation
#
# Change a word of an explanation. What that word adds to the reconstruction is a direction, and adding
# it to the activation puts the changed thought into the model. If the model then does what the new word
# says, the word named something that the model uses.

# %%
import nlakit

pair = nlakit.load()
couplet = "The lonely rose shone near the house,\nInes"
explanation = pair.explain(couplet, last=1).tokens[-1].explanation
print(explanation)
assert '"mouse"' in explanation

# %% [markdown]
# The rhyme is planned, not written. What does the model write with another plan?

# %%
steered = pair.steer(couplet, -1, {"mouse": "night"}, alpha=0.5)
print("without:", steered.plain)
print("with:   ", steered.steered)
assert " night" in steered.steered.split(".")[0]

# %% [markdown]
# ## How strong, and at what cost
#
# `alpha` is the strength as a share of the activation's norm. `side_effect` is what the same vector does
# to four texts that have nothing to do with it: the mean KL at their next token, in nats. A vector that
# works only where it wrecks everything else shows nothing.

# %%
for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
    found = pair.steer(couplet, -1, {"mouse": "night"}, alpha=alpha)
    print(f"{alpha:4.2f}  KL {found.side_effect:5.2f}  {found.steered}")

# %% [markdown]
# ## From the token on, or at the token alone
#
# The vector is added at the token and at all later ones. At one token alone it changes the next word, and then
# the model reads its rhyme off the first line again.

# %%
print(pair.steer(couplet, -1, {"mouse": "night"}, alpha=0.5, once=True).steered)

# %% [markdown]
# ## An edit that means nothing
#
# `shift` is the length of the direction before it is brought to size. Where it is near 0, the
# reconstructor makes nothing of the edit, and what is added is noise.

# %%
for edit in ({"mouse": "night"}, {"A": "One"}):
    print(edit, f"shift {pair.steer(couplet, -1, edit).shift:.2f}")

# %% [markdown]
# How often edits are taken up, beside random directions: `nlakit eval steer`, and
# [the results](../results-storyworld.md). On the page: *Steer*, under a reading; over HTTP: `/v1/steer`.
