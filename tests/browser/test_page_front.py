"""What the eye finds first: nothing on the page runs into anything else."""

import pytest

pytestmark = pytest.mark.browser
SIZES = [(1600, 1000), (390, 844)]
OVERLAP = 4
"""Pixels of line height that two labels may share: their letters still stand apart."""
RECTANGLES = "all => all.map(one => one.getBoundingClientRect()).map(one => [one.top, one.bottom])"


@pytest.mark.parametrize("size", SIZES)
def test_labels_of_the_timeline_stand_apart(reading, size):
    page = reading(size)
    labels = page.locator(".timeline .plot-label")
    labels.first.wait_for()
    found = sorted(labels.evaluate_all(RECTANGLES))
    assert len(found) >= 2
    neighbours = zip(found, found[1:], strict=False)
    assert all(lower - upper > -OVERLAP for (_, upper), (lower, _) in neighbours)


def test_the_way_back_to_the_summary_is_one_line(reading):
    page = reading()
    page.locator(".transcript .token").last.click()
    back = page.get_by_role("button", name="Summary")
    icon, button = back.locator("svg").bounding_box(), back.bounding_box()
    middles = [box["y"] + box["height"] / 2 for box in (icon, button)]
    assert abs(middles[0] - middles[1]) < 2
