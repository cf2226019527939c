"""`nlakit convert`: writes the model in a GGUF file as a model directory."""

from __future__ import annotations

from pathlib import Path

from nlakit.console import tell
from nlakit.errors import InputError

from .results import Json, write_json


def convert(file: Path, directory: Path, /, *, dtype: str = "auto", json: Json = False) -> None:
    """Write the model in a GGUF file as a model directory: config, tokenizer and safetensors.

    Llama, Qwen2, Qwen3 and Gemma 3 are read. A GGUF file can also be given wherever a target is
    asked for (--target model.gguf); it is then converted into the cache.

    Parameters
    ----------
    file
        The GGUF file.
    directory
        The directory to write; it may not be there yet.
    dtype
        Of the weights: float32, bfloat16 or float16; auto loses nothing, which is float32 for
        quantized weights.
    """
    from nlakit.models.convert import convert_gguf
    from nlakit.models.placement import AUTO, DTYPES

    if dtype != AUTO and dtype not in DTYPES:
        raise InputError(f"The dtype {dtype!r} is not known. Give auto, {', '.join(DTYPES)}.")
    made = convert_gguf(file, directory, DTYPES.get(dtype))
    if json:
        write_json({"output": str(made)})
    else:
        tell(f"Written: {made}")
