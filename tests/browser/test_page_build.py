"""The committed page and types are those of their sources, and reach out to nobody. No browser."""

import hashlib
import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
WEB, SERVE = ROOT / "web", ROOT / "src" / "nlakit" / "serve"
SOURCES = ("src", "public", "index.html", "vite.config.ts", "package-lock.json")


def _hash(root: Path, paths: list[Path]) -> str:
    """As `web/stamp.mjs` computes it."""
    found = hashlib.sha256()
    for name in sorted(path.relative_to(root).as_posix() for path in paths):
        found.update(name.encode() + b"\0" + (root / name).read_bytes())
    return found.hexdigest()


def test_the_built_page_is_fresh():
    named = [WEB / name for name in SOURCES]
    files = [f for p in named for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
    stamp = (SERVE / "static" / "sources.sha256").read_text().strip()
    assert stamp == _hash(WEB, files), "run `npm run build` in web/"


def test_the_types_are_those_of_the_committed_interface():
    stamp = (WEB / "src" / "api" / "schema.sha256").read_text().strip()
    assert stamp == _hash(SERVE, [SERVE / "openapi.json"]), "run `npm run types` in web/"


def test_the_page_names_no_other_host_and_holds_nothing_inline():
    page = (SERVE / "static" / "index.html").read_text()
    assert not re.search(r"https?://|\son\w+=|style=|<style", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    text = "".join(f.read_text() for f in (SERVE / "static" / "assets").iterdir())
    hosts = set(re.findall(r"https?://([\w.-]+)", text))
    assert hosts <= {"www.w3.org"}  # the name of the SVG namespace; nothing is fetched from it
    assert "eval(" not in text and "new Function" not in text


def test_no_source_writes_html_into_the_page():
    sources = [f for f in (WEB / "src").rglob("*.ts*") if f.name != "schema.d.ts"]
    bad = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|__html"
    assert len(sources) > 20
    assert [f.name for f in sources if re.search(bad, f.read_text(encoding="utf-8"))] == []


def test_the_page_is_small():
    size = sum(f.stat().st_size for f in (SERVE / "static").rglob("*") if f.is_file())
    assert size < 200_000


def test_packages_are_pinned_and_name_no_registry():
    package = json.loads((WEB / "package.json").read_text())
    pins = {**package["dependencies"], **package["devDependencies"]}.values()
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", pin) for pin in pins)
    assert "resolved" not in (WEB / "package-lock.json").read_text()
