"""What a node's executable says to ``--help``, and to arguments that it would not hear. No ROS."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from semantic_matcher_core.options import TABLES

_WIDTH = 100


class UsageError(ValueError):
    """An argument that means nothing to a node; the message is fit for the user."""


def wants_help(arguments: Sequence[str]) -> bool:
    """Return whether ``--help`` or ``-h`` is among the arguments that are not for ROS."""
    return any(argument in ("-h", "--help") for argument in own_arguments(arguments))


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """Return what is left of a command line without what stands between ``--ros-args`` and ``--``."""
    own, for_ros = [], False
    for argument in arguments:
        if argument == "--ros-args":
            for_ros = True
        elif for_ros and argument == "--":
            for_ros = False
        elif not for_ros:
            own.append(argument)
    return own


def check(executable: str, arguments: Sequence[str]) -> None:
    """See to it that nothing was given that ROS would pass over in silence.

    Args:
        executable: the node's.
        arguments: the command line without the program's name.

    Raises:
        UsageError: an argument stands outside ``--ros-args`` or is no text, or a file of parameters is missing or no
            such file.
    """
    # What is no text of the locale becomes surrogates, which rclpy cannot pass on.
    if wrong := next((a for a in arguments if _is_no_text(a)), None):
        shown = wrong.encode("utf-8", "backslashreplace").decode()
        raise UsageError(
            f"{shown} is no text in UTF-8, as ROS has it: rename the file, or set LANG=C.UTF-8 where it is"
        )
    own = own_arguments(arguments)
    if own:
        raise UsageError(
            f"{own[0]!r} means nothing here; parameters and remappings come after --ros-args: "
            f"{executable} --ros-args -p variant:=xfeat; see {executable} --help"
        )
    for option, value in pairwise(arguments):
        if option == "--params-file":
            check_parameters_file(value)
        elif option in ("-p", "--param", "-r", "--remap"):
            _check_rule(option, value)


def _is_no_text(argument: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in argument)


def _check_rule(option: str, rule: str) -> None:
    """Refuse what people write by mistake, of which rcl says which of its lexemes it expected."""
    name, assigned, value = rule.partition(":=")
    if not assigned:
        raise UsageError(f"{option} {rule} assigns nothing; expected {option} NAME:=VALUE")
    if not value:
        empty = "; for an empty text give \"''\"" if option in ("-p", "--param") else ""
        raise UsageError(f"{option} {rule} has no value{empty}")
    if option in ("-p", "--param"):
        return
    what = name.rpartition(":")[2]
    if what == "__ns" and not value.startswith("/"):
        raise UsageError(f"{option} {rule} is no namespace; it begins with a slash: {option} {name}:=/{value}")
    if what in ("__node", "__name") and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise UsageError(f"{option} {rule} is no name of a node; it consists of letters, digits and _, no digit first")
    if not what.startswith("__") and not re.fullmatch(r"[A-Za-z0-9_/~{}*\\]+", value):
        raise UsageError(f"{option} {rule} gives no name of a topic; it consists of letters, digits, _ and /")


def of_other_nodes(arguments: Sequence[str], node: str) -> list[str]:
    """Say of each parameters file that has nothing for a node of this fully qualified name whom it is for."""
    said = []
    for option, path in pairwise(arguments):
        if option != "--params-file":
            continue
        content = yaml.compose(Path(path).expanduser().read_text(encoding="utf-8"), yaml.SafeLoader)
        names = _names(content)
        if not any(re.fullmatch(_pattern(name), node) for name in names):
            said.append(
                f"the parameters file {path} has nothing for {node}, its values have no effect: it is for "
                f"{', '.join(names)}; /** is for any node"
            )
    return said


def _names(content: yaml.Node | None, above: str = "") -> list[str]:
    """Return the nodes that a file names, as rcl puts the keys together."""
    if not isinstance(content, yaml.MappingNode):
        return []
    found: list[str] = []
    for key, part in content.value:
        if key.value == "ros__parameters":
            found.append(above or "/")
        else:
            found += _names(part, f"{above}/{key.value.strip('/')}")
    return found


def _pattern(name: str) -> str:
    """Return a name with rcl's wildcards (* for one token, ** for any number) as a regular expression."""
    tokens = {"**": r"(/[^/]+)*", "*": r"/[^/]+"}
    return "".join(tokens.get(token, f"/{re.escape(token)}") for token in name.strip("/").split("/"))


def check_parameters_file(path: str) -> None:
    """See to it that a file of parameters is there and is one; what the parameters mean, the node says.

    Raises:
        UsageError: it is missing, no YAML, or not laid out as ROS has it.
    """
    file = Path(path).expanduser()
    if file.exists() and not file.is_file() and not file.is_dir():
        # Of a pipe nothing is left for rcl, and one that nobody writes into is waited for without end.
        raise UsageError(f"the parameters file {path} is a pipe or a device; ROS reads it more than once: give a file")
    try:
        # Not loaded: launch writes tags of Python's, which rcl passes over.
        content = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"cannot read the parameters file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the parameters file {path} is no text in UTF-8") from error
    except yaml.YAMLError as error:
        raise UsageError(f"the parameters file {path} is no YAML: {' '.join(str(error).split())}") from error
    if not _holds_nodes(content):
        raise UsageError(
            f"the parameters file {path} is not laid out as ROS has it: expected a node's name or /**, below it "
            "ros__parameters, and below that the parameters"
        )


def _holds_nodes(value: yaml.Node | None) -> bool:
    """Return whether each value of a mapping holds ``ros__parameters``, or nodes of a namespace."""
    if not isinstance(value, yaml.MappingNode) or not value.value:
        return False
    inner = {key.value: part for key, part in value.value if isinstance(key, yaml.ScalarNode)}
    return all(
        _holds_nodes(part) or (name == "ros__parameters" and isinstance(part, yaml.MappingNode))
        for name, part in inner.items()
    )


def help_text(executable: str, purpose: str) -> str:
    """Return the help of an executable.

    Args:
        executable: its name.
        purpose: what it does, one sentence.
    """
    lines = [
        f"usage: {executable} [--ros-args [-p NAME:=VALUE] [-r FROM:=TO] [--params-file FILE] [--log-level LEVEL]]",
        "",
        purpose,
        "",
        f"Start it for example with: {executable} --ros-args -p variant:=plain:sift -r image:=/camera/image_raw",
        "",
        "parameters:",
    ]
    for spec in TABLES[executable]:
        default = str(spec.default).lower() if isinstance(spec.default, bool) else repr(spec.default)
        about = f"{spec.description} [{spec.type_name}, default {default}]"
        lines += textwrap.wrap(about, _WIDTH, initial_indent=f"  {spec.name}: ", subsequent_indent=" " * 6)
    return "\n".join(lines)
