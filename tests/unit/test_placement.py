"""Where models are loaded to, and in which precision."""

from __future__ import annotations

import json

import pytest
import torch

import nlakit
from nlakit.cli import run
from nlakit.cli.devices import DeviceOptions
from nlakit.cli.workers import WorkerOptions, place_models
from nlakit.errors import InputError
from nlakit.models.io import stored_dtype
from nlakit.models.placement import Placement, placement
from nlakit.pair.load import load_models
from nlakit.pair.pair import Pair
from nlakit.pair.source import MODELS, PairSource
from nlakit.registry import bundled_path

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PARTS = PairSource(*(bundled_path() / role for role in MODELS))
TEXT = "Basil rowed by the pier."


@pytest.fixture
def machine(monkeypatch):
    """Says what accelerators there are: so many CUDA devices, and MPS or not."""

    def has(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    has()
    return has


def precisions(nla: Pair) -> list[torch.dtype]:
    models = nla.engine.verbalizer.model, nla.engine.reconstructor.backbone, nla.target.model
    return [each.dtype for each in models]


def test_auto_takes_the_first_that_is_there(machine):
    assert placement() == (CPU, torch.float32)
    machine(mps=True)
    assert placement() == (torch.device("mps"), None)
    machine(cuda=2, mps=True)
    assert placement() == (CUDA, None)
    assert placement("cpu") == (CPU, torch.float32)
    assert placement("cuda:1", "float16") == (torch.device("cuda", 1), torch.float16)


@pytest.mark.parametrize(
    ("device", "dtype", "found"),
    [
        ("cuda", "auto", "The device cuda was asked for; PyTorch .* finds none here"),
        ("mps", "auto", "The device mps was asked for; PyTorch .* finds none here"),
        ("gpu", "auto", "The device 'gpu' is not known"),
        ("cpu", "int4", "The dtype 'int4' is not known. Give auto, float32"),
    ],
)
def test_what_this_machine_does_not_have_is_refused(machine, device, dtype, found):
    with pytest.raises(InputError, match=found):
        nlakit.load(device=device, dtype=dtype)


def test_a_number_past_the_last_device_is_refused(machine):
    machine(cuda=1)
    with pytest.raises(InputError, match="cuda:1 was asked for; this machine has 1 of that kind"):
        placement("cuda:1")


def test_a_cpu_has_float32_whatever_is_stored(machine):
    assert stored_dtype(PARTS.av) == torch.bfloat16
    assert precisions(nlakit.load()) == precisions(nlakit.load(**PARTS.models))
    assert precisions(nlakit.load()) == [torch.float32] * 3


def test_a_pair_loads_as_it_is_stored_and_its_head_in_float32():
    found = load_models(PARTS, 3, Placement(CPU, None))
    assert found.target.model.dtype == found.verbalizer.model.dtype == torch.bfloat16
    assert found.reconstructor.backbone.dtype == torch.bfloat16
    assert found.reconstructor.head.weight.dtype == torch.float32


def test_a_bfloat16_pair_explains_as_the_same_in_float32(machine):
    mean = bundled_path() / "mean.safetensors"
    loose = nlakit.load(**PARTS.models, mean=mean, dtype="bfloat16")
    bundled = nlakit.load(dtype=torch.bfloat16)
    assert precisions(loose) == precisions(bundled) == [torch.bfloat16] * 3
    row = nlakit.load().explain(TEXT, last=1).tokens[0]
    for nla in (loose, bundled):
        found = nla.explain(TEXT, last=1).tokens[0]
        assert found.samples[0].closed
        assert found.fidelity == pytest.approx(
            nla.score(row.explanation, vector(nla)).fidelity, abs=0.2
        )
        assert nla.score(row.explanation, vector(nla)).cosine == pytest.approx(row.cosine, abs=0.01)
    steered = bundled.steer(TEXT, -1, "a storm at sea", max_new_tokens=3)
    assert steered.plain and steered.shift > 0


def vector(nla: Pair) -> torch.Tensor:
    encoded = nla.encode(TEXT)
    return nla.engine.extract(encoded, [len(encoded.ids) - 1])[0]


def test_a_wrapper_names_the_precision_of_its_language_model(tmp_path):
    text = {"model_type": "gemma3_text", "hidden_size": 32, "num_hidden_layers": 2}
    raw = {"model_type": "gemma3", "dtype": "bfloat16", "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert stored_dtype(tmp_path) == torch.bfloat16


def test_verbs_take_a_device_and_say_that_it_is_not_there(machine, tmp_path, capsys):
    extract = ["extract", "--target", str(PARTS.target), "--layer", "3", "--corpus", "none.jsonl"]
    verbs = (
        ["explain", TEXT],
        ["doctor"],
        ["serve", "--port", "0", "--no-browser"],
        [*extract, "--output", str(tmp_path / "shards")],
    )
    for verb in verbs:
        assert run([*verb, "--device", "cuda"]) == 2
        assert "The device cuda was asked for" in capsys.readouterr().err
    assert run(["explain", TEXT, "--server", "http://127.0.0.1:9", "--dtype", "bfloat16"]) == 2
    assert "--device and --dtype" in capsys.readouterr().err


def test_the_command_reads_in_the_precision_asked_for(capsys, monkeypatch):
    loaded: list[torch.dtype] = []
    explain = Pair.explain

    def watched(self, *args, **options):
        loaded.extend(precisions(self))
        return explain(self, *args, **options)

    monkeypatch.setattr(Pair, "explain", watched)
    arguments = ["--last", "1", "--device", "cpu", "--dtype", "bfloat16", "--json"]
    assert run(["explain", TEXT, *arguments]) == 0
    assert loaded == [torch.bfloat16] * 3
    assert len(json.loads(capsys.readouterr().out)["tokens"]) == 1


def test_workers_have_the_target_where_they_run(machine):
    machine(cuda=1)
    auto, bf16 = DeviceOptions(), DeviceOptions(dtype="bfloat16")
    assert place_models(auto, WorkerOptions()) == (CUDA, None)
    assert place_models(auto, WorkerOptions(processes=2)) == (CPU, torch.float32)
    assert place_models(DeviceOptions(device="cuda"), WorkerOptions(processes=2)) == (CUDA, None)
    machine()  # Ray's workers have what this machine has not.
    assert place_models(bf16, WorkerOptions(ray=2, ray_gpus=1)) == (CUDA, torch.bfloat16)
    assert place_models(auto, WorkerOptions(ray=2)) == (CPU, torch.float32)
    with pytest.raises(InputError, match="Leave out --device"):
        place_models(DeviceOptions(device="cuda"), WorkerOptions(ray=2))
