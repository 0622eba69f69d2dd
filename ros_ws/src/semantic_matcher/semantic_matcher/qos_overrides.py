"""Parameters ``qos_overrides.<topic>.<publisher|subscription>.<policy>``, which every topic of a node has.

rclpy can declare them as well, but then a subscription that is made again, with the QoS of another publisher, would
get what the first one had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)

from semantic_matcher_core.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rclpy.node import Node

_PREFIX = "qos_overrides."
_NAMED = {
    "history": QoSHistoryPolicy,
    "reliability": QoSReliabilityPolicy,
    "durability": QoSDurabilityPolicy,
    "liveliness": QoSLivelinessPolicy,
}
_DURATIONS = ("deadline", "lifespan", "liveliness_lease_duration")
_POLICIES = (*_NAMED, "depth", *_DURATIONS)


def override_name(topic: str, entity: str, policy: str) -> str:
    """Return the parameter that sets a policy of a topic's ``publisher`` or ``subscription``."""
    return f"{_PREFIX}{topic}.{entity}.{policy}"


class QoSOverrides:
    """Those that a node was started with.

    Args:
        node: whose they are.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        # rclpy offers no public way to see overrides that were never declared.
        overrides = getattr(node, "_parameter_overrides", {})
        self._given = {name: override.value for name, override in overrides.items() if name.startswith(_PREFIX)}
        self._known: set[str] = set()

    def policies(self, topic: str, entity: str) -> dict[str, Any]:
        """Return the policies that the user has set, as arguments of ``QoSProfile``; they become parameters of the
        node.

        Args:
            topic: full name, after remapping.
            entity: ``publisher`` or ``subscription``.

        Raises:
            ValueError: a value that the policy cannot have; the message names it.
        """
        found: dict[str, Any] = {}
        for policy in _POLICIES:
            name = override_name(topic, entity, policy)
            self._known.add(name)
            if name not in self._given:
                continue
            found[policy] = _policy_value(name, policy, self._given[name])
            if not self._node.has_parameter(name):
                about = ParameterDescriptor(description=f"{policy} of the {entity} of {topic}", read_only=True)
                self._node.declare_parameter(name, self._given[name], about, ignore_override=True)
        return found

    def without_effect(self) -> list[str]:
        """Return a sentence for each that belongs to no topic, no side or no policy of the node."""
        unused = sorted(name for name in self._given if name not in self._known and not self._node.has_parameter(name))
        return [f"the parameter {name} has no effect: {_hint(name, self._known)}" for name in unused]


def _hint(name: str, known: Iterable[str]) -> str:
    if hint := did_you_mean(name, sorted(known), alike=0.8):
        return hint
    topics = sorted({k.removeprefix(_PREFIX).rpartition(".")[0] for k in known})
    return f"it is qos_overrides.<topic>.<side>.<policy>; topics and sides are {', '.join(topics)}"


def override_refusal(name: str, value: object) -> str:
    """Return why a parameter ``qos_overrides.…`` cannot have a value, naming it; empty when it can, or has no
    effect.
    """
    policy = name.rpartition(".")[2]
    if policy in _NAMED:
        known = [member.lower() for member in _NAMED[policy].__members__ if member != "UNKNOWN"]
        good, expected = str(value).lower() in known, f"one of {', '.join(dict.fromkeys(known))}"
    else:
        unit = " nanoseconds" if policy in _DURATIONS else ""
        good = policy not in _POLICIES or (type(value) is int and value >= 0)
        expected = f"a whole number{unit}, 0 or more"
    return "" if good else f"{name} = {value!r} is refused: expected {expected}"


def _policy_value(name: str, policy: str, value: Any) -> Any:
    if reason := override_refusal(name, value):
        raise ValueError(reason)
    if policy in _NAMED:
        return _NAMED[policy][str(value).upper()]
    return Duration(nanoseconds=value) if policy in _DURATIONS else value


def with_policies(profile: QoSProfile, policies: dict[str, Any]) -> QoSProfile:
    """Return the profile with some policies replaced."""
    for policy, value in policies.items():
        setattr(profile, policy, value)
    return profile
