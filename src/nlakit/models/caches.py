"""Keys and values that several rows share."""

from __future__ import annotations

from transformers import DynamicCache


def repeated(cache: DynamicCache, rows: int) -> DynamicCache:
    """A cache of `rows` rows that all begin with the one row of `cache`, which stays as it is.

    Nothing is copied until a row grows.
    """
    shared = DynamicCache()
    for index, (keys, values, *_) in enumerate(cache):
        size = (rows, -1, -1, -1)
        assert keys is not None and values is not None, "the cache was filled"
        shared.update(keys.expand(size), values.expand(size), index)
    return shared
