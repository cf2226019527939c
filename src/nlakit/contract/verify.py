"""Does the live tokenizer and config agree with `nla_meta.yaml`? If not, say where and stop.

Everything a wrong answer would turn into confident nonsense is checked before a weight is used.
`found` is what the file says, `expected` what the live model has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nlakit.contract.render import encode, encode_marker, render_ar, render_av
from nlakit.contract.schema import NlaMeta, Role
from nlakit.errors import ContractError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "x"


def verify(meta: NlaMeta, tokenizer: PreTrainedTokenizerBase, config: Any, role: Role) -> None:
    """Check a sidecar against the tokenizer and Hugging Face config of its own directory.

    Args:
        meta: the sidecar.
        tokenizer: the directory's tokenizer.
        config: the directory's model config; `text_config` is looked into where there is one.
        role: what the caller is about to use the directory as.

    Raises:
        ContractError: the first disagreement; names field, found and expected.
    """
    for error in disagreements(meta, tokenizer, config, role):
        raise error


def disagreements(
    meta: NlaMeta, tokenizer: PreTrainedTokenizerBase, config: Any, role: Role
) -> Iterator[ContractError]:
    """All that `verify` refuses, in its order. Arguments as there."""
    text_config = getattr(config, "text_config", None) or config
    num_blocks = text_config.num_hidden_layers
    checks: list[Callable[[], None]] = [
        lambda: _require("role", meta.role, role),
        lambda: _require("d_model", meta.d_model, text_config.hidden_size),
        lambda: _check_layers(meta, num_blocks, role),
        lambda: _check_marker(meta, tokenizer),
    ]
    if role == "av":
        checks += [
            lambda: _check_injection(meta, num_blocks),
            lambda: _check_slot(meta, tokenizer),
        ]
    else:
        checks.append(lambda: _check_ar_prompt(meta, tokenizer))
    for check in checks:
        try:
            check()
        except ContractError as error:
            yield error


def _check_marker(meta: NlaMeta, tokenizer: PreTrainedTokenizerBase) -> None:
    marker_id = encode_marker(tokenizer, meta.tokens.injection_char)
    _require("tokens.injection_token_id", meta.tokens.injection_token_id, marker_id)


def _require(field: str, found: Any, expected: Any) -> None:
    if found != expected:
        hint = "The checkpoint's sidecar and the live model do not belong together."
        raise ContractError(field=field, found=found, expected=expected, hint=hint)


def _check_layers(meta: NlaMeta, num_blocks: int, role: Role) -> None:
    """A reconstructor is cut after block K; a verbalizer is whole, so it has more."""
    layer = meta.extraction.layer_index
    if role == "ar":
        _require("extraction.layer_index", layer, num_blocks - 1)
    elif layer >= num_blocks:
        expected = f"less than {num_blocks}, the number of blocks"
        raise ContractError(field="extraction.layer_index", found=layer, expected=expected)


def _check_injection(meta: NlaMeta, num_blocks: int) -> None:
    injection = meta.injection
    if injection.convention == "add" and injection.layer >= num_blocks:
        expected = f"less than {num_blocks}, the number of blocks"
        raise ContractError(field="injection.layer", found=injection.layer, expected=expected)


def _check_slot(meta: NlaMeta, tokenizer: PreTrainedTokenizerBase) -> None:
    prefix, suffix = render_av(meta, tokenizer)
    tokens = meta.tokens
    _require("tokens.injection_left_neighbor_id", tokens.injection_left_neighbor_id, prefix[-1])
    _require("tokens.injection_right_neighbor_id", tokens.injection_right_neighbor_id, suffix[0])
    _check_bos_once("prompt_templates.av", prefix, tokenizer.bos_token_id)


def _check_ar_prompt(meta: NlaMeta, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = render_ar(meta, tokenizer).encode(PROBE)
    recorded = meta.tokens.critic_suffix_ids
    if recorded is not None:
        _require("tokens.critic_suffix_ids", list(recorded), ids[-len(recorded) :])
    adds = encode(tokenizer, PROBE, special=True) != encode(tokenizer, PROBE, special=False)
    bos = tokenizer.bos_token_id
    if adds and bos is not None and ids[0] != bos:
        # Without it a Gemma reconstructor loses more than half of its accuracy, silently.
        found, expected = f"a prompt that starts with id {ids[0]}", f"BOS (id {bos}) first"
        raise ContractError(field="prompt_templates.ar", found=found, expected=expected)
    _check_bos_once("prompt_templates.ar", ids, bos)


def _check_bos_once(field: str, ids: list[int], bos: Any) -> None:
    if bos is not None and ids[:2] == [bos, bos]:
        found, expected = f"BOS (id {bos}) twice at the start", "BOS once"
        raise ContractError(field=field, found=found, expected=expected)
