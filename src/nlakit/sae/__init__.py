"""Sparse autoencoders: formats of others, training, evaluation and use beside an NLA.

`load(path)` reads any of the supported formats. Nothing here knows the storyworld: facts of known
truth come in as labels of rows.
"""

from __future__ import annotations

from .autoencoder import SparseAutoencoder
from .config import SaeConfig
from .formats import load

__all__ = ["SaeConfig", "SparseAutoencoder", "load"]
