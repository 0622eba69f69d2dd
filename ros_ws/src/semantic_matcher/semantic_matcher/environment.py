"""What of a process's environment has ROS end it in words of its own, or do something else than was meant. No ROS."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from semantic_matcher.fastdds_profile import PROFILE_VARIABLES

# The UDP ports of a domain beyond this one are none.
_LAST_DOMAIN = 232
_CHOICES = {
    "ROS_AUTOMATIC_DISCOVERY_RANGE": ("OFF", "LOCALHOST", "SUBNET", "SYSTEM_DEFAULT"),
    "ROS_LOCALHOST_ONLY": ("0", "1"),
}


def installed_middleware() -> list[str]:
    """Return the names of the implementations of DDS that are installed; none where nothing is sourced."""
    from ament_index_python.resources import get_resources

    try:
        return sorted(set(get_resources("rmw_typesupport")) - {"rmw_implementation"})
    except OSError:
        return []


def environment_refusal(environment: Mapping[str, str], middleware: Collection[str] = ()) -> str:
    """Return why no node can be started in an environment; empty where one can.

    Args:
        environment: of the process.
        middleware: as of :func:`installed_middleware`.
    """
    domain = environment.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isascii() and domain.isdigit() and int(domain) <= _LAST_DOMAIN):
        return f"ROS_DOMAIN_ID is {domain!r}; expected a whole number from 0 to {_LAST_DOMAIN}"
    chosen = environment.get("RMW_IMPLEMENTATION", "")
    if chosen and middleware and chosen not in middleware:
        return (
            f"RMW_IMPLEMENTATION is {chosen!r}, which is not installed (only {', '.join(middleware)}): install "
            f"ros-{environment.get('ROS_DISTRO', '<distro>')}-{chosen.replace('_', '-')}, or unset the variable"
        )
    return ""


def environment_doubts(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that will not have the effect it was set for."""
    found = []
    for name, choices in _CHOICES.items():
        value = environment.get(name, "")
        if value and value not in choices:
            found.append(f"{name} is {value!r}, which has no effect; expected one of {', '.join(choices)}")
    for name in PROFILE_VARIABLES:
        path = environment.get(name, "")
        if path and not Path(path).is_file():
            found.append(f"{name} names {path}, which is no file: Fast DDS goes on without a profile")
    return found


def reason_of(error: Exception, environment: Mapping[str, str]) -> str:
    """Return what rcl says of its failure, as one sentence without the places of its source."""
    reason = str(error).partition(", at /")[0].removeprefix("failed to initialize rcl: ")
    reason = f"unknown arguments after --ros-args: {reason}" if reason.startswith("[") else reason
    reason = " ".join(reason.split()).rstrip(".,")
    if "log directory" in reason or "logging directory" in reason:
        reason += "; set ROS_LOG_DIR to a folder that can be written"
    if reason == "error not set":
        reason = "ROS cannot be initialised, and gives no reason"
        if environment.get("ROS_SECURITY_ENABLE", "").lower() == "true":
            reason += "; ROS_SECURITY_ENABLE is true: ROS_SECURITY_KEYSTORE must name a folder with this node's keys"
    return reason
