"""A natural language autoencoder of any Hugging Face model, from nothing, in one file.

    python recipes/minimal_hf.py MODEL TEXTS [key=value ...]

MODEL is a causal language model's directory or hub name, TEXTS a file with a text a line. The same
method as `minimal.py`, which trains its own target in a world whose truth is known; here the target
is real, so truth is not measured, only how much of h survives being put into words.

1. A frozen target M reads a text; h, the residual stream after block LAYER at one token, is read.
2. `warm_start`: the verbalizer (AV, a copy of M) learns h -> words, the reconstructor (AR, the
   first blocks of M and a linear head) learns words -> h, both from labels that a rule writes from
   the text and from M's own next tokens. The paper has an LLM write them: that is much better.
3. `reinforce`: the AV writes, the AR rebuilds h from that, and how near it comes is the reward.

FVE is the share of h's variance that survives: 1 is all, 0 no better than the mean. It says little
without its floors, printed beside it. Everything is held in float32 and trained in full, three
copies of M in memory; adapters, checkpoints and every guard are in `src/nlakit/train`.
"""

import copy
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "Activation: {slot}\nExplanation:"
AR_PROMPT = "Text: {text}\nSummary:"
MARKER = "※"  # its embedding is replaced by the vector; one token or several, all get it
GUESSES, COMMON = 3, 2  # the target's next tokens in a label; words of the text


@dataclass
class Options:
    """Shape letters below: N rows, T tokens, D width, V vocabulary, G group."""

    layer: int = -1  # -1: two thirds of the depth
    max_tokens: int = 64  # of a text
    positions: int = 4  # read per text
    words: int = 40  # longest explanation, in tokens
    batch: int = 16
    group: int = 4
    warm_steps: int = 600
    rl_steps: int = 60
    rate: float = 5e-5
    seed: int = 0


@dataclass
class Row:
    """A text up to one of its tokens, what a rule says of it, and the activation there."""

    document: int
    label: str
    h_D: Tensor


class Model:
    """A causal language model and its tokenizer; padding is on the right, and masked."""

    def __init__(self, name: str):
        self.net = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.end = self.tokenizer.eos_token_id
        config = self.net.config.get_text_config()
        self.depth, self.width = config.num_hidden_layers, config.hidden_size
        self.vocabulary = config.vocab_size

    def ids(self, text: str, special: bool = True) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]

    def pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        ids_NT = torch.tensor([row + [self.end] * (longest - len(row)) for row in rows])
        mask_NT = torch.tensor([[i < len(row) for i in range(longest)] for row in rows])
        return ids_NT, mask_NT.long()


def read_rows(model: Model, texts: list[str], options: Options, layer: int) -> list[Row]:
    """h of some tokens of each text with its label, the first tokens left out."""
    rows, dice = [], random.Random(options.seed)
    for number, text in enumerate(texts):
        ids = model.ids(text)[: options.max_tokens]
        places = range(min(5, len(ids) - 1), len(ids))
        with torch.no_grad():
            found = model.net(torch.tensor([ids]), output_hidden_states=True)
        for place in sorted(dice.sample(places, min(options.positions, len(places)))):
            label = label_of(model, ids[: place + 1], found.logits[0, place])
            # hidden_states[0] is the embedding, so block K's output has the index K + 1.
            rows.append(Row(number, label, found.hidden_states[layer + 1][0, place].float()))
    return rows


def label_of(model: Model, ids: list[int], logits_V: Tensor) -> str:
    """The teacher, a rule: longest frequent words, the last ones, and what M expects next."""
    text = model.tokenizer.decode(ids, skip_special_tokens=True)
    counts = Counter(word.strip(".,;:!?\"'()").lower() for word in text.split())
    common = sorted(counts, key=lambda word: (-counts[word] * (len(word) > 3), -len(word)))
    guesses = [model.tokenizer.decode([i]).strip() for i in logits_V.topk(GUESSES).indices]
    last = " ".join(text.split()[-2:])
    return f" About {', '.join(common[:COMMON])}. Ends on: {last}. Next: {', '.join(guesses)}."


def unit(x_ND: Tensor) -> Tensor:
    """Rows brought to norm √D: only the direction is compared."""
    return F.normalize(x_ND, dim=-1) * x_ND.shape[-1] ** 0.5


def mse(h_ND: Tensor, rebuilt_ND: Tensor) -> Tensor:
    return (unit(h_ND) - unit(rebuilt_ND)).square().mean(-1)


class Verbalizer(nn.Module):
    """h -> words: a copy of M whose prompt has the vector in the place of one embedding."""

    def __init__(self, model: Model, words: int):
        super().__init__()
        self.model, self.net, self.words = model, copy.deepcopy(model.net), words
        before, after = PROMPT.split("{slot}")
        self.before, self.marker = (
            model.ids(before),
            model.ids(MARKER, special=False) or [model.end],
        )
        self.after = model.ids(after, special=False)
        # h at the size of an embedding as the blocks see it (Gemma scales its own).
        with torch.no_grad():
            some_ND = self.net.get_input_embeddings()(torch.arange(min(1000, model.vocabulary)))
        self.norm = float(some_ND.norm(dim=-1).mean())

    def embed(self, h_ND: Tensor, said: list[list[int]]) -> tuple[Tensor, Tensor, int]:
        """Embeddings of prompt and answer with h in the slot, the mask, the prompt's length."""
        prompt = [*self.before, *self.marker, *self.after]
        ids_NT, mask_NT = self.model.pad([[*prompt, *each] for each in said])
        x_NTD = self.net.get_input_embeddings()(ids_NT).clone()
        start, stop = len(self.before), len(self.before) + len(self.marker)
        x_NTD[:, start:stop] = (F.normalize(h_ND, dim=-1) * self.norm)[:, None]
        return x_NTD, mask_NT, len(prompt)

    def logprobs(self, h_ND: Tensor, said: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Log-probability of every token of the answers, and a mask of those that are there."""
        x_NTD, mask_NT, start = self.embed(h_ND, said)
        logits_NTV = self.net(inputs_embeds=x_NTD, attention_mask=mask_NT).logits[:, start - 1 : -1]
        ids_NT, there_NT = self.model.pad(said)
        logp_NT = -F.cross_entropy(logits_NTV.transpose(1, 2), ids_NT, reduction="none")
        return logp_NT, there_NT.bool()

    @torch.no_grad()
    def write(self, h_ND: Tensor, temperature: float, seed: int = 0) -> list[list[int]]:
        """Explanations with their end token, the keys and values of what was written kept."""
        dice = torch.Generator().manual_seed(seed)
        x_NTD, _, _ = self.embed(h_ND, [[]] * len(h_ND))
        cache, said = None, [[] for _ in h_ND]
        for _ in range(self.words):
            out = self.net(inputs_embeds=x_NTD, past_key_values=cache, use_cache=True)
            cache, logits_NV = out.past_key_values, out.logits[:, -1].float()
            noise_NV = -torch.empty_like(logits_NV).exponential_(generator=dice).log()
            next_N = (logits_NV + temperature * noise_NV).argmax(-1)
            for row, token in zip(said, next_N.tolist(), strict=True):
                if not row or row[-1] != self.model.end:
                    row.append(token)
            if all(row[-1] == self.model.end for row in said):
                break
            x_NTD = self.net.get_input_embeddings()(next_N)[:, None]
        return said


class Reconstructor(nn.Module):
    """Words -> h: the first blocks of M, and a head that starts as the identity."""

    def __init__(self, model: Model, layer: int):
        super().__init__()
        self.model, self.layer, self.net = model, layer, copy.deepcopy(model.net)
        self.head = nn.Linear(model.width, model.width, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, said: list[list[int]]) -> Tensor:
        before, after = AR_PROMPT.split("{text}")
        head, tail = self.model.ids(before), self.model.ids(after, special=False)
        rows = [[*head, *(i for i in each if i != self.model.end), *tail] for each in said]
        ids_NT, mask_NT = self.model.pad(rows)
        # All blocks run and those past the layer are thrown away: simple, and a third slower.
        out = self.net(ids_NT, attention_mask=mask_NT, output_hidden_states=True)
        h_NTD = out.hidden_states[self.layer + 1]
        return self.head(h_NTD[torch.arange(len(rows)), mask_NT.sum(1) - 1])


def fit(modules: list[nn.Module], steps: int, rate: float, loss_of) -> None:
    """AdamW on `loss_of(step)`, the rate rising over 20 steps and then falling to a tenth."""
    optimizer = torch.optim.AdamW([p for each in modules for p in each.parameters()])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 20, 1 - 0.9 * step / steps)
        optimizer.zero_grad()
        loss_of(step).backward()
        for module in modules:  # each alone: the larger gradient must not shrink the other
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()


def answer_of(model: Model, row: Row, words: int) -> list[int]:
    return [*model.ids(row.label, special=False)[: words - 1], model.end]


def warm_start(av: Verbalizer, ar: Reconstructor, rows: list[Row], options: Options) -> None:
    """The two learn from the same labels and never meet; one loop trains both."""
    dice = random.Random(options.seed + 1)
    answers = [answer_of(av.model, row, options.words) for row in rows]

    def loss(step: int) -> Tensor:
        chosen = dice.sample(range(len(rows)), min(options.batch, len(rows)))
        said, h_ND = [answers[i] for i in chosen], torch.stack([rows[i].h_D for i in chosen])
        logp_NT, there_NT = av.logprobs(h_ND, said)
        return -logp_NT[there_NT].mean() + mse(h_ND, ar(said)).mean()

    fit([av, ar], options.warm_steps, options.rate, loss)


def reinforce(av: Verbalizer, ar: Reconstructor, rows: list[Row], options: Options) -> None:
    """GRPO: of G explanations of a vector those above the group's mean are made likelier."""
    reference, dice = copy.deepcopy(av).requires_grad_(False), random.Random(options.seed + 2)

    def loss(step: int) -> Tensor:
        chosen = dice.sample(rows, max(1, min(options.batch, len(rows)) // options.group))
        h_ND = torch.stack([row.h_D for row in chosen]).repeat_interleave(options.group, 0)
        said = av.write(h_ND, temperature=1.0, seed=step)
        error_N = mse(h_ND, ar(said))  # its gradient trains the AR on what the AV writes now
        closed_N = torch.tensor([each[-1] == av.model.end for each in said])
        r_NG = (-error_N.detach().log()).where(closed_N, -2.0).view(-1, options.group)
        advantage_NG = (r_NG - r_NG.mean(1, True)) / (r_NG.std(1, keepdim=True) + 1e-4)
        logp_NT, there_NT = av.logprobs(h_ND, said)
        gap_NT = reference.logprobs(h_ND, said)[0] - logp_NT
        kl_NT = gap_NT.exp() - gap_NT - 1  # keeps the AV near the warm start's words
        policy_NT = -(logp_NT - logp_NT.detach()).exp() * advantage_NG.view(-1, 1)
        return (policy_NT + 0.01 * kl_NT)[there_NT].mean() + error_N[closed_N].sum() / len(said)

    fit([av, ar], options.rl_steps, options.rate / 5, loss)


@torch.no_grad()
def measure(av: Verbalizer, ar: Reconstructor, rows: list[Row], mean_D: Tensor) -> dict[str, float]:
    """FVE on held-out rows, and what knowing nothing would score."""
    h_ND = torch.stack([row.h_D for row in rows])
    variance = (unit(h_ND) - mean_D).square().mean()
    written_ND = ar(av.write(h_ND, temperature=0.0))
    labels_ND = ar([answer_of(av.model, row, av.words) for row in rows])
    guesses = {
        "fve": written_ND,
        "labels": labels_ND,  # what the AR makes of the teacher's words: no bound, a yardstick
        "shuffled": written_ND.roll(len(rows) // 2, 0),  # another document's explanation
        "mean": mean_D.expand_as(h_ND),  # brought to norm √D as every guess is; bare it scores 0
        "empty": ar([[]]).expand_as(h_ND),
    }
    return {name: float(1 - mse(h_ND, x).mean() / variance) for name, x in guesses.items()}


def run(name: str, texts: list[str], options: Options) -> dict[str, dict[str, float]]:
    """The figures of every stage, also printed."""
    torch.manual_seed(options.seed)
    started, model = time.monotonic(), Model(name)
    layer = options.layer if options.layer >= 0 else round(model.depth * 2 / 3) - 1
    # Split by document: neighbouring tokens are nearly copies of each other.
    held = max(2, len(texts) // 8)
    held_out = read_rows(model, texts[:held], options, layer)
    rows = read_rows(model, texts[held:], options, layer)
    mean_D = unit(torch.stack([row.h_D for row in rows])).mean(0)
    av, ar, found = Verbalizer(model, options.words), Reconstructor(model, layer), {}

    def report(stage: str) -> None:
        found[stage] = measure(av, ar, held_out, mean_D)
        figures = "  ".join(f"{name} {value:6.3f}" for name, value in found[stage].items())
        print(f"{stage:<12} {figures}  ({time.monotonic() - started:.0f} s)", flush=True)

    report("untrained")
    warm_start(av, ar, rows, options)
    report("warm start")
    reinforce(av, ar, rows, options)
    report("joint RL")
    few = held_out[:3]
    written = av.write(torch.stack([row.h_D for row in few]), temperature=0.0)
    for row, said in zip(few, written, strict=True):
        print(f"\nlabel {row.label}\n   AV {model.tokenizer.decode(said)}")
    return found


if __name__ == "__main__":
    model_name, texts_file, *changes = sys.argv[1:]
    chosen = Options()
    for key, _, value in (each.partition("=") for each in changes):
        setattr(chosen, key, type(getattr(chosen, key))(value))
    lines = Path(texts_file).read_text(encoding="utf-8").splitlines()
    run(model_name, [line for line in lines if line.strip()], chosen)
