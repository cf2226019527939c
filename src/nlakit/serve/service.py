"""What the routes share: the NLA, the queue in front of it, and the way through both."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from fastapi import Request
from torch import Tensor

from nlakit.claims.registry import claim_system
from nlakit.claims.system import NO_CLAIMS
from nlakit.engines.base import Completion as Words
from nlakit.engines.base import Sampling
from nlakit.engines.decode import Decoder
from nlakit.engines.modules import decoder_for
from nlakit.errors import InputError
from nlakit.evals.probe_store import Probes
from nlakit.examples import EXAMPLES
from nlakit.models.lens import Lens
from nlakit.pair.pair import Pair
from nlakit.sae.dual_map import DualMap

from . import completion
from .clients import Client, client_of
from .desk import open_desks
from .latents import ServedLatents
from .metrics import Metrics
from .queue import FairQueue, now
from .runner import Runner, ScoredSample, score
from .schemas import PromptRequest, SamplingFields
from .schemas_v1 import DocumentRef, MoreSampling, Passage
from .settings import LIMITS, Settings
from .store import ReadingStore
from .stream import OpenJob, unless_gone
from .tokens import Prompt, prepare, terminal_ids
from .truth import Judge, World, WorldDocument, passage_record
from .workers import Workers

T = TypeVar("T")
NUM_PROMPT_THREADS = 2
WAITING_ANSWERS, WAITING_SAVES = 10**6, 64
"""Answers are bounded already, by the places of their requests."""
STORAGE_S = 4.0
"""Who saves is told so soon that the database is locked or busy."""


class Service:
    """One NLA being served."""

    def __init__(
        self,
        nla: Pair,
        settings: Settings,
        probes: Probes | None = None,
        world: World | None = None,
        latents: ServedLatents | None = None,
        reading_map: DualMap | None = None,
        jacobian_lens: Lens | None = None,
    ) -> None:
        self.nla, self.settings, self.probes, self.world = nla, settings, probes, world
        self.latents, self.reading_map = latents, reading_map
        self.jacobian_lens = jacobian_lens
        self.claims = claim_system(nla.card.claims)
        self.metrics = Metrics()
        self.queue = FairQueue(
            settings.max_rows, settings.max_requests, settings.max_unfinished_rows
        )
        self.runner = Runner(nla, self.queue, self.metrics)
        self.store = ReadingStore(settings.data_dir)
        self.reading_prompts = Workers("prompts", NUM_PROMPT_THREADS)
        self.parsing = Workers("request bodies")
        self.writing = Workers("answers", max_waiting=WAITING_ANSWERS)
        self.storage = Workers("saved readings", max_waiting=WAITING_SAVES)
        self.desks = open_desks(settings.projects)
        self.auditing = Workers("projects", max_waiting=WAITING_SAVES)
        self.started = time.monotonic()
        self.draining = False
        self.can_complete = completion.is_available(nla.target)
        self._decoder: Decoder | None = None
        watch = self.metrics.watch
        watch("rows_active", "Explanations being written", lambda: self.runner.num_active)
        watch("rows_waiting", "Explanations that wait", lambda: self.queue.num_waiting)
        watch("requests_open", "Requests that wait or run", lambda: self.queue.num_open)

    def start(self) -> None:
        """Start the engine's thread."""
        self.runner.start()

    def stop(self) -> None:
        """End the threads and close the store."""
        self.runner.stop()
        storage = (self.storage, self.auditing)
        for workers in (self.reading_prompts, self.parsing, self.writing, *storage):
            workers.stop()
        self.store.close()

    # -- the queue ---------------------------------------------------------------------------------
    def open_job(
        self, request: Request, num_rows: int, watched: bool = False, judged: bool = False
    ) -> OpenJob:
        """A job in the queue. Raises `Busy` or `Unavailable`."""
        return OpenJob(self.queue, self.settings, client_of(request)).open(
            num_rows, watched, judged
        )

    async def call(self, request: Request, work: Callable[[], T]) -> T:
        """Run a small piece of work on the engine's thread, in a place of its own.

        Raises:
            Busy: the queue is full.
            Unavailable: the engine has stopped.
            ClientGone: the client left.
        """
        with self.open_job(request, 0):
            return await unless_gone(self.run(work, client_of(request)), request)

    async def run(self, work: Callable[[], T], client: Client) -> T:
        """Run a small piece of a client's work on the engine's thread."""
        return await asyncio.wrap_future(self.runner.call(work, client))

    def start_rows(
        self, job: OpenJob, vectors_ND: Tensor, sampling: Sampling, order: Sequence[int]
    ) -> None:
        """Let a request's rows into the queue, in this order."""
        self.queue.start(job.job, vectors_ND, sampling, order)

    # -- the models --------------------------------------------------------------------------------
    async def prompt(self, asked: PromptRequest, request: Request) -> Prompt:
        """What a request asks about, as the target reads it. Raises `InputError` or `Busy`."""
        work = partial(prepare, self.nla.target, asked)
        return await self.reading_prompts.run(client_of(request), work)

    async def saved(self, request: Request, work: Callable[[], T]) -> T:
        """Run a piece of work on saved readings. Raises `Busy` or `Unavailable`."""
        return await self.storage.run(client_of(request), work, STORAGE_S)

    @staticmethod
    def storage_deadline() -> float:
        """When who saves now is told that it did not happen; after it, it must not."""
        return now() + STORAGE_S

    def extract(self, prompt: Prompt, places: Sequence[int]) -> Tensor:
        """Raw activations, on the engine's thread: P x D."""
        return self.nla.engine.extract(prompt.encoded, places).cpu().float()

    def score(self, description: str, vector_D: Tensor) -> ScoredSample:
        """How well a description fits, on the engine's thread."""
        words = Words(description, description, (), (), True)
        return score(self.nla, vector_D[None], [words])[0]

    def judge(self, prompt: Prompt | None, reference: DocumentRef | None) -> Judge | None:
        """Who checks the claims of a request; None where explanations make none."""
        if self.claims == NO_CLAIMS:
            return None
        found = self._document(reference) if prompt is not None else None
        return Judge(self.claims, prompt, found, self.probes)

    def _document(self, reference: DocumentRef | None) -> WorldDocument | None:
        if reference is None or self.world is None:
            return None
        return self.world.document(reference.seed, reference.index, reference.genre)

    def passages(self) -> list[Passage]:
        """Demo passages of the world, if one is served; else texts for any language model."""
        found = EXAMPLES if self.world is None else self.world.passages(self.nla.target)
        return [passage_record(each) for each in found]

    def sampling(self, fields: SamplingFields | Any, more: MoreSampling | None = None) -> Sampling:
        """A request's sampling; an answer is no longer than the verbalizer's context allows."""
        seed = more.seed if more is not None else None
        return Sampling(
            samples=1 if more is None else more.samples,
            temperature=fields.temperature,
            top_p=1.0 if more is None else more.top_p,
            max_new_tokens=min(fields.max_new_tokens, self.longest_answer),
            seed=secrets.randbits(63) if seed is None else seed,
        )

    @property
    def longest_answer(self) -> int:
        """Tokens that an explanation can have."""
        return self.runner.engine.longest_answer()

    def completion(
        self, prompt: Prompt, num_tokens: int, temperature: float, seed: int | None = None
    ) -> completion.Continuation:
        """A continuation, to be given to `runner.add`; without a seed it draws its own."""
        room = completion.room_for(
            self.nla.target, len(prompt.encoded.ids), num_tokens, LIMITS.max_completion_tokens
        )
        if self._decoder is None:
            self._decoder = decoder_for(self.nla.target.model)
        own = secrets.randbits(63) if seed is None else seed
        uniforms = torch.rand(room, generator=torch.Generator().manual_seed(own)).tolist()
        ending = terminal_ids(self.nla.target)
        verbalizer = self.nla.verbalizer
        contract = None if verbalizer is None else verbalizer.meta
        banned = completion.scaffolding(self.nla.target, contract)
        return completion.Continuation(
            self._decoder, prompt.encoded.ids, temperature, uniforms, ending, banned
        )


def resolve_positions(wanted: Sequence[int] | None, num_tokens: int) -> list[int]:
    """Token numbers; None or [] are all, negative ones count from the end, doubles stay.

    Raises:
        InputError: one is outside the text, or they are too many.
    """
    for place in wanted or ():
        if not -num_tokens <= place < num_tokens:
            raise InputError(f"Position {place} out of range (0..{num_tokens - 1})")
    places = [place % num_tokens for place in wanted] if wanted else list(range(num_tokens))
    limit = LIMITS.max_positions_per_request
    if len(places) > limit:
        raise InputError(
            f"{len(places)} positions are too many; at most {limit} are read at once. "
            "Give `positions`."
        )
    return places


def as_rows(vectors: Sequence[Sequence[float]], d_model: int) -> Tensor:
    """Vectors from a client as N x D float32. Raises `InputError` for one of another length."""
    for vector in vectors:
        if len(vector) != d_model:
            raise InputError(f"Vector length {len(vector)} != d_model {d_model}")
    return torch.tensor(vectors, dtype=torch.float32)


def norms(vectors_ND: Tensor) -> list[float]:
    """Lengths; 0 for a row that is not finite, whose record says so."""
    found = vectors_ND.double().norm(dim=-1)
    return torch.where(torch.isfinite(found), found, torch.zeros_like(found)).tolist()
