"""Safetensors files are written whole, and a full disk is told by the system's own number."""

from __future__ import annotations

import errno

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nlakit.models import tensor_files
from nlakit.models.tensor_files import write_tensors

TABLE = {"weight": torch.arange(6.0).view(2, 3)}


def test_tensors_come_back_and_nothing_lies_beside_them(tmp_path):
    write_tensors(tmp_path / "there" / "model.safetensors", TABLE)
    assert torch.equal(
        load_file(tmp_path / "there" / "model.safetensors")["weight"], TABLE["weight"]
    )
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("words", "number"),
    [("I/O error: No space left on device (os error 28)", errno.ENOSPC), ("other", errno.EIO)],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, words, number):
    path = tmp_path / "model.safetensors"
    write_tensors(path, TABLE)
    before = path.read_bytes()

    def fail(*_, **__) -> None:
        raise SafetensorError(words)

    monkeypatch.setattr(tensor_files, "save_file", fail)
    with pytest.raises(OSError, match="model.safetensors") as error:
        write_tensors(path, {"weight": torch.zeros(1)})
    assert error.value.errno == number
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
