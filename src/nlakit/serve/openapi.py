"""The OpenAPI description: of a running application, and the committed file.

`python -m nlakit.serve.openapi` writes the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from nlakit.config import write_text_atomic

from .routes.common import BODY_MODELS, REFERENCE

PATH = Path(__file__).with_name("openapi.json")


def describe(app: FastAPI) -> dict[str, Any]:
    """The description of an application, with the bodies that its routes read themselves."""
    if app.openapi_schema is None:
        spec = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = spec["components"]["schemas"]
        for name, body in BODY_MODELS.items():
            model = body.model_json_schema(ref_template=REFERENCE + "{model}")
            schemas.update(model.pop("$defs", {}))
            schemas[name] = model
        app.openapi_schema = spec
    return app.openapi_schema


def render() -> str:
    """The committed file."""
    from .app import bare_app

    return json.dumps(bare_app().openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write_text_atomic(PATH, render())
