"""What axe-core has against a page."""

from __future__ import annotations

from playwright.sync_api import Page

SETTLED = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
  const ending = (each) => each.effect.getComputedTiming().endTime !== Infinity;
  const ends = document.getAnimations().filter(ending).map((each) => each.finished.catch(() => 0));
  Promise.all(ends).then(() => done());
})))"""
RUN = "() => axe.run({resultTypes: ['violations']})"


def serious(page: Page, axe_source: str) -> list[tuple]:
    """Serious and critical findings: rule, element, and what was measured."""
    page.evaluate(axe_source)
    page.evaluate(SETTLED)  # colours in transition would be measured half way
    found = page.evaluate(RUN)["violations"]
    return [
        (each["id"], node["html"], node["any"][:1])
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
