"""The checkpoint contract: what `nla_meta.yaml` says, and whether the live model agrees.

No torch here: tokenizers and configs are used through their public methods only.
"""

from nlakit.contract.encoding import EncodedText, encode_ids, encode_with_offsets
from nlakit.contract.marker import AUTO, find_marker
from nlakit.contract.render import ArPrompt, PromptParts, measure_tokens, render_ar, render_av
from nlakit.contract.schema import (
    AR_SLOT,
    AV_SLOT,
    META_NAME,
    DatasetExtraction,
    DatasetMeta,
    Extraction,
    Injection,
    NlaMeta,
    PromptTemplates,
    Role,
    Scale,
    Tokens,
    read_dataset_meta,
    read_meta,
    write_dataset_meta,
    write_meta,
)
from nlakit.contract.templates import TemplateRefusal, render_chat
from nlakit.contract.upgrade import upgrade
from nlakit.contract.verify import disagreements, verify

__all__ = [
    "AR_SLOT",
    "AUTO",
    "AV_SLOT",
    "META_NAME",
    "ArPrompt",
    "DatasetExtraction",
    "DatasetMeta",
    "EncodedText",
    "Extraction",
    "Injection",
    "NlaMeta",
    "PromptParts",
    "PromptTemplates",
    "Role",
    "Scale",
    "TemplateRefusal",
    "Tokens",
    "disagreements",
    "encode_ids",
    "encode_with_offsets",
    "find_marker",
    "measure_tokens",
    "read_dataset_meta",
    "read_meta",
    "render_ar",
    "render_av",
    "render_chat",
    "upgrade",
    "verify",
    "write_dataset_meta",
    "write_meta",
]
