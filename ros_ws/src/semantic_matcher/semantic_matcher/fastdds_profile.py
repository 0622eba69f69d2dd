"""The environment in which Fast DDS carries images and descriptors whole (``config/fastdds_*.xml``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# Fast DDS 2 (Jazzy) reads the first, Fast DDS 3 (Kilted) the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
# Has an effect only where there is no profile.
TRANSPORTS_VARIABLE = "FASTDDS_BUILTIN_TRANSPORTS"
PROFILE_NAME = "fastdds_large_messages.xml"
NODE_PROFILE_NAME = "fastdds_matcher_node.xml"
SOCKET_BUFFER = 4 * 1024 * 1024
"""Bytes that a socket must be allowed to hold for images to come through UDP."""
_SOCKET_LIMIT = Path("/proc/sys/net/core/rmem_max")


def profile_path(name: str = PROFILE_NAME) -> Path:
    """Return a profile, of the installed package or, without one, of the source tree.

    Raises:
        FileNotFoundError: it is in neither.
    """
    source = Path(__file__).resolve().parents[1] / "config" / name
    if source.is_file():
        return source
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        installed = Path(get_package_share_directory("semantic_matcher")) / "config" / name
    except PackageNotFoundError as error:
        raise FileNotFoundError(f"no {name}: the package semantic_matcher is not installed") from error
    if not installed.is_file():
        raise FileNotFoundError(f"no {name} at {installed}; install the package semantic_matcher again")
    return installed


def large_message_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return variables to add to a process's environment; none where the user has a profile already.

    Args:
        environment: the environment it will be added to; ``None`` for this process's.
    """
    present = os.environ if environment is None else environment
    if any(present.get(name) for name in PROFILE_VARIABLES):
        return {}
    return {name: str(profile_path()) for name in PROFILE_VARIABLES}


def node_environment(environment: Mapping[str, str] | None = None, socket_limit: int | None = None) -> dict[str, str]:
    """Return variables to add to a node's environment before DDS is loaded; none where the user has chosen transports.

    Args:
        environment: as of :func:`large_message_environment`.
        socket_limit: bytes that the system allows a socket to hold; ``None`` to look.
    """
    present = dict(os.environ if environment is None else environment)
    for name in PROFILE_VARIABLES:
        # The package's own, as launch files and docs set it for cameras as well, is no choice of the user's.
        if Path(present.get(name, "")).name == PROFILE_NAME:
            del present[name]
    if present.get(TRANSPORTS_VARIABLE):
        return {}
    variables = large_message_environment(present)
    limit = socket_buffer_limit() if socket_limit is None else socket_limit
    if variables and limit is not None and limit >= SOCKET_BUFFER:
        variables[PROFILE_VARIABLES[0]] = str(profile_path(NODE_PROFILE_NAME))
    return variables


def socket_buffer_limit() -> int | None:
    """Return bytes that the system allows a socket to hold, or ``None`` where it does not tell."""
    try:
        return int(_SOCKET_LIMIT.read_text())
    except (OSError, ValueError):
        return None
