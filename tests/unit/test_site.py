"""The docs as a site: nothing unlinked, no dead link, every public name in the reference."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import nlakit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "reference" not in path.parts)
GENERATED = {"reference/cli", "reference/api", "reference/http"}
NOTEBOOKS = {f"notebooks/{path.stem}" for path in (DOCS / "notebooks").glob("*.py")}
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
TOCTREE = re.compile(r"```\{toctree\}\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(page: Path) -> set[str]:
    """Pages named in the toctrees of a page."""
    blocks = TOCTREE.findall(page.read_text(encoding="utf-8"))
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return {line for line in lines if line and not line.startswith(":")}


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub and the site make of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether a relative link names a file, and a heading of it that is there."""
    target, _, anchor = link.partition("#")
    if re.match(r"[a-z]+:", link) or target.removesuffix(".md") in GENERATED:
        return True
    path = (page.parent / target).resolve() if target else page
    if not path.exists():
        return False
    return not anchor or path.suffix != ".md" or anchor in anchors(path)


def test_every_page_stands_in_the_table_of_contents():
    listed = set().union(*(entries(page) for page in PAGES)) | {"index"}
    names = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES}
    assert (names | NOTEBOOKS) - listed == set(), "pages that nothing links to"
    assert listed - names - NOTEBOOKS - GENERATED == set(), "entries without a page"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_links_of_a_page_lead_somewhere(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not leads_somewhere(page, link)] == []


@pytest.mark.parametrize("name", ["frictions.md", "page.md"])
def test_tests_that_a_page_names_are_there(name):
    named = set(re.findall(r"`(test_\w+)`", (DOCS / name).read_text(encoding="utf-8")))
    files = [path for path in (ROOT / "tests").rglob("test_*.py")]
    functions = {
        found
        for path in files
        for found in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named and named - functions - {path.stem for path in files} == set()


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^### \"(.+)\"", page, re.MULTILINE)
    source = " ".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r"\"\s+f?\"", "", source)  # sentences go over several lines
    cut = re.compile(r" ?…[ :]?|'[^']+'|\bN\b|Run: ")
    parts = [part for message in quoted for part in cut.split(message)]
    known = [part.strip(" .,;:[]'") for part in parts if len(part.split()) > 2]
    assert len(known) >= 5 and [part for part in known if part not in source] == []


def test_the_troubleshooting_page_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - {"dev", "docs"}
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert [extra for extra in sorted(extras) if f"`{extra}`" not in page] == []


def test_commands_page_has_every_verb(reference):
    page = reference.commands()
    for verb in ("explain", "describe", "serve", "train", "eval storyworld", "doctor"):
        assert re.search(rf"^#+ nlakit {verb}$", page, re.MULTILINE), verb
    assert "| 130 | Ctrl-C" in page


def test_http_page_has_every_path_and_its_fields(reference):
    page = reference.http(
        {
            "paths": {
                "/a": {
                    "post": {
                        "summary": "Say\n a.",
                        "requestBody": {
                            "content": {"application/json": {"schema": {"$ref": "#/x/A"}}}
                        },
                        "responses": {"200": {"description": "Said."}},
                    }
                }
            },
            "components": {
                "schemas": {
                    "A": {
                        "properties": {
                            "n": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 3},
                            "rows": {"type": "array", "items": {"type": "number"}},
                        },
                        "required": ["rows"],
                    }
                }
            },
        }
    )
    assert "## POST /a\n\nSay a.\n" in page
    assert "| `n` | integer or null | `3` |  |" in page
    assert "| `rows` | list of number | required |  |" in page
    assert "**Answers.** 200: Said" in page


def test_python_page_has_every_public_name_with_a_summary(reference):
    page = reference.api()
    for name in nlakit.__all__:
        if not name.startswith("__"):
            assert re.search(rf"`nlakit\.{name} <nlakit\.[\w.]+>`: \S", page), name


def test_documented_modules_are_there_and_hold_every_public_name(reference):
    documented = {module for modules in reference.MODULES.values() for module in modules}
    names = [name for name in nlakit.__all__ if not name.startswith("__")]
    assert {getattr(nlakit, name).__module__ for name in names} <= documented
    for modules in reference.MODULES.values():
        for module in modules:
            assert importlib.util.find_spec(module) is not None, module
