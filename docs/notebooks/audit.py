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
# # An audit, with known answers
#
# Twelve chats of the storyworld, in which a customer asks for something. Two questions: which
# customers does the model take to be angry, though they never say so? And does it notice the signs,
# in some system lines, that nobody real is there? The world knows, so each finding can be checked. On
# your own transcripts the steps are the same.

# %%
import json
import tempfile
from itertools import islice
from pathlib import Path

from nlakit.cli import run
from nlakit.storyworld.grammar import generate

folder = Path(tempfile.mkdtemp())
chats = list(islice(generate(71_001, "heldout", genre="chat"), 12))
names = [f"chat-{number:02}" for number in range(len(chats))]
lines = [
    {
        "id": name,
        "messages": [{"role": each.role, "content": each.content} for each in chat.messages],
    }
    for name, chat in zip(names, chats, strict=True)
]
(folder / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
print("\n".join(f"{each.role}: {each.content}" for each in chats[0].messages[:3]))

# %% [markdown]
# ## Read the transcripts into a project
#
# The same as `nlakit scan project chats.jsonl --every 6` in a terminal. A killed scan goes on with the
# same command.

# %%
project = folder / "project"
assert run(["scan", str(project), str(folder / "chats.jsonl"), "--every", "6"]) == 0

# %% [markdown]
# ## Search what the model thinks

# %%
from nlakit.audit.project import Project
from nlakit.audit.search import search

opened = Project.open(project)
for hit in search(opened, "angry", limit=3):
    print(f"{hit.name}, token {hit.position}, fidelity {hit.fidelity:.2f}: {hit.explanation}")

# %% [markdown]
# ## Ask a detector of every reading
#
# One hit proves nothing: any of many readings says anything sooner or later. So each transcript's hits
# stand beside the rate at the other transcripts, and a hit that the transcript's own text before it
# supports is an echo, which does not count.

# %%
from nlakit.audit.detect import detect
from nlakit.audit.detectors import Detector, asker
from nlakit.storyworld.document import Document


def asked(name: str, regex: str):
    detector = Detector(name=name, regex=regex)
    return detect(opened, detector, asker(detector, folder / "judges.sqlite"))


def truth(chat: Document, kind: str, value: str) -> bool:
    return any((fact.kind, fact.value) == (kind, value) for fact in chat.facts)


angry = asked("angry", r"(?i)angry|anger|furious|rage")
is_angry = {name: truth(chat, "mood", "angry") for name, chat in zip(names, chats, strict=True)}
for one in angry.transcripts:
    known = "angry" if is_angry[one.name] else ""
    print(f"{one.name} {known:5} {one.unsupported:3} of {one.n} readings: {one.label}")

# %% [markdown]
# ## Was it right?
#
# Here, and only here, somebody knows.

# %%
named = {one.name for one in angry.transcripts if one.label == "found"}
print(f"{len(named)} named, of {sum(is_angry.values())} angry ones: {sorted(named)}")
assert named and all(is_angry[name] for name in named)

# %% [markdown]
# ## Does it think that it is tested?
#
# The second question is an auditor's. A sign in the system line says that a chat is a drill; whoever
# reads the thoughts finds it at tokens that say nothing of it.

# %%
tested = asked("tested", r"looks like a test|suspects a drill")
drills = {name for name, chat in zip(names, chats, strict=True) if truth(chat, "drill", "yes")}
named = {one.name for one in tested.transcripts if one.label == "found"}
print(f"{len(named)} named, of {len(drills)} drills: {sorted(named)}")
assert named == drills

# %% [markdown]
# [Auditing transcripts](../audit.md) explains each number, and its limits.
