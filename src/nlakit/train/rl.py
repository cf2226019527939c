"""Joint RL (method.md §3): GRPO for the AV, regression on the same explanations for the AR.

The plain loop to learn from is `recipes/minimal.py`; this one adds held-out figures, resuming, the
reference policy, and the choice of the best checkpoint. One update is made per rollout, so the
rollout's own policy is the one being updated and no old-policy pass is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nlakit.claims.grounding import ClaimJudge
from nlakit.core.attention import to_device
from nlakit.core.fidelity import reconstruction_mse
from nlakit.core.losses import group_advantages, kl_k3, policy_loss
from nlakit.core.scale import resolve_scale
from nlakit.data.streams import Vectors
from nlakit.engines.base import Completion, PolicyEngine, Sampling
from nlakit.errors import ConfigError
from nlakit.models.families import backbone_of
from nlakit.models.likelihood import text_logprobs
from nlakit.models.precision import bring_to
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.sharding import in_step
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer

from . import distributed, rewards
from .chooser import Chooser
from .config import GroundedRlConfig, RlConfig, TrainingSettings
from .evaluation import HeldOut
from .learner import Learner
from .micro_batches import micro_batches, token_budget
from .run import RunDirectory, generator, train_steps

ROLLOUT_PLACE, VECTOR_PLACE, REWORD_PLACE = 21, 22, 23


@dataclass(frozen=True)
class TruthTerms:
    """What is rewarded besides reconstruction, and who judges it; none of them is trained.

    Attributes:
        reword: paraphrases an explanation, by a number; None where nobody can.
    """

    config: GroundedRlConfig
    judge: ClaimJudge
    target: Target
    reword: Callable[[str, int], str] | None = None


@dataclass(frozen=True)
class Rollout:
    """N vectors with G explanations each, flattened to rows.

    `texts` are what the AV wrote, `read` what the AR is given of them, `ar_ids` its prompts;
    `logprobs` are the engine's, of each token of `responses`.
    """

    vectors_RD: Tensor
    responses: list[list[int]]
    logprobs: list[list[float]]
    texts: list[str]
    read: list[str]
    ar_ids: list[list[int]]
    closed_R: Tensor
    group: int

    @property
    def num_tokens_R(self) -> Tensor:
        return torch.tensor([len(row) for row in self.responses])


@dataclass
class JointRl:
    """One run of joint RL: the pair in training, its frozen start, optimisers and settings.

    Attributes:
        most_k3: how far the engine's policy may be from the trainer's (`check_policy`); None where
            both run the same weights by the same code.
        example: an explanation of the last rollout, for people.
    """

    config: RlConfig
    settings: TrainingSettings
    engine: PolicyEngine
    reference: Verbalizer
    frozen: Reconstructor
    av: Learner
    ar: Learner
    truth: TruthTerms | None = None
    most_k3: float | None = None
    example: str = ""

    @property
    def verbalizer(self) -> Verbalizer:
        return self.engine.verbalizer

    @property
    def reconstructor(self) -> Reconstructor:
        return self.engine.reconstructor


def train_rl(
    engine: PolicyEngine,
    reference: Verbalizer,
    frozen: Reconstructor,
    vectors_ND: Vectors,
    held_out: HeldOut,
    config: RlConfig,
    settings: TrainingSettings,
    run: RunDirectory,
    truth: TruthTerms | None = None,
    most_k3: float | None = None,
) -> None:
    """Train the engine's pair in place; `best/{av,ar}` of the run is the chosen checkpoint.

    Raises:
        ConfigError: the engine's log-probabilities are further from the trainer's than `most_k3`.
    """
    if run.done is not None:
        return
    rl = joint_rl(engine, reference, frozen, config, settings, truth, most_k3)
    chooser = Chooser(run, held_out, engine, frozen, config.precision_slack)
    chooser.start()

    def step(number: int) -> dict[str, float]:
        metrics = rl_step(rl, vectors_ND, number)
        if (number + 1) % config.evaluate_every == 0 or number + 1 == config.steps:
            metrics |= chooser.consider(number + 1)
        return metrics

    learners = {"av": rl.av, "ar": rl.ar}
    train_steps(
        run, learners, config.steps, step, settings.checkpoint_every, "joint RL", lambda: rl.example
    )
    run.finish({"steps": config.steps, "best": chooser.record()})


def joint_rl(
    engine: PolicyEngine,
    reference: Verbalizer,
    frozen: Reconstructor,
    config: RlConfig,
    settings: TrainingSettings,
    truth: TruthTerms | None = None,
    most_k3: float | None = None,
) -> JointRl:
    """What a step needs: all models brought to the precision of training, and the optimisers."""
    for model in (engine.verbalizer.model, engine.reconstructor.backbone):
        bring_to(model, settings.precision)
    bring_to(reference.model, settings.precision)
    bring_to(frozen.backbone, settings.precision)
    engine.refresh()
    return JointRl(
        config,
        settings,
        engine,
        reference,
        frozen,
        Learner(dict(engine.verbalizer.model.named_parameters()), config.verbalizer, config.steps),
        Learner(dict(engine.reconstructor.named_parameters()), config.reconstructor, config.steps),
        truth,
        most_k3,
    )


# -- one step --------------------------------------------------------------------------------------
def rl_step(rl: JointRl, vectors_ND: Vectors, number: int) -> dict[str, float]:
    """Sample, reward, update both; returns the figures of the step."""
    config = rl.config
    picked = torch.randint(
        len(vectors_ND),
        (config.vectors,),
        generator=generator(rl.settings.seed, VECTOR_PLACE, number),
    )
    own = distributed.share(config.vectors)
    rollout = roll_out(rl, vectors_ND[picked[list(own)]], number, own.start)
    rl.example = rollout.texts[0]
    mse_R = update_reconstructor(rl, rollout, number)
    num_rows = config.vectors * config.group
    terms = reward_terms(rl, rollout, mse_R)
    reward_NG = rewards.with_unclosed(
        torch.stack(list(terms.values())).sum(0),
        rollout.closed_R.view(-1, rollout.group),
        config.unclosed_reward,
    )
    parts = {} if rl.truth is None else terms
    figures = update_verbalizer(rl, rollout, group_advantages(reward_NG).flatten(), number)
    rl.engine.refresh()
    closed = rollout.closed_R.float()
    num_closed = distributed.total(float(closed.sum()))
    return {
        "reward": distributed.total(float(reward_NG.sum())) / num_rows,
        "mse": distributed.total(float((mse_R * closed).sum())) / max(1.0, num_closed),
        "tokens": distributed.total(float(rollout.num_tokens_R.sum())) / num_rows,
        "extraction_rate": num_closed / num_rows,
        "reward_spread": distributed.total(float(reward_NG.std(dim=1).sum())) / config.vectors,
        **{name: distributed.total(float(term.sum())) / num_rows for name, term in parts.items()},
        **figures,
    }


def roll_out(rl: JointRl, vectors_ND: Tensor, number: int, first: int) -> Rollout:
    """Sample explanations of this process's vectors, which are numbered from `first`."""
    config, seeds = rl.config, generator(rl.settings.seed, ROLLOUT_PLACE, number)
    sampling = Sampling(
        samples=config.group,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        seed=int(torch.randint(1 << 62, (1,), generator=seeds)),
    )
    groups = rl.engine.verbalize(vectors_ND, sampling, first=first)
    rows: Sequence[Completion] = [each for group in groups for each in group]
    texts = [each.text for each in rows]
    read = texts if rl.truth is None else reworded(rl, rl.truth, texts, number)
    return Rollout(
        vectors_RD=vectors_ND.repeat_interleave(config.group, dim=0),
        responses=[list(each.ids) for each in rows],
        logprobs=[list(each.logprobs) for each in rows],
        texts=texts,
        read=read,
        ar_ids=[rl.reconstructor.encode(text) for text in read],
        closed_R=torch.tensor([each.closed for each in rows]),
        group=config.group,
    )


def reworded(rl: JointRl, truth: TruthTerms, texts: list[str], number: int) -> list[str]:
    """The explanations with those of some vectors paraphrased: a private code earns nothing.

    All samples of a vector are re-worded or none, since they are compared with one another.
    """
    reword, group = truth.reword, rl.config.group
    if reword is None:
        return texts
    seeds = generator(rl.settings.seed, REWORD_PLACE, number)
    chosen_N = torch.rand(len(texts) // group, generator=seeds) < truth.config.reword_share
    return [
        reword(text, number) if chosen_N[row // group] else text for row, text in enumerate(texts)
    ]


def claim_odds(truth: TruthTerms, rollout: Rollout) -> Tensor:
    """N x G: the judge's log-odds of each explanation's claims, summed."""
    judged = truth.judge.judge(rollout.vectors_RD, rollout.texts)
    odds = [
        rewards.claim_log_odds((each.probability for each in claims), truth.config.judge_neutral)
        for claims in judged
    ]
    return torch.tensor(odds, dtype=torch.float32).view(-1, rollout.group)


def reward_terms(rl: JointRl, rollout: Rollout, mse_R: Tensor) -> dict[str, Tensor]:
    """N x G each: what is summed to the reward of a closed explanation."""
    shape, truth = (-1, rollout.group), rl.truth
    mse_NG, tokens_NG = mse_R.view(shape), rollout.num_tokens_R.view(shape)
    length = rewards.length_cost(tokens_NG, rl.config.length_allowance, rl.config.length_cost)
    if truth is None:
        return {"reconstruction": rewards.reconstruction(mse_NG), "length": length}
    terms = {
        "reconstruction": _reconstruction(rl, truth.config.independent_share, rollout, mse_NG),
        "length": length,
        "claims": truth.config.judge_weight * claim_odds(truth, rollout),
    }
    if truth.config.writing_cost > 0:
        total_R, num_R = text_logprobs(truth.target, rollout.texts)
        terms["writing"] = rewards.writing_quality(
            total_R.view(shape),
            num_R.view(shape),
            truth.config.writing_enough,
            truth.config.writing_cost,
        )
    return terms


def _reconstruction(rl: JointRl, share: float, rollout: Rollout, mse_NG: Tensor) -> Tensor:
    if share == 0:
        return rewards.reconstruction(mse_NG)
    other_R = _score(rl.frozen, rollout)
    return rewards.shared_reconstruction(mse_NG, other_R.view_as(mse_NG), share)


def update_reconstructor(rl: JointRl, rollout: Rollout, number: int) -> Tensor:
    """Regress on the closed explanations; returns the errors before any update, the reward's.

    With one update that forward serves as the reward too. With several, all are scored first: the
    samples of a vector must be judged by the same AR.
    """
    num_updates = min(rl.config.reconstructor_updates, rollout.group)
    if num_updates == 1:
        mse_R = _regress(rl, rollout, list(range(len(rollout.ar_ids))))
        rl.ar.update(number)
        return mse_R
    mse_R = _score(rl.reconstructor, rollout)
    for part in range(num_updates):
        rows = [r for r in range(len(rollout.ar_ids)) if r % rollout.group % num_updates == part]
        _regress(rl, rollout, rows)
        rl.ar.update(number)
    return mse_R


def _score(reconstructor: Reconstructor, rollout: Rollout) -> Tensor:
    rebuilt = reconstructor.reconstruct(rollout.read).cpu()
    scale = resolve_scale("sqrt_d_model", rollout.vectors_RD.shape[1])
    return reconstruction_mse(rollout.vectors_RD, rebuilt, scale)


def _regress(rl: JointRl, rollout: Rollout, rows: list[int]) -> Tensor:
    """Gradients of the mean error over the closed ones of `rows`; returns the error of each row."""
    ar, config = rl.reconstructor, rl.config
    scale = resolve_scale("sqrt_d_model", rollout.vectors_RD.shape[1])
    num_closed = max(1.0, distributed.total(float(rollout.closed_R[rows].sum())))
    tokens = [len(ids) for ids in rollout.ar_ids]
    budget = token_budget(ar.backbone, ar.recompute)
    order, errors = [], []
    own = micro_batches(rows, tokens, config.micro_batch, budget)
    for chunk, is_own in in_step(ar.backbone, own, rows[:1]):
        rebuilt = ar.forward([rollout.ar_ids[row] for row in chunk])
        wanted = to_device(rollout.vectors_RD[chunk], rebuilt.device)
        mse = reconstruction_mse(wanted, rebuilt, scale)
        closed = to_device(rollout.closed_R[chunk], rebuilt.device) * is_own
        ((mse * closed).sum() / num_closed).backward()
        if is_own:
            order += chunk
            errors.append(mse.detach())
    mse_R = torch.zeros(len(rollout.ar_ids))
    if order:
        mse_R[order] = torch.cat(errors).cpu()
    return mse_R


@dataclass
class PolicySums:
    """Sums over the tokens of a step, on the device until they are read.

    Attributes:
        kl: of the policy to the reference, k3.
        surprise: negative log-probabilities.
        gap: k3 of the engine's policy to the trainer's.
    """

    kl: Tensor | float = 0.0
    surprise: Tensor | float = 0.0
    gap: Tensor | float = 0.0


def update_verbalizer(
    rl: JointRl, rollout: Rollout, advantage_R: Tensor, number: int
) -> dict[str, float]:
    """One policy-gradient step with a KL term towards the warm-started AV.

    Raises as `check_policy` does, before a weight of the AV has changed.
    """
    av = rl.verbalizer
    total_tokens = distributed.total(float(rollout.num_tokens_R.sum()))
    tokens = [len(av.suffix_ids) + len(response) for response in rollout.responses]
    budget = token_budget(backbone_of(av.model), av.recompute)
    sums = PolicySums()
    own = micro_batches(range(len(tokens)), tokens, rl.config.micro_batch, budget)
    for rows, is_own in in_step(av.model, own, [0]):
        counted = sums if is_own else None
        _policy_gradient(rl, rollout, rows, advantage_R, total_tokens, counted)
    gap = check_policy(rl.most_k3, distributed.total(float(sums.gap)) / total_tokens)
    norm = rl.av.update(number)
    return {
        "kl": distributed.total(float(sums.kl)) / total_tokens,
        "surprise": distributed.total(float(sums.surprise)) / total_tokens,
        "av_grad_norm": norm,
        **gap,
    }


def _policy_gradient(
    rl: JointRl,
    rollout: Rollout,
    rows: Sequence[int],
    advantage_R: Tensor,
    total_tokens: float,
    sums: PolicySums | None,
) -> None:
    """The gradient of some rows; policy and reference run over the same packed tokens.

    Args:
        sums: None: the rows are spare ones, whose gradient is zero.
    """
    av, vectors = rl.verbalizer, rollout.vectors_RD[rows]
    packed = av.pack([rollout.responses[row] for row in rows])
    with torch.no_grad():
        reference, _ = rl.reference.packed_logprobs(vectors, packed)
    logprobs, mask = av.packed_logprobs(vectors, packed)
    kl = (kl_k3(logprobs, reference) * mask).sum()
    # On-policy: the policy that sampled is the one being updated, so the ratio is 1.
    gain = policy_loss(
        logprobs, logprobs.detach(), to_device(advantage_R[rows], mask.device), mask, clip=None
    )
    share = mask.sum() / total_tokens
    loss = share * gain + rl.config.kl_coefficient * kl / total_tokens
    if sums is None:
        (loss * 0.0).backward()
        return
    loss.backward()
    logprobs = logprobs.detach()
    sums.kl += kl.detach()
    sums.surprise -= (logprobs * mask).sum()
    sums.gap += policy_gap([rollout.logprobs[row] for row in rows], logprobs, mask)


def policy_gap(written: Sequence[Sequence[float]], logprobs_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """KL (k3) of the engine's policy to the trainer's, summed over tokens.

    Args:
        written: the engine's log-probabilities, of each token of each row.
    """
    width = mask_BT.shape[1]
    padded = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in written])
    engine_BT = to_device(padded, mask_BT.device)
    return (kl_k3(engine_BT, logprobs_BT) * mask_BT).sum()


def check_policy(most_k3: float | None, k3: float) -> dict[str, float]:
    """The figure to log, where there is a bound.

    Raises:
        ConfigError: above it. The gradient takes the trainer's policy for the one that sampled.
    """
    if most_k3 is None:
        return {}
    if not k3 <= most_k3:
        raise ConfigError(
            "The engine that writes the rollouts and the trainer disagree on the tokens' "
            f"log-probabilities by k3 = {k3:.3g}, more than {most_k3:.3g}: the engine runs other "
            "weights or coarser numbers. Give precision=float32, rl.rollouts=local, or a higher "
            "rl.vllm.most_k3."
        )
    return {"rollout_k3": k3}
