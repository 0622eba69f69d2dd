"""What the launch files have in common: arguments that are explained, checked, and passed on only where given."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from semantic_matcher.command_line import check_parameters_file
from semantic_matcher.fastdds_profile import large_message_environment
from semantic_matcher_core.errors import did_you_mean
from semantic_matcher_core.options import TABLES, ParameterSpec, Value, named

_RVIZ_TOPICS = ("debug_image", "points", "grid_marker")
# Between two starts, so that what fails at once does not fill the log.
_RESPAWN_DELAY_S = 2.0
_LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class TopicArgument:
    """A launch argument that names a topic.

    Attributes:
        name: the argument.
        topic: the relative name that the node uses, which is the argument's default.
        description: what is expected on the topic.
        derived: the node finds the topic by itself unless it is told; the argument is then empty by default.
        default: another default, of a launch file for one kind of camera.
    """

    name: str
    topic: str
    description: str
    derived: bool = False
    default: str = ""

    @property
    def default_value(self) -> str:
        """The argument's default."""
        return self.default or ("" if self.derived else self.topic)


def matcher_launch(
    executable: str, topics: Iterable[TopicArgument], defaults: Mapping[str, str] | None = None
) -> LaunchDescription:
    """Return the launch description of one node.

    An argument that is left empty is not passed on: the parameter then has the value of ``params_file``, or the node's
    default. What is given is checked here already, so that a wrong value is refused by its name before anything starts.

    Args:
        executable: the node.
        topics: its topic arguments.
        defaults: of arguments that a launch file for one kind of camera gives other defaults.
    """
    topics, defaults = tuple(topics), defaults or {}
    specs = {spec.name: spec for spec in TABLES[executable] if spec.is_launch_argument}

    def node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
        names = _argument_names(specs, topics)
        given = {name: LaunchConfiguration(name).perform(context) for name in names}
        for text in without_effect(executable, context.launch_configurations, names, topics):
            get_logger("semantic_matcher").warning(text)
        # RViz first: where it is missing, nothing has been started that would have to be ended.
        rviz = [_rviz(executable, given["namespace"], given["name"])] if _boolean("rviz", given["rviz"]) else []
        return [_node(executable, specs, topics, given), *rviz]

    return LaunchDescription(
        [
            *(DeclareLaunchArgument(t.name, default_value=t.default_value, description=t.description) for t in topics),
            *(
                DeclareLaunchArgument(name, default_value=defaults.get(name, ""), description=_description(specs[name]))
                for name in specs
            ),
            DeclareLaunchArgument("name", default_value=executable, description="Name of the node"),
            DeclareLaunchArgument(
                "respawn", default_value="false", description="true to start the node again when its process dies"
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics"),
            DeclareLaunchArgument(
                "params_file",
                default_value="",
                description=f"YAML file of parameters; config/{executable}.yaml of this package lists them all",
            ),
            DeclareLaunchArgument(
                "use_sim_time", default_value="", description="true to take the time from /clock (default: false)"
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=_LOG_LEVELS,
                description="Least severity of what is logged",
            ),
            DeclareLaunchArgument(
                "rviz", default_value="false", description="true to start RViz with rviz/semantic_matcher.rviz as well"
            ),
            # Of the processes launched from here on; a profile of the user's own stays.
            *(SetEnvironmentVariable(name, value) for name, value in large_message_environment().items()),
            OpaqueFunction(function=node),
        ]
    )


def _argument_names(specs: Mapping[str, ParameterSpec], topics: Iterable[TopicArgument]) -> list[str]:
    own = ("namespace", "name", "respawn", "params_file", "use_sim_time", "log_level", "rviz")
    return [*specs, *(t.name for t in topics), *own]


def without_effect(
    executable: str, given: Iterable[str], declared: Collection[str], topics: Iterable[TopicArgument]
) -> list[str]:
    """Return a sentence for each given argument that was meant for the node, in all likelihood, and is none of its.

    Launch passes over what nobody has declared. What else is given may be for a file that includes this one.
    """
    found = []
    of_topics = {topic.topic.replace("/", "_"): topic.name for topic in topics}
    for name in sorted(set(given) - set(declared)):
        if name in {spec.name for spec in TABLES[executable]}:
            hint = f"it is a parameter of {executable}, but no launch argument: set it in params_file"
        else:
            likely, alike = ({name: of_topics[name]}, 1.0) if name in of_topics else ({n: n for n in declared}, 0.88)
            hint = did_you_mean(name, likely, alike=alike)
        if not hint:
            continue
        found.append(f"the launch argument {name} has no effect; {hint}")
    return found


def _description(spec: ParameterSpec) -> str:
    default = spec.default if spec.default not in ("", [""]) else "empty"
    choices = f"; one of {', '.join(spec.choices)}" if spec.choices else ""
    return f"{spec.description}{choices} (default: {str(default).lower() if spec.type_name == 'bool' else default})"


def _node(
    executable: str, specs: Mapping[str, ParameterSpec], topics: Iterable[TopicArgument], given: Mapping[str, str]
) -> LifecycleNode:
    parameters: list[Any] = []
    if given["params_file"]:
        path = Path(given["params_file"]).expanduser()
        check_parameters_file(str(path))
        parameters.append(str(path))
    explicit = {name: parameter_value(spec, given[name]) for name, spec in specs.items() if given[name] != ""}
    if given["use_sim_time"]:
        explicit["use_sim_time"] = _boolean("use_sim_time", given["use_sim_time"])
    if explicit:
        parameters.append(explicit)
    # Launch files that include this one may wait for its states (OnStateTransition).
    cameras = explicit.get("cameras", [])
    return LifecycleNode(
        package="semantic_matcher",
        executable=executable,
        name=given["name"],
        namespace=given["namespace"],
        respawn=_boolean("respawn", given["respawn"]),
        respawn_delay=_RESPAWN_DELAY_S,
        parameters=parameters,
        remappings=_remappings(topics, given, named(cameras if isinstance(cameras, list) else [])),
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
    )


def _rviz(executable: str, namespace: str, name: str) -> Node:
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        raise ValueError(
            "rviz:=true, but the package rviz2 is not installed: install it (Debian package ros-<distro>-rviz2), or "
            "look at ~/debug_image with another tool"
        ) from None
    config = Path(get_package_share_directory("semantic_matcher")) / "rviz" / "semantic_matcher.rviz"
    prefix = "/".join(filter(None, ["", namespace.strip("/"), name]))
    # The file names the topics of a node without a namespace, by its own name.
    moved = [(f"/{executable}/{topic}", f"{prefix}/{topic}") for topic in _RVIZ_TOPICS]
    moved = moved if prefix != f"/{executable}" else []
    return Node(package="rviz2", executable="rviz2", arguments=["-d", str(config)], remappings=moved, output="screen")


def _remappings(
    topics: Iterable[TopicArgument], given: Mapping[str, str], cameras: Iterable[str]
) -> list[tuple[str, str]]:
    """Return remappings of the node's topics to those given; with cameras, of each camera's to those below its name."""
    cameras = list(cameras)
    changed = [t for t in topics if given[t.name] not in ("", t.topic)]
    if not cameras:
        return [(t.topic, given[t.name]) for t in changed]
    for topic in changed:
        if given[topic.name].startswith(("/", "~")):
            raise ValueError(
                f"{topic.name}:={given[topic.name]} is refused: with cameras it is a name below each camera's, such as "
                "image_raw for front/image_raw"
            )
    return [(f"{camera}/{t.topic}", f"{camera}/{given[t.name]}") for camera in cameras for t in changed]


def parameter_value(spec: ParameterSpec, text: str) -> Value:
    """Return the value that the text of a launch argument means.

    Raises:
        ValueError: it is of another type, out of range, or none of the choices; the message names it.
    """
    if spec.type_name == "bool":
        return _boolean(spec.name, text)
    if spec.type_name == "string_array":
        # As YAML has it, [front, rear], or without the brackets.
        items = text.strip().removeprefix("[").removesuffix("]").split(",")
        value: Value = [item.strip().strip("'\"") for item in items]
        if reason := spec.refusal(value):
            raise ValueError(reason)
        return value
    try:
        value = type(spec.default)(text)
    except ValueError:
        raise ValueError(f"{spec.name}:={text} is refused: expected {spec.a_type}") from None
    if reason := spec.refusal(value):
        raise ValueError(reason)
    return value


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError(f"{name}:={text} is refused: expected true or false")
    return _BOOLEANS[text.lower()]
