"""The shapes that are timed. Knows no library, so that every opponent's process can read it.

S  Llama, d 256,  6 blocks,   8 k vocabulary
V  S with a vocabulary of 152 k (V32: of 32 k)
M  Llama, d 576, 12 blocks,   8 k vocabulary
T  tiny, for what must run over many rows
SMOL, QWEN05  SmolLM2-135M and Qwen2.5-0.5B, for training steps; never written to disk
Q  the shapes of Qwen2.5-7B, for an accelerator; never written to disk
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / "runs" / "bench"
VERSION = 3
"""Of what `checkpoints` makes: another number makes everything again."""
PREFIX_TOKENS, SUFFIX_TOKENS = 111, 13
"""The reference's prompt: tokens before the slot and after it."""
NEW_TOKENS = 144


@dataclass(frozen=True)
class Spec:
    """Shapes of one model; `layer` is the site's."""

    name: str
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate: int
    vocab_size: int
    layer: int
    model_type: str = "llama"

    @property
    def directory(self) -> Path:
        """Where its checkpoints are kept."""
        key = json.dumps([VERSION, asdict(self)]).encode()
        return CACHE / "models" / f"{self.name}-{hashlib.sha256(key).hexdigest()[:8]}"


SPECS = {
    spec.name: spec
    for spec in (
        Spec("S", 256, 6, 4, 2, 704, 8192, 3),
        Spec("V", 256, 6, 4, 2, 704, 152_064, 3),
        Spec("V32", 256, 6, 4, 2, 704, 32_768, 3),
        Spec("M", 576, 12, 9, 3, 1536, 8192, 7),
        Spec("T", 32, 2, 2, 1, 64, 8192, 0),
        Spec("SMOL", 576, 30, 9, 3, 1536, 49_152, 20),
        Spec("QWEN05", 896, 24, 14, 2, 4864, 151_936, 16, "qwen2"),
        Spec("Q", 3584, 28, 28, 4, 18_944, 152_064, 20, "qwen2"),
    )
}
ON_DISK = ("S", "V", "V32", "M", "T")
