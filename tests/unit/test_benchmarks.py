"""The benchmarks' arithmetic, and that the pages say what the result file says.

Nothing is timed here: what is slow on a busy machine is no failure.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import gpu, gpu_sections, sae_speed, sae_tables, suite, tables
from benchmarks.__main__ import main
from benchmarks.flops import adapter_flops, block_flops, forward_flops, step_flops
from benchmarks.measure import Done, Run, fit, ratio, summary, timed
from benchmarks.process import Side, SideFailed, alternate
from benchmarks.results import Store, rounded
from benchmarks.sae_rhymes import word_latents
from benchmarks.specs import SPECS
from benchmarks.sweeps import MODELS, SWEEPS

NAMED = (
    "explain_vs_hf_batched",
    "explain_vs_hf_single",
    "prefix_reuse",
    "train_step_vs_naive",
    "rl_step_vs_naive",
    "two_process_speedup",
    "gemm_fraction",
    "smollm2_av_step_gemm_fraction",
    "ops_per_decode_step",
    "equal",
)


def runs(*rates: float) -> list[Run]:
    return [Run(items=10, wall_s=10 / rate, cpu_s=20 / rate, peak_mib=rate) for rate in rates]


def result(**sections: object) -> str:
    machine = {"cores": 2, "processor": "x", "instructions": ["avx2"], "torch": "2", "python": "3"}
    return json.dumps({"machine": {**machine, "transformers": "5"}, "sections": sections})


def versus(ours: list[float], theirs: list[float]) -> dict[str, object]:
    return suite.versus(runs(*ours), runs(*theirs))


# -- arithmetic ------------------------------------------------------------------------------------
def test_ratio_is_the_median_of_the_rounds():
    # The second round was slow for both: by round 2, 3 and 4; of medians it would be 25 / 10.
    found = ratio([20, 3, 40], [10, 1, 10])
    assert found.median == 3
    assert (found.low, found.high) == (2, 4)


def test_interval_narrows_with_rounds_that_agree():
    assert ratio([6, 6, 6], [2, 2, 2]) == (3, 3, 3)
    wide = ratio([1, 9] * 2, [1, 1] * 2)
    narrow = ratio([5, 5, 5, 5, 5, 5, 5, 1, 9], [1] * 9)
    assert narrow.high - narrow.low < wide.high - wide.low


@pytest.mark.parametrize("pair", [([], []), ([1, 2], [1])])
def test_rounds_must_pair_up(pair):
    with pytest.raises(ValueError, match="pair up"):
        ratio(*pair)


def test_fit_finds_a_line_and_a_power():
    line = fit([1, 2, 4, 8], [3 + 2 * x for x in (1, 2, 4, 8)])
    assert line.slope == pytest.approx(2) and line.intercept == pytest.approx(3)
    assert fit([1, 10, 100], [5, 500, 50_000]).exponent == pytest.approx(2)
    with pytest.raises(ValueError, match="two distinct points"):
        fit([3, 3], [1, 2])


def test_summary_counts_items_by_clock_and_by_processor():
    found = summary(runs(1, 2, 10))
    assert found["rate"] == 2 and found["wall_s"] == 5
    assert found["cpu_rate"] == pytest.approx(1) and found["cpu_s"] == 10
    assert found["peak_mib"] == 10 and found["rounds"] == 3


def test_a_timed_run_keeps_what_was_done():
    found = timed(lambda: Done(7, {"x": 1}))
    assert (found.items, found.facts) == (7, {"x": 1})
    assert found.wall_s > 0 and found.peak_mib > 10


def test_flops_of_one_row_by_hand():
    from benchmarks.flops import block_flops, explain_flops

    spec = SPECS["T"]  # d 32, 2 heads of 16, 1 kv head, MLP 64, 2 blocks
    assert block_flops(spec) == 2 * (32 * 4 * 16 + 32 * 32 + 3 * 32 * 64)
    one, two = (explain_flops(spec, 1, tokens) for tokens in (1, 2))
    # A token more reads 111 + 15 places, in each block twice d multiplications, and one head.
    attention = 2 * 2 * (2 * 32) * (111 + 15)
    assert two - one == 2 * block_flops(spec) + attention + 2 * 32 * 8192
    assert explain_flops(spec, 3, 2) == 3 * two


class FakeSide:
    """A side that takes a second a run and writes down when it ran."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary

    def __enter__(self):
        self.diary.append(f"{self.name} starts")
        return self

    def __exit__(self, *_):
        self.diary.append(f"{self.name} ends")

    def ready(self) -> None: ...

    def run(self) -> Run:
        self.diary.append(self.name)
        return Run(items=1, wall_s=1.0, cpu_s=1.0, peak_mib=1.0)


def alternation(**limits) -> tuple[list[int], str]:
    diary: list[str] = []
    found = alternate([FakeSide("a", diary), FakeSide("b", diary)], **limits)  # type: ignore[list-item]
    return [len(each) for each in found], " ".join(diary)


def test_sides_take_turns_in_fresh_processes():
    block = "a starts b starts a b a b b ends a ends"
    assert alternation(rounds=2, blocks=2) == ([4, 4], f"{block} {block}")


@pytest.mark.parametrize(("budget_s", "rounds"), [(0, 2), (6, 3), (8, 4), (1000, 9)])
def test_rounds_stop_where_the_budget_would_be_passed(budget_s, rounds):
    assert alternation(rounds=3, blocks=3, budget_s=budget_s)[0] == [rounds, rounds]


# -- the suite -------------------------------------------------------------------------------------
def test_named_figures_come_from_quick_sections():
    assert tuple(suite.HEADLINE) == NAMED
    for path in suite.HEADLINE.values():
        assert suite.SECTIONS[path[0]].quick
    sections = {"gate": {"equal": True}, "gemm_V": {"fraction": 0.5}}
    found = suite.headline(sections)
    assert found["equal"] is True and found["gemm_fraction"] == 0.5
    assert found["prefix_reuse"] is None


def test_contest_divides_our_rate_by_theirs(monkeypatch):
    made = [runs(30, 30, 30), runs(10, 10, 10), runs(5, 6, 5)]
    monkeypatch.setattr(suite, "alternate", lambda *_: made)
    sides = dict.fromkeys(("ours", "slow", "slower"))
    found = suite.contest(sides, suite.QUICK)  # type: ignore[arg-type]
    assert found["ratios"]["slow"]["median"] == pytest.approx(3)
    assert found["ratios"]["slower"]["median"] == pytest.approx(6)
    assert found["ratios"]["slow"]["cpu"]["median"] == pytest.approx(3)
    assert set(found["ratios"]) == {"slow", "slower"}


def test_contest_compares_like_with_like_where_it_is_told(monkeypatch):
    made = [runs(30, 30), runs(10, 10), runs(20, 20), runs(40, 40)]
    monkeypatch.setattr(suite, "alternate", lambda *_: made)
    sides = dict.fromkeys(("ours", "theirs", "theirs_greedy", "ours_greedy"))
    compared = {"theirs": "ours", "theirs_greedy": "ours_greedy"}
    found = suite.contest(sides, suite.QUICK, compared)["ratios"]  # type: ignore[arg-type]
    assert {name: (each["median"], each["rounds"]) for name, each in found.items()} == {
        "theirs": (pytest.approx(3), 2),
        "theirs_greedy": (pytest.approx(2), 2),
    }


def test_an_absent_opponent_is_reported(monkeypatch):
    monkeypatch.setattr(suite.opponents, "interpreter", lambda name: None)
    assert suite.against_trl(suite.QUICK) == {
        "absent": "not installed; python -m benchmarks.opponents trl"
    }


def test_sweeps_ask_for_models_that_exist():
    for sweep in SWEEPS.values():
        assert len(set(sweep.values)) >= 2
        assert all(sweep.options(value)["model"] in SPECS for value in sweep.values)
    assert all(SPECS[name].vocab_size == size for size, name in MODELS.items())


def test_a_failing_gate_refuses_to_time(monkeypatch, capsys, tmp_path):
    from benchmarks import __main__ as command

    timed_sections: list[str] = []

    def section(name, facts):
        def measure(plan):
            timed_sections.append(name)
            return facts

        return suite.Section(measure, 1, quick=True)

    sections = {"gate": section("gate", {"equal": False}), "rl_step": section("rl_step", {})}
    monkeypatch.setattr(suite, "SECTIONS", sections)
    monkeypatch.setattr(command, "make_checkpoints", lambda names: None)
    monkeypatch.setattr(command, "path_of", lambda device: tmp_path / "cpu.json")
    assert main(["--quick", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is False and found["rl_step_vs_naive"] is None
    assert main([]) == 1 and main(["--only", "rl_step"]) == 1
    assert timed_sections == ["gate"] * 3


def test_a_killed_run_goes_on(monkeypatch, tmp_path):
    store = Store(tmp_path / "cpu.json")
    store.put("gate", {"equal": True, "x": 1 / 3}, "code-1")
    again = Store(tmp_path / "cpu.json")
    assert again.is_current("gate", "code-1") and not again.is_current("gate", "code-2")
    assert not again.is_current("rl_step", "code-1")
    assert again.sections["gate"]["x"] == rounded(1 / 3) == 0.3333333


def test_a_side_that_fails_says_why():
    missing = pytest.raises(SideFailed, match="No module named 'benchmarks.nothing'")
    with missing, Side("nothing.here", {}) as side:
        side.ready()


def test_tokenizer_is_full_and_random_text_keeps_its_length():
    from benchmarks import checkpoints

    tokenizer = checkpoints.make_tokenizer(8192)
    assert len(tokenizer) == 8192
    ids = torch.randint(0, 8192, (8, 144), generator=checkpoints.seeded(1)).tolist()
    again = [tokenizer.encode(tokenizer.decode(row), add_special_tokens=False) for row in ids]
    assert 0.7 < sum(map(len, again)) / (8 * 144) < 1.5
    template = checkpoints.av_template(tokenizer)
    assert checkpoints.prompt_shape(tokenizer, template) == (111, 13)
    # The closing tag is no single token, or random answers would end by chance.
    assert len(tokenizer.encode("</explanation>", add_special_tokens=False)) > 2


# -- the pages -------------------------------------------------------------------------------------
def test_tables_show_ratios_with_intervals():
    text = result(
        train_step={"ratios": {"naive": versus([30, 30, 30], [10, 10, 10])}},
        trl={"absent": "not installed"},
    )
    assert "| **3.00** | 3.00 to 3.00 | 3 | 3.00 |" in tables.ratio_table(text)
    assert "GRPO step, which does less | absent | | | |" in tables.ratio_table(text)
    assert "| **3.00** (3.00 to 3.00) |" in tables.short_table(text)
    assert "- trl: not installed" in tables.fact_lines(text)


def test_sides_and_sweeps_are_rounded():
    side = summary(runs(123.4))
    sweep = {
        "what": "rows",
        "points": [{"x": 1, "seconds": 0.5}, {"x": 1000, "seconds": 12.34}],
        "fit": fit([1, 1000], [0.5, 12.34])._asdict(),
    }
    text = result(rl_step={"sides": {"ours": side}}, sweep_batch=sweep)
    assert "| rl_step | ours | 123 | 0.02 | 123 |" in tables.side_table(text)
    assert "| rows | 1: 0.50, 1,000: 12.3 | 0.012 | 0.46 |" in tables.sweep_table(text)


def test_a_plot_starts_at_zero_and_ends_at_the_top():
    found = tables.plot([(1, 5), (10, 10), (100, 0)], "rows", "rate")
    (line,) = re.findall(r'polyline points="([^"]*)"', found)
    middle, top, bottom = tables.WIDTH / 2, tables.MARGIN, tables.HEIGHT - tables.MARGIN
    assert line.split() == [
        f"{float(tables.MARGIN)},{(top + bottom) / 2}",
        f"{middle},{float(top)}",
        f"{float(tables.WIDTH - tables.MARGIN)},{float(bottom)}",
    ]


def test_pages_are_fresh():
    path = Path(__file__).parents[2] / "docs" / "render.py"
    spec = importlib.util.spec_from_file_location("render", path)
    assert spec is not None and spec.loader is not None
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    page = (render.DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert {match[2] for match in render.BLOCK.finditer(page)} == {
        "speed",
        "ratios",
        "sides",
        "sweeps",
        "facts",
        "ratios_bf16",
        "sides_bf16",
        "facts_bf16",
    }
    assert render.main(["--check"]) == 0


# -- an accelerator's sections, on a CPU -----------------------------------------------------------
@pytest.mark.parametrize("name", ["gate", "decode", "training", "extraction", "tests"])
def test_a_section_of_the_accelerator_runs_on_tiny_shapes(name, tmp_path):
    check = tmp_path / "test_nothing.py"
    check.write_text("def test_it():\n    pass\n")
    shapes = replace(gpu_sections.SHAPES["cpu"], tests=str(check))
    found: dict[str, Any] = {}
    for facts in gpu_sections.SECTIONS[name](shapes, "cpu"):
        found |= facts
    if name == "gate":
        assert found["holds"] and found["vectors"] == 2
    elif name == "decode":
        assert found["rows_8"]["share_of_roofline"] > 0 and found["hf"]["per_s"] > 0
    elif name == "training":
        kinds = {"av", "ar", "rl", "rl_trl"}
        assert found["T"].keys() == {*kinds, "peak_gib"}
        assert all(found["T"][kind]["mfu"] > 0 for kind in kinds)
    elif name == "extraction":
        assert found["T"]["tokens_per_s"] > 0
    else:
        assert found["exit_status"] == 0 and "1 passed" in found["summary"]


def test_trl_that_is_not_installed_is_reported_absent(monkeypatch):
    monkeypatch.setattr("benchmarks.opponents.interpreter", lambda name: None)
    (found,) = gpu_sections.trl(gpu_sections.SHAPES["cpu"], "cpu")
    assert "python -m benchmarks.opponents trl" in found["absent"]


def test_a_section_within_its_budget_keeps_what_it_said(tmp_path):
    script = 'print("{\\"a\\": 1}", flush=True); print("noise", flush=True); '
    run = [sys.executable, "-c"]
    assert list(gpu.lines_within([*run, script], 60)) == [{"a": 1}]
    failed = list(gpu.lines_within([*run, script + "raise SystemExit('no memory')"], 60))
    assert failed[0] == {"a": 1} and "no memory" in failed[1]["failed"]
    # It waits for ever after its first line, which is read before the budget can end.
    assert list(gpu.lines_within([*run, "import time; time.sleep(600)"], 0)) == [
        {"stopped": "after 0 s, its budget"}
    ]


def test_what_is_measured_is_kept_section_by_section(tmp_path, monkeypatch):
    said = {
        "gate": [{"holds": True}],
        "decode": [
            {"rows_4": {"per_s": 50.0, "share_of_roofline": 0.5}},
            {"hf": {"rows": 4, "per_s": 10.0}},
        ],
        "training": [{"T": {"av": {"seconds": 0.1}, "rl_trl": {"seconds": 2.0}, "peak_gib": 1}}],
        "trl": [{"T": {"seconds": 8.0}}],
    }
    written = []

    def lines(command, seconds):
        for facts in said[command[3]]:
            written.append(json.loads(path.read_text())["sections"] if path.exists() else {})
            yield facts

    path = tmp_path / "short.json"
    monkeypatch.setattr(gpu, "lines_within", lines)
    monkeypatch.setattr(gpu, "BUDGETS_S", dict.fromkeys(said, 1.0))
    assert gpu.main("cpu", True, path) == 0
    assert written[2]["decode"] == said["decode"][0]
    assert json.loads(path.read_text())["headline"] == {
        "explanations_per_s": {"rows_4": 50.0},
        "share_of_roofline": {"rows_4": 0.5},
        "times_hf": 5.0,
        "step_seconds": {"T": {"av": 0.1, "rl_trl": 2.0}},
        "times_trl": {"T": 4.0},
    }


def test_without_cuda_the_command_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--device", "cuda", "--short", "--json"]) == 1
    assert "--device cpu --short" in capsys.readouterr().err


def test_budgets_stay_within_seven_minutes():
    assert sum(gpu.BUDGETS_S.values()) <= gpu.LIMIT_S <= 410
    assert gpu.BUDGETS_S.keys() == gpu_sections.SECTIONS.keys()


def test_flops_of_a_training_step_by_hand():
    spec = SPECS["T"]  # d 32, kv 16, MLP 64, 2 blocks
    assert adapter_flops(spec, 4) == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96)
    weights, attention = forward_flops(spec, 2, 3, 5, 2, 6)
    assert weights == 11 * 2 * block_flops(spec) + 2 * 32 * 8192 * 6
    # The prefix sees itself, 15 pairs; each row the prefix, 15, and itself, 6.
    assert attention == 4 * 32 * 2 * (15 + 2 * 21)
    expected = 2 * weights + 3 * (11 * 2 * adapter_flops(spec, 4) + attention)
    assert step_flops(spec, 2, 3, 5, 2, 6, 4) == expected


def test_facts_tell_of_the_av_step_and_of_operations():
    step = {"rows": 16, "dtype": "bfloat16", "step_s": 3.2, "fraction": 0.44, "gemm_gflops": 475.0}
    text = result(gemm_SMOL=step, operations={"decode_step": 598, "av_micro_batch": 6500})
    lines = tables.fact_lines(text)
    assert "16 rows in bfloat16: 3.20 s, 44 % of the products' 475 GFLOP/s" in lines
    assert "598 a decode step, 6,500 an AV micro-batch" in lines
    assert "explaining reaches" not in lines


def test_a_rhyme_words_latent_is_chosen_by_effect_and_scored_by_activity():
    effect_BM = torch.tensor([[-3.0, 0.0], [-1.0, 0.5], [0.0, -2.0], [0.0, -2.0]])
    active_PM = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 1]]).bool()
    found = word_latents(effect_BM, ["a", "a", "b", "b"], active_PM, ["a", "a", "b", "b"])
    assert [(each.word, each.latent, each.effect) for each in found] == [("a", 0, -2), ("b", 1, -2)]
    assert [each.f1 for each in found] == [1.0, 0.8]
    assert [each.f1_of_another for each in found] == [0.4, 0.0]


def test_training_steps_are_told_as_ratios_once_they_are_measured():
    run = Run(items=10, wall_s=1.0, cpu_s=0.5, peak_mib=1.0)
    found = {
        "shape": sae_speed.TINY["tiny"],
        "sides": {key: summary([run]) for key in sae_speed.SIDES},
        "ratios": {key: ratio([3.0, 3.0], [2.0, 2.0])._asdict() for key in sae_speed.LIBRARIES},
    }
    versions = {key: "1.0" for key in sae_speed.LIBRARIES}
    whole = {"machine": {"cores": 2}, "versions": versions, "shapes": {"tiny": found}}
    line = sae_tables.speed(json.dumps(whole)).splitlines()[-1]
    cells = "| tiny: 8 × 32, k = 2, batch 16 | 20 | 1.50 [1.50, 1.50] | 1.50 [1.50, 1.50] |"
    assert line == cells
