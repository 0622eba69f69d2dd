"""With the shipped Fast DDS profile, camera images arrive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.ros.support import LEFT

pytestmark = pytest.mark.ros

COUNT, RATE = 60, 10
REPOSITORY = Path(__file__).resolve().parents[2]


def test_colour_images_between_processes_arrive(ros: None) -> None:
    from semantic_matcher.fastdds_profile import PROFILE_VARIABLES, large_message_environment

    if os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp":
        pytest.skip(f"the profile is for Fast DDS, not {os.environ['RMW_IMPLEMENTATION']}")
    environment = {k: v for k, v in os.environ.items() if k not in PROFILE_VARIABLES}
    environment |= large_message_environment(environment)
    command = [sys.executable, "-m", "tests.ros.delivery"]
    options = {"cwd": REPOSITORY, "env": environment, "text": True}
    with subprocess.Popen([*command, "listener"], **options) as listener:
        try:
            arguments = [*command, "camera", str(COUNT), str(RATE)]
            camera = subprocess.run(arguments, **options, capture_output=True, timeout=240)
            assert camera.returncode in LEFT, camera.stderr
            arrived = int(camera.stdout)
            assert listener.wait(240) in LEFT
        finally:
            listener.kill()
    # Without the profile about a third does, whatever the reliability.
    assert arrived >= 0.95 * COUNT, f"{arrived} of {COUNT} images arrived"


def test_a_profile_of_the_users_own_is_left_alone() -> None:
    fastdds_profile = pytest.importorskip("semantic_matcher.fastdds_profile")
    both = fastdds_profile.large_message_environment({})
    assert set(both) == {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"}
    for path in both.values():
        ElementTree.parse(path)
    for name in both:
        assert fastdds_profile.large_message_environment({name: "/home/me/profile.xml"}) == {}
        assert fastdds_profile.large_message_environment({name: ""}) == both
