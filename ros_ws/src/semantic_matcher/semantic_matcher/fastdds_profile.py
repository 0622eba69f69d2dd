"""The environment in which Fast DDS carries images and descriptors whole (``config/fastdds_large_messages.xml``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# Fast DDS 2 (Jazzy) reads the first, Fast DDS 3 (Kilted) the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
PROFILE_NAME = "fastdds_large_messages.xml"


def profile_path() -> Path:
    """The profile, of the installed package or, without one, of the source tree.

    Raises:
        FileNotFoundError: it is in neither.
    """
    source = Path(__file__).resolve().parents[1] / "config" / PROFILE_NAME
    if source.is_file():
        return source
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        installed = Path(get_package_share_directory("semantic_matcher")) / "config" / PROFILE_NAME
    except PackageNotFoundError as error:
        raise FileNotFoundError(f"no {PROFILE_NAME}: the package semantic_matcher is not installed") from error
    if not installed.is_file():
        raise FileNotFoundError(f"no {PROFILE_NAME} at {installed}; install the package semantic_matcher again")
    return installed


def large_message_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables to add to a process's environment; none where the user has a profile already.

    Args:
        environment: the environment it will be added to; ``None`` for this process's.
    """
    present = os.environ if environment is None else environment
    if any(present.get(name) for name in PROFILE_VARIABLES):
        return {}
    return {name: str(profile_path()) for name in PROFILE_VARIABLES}
