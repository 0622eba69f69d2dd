"""Quality of service of what the nodes subscribe and publish."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy

if TYPE_CHECKING:
    from rclpy.topic_endpoint_info import TopicEndpointInfo

_OUTPUT_DEPTH = 5
IMAGE_DEPTH = 5
"""Of images only the newest counts; some may come while the executor is busy, and are then dropped and counted."""

_RELIABLE, _BEST_EFFORT = QoSReliabilityPolicy.RELIABLE, QoSReliabilityPolicy.BEST_EFFORT
_LATCHED, _VOLATILE = QoSDurabilityPolicy.TRANSIENT_LOCAL, QoSDurabilityPolicy.VOLATILE


def input_qos(depth: int, publishers: Iterable[QoSProfile]) -> QoSProfile:
    """Return what hears every publisher and asks as much of them as all of them offer.

    Without a publisher: best effort and volatile, which will hear whichever comes.
    """
    offers = list(publishers)
    reliable = bool(offers) and all(offer.reliability == _RELIABLE for offer in offers)
    latched = reliable and all(offer.durability == _LATCHED for offer in offers)
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=_RELIABLE if reliable else _BEST_EFFORT,
        durability=_LATCHED if latched else _VOLATILE,
    )


def output_qos() -> QoSProfile:
    """Return results: reliable, which every subscriber can hear, and few."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=_OUTPUT_DEPTH, reliability=_RELIABLE)


def latched_qos(depth: int) -> QoSProfile:
    """Return what changes rarely, kept for those who subscribe later."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=depth, reliability=_RELIABLE, durability=_LATCHED)


def mismatch(offered: QoSProfile, requested: QoSProfile) -> str:
    """Return the first policy, by its name in lower case, of which less is offered than requested; empty when all
    fit.
    """
    if requested.reliability == _RELIABLE and offered.reliability == _BEST_EFFORT:
        return "reliability"
    if requested.durability == _LATCHED and offered.durability == _VOLATILE:
        return "durability"
    if 0 < requested.deadline.nanoseconds < (offered.deadline.nanoseconds or requested.deadline.nanoseconds + 1):
        return "deadline"
    return ""


def policy_text(profile: QoSProfile, policy: str) -> str:
    """Return the value of a policy, as parameters have it."""
    value = getattr(profile, policy)
    return value.name.lower() if hasattr(value, "name") else str(value)


def endpoints_text(infos: Iterable[TopicEndpointInfo]) -> str:
    """Return the nodes that endpoints belong to; DDS may know an endpoint before its node."""
    named = (info for info in infos if "UNKNOWN" not in info.node_name)
    return ", ".join(sorted({f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in named})) or "a node"
