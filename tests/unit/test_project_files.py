"""What GitHub, PyPI and citation managers read of the project: well-formed, and of one version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import nlakit

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40}")


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


def test_the_citation_is_of_this_version():
    citation, project = (
        read(ROOT / "CITATION.cff"),
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"],
    )
    assert citation["version"] == project["version"] == nlakit.__version__
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Repository"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert "Natural Language Autoencoders" in citation["references"][0]["title"]


def test_the_changelog_names_what_is_not_released_or_this_version():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(nlakit.__version__)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_asks_for_little_and_pins_what_it_uses(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used and all(PINNED.fullmatch(each) for each in used)
    jobs = [job for job in workflow["jobs"].values() if "steps" in job]
    assert all("timeout-minutes" in job for job in jobs)


def test_workflows_call_the_script_that_people_run():
    (checks,) = (read(path) for path in WORKFLOWS if path.stem == "checks")
    assert "bash .ci/run" in {step.get("run") for step in steps(checks)}
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "\nmake test\nmake check" in script


def test_only_publishing_may_ask_for_an_identity_token():
    (publish,) = (read(path) for path in WORKFLOWS if path.stem == "publish")
    asking = {name for name, job in publish["jobs"].items() if "id-token" in str(job)}
    assert asking == {"publish"}
    assert publish["jobs"]["publish"]["needs"] == "build"
    assert publish["jobs"]["build"]["needs"] == "checks"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_can_be_filled_in(path):
    form = read(path)
    if path.stem == "config":
        assert form["blank_issues_enabled"] is False
        return
    assert {"name", "description", "body"} <= form.keys()
    fields = [each for each in form["body"] if each["type"] != "markdown"]
    names = [each["id"] for each in fields]
    assert fields and len(set(names)) == len(names)
    assert any(each.get("validations", {}).get("required") for each in fields)


def test_hooks_before_a_commit_call_the_project_s_own_tools():
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert {"ruff-check", "ruff-format", "guards"} <= {hook["id"] for hook in repository["hooks"]}


def test_a_newcomer_finds_every_page_that_a_project_has():
    for name in (
        "LICENSE",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "src/nlakit/py.typed",
    ):
        assert (ROOT / name).is_file(), name
