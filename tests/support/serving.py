"""A tiny NLA to serve, and an engine that says what it was told to, one word a step."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import uvicorn
from fastapi.testclient import TestClient
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nlakit.card import MEAN_NAME, NlaCard, write_card
from nlakit.cli.serve import bind
from nlakit.contract import Extraction, NlaMeta, PromptTemplates, measure_tokens
from nlakit.core.site import Site
from nlakit.engines.base import Completion
from nlakit.engines.local import LocalEngine, Row
from nlakit.evals.probe_store import Probes
from nlakit.models.lens import Lens
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.pair import Pair
from nlakit.sae.dual_map import DualMap
from nlakit.serve.app import create_app
from nlakit.serve.connections import Room, uvicorn_config
from nlakit.serve.latents import ServedLatents
from nlakit.serve.settings import LIMITS, Settings
from nlakit.storyworld.grammar import generate
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE
from nlakit.worlds.storyworld.passages import ServedWorld
from nlakit.worlds.storyworld.tokenizer import MARKER, train_tokenizer

D_MODEL, CONTEXT = 8, 512
CARD = NlaCard(
    name="tiny",
    description="Storyworld NLA of a few weights.",
    claims="storyworld",
    layer=1,
    d_model=D_MODEL,
    variance=0.5,
    num_training_rows=3,
    floors={"mean": 0.0},
    fve=0.25,
)


@lru_cache(maxsize=1)
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A storyworld tokenizer."""
    texts = [made.text for made in islice(generate(1, "train"), 40)]
    return train_tokenizer(texts, vocab_size=420, context=CONTEXT)


@lru_cache(maxsize=1)
def tiny_target() -> Target:
    """Three random blocks of width 8, read after the second."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Target(LlamaForCausalLM(config).eval(), tokenizer, Site(1))


def tiny_nla(max_rows: int = 8) -> Pair:
    """A whole NLA with random weights."""
    target = tiny_target()
    metas = {role: meta_for(role, target) for role in ("av", "ar")}
    verbalizer = Verbalizer.from_target(target.model, target.tokenizer, metas["av"])
    reconstructor = Reconstructor.from_target(target.model, target.tokenizer, metas["ar"])
    engine = LocalEngine(target, verbalizer, reconstructor, max_rows)
    return Pair(engine, target, CARD, torch.zeros(D_MODEL))


def save_nla(directory: Path) -> Path:
    """The same on disk."""
    nla = tiny_nla()
    engine: Any = nla.engine
    nla.target.save(directory / "target")
    engine.verbalizer.save(directory / "av")
    engine.reconstructor.save(directory / "ar")
    save_file({"mean": nla.mean_D}, directory / MEAN_NAME)
    write_card(directory, CARD)
    return directory


def meta_for(role: str, target: Target) -> NlaMeta:
    return NlaMeta.model_validate(
        {
            "role": role,
            "d_model": D_MODEL,
            "extraction": Extraction(layer_index=1, injection_scale=5.0),
            "tokens": measure_tokens(target.tokenizer, MARKER, AV_TEMPLATE, AR_TEMPLATE),
            "prompt_templates": PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
        }
    )


WAIT_S = 60.0
"""How long a test waits for what must happen; nothing depends on how soon it does."""


def until(holds: Callable[[], object]) -> None:
    """Wait for what other threads bring about."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


class Gate:
    """Stands in front of each step of a `ScriptedEngine`: open, or counting steps.

    A test that needs a busy server closes it, looks at what it came for, and opens it again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._allowed = math.inf

    def let(self, steps: float) -> None:
        """Allow so many steps and no more: 0 closes the gate, `math.inf` opens it."""
        with self._changed:
            self._allowed = steps
            self._changed.notify_all()

    def open(self) -> None:
        """Let everything through."""
        self.let(math.inf)

    def enter(self) -> None:
        """Wait for a step to be allowed, and take it."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._allowed >= 1, WAIT_S), "never opened"
            self._allowed -= 1


class ScriptedEngine:
    """Says `words(row)`, one word a step; the activation at token p is `activation(p)`.

    Attributes:
        gate: what each step waits at.
        num_steps: steps that were taken.
        step_s: how long a step takes.
        refused: explanations that cannot be scored.
        breaks_at: numbers of steps that fail, as running out of memory would.
        poison: a step that writes such words fails, whoever is in the batch.
        most_rows: the most rows that were written side by side.
    """

    def __init__(
        self,
        words: Callable[[Row], str] = lambda row: f"thought {row.vector}",
        activation: Callable[[int], Sequence[float]] = lambda p: [p + 1.0, *[0.0] * (D_MODEL - 1)],
        rebuilt: Sequence[float] = (3.0, 4.0, *[0.0] * (D_MODEL - 2)),
    ) -> None:
        self.words, self.activation, self.rebuilt = words, activation, rebuilt
        self.gate = Gate()
        self.num_steps = 0
        self.step_s = 0.0
        self.refused: set[str] = set()
        self.breaks_at: set[int] = set()
        self.poison: set[str] = set()
        self.most_rows = 0
        self.extracted: list[list[int]] = []
        self.entered: list[Row] = []

    kind, verbalizer = "fake", None

    def session(self, max_rows: int) -> ScriptedSession:
        return ScriptedSession(self, max_rows)

    def longest_answer(self) -> int:
        return LIMITS.max_new_tokens

    def verbalize(self, *_: Any) -> Any:
        raise AssertionError("a server takes steps")

    def extract(self, encoded: Any, positions: Sequence[int]) -> Tensor:
        self.extracted.append(list(positions))
        return torch.tensor([list(self.activation(place)) for place in positions])

    def reconstruct(self, explanations: Sequence[str]) -> Tensor:
        if self.refused & set(explanations):
            raise ValueError("too long to be read")
        return torch.tensor([list(self.rebuilt)] * len(explanations))


class ScriptedSession:
    """A batch of rows that count their words."""

    def __init__(self, engine: ScriptedEngine, max_rows: int) -> None:
        self.engine, self.max_rows = engine, max_rows
        self.rows: list[Row] = []

    def admit(self, rows: list[Row], vectors_ND: Tensor) -> None:
        assert torch.isfinite(vectors_ND).all() and len(vectors_ND) == len(rows)
        self.rows += rows
        self.engine.entered += rows
        assert len(self.rows) <= self.max_rows
        self.engine.most_rows = max(self.engine.most_rows, len(self.rows))

    def step(self) -> None:
        self.engine.gate.enter()
        time.sleep(self.engine.step_s)
        self.engine.num_steps += 1
        if self.engine.num_steps in self.engine.breaks_at:
            raise RuntimeError("out of memory")
        if self.engine.poison & {self.engine.words(row) for row in self.rows if len(row.ids) > 1}:
            raise IndexError("index 9 is out of range")
        for row in self.rows:
            row.ids.append(0)

    def release(self) -> list[Row]:
        ended = [row for row in self.rows if len(row.ids) >= len(self._words(row))]
        self.drop(ended)
        return ended

    def drop(self, rows: Iterable[Row]) -> None:
        gone = set(rows)
        self.rows = [row for row in self.rows if row not in gone]

    def completion(self, row: Row) -> Completion:
        text = self.engine.words(row)
        return Completion(text, f"<explanation>{text}</explanation>", (), (), True)

    def raw_text(self, row: Row) -> str:
        return "<explanation>" + " ".join(self._words(row)[: len(row.ids)])

    def _words(self, row: Row) -> list[str]:
        return self.engine.words(row).split()[: row.sampling.max_new_tokens]


def scripted_nla(engine: ScriptedEngine) -> Pair:
    """An NLA that thinks what its script says."""
    return Pair(engine, tiny_target(), CARD, torch.zeros(D_MODEL))  # pyright: ignore[reportArgumentType]


def client_for(
    nla: Pair,
    data_dir: Path,
    probes: Probes | None = None,
    latents: ServedLatents | None = None,
    reading_map: DualMap | None = None,
    jacobian_lens: Lens | None = None,
    **settings: Any,
) -> TestClient:
    """A client of a server of its own; use it as a context."""
    chosen = Settings(data_dir=data_dir, **settings)
    app = create_app(nla, chosen, probes, ServedWorld(), latents, reading_map, jacobian_lens)
    return TestClient(app, base_url="http://127.0.0.1:8000")


@contextmanager
def served(nla: Pair, settings: Settings, room: Room | None = None) -> Iterator[Served]:
    """The same on a port of its own, with connections as `nlakit serve` has them."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn_config(create_app(nla, settings), settings, room))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Served(server, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


class Served(NamedTuple):
    """A running server."""

    server: uvicorn.Server
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A connection on which nothing was said."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)


def closed(engine: LocalEngine, row: Row) -> Completion:
    """In place of `LocalEngine.completion`; what a random model never does: close its tag."""
    text = engine.reconstructor.fitting(engine.verbalizer.parse(row.ids).text)
    return Completion(text, text, tuple(row.ids), tuple(row.logprobs), closed=True)
