"""The options of nodes, command line and offline runs: one table, of which all of them are made.

ROS parameters, their YAML defaults, launch arguments, options of ``semantic-matcher`` and of offline runs, and the
documentation are made from it: an option that is added here appears in each of them. Imports neither torch nor ROS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

Value = bool | int | float | str | list[str]


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        name: its name.
        default: its default; the type of the default is the type of the parameter.
        description: what it is, with its unit.
        minimum, maximum: range of a number, both ends included.
        choices: the values that a string may have; empty for any.
        pattern: regular expression that each string of an array must match, with what it means in words; empty
            strings are left out, because ROS has no empty array in a parameter file.
        dynamic: may change while the node runs; otherwise it is read-only.
        launch: is an argument of the launch files as well; all others are set with their params_file.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: tuple[str, str] = (".*", "")
    dynamic: bool = False
    launch: bool = False

    @property
    def is_launch_argument(self) -> bool:
        """Whether the launch files have it as an argument."""
        return self.launch or self.name in LAUNCH_ARGUMENTS

    @property
    def type_name(self) -> str:
        """The type as ROS calls it."""
        names = {bool: "bool", int: "integer", float: "double", str: "string", list: "string_array"}
        return names[type(self.default)]

    @property
    def a_type(self) -> str:
        """The type with its article."""
        if self.type_name == "string_array":
            return "an array of strings"
        return f"{'an' if self.type_name == 'integer' else 'a'} {self.type_name}"

    def coerced(self, value: object) -> object:
        """Return a whole number as a fraction, and one string as an array of one, where that is meant: people write
        both.
        """
        if type(value) is str and isinstance(self.default, list):
            return [value]
        return float(value) if type(value) is int and type(self.default) is float else value

    def refusal(self, value: object) -> str:
        """Return why the value is refused, naming it; empty when it is good."""
        if type(value) is not type(self.default):
            return f"{self.name} = {value!r} is refused: expected {self.a_type}"
        if isinstance(value, list):
            return self._refusal_of_array(value)
        if self.choices and value not in self.choices:
            return f"{self.name} = {value!r} is refused: expected one of {', '.join(map(repr, self.choices))}"
        if self.minimum is None or not isinstance(value, (int, float)):
            return ""
        if math.isfinite(value) and self.minimum <= value <= self.upper:
            return ""
        return f"{self.name} = {value!r} is refused: expected {self.range_text}"

    def _refusal_of_array(self, values: list[object]) -> str:
        pattern, meaning = self.pattern
        if not all(isinstance(value, str) for value in values):
            return f"{self.name} = {values!r} is refused: expected {self.a_type}"
        given = [value for value in values if value]
        if len(set(given)) < len(given):
            return f"{self.name} = {values!r} is refused: something is in it twice"
        bad = next((value for value in given if not re.fullmatch(pattern, str(value))), None)
        return "" if bad is None else f"{self.name} = {values!r} is refused: {bad!r} is no {meaning}"

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


# A table: name and default, what it is, range or choices.
# fmt: off
MODEL = (
    ParameterSpec("variant", "",
        "What to match with: a published variant, a checkpoint folder or zip, or plain:<extractor>. Empty: descriptor "
        "and dino say it; all empty: plain:compact, which comes with the package"),
    ParameterSpec("descriptor", "",
        "Local feature extractor, where variant is empty; empty for xfeat where dino is given"),
    ParameterSpec("dino", "",
        "Semantic encoder, where variant is empty: dinov2_vits14, dinov2_vitb14, dinov2_vitl14, dinov2_vitg14, another "
        "one that a variant has a reasoner for, or none for plain descriptor matching; empty for what the descriptor's "
        "variants have, dinov2_vits14 mostly"),
    ParameterSpec("weights", "", "Folder to search for weights before the usual places"),
    ParameterSpec("device", "auto", "Where the networks run: auto, cpu, cuda or cuda:<index>"),
    ParameterSpec("precision", "fp32",
        "What the networks compute in; fp16 needs a GPU", choices=("fp32", "fp16", "bf16")),
    ParameterSpec("backend", "eager",
        "What runs the networks: eager, torch as it is; compile, torch.compile; onnx, graphs that semantic-matcher "
        "export made; tensorrt, torch-tensorrt on a GPU", choices=("eager", "compile", "onnx", "tensorrt")),
    ParameterSpec("max_keypoints", 2048, "Keypoints per image at most", 1, 65536, dynamic=True),
    ParameterSpec("detection_threshold", -1.0,
        "The extractor's detection threshold, in its own unit; -1 for the variant's own", -1.0, 1000.0, dynamic=True),
    ParameterSpec("semantic_size", 896,
        "Long side in pixels at which the semantic encoder sees the image; no effect without one",
        14, 4096, dynamic=True),
    ParameterSpec("warmup_width", 640, "Width in pixels of the picture that warms the model up; 0 for none", 0, 16384),
    ParameterSpec("warmup_height", 480,
        "Height in pixels of the picture that warms the model up; 0 for none", 0, 16384),
    ParameterSpec("torch_threads", 0, "Threads that torch computes with on the CPU; 0 for torch's own choice", 0, 1024),
)

MATCHING = (
    ParameterSpec("matcher", "nearest",
        "What matches two images: nearest, nearest neighbours by similarity; lightglue, LightGlue, for extractors that "
        "it was trained for, without semantics", choices=("nearest", "lightglue")),
    ParameterSpec("guided", "auto",
        "Where the first matches disagree, search again by where those around a keypoint say that it went: always, "
        "never, or auto, which is always for compact and never for others", choices=("auto", "always", "never"),
        dynamic=True),
    ParameterSpec("mutual", True, "Keep mutual nearest neighbours only", dynamic=True),
    ParameterSpec("ratio", 0.0,
        "Keep a match whose distance is below this share of that to the second nearest; 0 for no test",
        0.0, 1.0, dynamic=True),
    ParameterSpec("max_distance", 0.0,
        "Keep a match up to this descriptor distance; 0 for no limit", 0.0, 2.0, dynamic=True),
    ParameterSpec("min_similarity", -1.0,
        "Keep a match from this similarity on; -1 for no limit", -1.0, 1.0, dynamic=True),
    ParameterSpec("filter_threshold", 0.1, "LightGlue: keep a match above this probability", 0.0, 0.999, dynamic=True),
    ParameterSpec("depth_confidence", 0.0,
        "LightGlue: stop after a layer when this share of the keypoints is sure of itself; 1 runs all layers, 0 is "
        "what its weights were published with", 0.0, 1.0, dynamic=True),
    ParameterSpec("width_confidence", 0.0,
        "LightGlue: drop keypoints on the way that are this sure to have no match; 1 drops none, 0 is what its weights "
        "were published with", 0.0, 1.0, dynamic=True),
)


def _geometry(what: str, kinds: tuple[str, ...]) -> ParameterSpec:
    text = f"Geometric check of the matches, which fills inlier and model: {what}"
    return ParameterSpec("geometry", "none", text, choices=("none", *kinds), dynamic=True)


_PLANE_OR_RIGID = "homography for a plane or a camera that only turns, fundamental for a rigid scene"
GEOMETRY_CALIBRATED = (
    _geometry(f"{_PLANE_OR_RIGID}, essential for the same with camera_info",
        ("homography", "fundamental", "essential")),
    ParameterSpec("rectified", False,
        "The images are rectified: camera_info's P holds for them; otherwise its K and distortion do", dynamic=True),
)
GEOMETRY_UNCALIBRATED = (_geometry(_PLANE_OR_RIGID, ("homography", "fundamental")),)

GEOMETRY = (
    ParameterSpec("geometry_backend", "magsac",
        "What estimates the model: magsac, OpenCV's MAGSAC++; poselib, PoseLib's LO-RANSAC",
        choices=("magsac", "poselib"), dynamic=True),
    ParameterSpec("geometry_threshold", 2.0,
        "Largest distance of an inlier from the model, in pixels", 0.01, 100.0, dynamic=True),
)

MASKS = (
    ParameterSpec("mask", [""],
        "Image files of the images' size (PNG) that are zero where keypoints are not wanted, such as on the robot "
        "itself; one for all cameras, or one for each in their order (stereo: left, right). Empty for none"),
)

INPUT = (
    ParameterSpec("image_transport", "raw",
        "raw for sensor_msgs/Image on the image topic, compressed for CompressedImage on <topic>/compressed",
        choices=("raw", "compressed")),
    ParameterSpec("image_reliability", "auto",
        "Reliability that images are subscribed with: auto, that of their publishers; reliable; best_effort",
        choices=("auto", "reliable", "best_effort")),
    ParameterSpec("lazy", True, "Take images only while an output has a subscriber; false: always", dynamic=True),
    ParameterSpec("image_full_scale", 0.0,
        "Value of 16-bit and float images that becomes white, e.g. 4096 for 12 bits; 0 for the encoding's own, or what "
        "the image fills where that is less", 0.0, dynamic=True),
    ParameterSpec("max_image_age", 0.0,
        "Images older than this many seconds when their turn comes are skipped; 0 for no limit",
        0.0, 3600.0, dynamic=True),
    *MASKS,
)

CAMERAS = (
    ParameterSpec("cameras", [""],
        "Cameras that share this node's model and take turns, such as [front, rear]: <camera>/image in, "
        "~/<camera>/matches out; empty for one camera: image in, ~/matches out",
        pattern=(r"[A-Za-z][A-Za-z0-9_]*", "name of a camera: letters, digits and _, a letter first")),
)

TEMPORAL = (
    ParameterSpec("reference_policy", "previous",
        "What a frame is matched with: previous, the frame before; every_nth, one that serves for every_nth frames; "
        "keyframe, one that serves until too little of it is found again",
        choices=("previous", "every_nth", "keyframe"), dynamic=True),
    ParameterSpec("every_nth", 5, "Frames that a reference serves for, with every_nth", 1, 100000, dynamic=True),
    ParameterSpec("semantic_every", 1,
        "Run the semantic encoder for every n-th frame at least; those between look its map up where the motion since "
        "says", 1, 1000, dynamic=True),
    ParameterSpec("min_inlier_share", 0.25,
        "A keyframe is replaced when a smaller share of the keypoints is matched (inliers, with a geometric check)",
        0.0, 1.0, dynamic=True),
    ParameterSpec("min_overlap", 0.4,
        "A keyframe is replaced when a smaller share of its area is matched", 0.0, 1.0, dynamic=True),
)

STEREO = (
    ParameterSpec("sync", "approximate",
        "Which left and right images are a pair: approximate, those nearest in time; exact, those of equal stamps, as "
        "a hardware trigger gives", choices=("approximate", "exact"), dynamic=True),
    ParameterSpec("slop", 0.0,
        "With sync approximate: largest difference between the stamps of a pair in seconds, below half the frame "
        "period; 0 for three quarters of the frame period, as it is observed", 0.0, 10.0, dynamic=True),
    ParameterSpec("queue_size", 10,
        "Images of each side that wait for their partner, apart from QoS depth", 1, 1000, dynamic=True),
)

STEREO_RECTIFIED = (
    ParameterSpec("epipolar_band", 2.0,
        "Rectified images: match only keypoints whose rows differ by at most this many pixels; 0 for no such limit. No "
        "effect unless rectified is true", 0.0, 1000.0, dynamic=True),
    ParameterSpec("min_disparity", 1.0,
        "Matches of a smaller disparity, in pixels, become no points: their depth says little",
        0.01, 1000.0, dynamic=True),
    ParameterSpec("publish_points", True,
        "Publish the matches as points in space while there is a subscriber; needs rectified images and camera_info",
        dynamic=True),
    ParameterSpec("color_points", False,
        "Give the points in space the field rgb, the colour of the left image, as PCL and RViz have it", dynamic=True),
)

ODOMETRY = (
    ParameterSpec("odometry", False,
        "Follow the camera and publish ~/odometry. temporal_matcher: needs depth that is registered to the image, on "
        "depth, and camera_info; stereo_matcher: needs rectified images and camera_info"),
    ParameterSpec("odom_frame", "odom", "Frame that ~/odometry is in"),
    ParameterSpec("base_frame", "",
        "Frame that ~/odometry is of, such as base_link; its way to the camera's frame is taken from /tf_static or "
        "from mount. Empty: the camera's own frame"),
    ParameterSpec("mount", "",
        "Where the camera's optical frame is in base_frame, x y z roll pitch yaw in metres and radians; empty for what "
        "/tf_static says"),
    ParameterSpec("publish_tf", False, "Publish the transform from odom_frame to base_frame on /tf as well"),
)

RTABMAP = (
    ParameterSpec("publish_rgbd", False,
        "Publish ~/rgbd_image for RTAB-Map while there is a subscriber: image, depth or right image, and the features. "
        "Needs the package rtabmap_msgs, and what odometry needs"),
)

REFERENCE_POSE = (
    ParameterSpec("reference_width", 0.0,
        "Width in metres of what a stored image shows, where that is flat and fills it: a poster, a page. Its pose in "
        "the camera's frame is then published on ~/pose; needs camera_info. 0 for none", 0.0, 1000.0, dynamic=True),
    ParameterSpec("rectified", False, "The images are rectified: camera_info's P holds for them", dynamic=True),
    ParameterSpec("publish_tf", False,
        "Publish the pose on /tf as well, as that of a frame called like the stored image, without its suffix"),
)

REFERENCE = (
    ParameterSpec("reference_images", [""],
        "Image files, or folders of them, to match with; empty to wait for the service ~/set_reference"),
    ParameterSpec("rotation", "upright",
        "How images may be turned against the stored ones, each of which is extracted once at this many turns: "
        "quarter, four; any, eight", choices=("upright", "quarter", "any")),
)

MODEL_OF_TRACKER = tuple(
    replace(spec, default={"descriptor": "dalf", "dino": "none"}.get(spec.name, spec.default)) for spec in MODEL
)
"""Those of MODEL; DALF's features are made for surfaces that bend."""

TRACKING = (
    ParameterSpec("template_image", "", "Image file of the template; empty to wait for the service ~/set_reference"),
    ParameterSpec("template_mask", "",
        "Image file of the template's size that is black where the object is not; empty for none"),
    ParameterSpec("deformation_threshold", 0.1,
        "How far matches may be from one smooth deformation: 0.1 is some 10 pixels where they spread over 640 x 480",
        0.001, 10.0, dynamic=True),
    ParameterSpec("regularisation", 0.01,
        "How smooth the deformation is; 0 follows every match", 0.0, 1000.0, dynamic=True),
    ParameterSpec("min_inliers", 30, "With fewer matches the template counts as not found", 3, 65536, dynamic=True),
    ParameterSpec("max_side", 1600,
        "Features are taken from images no larger than this, long side in pixels", 32, 16384),
    ParameterSpec("smooth", False, "Steady the deformation over time", dynamic=True),
    ParameterSpec("grid_columns", 17, "Points across of the grid that is published", 2, 1000, dynamic=True),
    ParameterSpec("marker_scale", 0.001,
        "Metres that a pixel becomes in ~/grid_marker, for RViz", 1e-6, 1000.0, dynamic=True),
    ParameterSpec("publish_rectified", True, "Publish the rectified image while there is a subscriber", dynamic=True),
)

DESCRIPTORS = (
    ParameterSpec("descriptor_dtype", "float32",
        "Number format of the descriptors that are published: float32; float16, half as many bytes in data16 and "
        "semantic_data16, good to three digits", choices=("float32", "float16"), dynamic=True),
)

OUTPUT = (
    *DESCRIPTORS,
    ParameterSpec("publish_keypoints", True, "Publish keypoints while there is a subscriber", dynamic=True),
    ParameterSpec("publish_descriptors", True, "Publish descriptors while there is a subscriber", dynamic=True),
    ParameterSpec("publish_debug_image", True, "Draw the debug image while there is a subscriber", dynamic=True),
    ParameterSpec("publish_annotations", True, "Publish annotations while there is a subscriber", dynamic=True),
    ParameterSpec("debug_max_matches", 200, "Lines drawn in the debug image at most", 0, 100000, dynamic=True),
    ParameterSpec("debug_height", 480, "Height of the images in the debug image, in pixels", 32, 8192, dynamic=True),
    ParameterSpec("debug_jpeg_quality", 80, "JPEG quality of the compressed debug image", 1, 100, dynamic=True),
)

NODE = (
    ParameterSpec("autostart", True, "Configure and activate at start; false waits for the lifecycle services"),
    ParameterSpec("bond_heartbeat_period", 0.0,
        "Seconds between two signs of life for nav2's lifecycle manager, as its own nodes have it, 0.1 or 0.25 mostly; "
        "0 for none. Needs the package bond", 0.0, 2.0),
    ParameterSpec("diagnostics_period", 1.0, "Seconds between two messages on /diagnostics", 0.05, 3600.0),
    ParameterSpec("no_image_warning_period", 5.0,
        "Seconds without an image after which the node warns; 0 for never", 0.0, 3600.0, dynamic=True),
)

# fmt: on

TABLES: dict[str, tuple[ParameterSpec, ...]] = {
    "temporal_matcher": (
        *MODEL, *MATCHING, *GEOMETRY_CALIBRATED, *GEOMETRY, *INPUT, *CAMERAS, *TEMPORAL, *ODOMETRY,
        *RTABMAP, *OUTPUT, *NODE,
    ),
    "stereo_matcher": (
        *MODEL, *MATCHING, *GEOMETRY_CALIBRATED, *GEOMETRY, *INPUT, *STEREO, *STEREO_RECTIFIED,
        *ODOMETRY, *RTABMAP, *OUTPUT, *NODE,
    ),
    "reference_matcher": (
        *MODEL, *MATCHING, *GEOMETRY_UNCALIBRATED, *GEOMETRY, *INPUT, *CAMERAS, *REFERENCE,
        *REFERENCE_POSE, *OUTPUT, *NODE,
    ),
    "template_tracker": (
        *MODEL_OF_TRACKER, *MATCHING, *INPUT, *TRACKING, *REFERENCE_POSE, *OUTPUT, *NODE
    ),
}  # fmt: skip
"""Executable -> its parameters."""

SUBJECTS: dict[str, tuple[ParameterSpec, ...]] = {
    "Model": MODEL,
    "Matching": MATCHING,
    "Geometric check": GEOMETRY,
    "Geometric check, `temporal_matcher` and `stereo_matcher`": GEOMETRY_CALIBRATED,
    "Geometric check, `reference_matcher`": GEOMETRY_UNCALIBRATED,
    "Images": INPUT,
    "Cameras, `temporal_matcher` and `reference_matcher`": CAMERAS,
    "Pairing, `temporal_matcher` only": TEMPORAL,
    "Pairing, `stereo_matcher` only": STEREO,
    "Rectified images, `stereo_matcher` only": STEREO_RECTIFIED,
    "Odometry, `temporal_matcher` and `stereo_matcher`": ODOMETRY,
    "RTAB-Map, `temporal_matcher` and `stereo_matcher`": RTABMAP,
    "Pairing, `reference_matcher` only": REFERENCE,
    "Pose, `reference_matcher` and `template_tracker`": REFERENCE_POSE,
    "Tracking, `template_tracker` only (whose `descriptor` is `dalf` and `dino` is `none` by default)": TRACKING,
    "Output": OUTPUT,
    "Node": NODE,
}
"""What they are about -> the parameters, in the order of the documentation."""


LAUNCH_ARGUMENTS = frozenset(
    {
        "variant", "descriptor", "dino", "weights", "device", "precision", "max_keypoints", "matcher", "cameras",
        "reference_images", "template_image", "rectified", "geometry", "image_transport", "image_reliability", "mask",
        "sync", "slop", "lazy", "odometry", "odom_frame", "base_frame", "mount", "publish_tf", "publish_rgbd",
        "reference_width", "autostart", "bond_heartbeat_period",
    }
)  # fmt: skip
"""Parameters that are launch arguments as well."""

NOT_GIVEN = None
"""The default of an option that, left out, means what the model was made for."""


@dataclass(frozen=True)
class CommandLine:
    """What an option is like on the command line, where that differs.

    Attributes:
        why_not: why the command line does not have it; empty where it does.
        flags: its names there besides its own, such as ``-k``.
        default: its default there; ``...`` for the same.
    """

    why_not: str = ""
    flags: tuple[str, ...] = ()
    default: Any = ...


COMMAND_LINE: dict[str, CommandLine] = {
    "variant": CommandLine(flags=("-v",), default=NOT_GIVEN),
    "max_keypoints": CommandLine(flags=("-k",), default=NOT_GIVEN),
    **dict.fromkeys(
        (
            "descriptor", "dino", "semantic_size", "detection_threshold", "ratio", "max_distance", "min_similarity",
            "filter_threshold", "mask", "depth_confidence", "width_confidence",
        ),
        CommandLine(default=NOT_GIVEN),
    ),
    **dict.fromkeys(("warmup_width", "warmup_height"), CommandLine("a command's first image is its warming up")),
    "torch_threads": CommandLine("it is called --threads there, with --jobs"),
    "reference_images": CommandLine("a command takes it as one of its arguments"),
    "weights": CommandLine("it is a path there"),
    "semantic_every": CommandLine("results would depend on where a run was cut off"),
    "queue_size": CommandLine("frames of a recording do not queue"),
    "publish_tf": CommandLine("a recording's poses are in its odometry messages"),
}  # fmt: skip
"""Option -> what is different on the command line; of those that are not here, nothing is."""


def command_line_of(option: ParameterSpec) -> CommandLine:
    """Return what an option is like on the command line."""
    return COMMAND_LINE.get(option.name, CommandLine())


def on_command_line(*groups: Iterable[ParameterSpec]) -> dict[str, ParameterSpec]:
    """Return the options of groups that the command line has, by name."""
    return {o.name: o for group in groups for o in group if not command_line_of(o).why_not}


def named(values: list[str]) -> list[str]:
    """Return the strings of an array parameter that are not empty."""
    return [value for value in values if value]
