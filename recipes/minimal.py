"""The whole method in one file: a language model whose thoughts are put into words and back.

    python recipes/minimal.py    about a minute and a half on two CPU cores; --quick a quarter

1. `train_target`: a tiny transformer M learns the storyworld and is then frozen. Its activation
   `h`, the residual stream after block LAYER at one token, is what we want to read.
2. `warm_start`: the verbalizer (AV, a copy of M) learns h -> words, the reconstructor (AR, the
   first blocks of M and a linear head) learns words -> h, both from a teacher's labels.
3. `reinforce`: the AV writes, the AR rebuilds h from that, and how near it comes is the AV's
   reward (GRPO). The words may now say what h really holds, or drift into a private code.

FVE is the share of h's variance that survives being put into words: 1 is all, 0 no better than the
mean. It says little without its floors, printed beside it, and nothing about truth.
A Hugging Face model: `minimal_hf.py`. Checkpoints, checked claims, every guard: `src/nlakit/train`.
"""

import copy
import random
import re
import sys
import time
from dataclasses import dataclass
from itertools import islice, zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlakit.split import Split
from nlakit.storyworld.document import Document
from nlakit.storyworld.grammar import generate

BLOCKS, LAYER, BATCH, GROUP = 3, 1, 32, 4  # h is the output of block 1, the second of three
CONTEXT, WORDS = 40, 24  # longest text and longest explanation, in tokens (words)
KINDS = ("topic", "mood", "register", "speaker", "goal", "person")  # facts a label gives, if known
PAD, UNKNOWN, TEXT, SLOT, EXPLAIN, END = range(6)  # the vector goes in the place of SLOT
Row = tuple[list[int], list[int]]  # a text up to one of its words, and the label of that place


@dataclass(frozen=True)
class Size:
    """How much of everything. Shape letters below: N rows, T tokens, D width, V words, G group."""

    width: int = 96
    documents: int = 4000
    target_steps: int = 400
    warm_steps: int = 500
    rl_steps: int = 25


QUICK = Size(width=64, documents=600, target_steps=80, warm_steps=120, rl_steps=3)


class Words:
    """A tokenizer of whole words: too simple for the world at large, enough for this one."""

    pattern = re.compile(r"\w+|[^\w\s]")

    def __init__(self, texts: list[str]):
        self.names = [f"<{i}>" for i in range(END + 1)]  # the six special ones, never printed
        self.names += sorted({word for text in texts for word in self.pattern.findall(text)})
        self.ids = {name: index for index, name in enumerate(self.names)}

    def encode(self, text: str) -> list[int]:
        return [self.ids.get(word, UNKNOWN) for word in self.pattern.findall(text)]

    def decode(self, ids: list[int]) -> str:
        return " ".join(self.names[i] for i in ids if i > END)


def label_of(document: Document, end: int) -> str:
    """The teacher: it sees the text, not the vector, and may name what h does not hold."""
    state = document.state(end)
    facts = [f"{kind} {state.facts[kind]}" for kind in KINDS if kind in state.facts]
    return "; ".join([f"ends on {state.last_words[-1]}", *facts])


def make_world(size: Size) -> tuple[Words, list[Row], list[Row]]:
    """Training and held-out rows, four places a document; no text is in both."""
    texts: dict[Split, list[tuple[str, str]]] = {"train": [], "heldout": []}
    for split in texts:
        count = size.documents if split == "train" else 32
        for document in islice(generate(seed=7, split=split, genre="story"), count):
            ends = [match.end() for match in Words.pattern.finditer(document.text)][6 : CONTEXT - 1]
            for end in random.Random(document.id).sample(ends, 4):
                texts[split].append((document.text[:end], label_of(document, end)))
    words = Words([text for pair in texts["train"] for text in pair])
    coded = {
        split: [([TEXT, *words.encode(a)], words.encode(b)[: WORDS - 1]) for a, b in pairs]
        for split, pairs in texts.items()
    }
    return words, coded["train"], coded["heldout"]


def pad(rows: list[list[int]]) -> Tensor:
    return torch.tensor(list(zip(*zip_longest(*rows, fillvalue=PAD), strict=True)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int = 2):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        n, t, d = x_NTD.shape
        q, k, v = self.qkv(self.norm1(x_NTD)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_NTD = x_NTD + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return x_NTD + self.narrow(self.wide(self.norm2(x_NTD)).relu())


class Transformer(nn.Module):
    def __init__(self, num_words: int, size: Size):
        super().__init__()
        self.embed, self.place = (nn.Embedding(n, size.width) for n in (num_words, CONTEXT))
        self.blocks = nn.ModuleList(Block(size.width) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(size.width)
        for table in (self.embed, self.place):
            table.weight.data *= 0.02

    def residual(self, ids_NT: Tensor, num_blocks=None, slot_ND: Tensor | None = None) -> Tensor:
        """The residual stream after the first blocks; `slot_ND` is embedded as the first token."""
        x_NTD = self.embed(ids_NT)
        if slot_ND is not None:
            x_NTD = torch.cat([slot_ND[:, None], x_NTD[:, 1:]], dim=1)
        x_NTD = x_NTD + self.place.weight[: ids_NT.shape[1]]
        for block in self.blocks[:num_blocks]:
            x_NTD = block(x_NTD)
        return x_NTD

    def at_end(self, rows: list[list[int]], num_blocks: int) -> Tensor:
        """The residual stream at the last real token of each row."""
        found = []
        for start in range(0, len(rows), 256):
            chunk = rows[start : start + 256]
            x_NTD = self.residual(pad(chunk), num_blocks)
            found += [x_TD[len(row) - 1] for x_TD, row in zip(x_NTD, chunk, strict=True)]
        return torch.stack(found)

    def logits(self, ids_NT: Tensor, slot_ND: Tensor | None = None) -> Tensor:
        return self.norm(self.residual(ids_NT, None, slot_ND)) @ self.embed.weight.T


def unit(x_ND: Tensor) -> Tensor:
    """Rows brought to norm √D: only the direction is compared."""
    return F.normalize(x_ND, dim=-1) * x_ND.shape[-1] ** 0.5


class Verbalizer(nn.Module):
    """h -> words. Reads `<slot> <explain>`, where the slot's embedding *is* the vector."""

    def __init__(self, target: Transformer):
        super().__init__()
        self.model = copy.deepcopy(target)
        self.scale = target.embed.weight.detach().std()  # h at the size of an embedding

    def logprobs(self, h_ND: Tensor, words: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Log-probability of every word given, and a mask of those that are not padding."""
        ids_NT = pad([[SLOT, EXPLAIN, *each] for each in words])
        logits_NTV = self.model.logits(ids_NT[:, :-1], unit(h_ND) * self.scale)[:, 1:]
        said_NT = ids_NT[:, 2:]
        logp_NT = -F.cross_entropy(logits_NTV.transpose(1, 2), said_NT, reduction="none")
        return logp_NT, said_NT != PAD

    @torch.no_grad()
    def write(self, h_ND: Tensor, temperature: float, seed: int = 0) -> list[list[int]]:
        """Explanations with their END, word by word; without a cache, for the sake of reading."""
        dice = torch.Generator().manual_seed(seed)
        slot_ND, ended_N = unit(h_ND) * self.scale, torch.zeros(len(h_ND), dtype=torch.bool)
        ids_NT = torch.tensor([[SLOT, EXPLAIN]]).repeat(len(h_ND), 1)
        while ids_NT.shape[1] < WORDS + 2 and not ended_N.all():
            logits_NV = self.model.logits(ids_NT, slot_ND)[:, -1]
            gumbel_NV = -torch.empty_like(logits_NV).exponential_(generator=dice).log()
            next_N = (logits_NV + temperature * gumbel_NV).argmax(-1).masked_fill(ended_N, PAD)
            ids_NT = torch.cat([ids_NT, next_N[:, None]], dim=1)
            ended_N |= next_N == END
        return [[i for i in row if i != PAD] for row in ids_NT[:, 2:].tolist()]


class Reconstructor(nn.Module):
    """Words -> h, read at the last token. The head starts as the identity."""

    def __init__(self, target: Transformer):
        super().__init__()
        self.model = copy.deepcopy(target)
        self.head = nn.Linear(target.embed.embedding_dim, target.embed.embedding_dim, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, words: list[list[int]]) -> Tensor:
        rows = [[SLOT, EXPLAIN, *(i for i in each if i != END), END] for each in words]
        return self.head(self.model.at_end(rows, LAYER + 1))


def mse(h_ND: Tensor, rebuilt_ND: Tensor) -> Tensor:
    return (unit(h_ND) - unit(rebuilt_ND)).square().mean(-1)


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


def train_target(words: Words, rows: list[Row], size: Size) -> Transformer:
    """Next-word prediction over texts and labels: M must know the words the AV will use."""
    model, dice = Transformer(len(words.names), size), random.Random(0)

    def loss(step: int) -> Tensor:
        batch = dice.sample(rows, BATCH)
        labels = [[SLOT, EXPLAIN, *said, END] for _, said in batch[::2]]
        ids_NT = pad([text for text, _ in batch[1::2]] + labels)
        logits_NVT = model.logits(ids_NT[:, :-1]).transpose(1, 2)
        return F.cross_entropy(logits_NVT, ids_NT[:, 1:], ignore_index=PAD)

    fit([model], size.target_steps, 4e-3, loss)
    return model.requires_grad_(False)


def warm_start(av: Verbalizer, ar: Reconstructor, rows: list[Row], h_ND: Tensor, size: Size):
    """The two learn from the same labels and never meet; one loop trains both."""
    dice = random.Random(1)

    def loss(step: int) -> Tensor:
        chosen = dice.sample(range(len(rows)), BATCH)
        labels, h = [[*rows[i][1], END] for i in chosen], h_ND[chosen]
        logp_NT, mask_NT = av.logprobs(h, labels)
        return -logp_NT[mask_NT].mean() + mse(h, ar(labels)).mean()

    fit([av.requires_grad_(True), ar.requires_grad_(True)], size.warm_steps, 3e-3, loss)


def reinforce(av: Verbalizer, ar: Reconstructor, h_ND: Tensor, size: Size) -> None:
    """GRPO: of G explanations of a vector those above the group's mean are made likelier."""
    reference, dice = copy.deepcopy(av).requires_grad_(False), random.Random(2)

    def loss(step: int) -> Tensor:
        h = h_ND[dice.sample(range(len(h_ND)), BATCH // 2)].repeat_interleave(GROUP, 0)
        said = av.write(h, temperature=1.0, seed=step)
        error_N = mse(h, ar(said))  # its gradient trains the AR on what the AV writes now
        closed_N = torch.tensor([each[-1] == END for each in said])
        r_NG = (-error_N.detach().log()).where(closed_N, -2.0).view(-1, GROUP)
        advantage_NG = (r_NG - r_NG.mean(1, True)) / (r_NG.std(1, keepdim=True) + 1e-4)
        logp_NT, mask_NT = av.logprobs(h, said)
        gap_NT = reference.logprobs(h, said)[0] - logp_NT
        kl_NT = gap_NT.exp() - gap_NT - 1  # keeps the AV near the warm start's words
        policy_NT = -(logp_NT - logp_NT.detach()).exp() * advantage_NG.view(-1, 1)
        return (policy_NT + 0.01 * kl_NT)[mask_NT].mean() + error_N[closed_N].sum() / len(h)

    fit([av, ar], size.rl_steps, 5e-4, loss)


@torch.no_grad()
def measure(av: Verbalizer, ar: Reconstructor, h_ND: Tensor, mean_D: Tensor) -> dict[str, float]:
    """FVE on held-out rows, and what knowing nothing would score."""
    variance = (unit(h_ND) - mean_D).square().mean()
    rebuilt_ND = ar(av.write(h_ND, temperature=0.0))
    guesses = {
        "fve": rebuilt_ND,
        "shuffled": rebuilt_ND.roll(4, 0),  # each row gets another document's explanation
        "mean": mean_D.expand_as(h_ND),  # brought to norm √D as every guess is; bare it scores 0
        "empty": ar([[]]).expand_as(h_ND),
        "zero_vector": ar(av.write(0 * h_ND[:1], temperature=0.0)).expand_as(h_ND),
    }
    return {name: float(1 - mse(h_ND, x).mean() / variance) for name, x in guesses.items()}


def run(size: Size) -> None:
    torch.manual_seed(0)
    started = time.monotonic()
    words, rows, held_out = make_world(size)
    target = train_target(words, rows, size)
    h_ND = target.at_end([text for text, _ in rows], LAYER + 1)
    held_ND = target.at_end([text for text, _ in held_out], LAYER + 1)
    mean_D = unit(h_ND).mean(0)
    av, ar = Verbalizer(target), Reconstructor(target)

    def report(stage: str) -> None:
        found = measure(av, ar, held_ND, mean_D).items()
        figures = "  ".join(f"{name} {value:6.3f}" for name, value in found)
        print(f"{stage:<12} {figures}  ({time.monotonic() - started:.0f} s)", flush=True)

    report("untrained")
    warm_start(av, ar, rows, h_ND, size)
    report("warm start")
    reinforce(av, ar, h_ND, size)
    report("joint RL")
    for (text, _), said in zip(held_out, av.write(held_ND[:3], temperature=0.0), strict=False):
        print(f"\n... {words.decode(text[-12:])}\n  => {words.decode(said)}")


if __name__ == "__main__":
    run(QUICK if sys.argv[1:] == ["--quick"] else Size())
