"""vLLM on the CPU: the verbalizer as a plain language model, its prompt's ids given as they are.

It does a little less work: no vector is put into the slot, and with prefix caching on the whole
prompt is run once. Runs in an environment of its own (`opponents`).
"""

from __future__ import annotations

import os

from .measure import Done, Task
from .specs import NEW_TOKENS, PREFIX_TOKENS, SPECS, SUFFIX_TOKENS

# In this process, so that its processor time and memory are this process's.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = str(min(os.sched_getaffinity(0)))

from vllm import LLM, SamplingParams  # noqa: E402  (it reads the environment when imported)

CONTEXT = 512


def explain(model: str, rows: int, new_tokens: int = NEW_TOKENS, temperature: float = 1.0) -> Task:
    """`rows` answers of `new_tokens`, as text."""
    llm = LLM(
        model=str(SPECS[model].directory / "av"),
        dtype="float32",
        max_model_len=CONTEXT,
        max_num_seqs=rows,
        enable_prefix_caching=True,
        seed=0,
    )
    ids = list(range(300, 300 + PREFIX_TOKENS + 1 + SUFFIX_TOKENS))
    prompts = [{"prompt_token_ids": ids} for _ in range(rows)]

    def run(num_tokens: int = new_tokens) -> Done:
        sampling = SamplingParams(temperature=temperature, max_tokens=num_tokens, ignore_eos=True)
        answers = llm.generate(prompts, sampling, use_tqdm=False)
        return Done(sum(len(each.outputs) for each in answers))

    return Task(run, lambda: run(2))


SIDES = {"explain": explain}
