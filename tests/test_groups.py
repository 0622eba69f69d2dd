"""Tests that are marked as a group run in one worker, one after the other."""

from __future__ import annotations

import pytest


def test_groups_are_known_to_the_scheduler(request: pytest.FixtureRequest) -> None:
    # With pytest 9.2, pytest-xdist 3.8 separates groups without a word; so it does with marks made after it looked.
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("one process runs all tests, or groups were not asked for (--dist loadgroup)")
    items = [item for item in request.session.items if item.get_closest_marker("xdist_group")]
    apart = [item.nodeid for item in items if "@" not in item.nodeid]
    assert not apart, (
        f"{len(apart)} of {len(items)} tests are in no group, such as {apart[0]} (pytest {pytest.__version__})"
    )
