"""Vectors that cannot be read are named: in training files, and past a precision's range."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.serving import meta_for, tiny_target

from nlakit.contract import (
    DatasetExtraction,
    DatasetMeta,
    PromptTemplates,
    Tokens,
    write_dataset_meta,
)
from nlakit.core.site import Site
from nlakit.data.corpora import Corpus
from nlakit.data.corpus_extraction import extract_corpus
from nlakit.data.datasets import import_parquet
from nlakit.errors import InputError
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.split import split_of

D = 4
X = np.arange(12, dtype=np.float32).reshape(3, D)
FLOATS = pa.list_(pa.float32())
NAN = float("nan")


def written(directory: Path, column: pa.Array | pa.ChunkedArray) -> Path:
    path = directory / "rows.parquet"
    rows = len(column)
    columns: dict[str, Any] = {
        "prompt": ["T: <text>a</text> <summary>"] * rows,
        "doc_id": ["a"] * rows,
        "activation_vector": column,
    }
    pq.write_table(pa.table(columns), path)
    tokens = Tokens(injection_char="㋎", injection_token_id=5, injection_left_neighbor_id=1,
                    injection_right_neighbor_id=2)  # fmt: skip
    templates = PromptTemplates(
        av="<concept>{injection_char}</concept>", ar="T: <text>{explanation}</text> <summary>"
    )
    meta = DatasetMeta(extraction=DatasetExtraction(d_model=D, layer_index=1), tokens=tokens,
                       prompt_templates=templates)  # fmt: skip
    write_dataset_meta(path, meta)
    return path


@pytest.mark.parametrize(
    "column",
    [
        pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D),
        pa.array(X.astype(float).tolist(), pa.list_(pa.float64())),
        pa.array(X.tolist(), pa.large_list(pa.float32())),
        pa.array([row.astype(np.float16) for row in X], pa.list_(pa.float16())),
        pa.chunked_array([pa.array(X[:1].tolist(), FLOATS), pa.array(X[1:].tolist(), FLOATS)]),
        pa.array([[9.0] * D, *X.tolist()], FLOATS)[1:],
    ],
)
def test_columns_of_vectors_are_read(column, tmp_path):
    found, _ = import_parquet(written(tmp_path, column))
    assert np.array_equal(found.vectors.numpy(), X)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([X[0], None, X[2]], FLOATS), "vector of row 1 is missing"),
        (pa.array([X[0], None, X[2]], pa.list_(pa.float32(), D)), "vector of row 1 is missing"),
        (pa.array([X[0], [1.0, None, 2.0, 3.0]], FLOATS), "row 1 is not finite or has a number"),
        (pa.array([[0.0, 1, 2], [3.0, 4, 5, 6, 7], X[2]], FLOATS), "row 0 has 3 numbers"),
        (pa.array([X[0], X[1], [NAN] * D], FLOATS), "row 2 is not finite .*1 such rows of 3"),
        (pa.array([X[0], [0, np.inf, 0, 0]], FLOATS), "row 1 is not finite"),
        (pa.array([row.tobytes() for row in X], pa.binary()), "of the type binary"),
        (pa.array(["[0,1,2,3]"] * 3), "of the type string"),
        (pa.array([[1, 2, 3, 4]], pa.list_(pa.int64())), "of the type list<.*int64"),
    ],
)
def test_others_are_refused_with_the_row(column, message, tmp_path):
    with pytest.raises(InputError, match=message):
        import_parquet(written(tmp_path, column))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": ["T: <text>a</text> <summary>", None]}, "prompt of row 1 is None"),
        ({"prompt": ["T: <text>a</text> <summary>", "a"]}, "row 1 is 'a', which does not begin"),
        ({"response": ["<explanation>a</explanation>", None]}, "response of row 1 is None"),
        ({"response": ["<explanation>a", "b"]}, "response of row 0 has one of"),
        ({"activation_layer": [1, 2]}, "row 1 has the activation_layer 2, the sidecar says 1"),
    ],
)
def test_texts_and_layers_that_are_not_the_sidecars_are_refused(columns, message, tmp_path):
    path = written(tmp_path, pa.array(X[:2].tolist(), FLOATS))
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)
    with pytest.raises(InputError, match=message):
        import_parquet(path)


def test_responses_are_read_without_their_tags(tmp_path):
    path = written(tmp_path, pa.array(X[:2].tolist(), FLOATS))
    responses = pa.array([" <explanation> a b </explanation>\n", "plain"])
    pq.write_table(pq.read_table(path).append_column("response", responses), path)
    assert import_parquet(path)[0].explanations == ["a b", "plain"]


@pytest.fixture
def half() -> Any:
    """The tiny target in float16, its residuals past what that can hold."""
    model = copy.deepcopy(tiny_target().model).half()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "down_proj" in name:
                parameter.fill_(30_000)
    return model


def test_an_overflow_in_float16_says_which_dtype_to_use(half):
    target = Target(half, tiny_target().tokenizer, Site(1))
    ids = [target.encode("a cat sat on the mat").ids]
    with pytest.raises(InputError, match="not finite in float16.*bfloat16 or float32"):
        target.activations(ids)
    wide = Target(half.bfloat16(), target.tokenizer, Site(1))
    assert wide.activations(ids)[0].isfinite().all()


def a_training_text(what: str) -> str:
    tried = (f"the cat sat on {what} and ran {number} times" for number in range(99))
    return next(text for text in tried if split_of(text) == "train")


@pytest.mark.parametrize("next_tokens", [0, 3])
def test_a_corpus_run_passes_over_what_overflows(half, tmp_path, next_tokens):
    model, tokenizer = copy.deepcopy(tiny_target().model), tiny_target().tokenizer
    target = Target(model, tokenizer, Site(1))
    with torch.no_grad():
        model.get_input_embeddings().weight[target.encode("Q").ids[-1]] = torch.inf
    texts = [a_training_text(what) for what in ("the mat", "Q", "the dog")]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    how: dict[str, Any] = {"num_documents": 3, "minimum_position": 2, "next_tokens": next_tokens}
    corpus = Corpus(str(tmp_path / "c.jsonl"))
    manifest = extract_corpus(target, corpus, tmp_path / "out", **how)
    assert (manifest.num_documents, manifest.num_refused) == (2, 1)
    assert "c.jsonl:2: The target's activations are not finite in float32" in manifest.refusals[0]
    with pytest.raises(InputError, match="not finite in float16.*bfloat16 or float32"):
        extract_corpus(Target(half, tokenizer, Site(1)), corpus, tmp_path / "half", **how)


def test_a_scale_past_float16_says_which_dtype_to_use():
    target = tiny_target()
    raw = meta_for("av", target)
    scaled = raw.extraction.model_copy(update={"injection_scale": 80_000.0})
    meta = raw.model_copy(update={"extraction": scaled})
    spike = torch.zeros(1, target.d_model)
    spike[0, 0] = 1.0
    half = Verbalizer(copy.deepcopy(target.model).half(), target.tokenizer, meta)
    with pytest.raises(InputError, match="injection scale 80000.*overflows in float16.*bfloat16"):
        half.scaled(spike)
    assert Verbalizer(target.model, target.tokenizer, meta).scaled(spike)[0, 0] == 80_000.0


def test_a_reconstructor_that_overflows_says_so(half):
    target = tiny_target()
    ar = Reconstructor.from_target(half, target.tokenizer, meta_for("ar", target))
    with pytest.raises(InputError, match="reconstructor's vectors are not finite in float16"):
        ar.reconstruct(["a cat sat on the mat"])
