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
# # Quickstart in a notebook
#
# Everything here runs offline, on a CPU, in under a minute. The pair in the package reads a small
# transformer that was trained on the storyworld, an invented world whose hidden facts are known.

# %%
import nlakit

pair = nlakit.load()
pair

# %% [markdown]
# ## A plan that nobody has written yet
#
# The couplet stops before its last word. Nothing in the text says which word must come.

# %%
text = "The dreary coin traded near the tree,\nBasil buzzed, sweet heaven, beside the golden"
reading = pair.explain(text, last=6)
reading

# %% [markdown]
# The explanations name the rhyme before it is written. How far is that to be believed? Fidelity 1 is
# a perfect match; what a reader that knows nothing reaches stands under the table.

# %%
last = reading.tokens[-1]
print(last.explanation)
print(f"fidelity {last.fidelity:.2f}: {last.word}")
assert "rhyme" in last.explanation and last.word == "faithful"

# %% [markdown]
# ## Words that are not to be believed
#
# This pair knows one invented world. On other text its fidelity falls, and it says so.

# %%
news = pair.explain("The central bank raised interest rates by a quarter point on Tuesday.", last=4)
for token in news.tokens:
    print(f"{token.token!r:>12} {token.fidelity:6.2f}  {token.word}")
assert max(token.fidelity for token in news.tokens) < last.fidelity

# %% [markdown]
# ## Your own words
#
# Anybody's description of an activation can be scored: does it carry the activation better?

# %%
encoded = pair.encode(text)
vector = pair.engine.extract(encoded, [len(encoded.ids) - 1])[0]
for words in (last.explanation, "A calm story about a garden.", ""):
    score = pair.score(words, vector)
    print(f"{score.fidelity:6.2f} {score.word:<28} {words!r}")

# %% [markdown]
# ## Next
#
# [Steer by an edited explanation](steer.py), [audit transcripts](audit.py), [read a real
# model](real_model.py), [measure a method of your own](own_method.py).
