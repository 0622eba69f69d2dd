"""The parameters of the nodes: one table, from which declaration, YAML defaults and documentation are made.

Nothing here needs ROS until a node declares its parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rcl_interfaces.msg import ParameterDescriptor
    from rclpy.node import Node

Value = bool | int | float | str


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        name: its name.
        default: its default; the type of the default is the type of the parameter.
        description: what it is, with its unit.
        minimum, maximum: range of a number, both ends included.
        choices: the values that a string may have; empty for any.
        dynamic: may change while the node runs; otherwise it is read-only.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    dynamic: bool = False

    @property
    def type_name(self) -> str:
        """The type as ROS calls it."""
        return {bool: "bool", int: "integer", float: "double", str: "string"}[type(self.default)]

    def refusal(self, value: object) -> str:
        """Why the value is refused, naming it; empty when it is good."""
        if type(value) is not type(self.default):
            hint = f" (write {float(value)})" if self.type_name == "double" and type(value) is int else ""
            return f"{self.name} = {value!r} is refused: expected a {self.type_name}{hint}"
        if self.choices and value not in self.choices:
            return f"{self.name} = {value!r} is refused: expected one of {', '.join(map(repr, self.choices))}"
        if isinstance(value, (int, float)) and not isinstance(value, bool) and self.minimum is not None:
            if not (math.isfinite(value) and self.minimum <= value <= self.upper):
                return f"{self.name} = {value!r} is refused: expected {self.range_text}"
        return ""

    @property
    def upper(self) -> float:
        """The maximum, or infinity."""
        return math.inf if self.maximum is None else self.maximum

    @property
    def range_text(self) -> str:
        """The range or the choices in words; empty for any value."""
        if self.choices:
            return ", ".join(f"`{choice}`" if choice else "empty" for choice in self.choices)
        if self.minimum is None:
            return ""
        return f"{self.minimum:g} to {self.maximum:g}" if self.maximum is not None else f"{self.minimum:g} or more"


MODEL = (
    ParameterSpec(
        "variant",
        "",
        "What to match with: a published variant, a checkpoint folder or zip, or plain:<extractor>. "
        "Empty: descriptor and dino say it",
    ),
    ParameterSpec("descriptor", "xfeat", "Local feature extractor, where variant is empty"),
    ParameterSpec(
        "dino",
        "",
        "Semantic encoder, where variant is empty: none for plain descriptor matching, vits14, vitb14, vitl14 or vitg14; "
        "empty for the one that the descriptor's own variant was trained with",
    ),
    ParameterSpec("weights", "", "Folder to search for weights before the usual places"),
    ParameterSpec("device", "auto", "Where the networks run: auto, cpu, cuda or cuda:<index>"),
    ParameterSpec(
        "precision", "fp32", "What the networks compute in; fp16 needs a GPU", choices=("fp32", "fp16", "bf16")
    ),
    ParameterSpec("max_keypoints", 2048, "Keypoints per image at most", 1, 65536, dynamic=True),
    ParameterSpec(
        "detection_threshold",
        -1.0,
        "The extractor's detection threshold, in its own unit; -1 for the variant's own",
        -1.0,
        1000.0,
        dynamic=True,
    ),
    ParameterSpec(
        "semantic_size",
        896,
        "Long side in pixels at which the semantic encoder sees the image; no effect without one",
        14,
        4096,
        dynamic=True,
    ),
    ParameterSpec("warmup_width", 640, "Width in pixels of the image that warms the networks up; 0 for none", 0, 16384),
    ParameterSpec(
        "warmup_height", 480, "Height in pixels of the image that warms the networks up; 0 for none", 0, 16384
    ),
    ParameterSpec("torch_threads", 0, "Threads that torch computes with on the CPU; 0 for torch's own choice", 0, 1024),
)

MATCHING = (
    ParameterSpec("mutual", True, "Keep mutual nearest neighbours only", dynamic=True),
    ParameterSpec(
        "ratio",
        0.0,
        "Keep a match whose distance is below this share of that to the second nearest; 0 for no test",
        0.0,
        1.0,
        dynamic=True,
    ),
    ParameterSpec(
        "max_distance", 0.0, "Keep a match up to this descriptor distance; 0 for no limit", 0.0, 2.0, dynamic=True
    ),
    ParameterSpec(
        "min_similarity", -1.0, "Keep a match from this similarity on; -1 for no limit", -1.0, 1.0, dynamic=True
    ),
)

GEOMETRY = (
    ParameterSpec(
        "geometry",
        "none",
        "Geometric check of the matches, which fills `inlier` and `model`: homography for a plane or a camera that only "
        "turns, fundamental for a rigid scene",
        choices=("none", "homography", "fundamental"),
        dynamic=True,
    ),
    ParameterSpec(
        "geometry_threshold",
        2.0,
        "Largest distance of an inlier from the model, in pixels",
        0.01,
        100.0,
        dynamic=True,
    ),
)

INPUT = (
    ParameterSpec(
        "image_transport",
        "raw",
        "raw subscribes sensor_msgs/Image on the image topic, compressed sensor_msgs/CompressedImage on <topic>/compressed",
        choices=("raw", "compressed"),
    ),
    ParameterSpec(
        "image_full_scale",
        0.0,
        "Value of 16-bit and float images that becomes white, e.g. 4096 for 12 bits; 0 for the encoding's own",
        0.0,
        dynamic=True,
    ),
    ParameterSpec(
        "max_image_age",
        0.0,
        "Images older than this many seconds when their turn comes are skipped; 0 for no limit",
        0.0,
        3600.0,
        dynamic=True,
    ),
)

TEMPORAL = (
    ParameterSpec(
        "reference_policy",
        "previous",
        "What a frame is matched with: previous, the frame before; every_nth, a frame that serves for every_nth frames; "
        "keyframe, a frame that serves until too little of it is found again",
        choices=("previous", "every_nth", "keyframe"),
        dynamic=True,
    ),
    ParameterSpec("every_nth", 5, "Frames that a reference serves for, with every_nth", 1, 100000, dynamic=True),
    ParameterSpec(
        "min_inlier_share",
        0.25,
        "A keyframe is replaced when a smaller share of the keypoints is matched (inliers, with a geometric check)",
        0.0,
        1.0,
        dynamic=True,
    ),
    ParameterSpec(
        "min_overlap",
        0.4,
        "A keyframe is replaced when a smaller share of its area is matched",
        0.0,
        1.0,
        dynamic=True,
    ),
)

STEREO = (
    ParameterSpec(
        "slop",
        0.0,
        "Largest difference between the stamps of left and right in seconds; 0 pairs equal stamps only. "
        "Keep it below half the frame period",
        0.0,
        10.0,
        dynamic=True,
    ),
    ParameterSpec(
        "queue_size", 10, "Images of each side that wait for their partner, apart from QoS depth", 1, 1000, dynamic=True
    ),
)

OUTPUT = (
    ParameterSpec("publish_keypoints", True, "Publish keypoints while somebody subscribes", dynamic=True),
    ParameterSpec("publish_descriptors", True, "Publish descriptors while somebody subscribes", dynamic=True),
    ParameterSpec(
        "publish_debug_image", True, "Draw and publish the debug image while somebody subscribes", dynamic=True
    ),
    ParameterSpec("debug_max_matches", 300, "Matches drawn in the debug image at most", 1, 100000, dynamic=True),
)

NODE = (
    ParameterSpec("autostart", True, "Configure and activate at start; false waits for the lifecycle services"),
    ParameterSpec("diagnostics_period", 1.0, "Seconds between two messages on /diagnostics", 0.05, 3600.0),
    ParameterSpec(
        "no_image_warning_period",
        5.0,
        "Seconds without an image after which the node warns; 0 for never",
        0.0,
        3600.0,
        dynamic=True,
    ),
)

TABLES: dict[str, tuple[ParameterSpec, ...]] = {
    "temporal_matcher": (*MODEL, *MATCHING, *GEOMETRY, *INPUT, *TEMPORAL, *OUTPUT, *NODE),
    "stereo_matcher": (*MODEL, *MATCHING, *GEOMETRY, *INPUT, *STEREO, *OUTPUT, *NODE),
}
"""Executable -> its parameters."""


class Parameters:
    """The parameters of a running node, declared from its table.

    Args:
        node: the node that declares them.
        table: its table.
        refusal: a check over all values together, ``refusal(values)``, that gives the reason or an empty string.

    Raises:
        ValueError: the node was started with a value that is refused; the message is fit for the user.
    """

    def __init__(
        self, node: Node, table: Iterable[ParameterSpec], refusal: Callable[[SimpleNamespace], str] = lambda values: ""
    ) -> None:
        self._specs = {spec.name: spec for spec in table}
        self._refusal = refusal
        self._on_change: Callable[[SimpleNamespace], None] | None = None
        values = {spec.name: _declare(node, spec) for spec in self._specs.values()}
        self.values = SimpleNamespace(**values)
        if reason := refusal(self.values):
            raise ValueError(reason)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._take)

    def on_change(self, callback: Callable[[SimpleNamespace], None]) -> None:
        """Have the new values given to ``callback`` after each change."""
        self._on_change = callback

    def _changed(self, parameters: Iterable[Any]) -> SimpleNamespace:
        new = {p.name: p.value for p in parameters if p.name in self._specs}
        return SimpleNamespace(**{**vars(self.values), **new})

    def _check(self, parameters: list[Any]) -> Any:
        from rcl_interfaces.msg import SetParametersResult

        reasons = [self._specs[p.name].refusal(p.value) for p in parameters if p.name in self._specs]
        reason = next(filter(None, reasons), "") or self._refusal(self._changed(parameters))
        return SetParametersResult(successful=not reason, reason=reason)

    def _take(self, parameters: list[Any]) -> None:
        # A new object each time: whoever holds the old one keeps a consistent set.
        values = self._changed(parameters)
        if values != self.values:
            self.values = values
            if self._on_change is not None:
                self._on_change(values)


def unknown_overrides(node: Node) -> list[str]:
    """Names of parameters the node was started with that it does not have: typing errors, in all likelihood."""
    # rclpy offers no public way to see overrides that were never declared.
    overrides = getattr(node, "_parameter_overrides", {})
    return sorted(n for n in overrides if not node.has_parameter(n) and not n.startswith("qos_overrides."))


def descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """The descriptor that `ros2 param describe` shows."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    message = ParameterDescriptor(description=spec.description, read_only=not spec.dynamic)
    if spec.choices:
        message.additional_constraints = "one of " + ", ".join(map(repr, spec.choices))
    if spec.minimum is not None and spec.type_name == "integer":
        upper = 2**62 if spec.maximum is None else int(spec.maximum)
        message.integer_range = [IntegerRange(from_value=int(spec.minimum), to_value=upper, step=0)]
    elif spec.minimum is not None:
        # rclpy compares with is-close at both ends, which infinity would make true for every value.
        upper = 1e300 if spec.maximum is None else spec.maximum
        message.floating_point_range = [FloatingPointRange(from_value=spec.minimum, to_value=upper, step=0.0)]
    return message


def _declare(node: Node, spec: ParameterSpec) -> Value:
    from rclpy.exceptions import (
        InvalidParameterException,
        InvalidParameterTypeException,
        InvalidParameterValueException,
    )

    overrides = getattr(node, "_parameter_overrides", {})
    if spec.name in overrides and (reason := spec.refusal(overrides[spec.name].value)):
        raise ValueError(f"parameter {reason}")
    try:
        return node.declare_parameter(spec.name, spec.default, descriptor(spec)).value
    except (InvalidParameterException, InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise ValueError(f"parameter {spec.name} is refused: {error}") from error


def yaml_defaults(executable: str) -> str:
    """The text of ``config/<executable>.yaml``: every parameter with its description and default."""
    lines = [
        f"# Parameters of {executable} with their defaults. Written by `python -m semantic_matcher.parameters`.",
        "/**:",
        "  ros__parameters:",
    ]
    for spec in TABLES[executable]:
        constraint = spec.range_text.replace("`", "")
        when = "dynamic" if spec.dynamic else "read-only"
        lines.append(f"    # {spec.description} [{', '.join(filter(None, (constraint, when)))}]")
        lines.append(f"    {spec.name}: {_yaml_scalar(spec.default)}")
    return "\n".join(lines) + "\n"


def _yaml_scalar(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def markdown_table(specs: Iterable[ParameterSpec]) -> str:
    """A table for the documentation."""
    lines = ["| parameter | type | default | range | changes at run time | what |", "|---|---|---|---|---|---|"]
    for spec in specs:
        default = f"`{_yaml_scalar(spec.default)}`"
        cells = (f"`{spec.name}`", spec.type_name, default, spec.range_text, "yes" if spec.dynamic else "no")
        lines.append(f"| {' | '.join(cells)} | {spec.description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"
