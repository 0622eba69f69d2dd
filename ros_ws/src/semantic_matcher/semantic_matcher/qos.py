"""Quality of service of what the nodes subscribe and publish."""

from __future__ import annotations

from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

_OUTPUT_DEPTH = 5
_POLICIES = {
    "durability": QoSDurabilityPolicy,
    "history": QoSHistoryPolicy,
    "liveliness": QoSLivelinessPolicy,
    "reliability": QoSReliabilityPolicy,
}
_LATCHED_DEPTH = 20


def image_qos() -> QoSProfile:
    """Sensor data of which only the newest counts: best effort, which hears every publisher."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def output_qos() -> QoSProfile:
    """Results: reliable, which every subscriber can hear, and few."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=_OUTPUT_DEPTH, reliability=QoSReliabilityPolicy.RELIABLE
    )


def latched_qos() -> QoSProfile:
    """What changes rarely, kept for those who subscribe later."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=_LATCHED_DEPTH,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
    )


def override_refusal(name: str, value: object) -> str:
    """Why a parameter ``qos_overrides.…`` cannot have a value, naming it; empty when it can."""
    policy = name.rpartition(".")[2]
    if policy in _POLICIES:
        known = [member.lower() for member in _POLICIES[policy].__members__ if member != "UNKNOWN"]
        good, expected = str(value).lower() in known, f"one of {', '.join(dict.fromkeys(known))}"
    elif policy == "depth":
        good, expected = type(value) is int and value >= 0, "0 or more"
    else:
        return ""
    return "" if good else f"{name} = {value!r} is refused: expected {expected}"


def overridable() -> QoSOverridingOptions:
    """History, depth and reliability may be set by parameters ``qos_overrides.<topic>.<subscription|publisher>.…``."""
    return QoSOverridingOptions.with_default_policies()
