"""The parameters of a running node: declared from the table, checked as a whole, and handed on when they change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.parameter import Parameter

from semantic_matcher.qos_overrides import override_refusal
from semantic_matcher_core.conditions import without_effect
from semantic_matcher_core.errors import did_you_mean
from semantic_matcher_core.options import ParameterSpec, Value

if TYPE_CHECKING:
    from rclpy.node import Node


class Parameters:
    """The parameters of a running node, declared from its table.

    Args:
        node: the node that declares them.
        table: its table.
        refusal: a check over all values together, ``refusal(values)``, that gives the reason or an empty string.

    Raises:
        ValueError: the node was started with a value that is refused; the message is fit for the user.
    """

    def __init__(self, node: Node, table: Iterable[ParameterSpec], refusal: Callable[[SimpleNamespace], str]) -> None:
        self._specs = {spec.name: spec for spec in table}
        self._refusal = refusal
        self._on_change: Callable[[SimpleNamespace], None] | None = None
        values = {spec.name: _declare(node, spec) for spec in self._specs.values()}
        for name, override in getattr(node, "_parameter_overrides", {}).items():
            if name.startswith("qos_overrides.") and (reason := override_refusal(name, override.value)):
                raise ValueError(f"parameter {reason}")
        self.values = SimpleNamespace(**values)
        if reason := refusal(self.values):
            raise ValueError(reason)
        node.add_pre_set_parameters_callback(self._coerce)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._take)

    def on_change(self, callback: Callable[[SimpleNamespace], None]) -> None:
        """Have the new values given to ``callback`` after each change."""
        self._on_change = callback

    def _changed(self, parameters: Iterable[Parameter]) -> SimpleNamespace:
        new = {p.name: p.value for p in parameters if p.name in self._specs}
        return SimpleNamespace(**{**vars(self.values), **new})

    def _coerce(self, parameters: list[Parameter]) -> list[Parameter]:
        return [
            Parameter(p.name, value=self._specs[p.name].coerced(p.value)) if p.name in self._specs else p
            for p in parameters
        ]

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        reasons = [self._specs[p.name].refusal(p.value) for p in parameters if p.name in self._specs]
        reason = next(filter(None, reasons), "") or self._refusal(self._changed(parameters))
        return SetParametersResult(successful=not reason, reason=reason)

    def _take(self, parameters: list[Parameter]) -> None:
        # A new object each time: what holds the old one keeps a consistent set.
        values = self._changed(parameters)
        if values != self.values:
            self.values = values
            if self._on_change is not None:
                self._on_change(values)


def unknown_overrides(node: Node, known: Iterable[str]) -> list[str]:
    """Return a sentence for each parameter the node was started with that it does not have: typing errors, in all
    likelihood, for ``known`` ones.
    """
    # rclpy offers no public way to see overrides that were never declared.
    overrides = getattr(node, "_parameter_overrides", {})
    names = sorted(n for n in overrides if not node.has_parameter(n) and not n.startswith("qos_overrides."))
    hints = {name: did_you_mean(name, list(known), alike=0.8) for name in names}
    return [
        f"there is no parameter {name!r}; its value has no effect{'; ' if hint else ''}{hint}"
        for name, hint in hints.items()
    ]


def ignored(node: Node, values: SimpleNamespace, table: Iterable[ParameterSpec]) -> list[str]:
    """Return a sentence for each of the parameters that the node was started with to no effect, because of others."""
    # rclpy offers no public way to see overrides that were never declared.
    overrides = getattr(node, "_parameter_overrides", {})
    given = {name: override.value for name, override in overrides.items() if override.value}
    names = [f"{name} {given[name]!r}" for name in ("descriptor", "dino") if name in given]
    found = []
    if "variant" in given and names:
        verb = "is" if len(names) == 1 else "are"
        found.append(f"variant {values.variant!r} decides; {' and '.join(names)} {verb} without effect")
    # Launch files and parameter files give what is the default anyway.
    defaults = {spec.name: spec.default for spec in table}
    changed = [name for name, value in given.items() if value != defaults.get(name)]
    for name, wanted in without_effect(vars(values), changed).items():
        needs = " or ".join(f"{other} is {', '.join(of) or 'set'}" for other, of in wanted.items())
        found.append(f"{name} is without effect unless {needs}")
    return found


def descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """Return the descriptor that `ros2 param describe` shows."""
    message = ParameterDescriptor(description=spec.description, read_only=not spec.dynamic)
    if spec.choices:
        message.additional_constraints = "one of " + ", ".join(map(repr, spec.choices))
    if spec.minimum is not None and spec.type_name == "integer":
        most = 2**62 if spec.maximum is None else int(spec.maximum)
        message.integer_range = [IntegerRange(from_value=int(spec.minimum), to_value=most, step=0)]
    elif spec.minimum is not None:
        # rclpy compares with is-close at both ends, which infinity would make true for every value.
        upper = 1e300 if spec.maximum is None else spec.maximum
        message.floating_point_range = [FloatingPointRange(from_value=spec.minimum, to_value=upper, step=0.0)]
    return message


def _declare(node: Node, spec: ParameterSpec) -> Value:
    override = getattr(node, "_parameter_overrides", {}).get(spec.name)
    # An empty array in a parameters file has no type, and so no value.
    given = None if override is None else override.value
    value = spec.default if override is None or given is None else spec.coerced(given)
    if reason := spec.refusal(value):
        raise ValueError(f"parameter {reason}")
    try:
        return node.declare_parameter(spec.name, value, descriptor(spec), ignore_override=True).value
    except ParameterException as error:
        raise ValueError(f"parameter {spec.name} is refused: {error}") from error
