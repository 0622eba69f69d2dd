"""One table of options: what is added to it appears at every door, without another edit."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest

from semantic_matcher_core import options
from semantic_matcher_core.cli.options import MatchingOptions, ModelOptions
from semantic_matcher_core.cli.run_options import CalibrationOptions, PairingOptions
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.options import COMMAND_LINE, TABLES, command_line_of, on_command_line
from tests.conftest import REPOSITORY

DUMMY = '    ParameterSpec("dummy_share", 0.25, "A share that nothing reads", 0.0, 1.0, dynamic=True, launch=True),\n'
ROS = REPOSITORY / "ros_ws" / "src" / "semantic_matcher"
CLI = (MatchingOptions, ModelOptions, PairingOptions, CalibrationOptions)

SCRIPT = """
import importlib.util, io, json, sys, types
from contextlib import redirect_stdout

# The table as it would be with one more line, in the place of the one that is there.
spec = importlib.util.spec_from_file_location("semantic_matcher_core.options", sys.argv[1])
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

from semantic_matcher_core.cli import main
found = {}
for command in ("match", "bag", "video", "images"):
    with redirect_stdout(io.StringIO()) as shown:
        main([command, "--help"])
    found[command] = "--dummy-share" in shown.getvalue()

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.offline.options import RunOptions
try:
    RunOptions(dummy_share=1.5)
except ConfigError as error:
    found["offline"] = [RunOptions().dummy_share, RunOptions(dummy_share=0.5).dummy_share, str(error)]

from semantic_matcher import parameter_files
found["yaml"] = ["dummy_share: 0.25" in parameter_files.yaml_defaults(name) for name in module.TABLES]
found["docs"] = "| `dummy_share` | double | `0.25` | 0 to 1 | yes | A share" in parameter_files.documentation()

# Stand-ins for ROS where there is none: what is asked of it is recorded.
class Recorded:
    def __init__(self, *arguments, **values):
        self.arguments = arguments
        self.__dict__.update(values)

class Anything(types.ModuleType):
    def __getattr__(self, name):
        return type(name, (Recorded,), {})

names = (
    "rcl_interfaces", "rcl_interfaces.msg", "rclpy", "rclpy.exceptions", "rclpy.parameter", "launch", "launch.actions",
    "launch.logging", "launch.substitutions", "launch_ros", "launch_ros.actions", "ament_index_python",
    "ament_index_python.packages",
)
# A folder of that name is no package.
packages = {name: importlib.util.find_spec(name.partition(".")[0]) for name in names}
missing = [name for name, package in packages.items() if package is None or package.origin is None]
for name in missing:
    sys.modules[name] = Anything(name)
from semantic_matcher.declared_parameters import descriptor
described = {s.name: descriptor(s) for s in module.TABLES["temporal_matcher"]}["dummy_share"]
found["describe"] = [described.description, described.floating_point_range[0].to_value, described.read_only]

from semantic_matcher import launching
launching.LaunchDescription = lambda actions: actions
declared = launching.matcher_launch("temporal_matcher", [])
found["launch"] = [a.description for a in declared if getattr(a, "arguments", None) == ("dummy_share",)]
print(json.dumps(found))
"""


def test_an_option_that_is_added_to_the_table_appears_at_every_door(tmp_path) -> None:
    source = (REPOSITORY / "semantic_matcher_core" / "options.py").read_text()
    assert source.count("\nGEOMETRY = (\n") == 1
    table = tmp_path / "options.py"
    table.write_text(source.replace("\nGEOMETRY = (\n", f"\nGEOMETRY = (\n{DUMMY}"))
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{ROS}", "COLUMNS": "200", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(table)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        **dict.fromkeys(("match", "bag", "video", "images"), True),
        "offline": [0.25, 0.5, "dummy_share = 1.5 is refused: expected 0 to 1"],
        "yaml": ["geometry_threshold" in {s.name for s in table} for table in TABLES.values()],
        "docs": True,
        "describe": ["A share that nothing reads", 1.0, False],
        "launch": ["A share that nothing reads (default: 0.25)"],
    }


def test_what_a_node_has_a_command_has_or_the_table_says_why_not() -> None:
    nodes = {spec.name for table in TABLES.values() for spec in table}
    assert set(COMMAND_LINE) <= nodes
    groups = (
        options.MODEL, options.MATCHING, options.GEOMETRY, options.TEMPORAL, options.STEREO, options.STEREO_RECTIFIED,
        options.REFERENCE,
    )  # fmt: skip
    commands = {item.name for group in CLI for item in fields(group)}
    for name, option in on_command_line(*groups).items():
        assert name in commands, f"{name} is not on the command line; say why not in COMMAND_LINE"
        assert not command_line_of(option).why_not
    assert all(len(line.why_not) > 10 for line in COMMAND_LINE.values() if line.why_not)


@pytest.mark.parametrize("group", CLI)
def test_defaults_of_commands_are_those_of_nodes_or_the_table_says_so(group: type) -> None:
    specs = {spec.name: spec for table in reversed(TABLES.values()) for spec in table}
    for item in fields(group):
        if item.name in specs and item.name not in ("weights",):
            line = command_line_of(specs[item.name])
            assert item.default == (specs[item.name].default if line.default is ... else line.default), item.name


def test_offline_runs_have_the_nodes_defaults() -> None:
    specs = {spec.name: spec for table in TABLES.values() for spec in table}
    run = RunOptions()
    for name, ours in {"slop": "slop_s", "publish_points": "points"}.items():
        assert getattr(run, ours) == specs[name].default
    for name in ("geometry_threshold", "geometry_backend", "epipolar_band", "min_disparity", "rotation", "rectified"):
        assert getattr(run, name) == specs[name].default, name
    assert run.geometry is None and specs["geometry"].default == "none"
    assert importlib.util.find_spec("semantic_matcher_core.options")
