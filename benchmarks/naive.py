"""Training written plainly: what a first version of an NLA trainer does.

Every row runs the whole prompt; logits are taken at all positions; everything is float32. In RL,
rollouts come from Hugging Face `generate`, the policy that sampled is run again for its
log-probabilities, and the AR scores in one pass and learns in another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nlakit.core.fidelity import reconstruction_mse
from nlakit.core.losses import group_advantages, kl_k3, masked_mean, policy_loss
from nlakit.core.scale import resolve_scale
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer
from nlakit.train.rewards import length_cost, reconstruction, with_unclosed
from nlakit.train.rl import JointRl

from . import checkpoints
from .hf import generate, prompt_embeddings
from .measure import Done, Task
from .ours import load_joint_rl, new_learner, rl_config, training_rows
from .specs import NEW_TOKENS, SPECS


def full_logprobs(
    verbalizer: Verbalizer, vectors_BD: Tensor, responses: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of responses and their mask, B x T, from whole prompts and all logits."""
    width = max(len(row) for row in responses)
    ids_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in responses])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in responses]).bool()
    prompt_BPD = prompt_embeddings(verbalizer, vectors_BD)
    answer_BTD = verbalizer.model.get_input_embeddings()(ids_BT)
    whole = torch.cat([prompt_BPD, answer_BTD], dim=1)
    logits_BPTV = verbalizer.model(inputs_embeds=whole, use_cache=False).logits
    all_logprobs = logits_BPTV.log_softmax(dim=-1)[:, prompt_BPD.shape[1] - 1 : -1]
    return all_logprobs.gather(-1, ids_BT[..., None])[..., 0], mask_BT


def rebuild(reconstructor: Reconstructor, texts: Sequence[str]) -> Tensor:
    """Vectors of explanations, all in one batch padded to the longest."""
    ids = [reconstructor.encode(text) for text in texts]
    width = max(len(row) for row in ids)
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    hidden = reconstructor.backbone(
        input_ids=padded, attention_mask=mask, use_cache=False
    ).last_hidden_state
    last = torch.tensor([len(row) - 1 for row in ids])
    return reconstructor.head(hidden[torch.arange(len(ids)), last])


def train_step(model: str, rows: int, new_tokens: int = NEW_TOKENS) -> Task:
    """One step of the verbalizer's warm start."""
    verbalizer = checkpoints.load_verbalizer(model)
    learner = new_learner(verbalizer.model)
    vectors, responses = training_rows(model, rows, new_tokens)

    def run() -> Done:
        logprobs_BT, mask_BT = full_logprobs(verbalizer, vectors, responses)
        (-masked_mean(logprobs_BT, mask_BT)).backward()
        learner.update(1)
        return Done(1)

    return Task(run, run)


def rl(model: str, vectors: int, group: int, new_tokens: int = NEW_TOKENS) -> Task:
    """One step of joint RL with the same rewards, reference policy and optimisers as ours."""
    joint = load_joint_rl(model, rl_config(vectors, group, new_tokens), "float32")
    pool = checkpoints.vectors(SPECS[model], vectors)

    def run() -> Done:
        step(joint, pool, new_tokens)
        return Done(1)

    return Task(run, run)


def step(joint: JointRl, vectors_ND: Tensor, new_tokens: int) -> None:
    """Sample, score, reward, update both."""
    config, group = joint.config, joint.config.group
    av, ar = joint.verbalizer, joint.reconstructor
    rows_RD = vectors_ND.repeat_interleave(group, dim=0)
    responses = generate(av, rows_RD, new_tokens, sampled=True).tolist()
    parsed = [av.parse(ids) for ids in responses]
    texts, closed_R = [each.text for each in parsed], torch.tensor([p.closed for p in parsed])
    scale = resolve_scale("sqrt_d_model", rows_RD.shape[1])
    with torch.no_grad():
        mse_R = reconstruction_mse(rows_RD, rebuild(ar, texts), scale)
        old_BT, _ = full_logprobs(av, rows_RD, responses)
        reference_BT, _ = full_logprobs(joint.reference, rows_RD, responses)
    shape = (-1, group)
    lengths_NG = torch.tensor([len(ids) for ids in responses]).view(shape)
    reward_NG = reconstruction(mse_R.view(shape)) + length_cost(
        lengths_NG, config.length_allowance, config.length_cost
    )
    reward_NG = with_unclosed(reward_NG, closed_R.view(shape), config.unclosed_reward)
    logprobs_BT, mask_BT = full_logprobs(av, rows_RD, responses)
    advantages_R = group_advantages(reward_NG).flatten()
    loss = policy_loss(logprobs_BT, old_BT, advantages_R, mask_BT, clip=0.2)
    loss = loss + config.kl_coefficient * masked_mean(kl_k3(logprobs_BT, reference_BT), mask_BT)
    loss.backward()
    joint.av.update(1)
    error = reconstruction_mse(rows_RD, rebuild(ar, texts), scale)
    ((error * closed_R).sum() / closed_R.sum().clamp_min(1)).backward()
    joint.ar.update(1)


SIDES = {"train_step": train_step, "rl": rl}
