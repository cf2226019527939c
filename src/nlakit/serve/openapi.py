"""Writes the committed OpenAPI description: `python -m nlakit.serve.openapi`."""

from __future__ import annotations

import json
from pathlib import Path

from nlakit.config import write_text_atomic

from .app import bare_app
from .schemas_v1 import DescribeRequestV1

PATH = Path(__file__).with_name("openapi.json")
REFERENCE = "#/components/schemas/{model}"


def render() -> str:
    """The description of the application as it is."""
    spec = bare_app().openapi()
    schemas = spec["components"]["schemas"]
    # Its route reads the body itself, so FastAPI does not know the model.
    model = DescribeRequestV1.model_json_schema(ref_template=REFERENCE)
    schemas.update(model.pop("$defs", {}))
    schemas[DescribeRequestV1.__name__] = model
    return json.dumps(spec, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write_text_atomic(PATH, render())
