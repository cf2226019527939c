"""A chat model on this machine as teacher.

Each batch of answers is kept before the next is written, so a killed run goes on behind it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nlakit.contract import render_chat
from nlakit.data.fingerprints import edges
from nlakit.errors import InputError
from nlakit.models.io import ending_ids, load_backbone, load_tokenizer
from nlakit.models.weights import weights_dtype

from .base import Place, TeacherLabel
from .cache import AnswerCache, question_key
from .chat import Answer
from .prompt import LABELS, Task


class HuggingFaceTeacher:
    """Greedy answers of a chat model in a directory.

    Args:
        cache: keeps every answer; equal questions are answered once.
        device: None for the accelerator, where there is one. On it the model has its checkpoint's
            dtype, on a CPU float32.
        max_tokens: of an answer; None: as the task has it.

    Raises:
        CheckpointError: the tokenizer or a config cannot be read.
        InputError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        directory: str | Path,
        cache: AnswerCache,
        *,
        device: str | None = None,
        max_tokens: int | None = None,
        batch_size: int = 8,
        task: Task = LABELS,
    ) -> None:
        self.directory, self.cache = Path(directory), cache
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: Any = load_tokenizer(directory)
        if not self.tokenizer.chat_template:
            raise InputError(f"{directory} has no chat template. Give a model made for chat.")
        self.ending_ids = ending_ids(directory, self.tokenizer)
        self.max_tokens, self.batch_size = max_tokens or task.max_tokens, batch_size
        self.task = task
        self.model_name = f"hf:{self.directory.resolve().name}"
        self.name = task.teacher(self.model_name)

    @cached_property
    def model(self) -> Any:
        """Loaded for the first open question: a process whose labels are all there has no copy.

        Raises:
            CheckpointError: the weights cannot be read.
        """
        dtype = torch.float32 if self.device == "cpu" else weights_dtype(self.directory)
        return load_backbone(self.directory, dtype=dtype).to(self.device).eval()

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the edges of the weight files: directories of one name may differ."""
        files = sorted(self.directory.glob("*.safetensors"))
        return hashlib.sha256(b"".join(map(edges, files))).hexdigest()

    def key(self, place: Place) -> str:
        """Hash of the model, the instruction and the text."""
        model = f"{self.model_name}@{self.fingerprint}"
        return question_key(model, self.task.instruction, self.task.message(place.text))

    def label(self, place: Place) -> TeacherLabel:
        """The label of a position."""
        return self.label_many([place])[0]

    def label_many(self, places: Sequence[Place]) -> list[TeacherLabel]:
        """The labels of the positions, in their order.

        Raises:
            CheckpointError: there is a question to ask, and the weights cannot be read.
        """
        keys = [self.key(place) for place in places]
        texts = dict(zip(keys, (place.text for place in places), strict=True))
        waiting = [key for key in texts if self.cache.get(key) is None]
        for start in range(0, len(waiting), self.batch_size):
            chunk = waiting[start : start + self.batch_size]
            answers = self._answers([texts[key] for key in chunk])
            for key, answer in zip(chunk, answers, strict=True):
                self.cache.put(key, self.model_name, answer)
        found = [self.cache.get(key) for key in keys]
        assert None not in found, "every question was answered"
        return [self.task.read(answer) for answer in found if answer is not None]

    @torch.no_grad()
    def _answers(self, texts: list[str]) -> list[Answer]:
        rows = [self._prompt(text) for text in texts]
        width = max(map(len, rows))
        # Masked before the prompt and cut off behind the answer, so any id will do.
        padding = self.ending_ids[0] if self.ending_ids else 0
        ids = torch.tensor([[padding] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        device = self.model.device
        written = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=self.max_tokens,
            do_sample=False,
            eos_token_id=self.ending_ids or None,
            pad_token_id=padding,
        )[:, width:]
        return [
            self._answer(len(row), out.tolist()) for row, out in zip(rows, written, strict=True)
        ]

    def _prompt(self, text: str) -> list[int]:
        # One turn: not every chat template knows a system role.
        content = f"{self.task.instruction}\n\n{self.task.message(text)}"
        turn = {"role": "user", "content": content}
        rendered = render_chat(self.tokenizer, [turn], add_generation_prompt=True)
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def _answer(self, num_read: int, ids: list[int]) -> Answer:
        end = next((place for place, each in enumerate(ids) if each in self.ending_ids), None)
        return Answer(
            text=self.tokenizer.decode(ids[:end], skip_special_tokens=True),
            outcome="truncated" if end is None else "complete",
            input_tokens=num_read,
            output_tokens=len(ids[:end]),
        )
