"""A chat model on this machine as teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nlakit.errors import InputError
from nlakit.models.io import load_backbone, load_tokenizer

from .base import Place, TeacherLabel
from .cache import question_key
from .chat import Answer
from .prompt import LABELS, Task


class HuggingFaceTeacher:
    """Greedy answers of a chat model in a directory.

    Raises:
        CheckpointError: the weights cannot be read.
        InputError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_tokens: int = 400,
        batch_size: int = 8,
        task: Task = LABELS,
    ) -> None:
        self.model: Any = load_backbone(directory, dtype=dtype).to(device).eval()
        self.tokenizer: Any = load_tokenizer(directory)
        if not self.tokenizer.chat_template:
            raise InputError(f"{directory} has no chat template. Give a model made for chat.")
        self.max_tokens, self.batch_size, self.task = max_tokens, batch_size, task
        self.name = f"hf:{Path(directory).resolve().name}"

    def key(self, place: Place) -> str:
        """Hash of the model's name, the instruction and the text."""
        return question_key(self.name, self.task.instruction, self.task.message(place.text))

    def label(self, place: Place) -> TeacherLabel:
        """The label of one place."""
        return self.label_many([place])[0]

    def label_many(self, places: Sequence[Place]) -> list[TeacherLabel]:
        """The label of each place, in their order."""
        labels: list[TeacherLabel] = []
        for start in range(0, len(places), self.batch_size):
            chunk = places[start : start + self.batch_size]
            labels += [self.task.read(answer) for answer in self._answers([p.text for p in chunk])]
        return labels

    @torch.no_grad()
    def _answers(self, texts: list[str]) -> list[Answer]:
        rows = [self._prompt(text) for text in texts]
        width = max(map(len, rows))
        eos = self.tokenizer.eos_token_id
        ids = torch.tensor([[eos or 0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        device = self.model.device
        written = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=self.max_tokens,
            do_sample=False,
            pad_token_id=eos or 0,
        )[:, width:]
        return [
            self._answer(len(row), out.tolist()) for row, out in zip(rows, written, strict=True)
        ]

    def _prompt(self, text: str) -> list[int]:
        # One turn: not every chat template knows a system role.
        content = f"{self.task.instruction}\n\n{self.task.message(text)}"
        turn = {"role": "user", "content": content}
        rendered = self.tokenizer.apply_chat_template(
            [turn], tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def _answer(self, num_read: int, ids: list[int]) -> Answer:
        eos = self.tokenizer.eos_token_id
        ended = eos in ids
        kept = ids[: ids.index(eos)] if ended else ids
        return Answer(
            text=self.tokenizer.decode(kept, skip_special_tokens=True),
            outcome="complete" if ended else "truncated",
            input_tokens=num_read,
            output_tokens=len(kept),
        )
