"""The files around the package: what a researcher, a packager and a contributor look at first."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import nlakit

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40}")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def workflow(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps_of(found: dict) -> list[dict]:
    return [step for job in found["jobs"].values() for step in job.get("steps", [])]


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {project()["version"], nlakit.__version__, citation["version"]} == {"0.1.0"}


def test_citation_has_what_its_schema_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "authors", "type", "license"}
    assert citation["license"] == project()["license"]


def test_changelog_begins_with_what_is_not_released_and_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert project()["version"] in versions


def test_package_says_that_it_is_typed():
    assert (ROOT / "src" / "nlakit" / "py.typed").is_file()
    assert "Typing :: Typed" in project()["classifiers"]
    assert not any(name.startswith("License ::") for name in project()["classifiers"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_actions_and_ask_for_little(path):
    found = workflow(path)
    assert found["permissions"] == {"contents": "read"}
    assert all(PINNED.fullmatch(step["uses"]) for step in steps_of(found) if "uses" in step)


def test_checks_run_the_same_script_as_everything_else():
    commands = [step.get("run") for step in steps_of(workflow(WORKFLOWS[0]))]
    assert WORKFLOWS[0].name == "checks.yml" and "bash .ci/run" in commands
    assert (ROOT / ".ci" / "run").is_file()


def test_only_the_publishing_job_may_ask_for_an_identity():
    jobs = workflow(ROOT / ".github" / "workflows" / "publish.yml")["jobs"]
    asking = [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})]
    assert asking == ["publish"]
    assert jobs["publish"]["needs"] == "build" and jobs["build"]["needs"] == "checks"


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_issue_forms_parse_and_ask_for_something(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name != "config.yml":
        assert form["name"] and form["description"]
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids)) > 0
