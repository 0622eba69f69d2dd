"""A DDS domain of the demo's own, so that its graph does not meet a robot's, nor that of another demo."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic_matcher.demo.errors import DemoError

# Above 101 the UDP ports of a domain meet Linux's range of ephemeral ports; 0 is the default of every program.
_DOMAINS = range(1, 102)


@contextmanager
def own_domain(wanted: int | None = None) -> Iterator[int]:
    """Hold a domain that no other demo or test on this machine holds, for the time of the block.

    Args:
        wanted: a domain to use, whether or not it is in use already.

    Raises:
        DemoError: all are taken.
    """
    if wanted is not None:
        yield wanted
        return
    folder = Path(tempfile.gettempdir()) / f"semantic_matcher_ros_domains-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for step in range(len(_DOMAINS)):
        domain = _DOMAINS[(os.getpid() + step) % len(_DOMAINS)]
        with open(folder / str(domain), "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    raise DemoError(f"all ROS domains from 1 to 101 are in use by demos or tests (locks in {folder})")


def graph_environment(domain: int) -> dict[str, str]:
    """Return this process's environment with that domain, on this machine alone, and with Fast DDS set up for images."""
    from semantic_matcher.fastdds_profile import large_message_environment

    environment = {**os.environ, **large_message_environment()}
    environment.pop("ROS_LOCALHOST_ONLY", None)  # it would override the newer variable
    environment.update(
        ROS_DOMAIN_ID=str(domain),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        RCUTILS_COLORIZED_OUTPUT="0",
        PYTHONUNBUFFERED="1",
    )
    return environment
