"""Messages of packages that no wheel has, generated from definitions that tests write, for real DDS."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

# What rclpy and Fast DDS ask for; the default generators would make as much again for C++.
_CMAKE = """cmake_minimum_required(VERSION 3.8)
project({package})
find_package(ament_cmake REQUIRED)
find_package(rosidl_cmake REQUIRED)
find_package(rosidl_generator_type_description REQUIRED)
find_package(rosidl_generator_c REQUIRED)
find_package(rosidl_typesupport_fastrtps_c REQUIRED)
find_package(rosidl_typesupport_c REQUIRED)
find_package(rosidl_generator_py REQUIRED)
{find}
list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX "_cpp")
rosidl_generate_interfaces({package} {files} DEPENDENCIES {depends})
ament_package()
"""
_MANIFEST = """<package format="3">
  <name>{package}</name><version>0.0.0</version><description>Stands in for the real one in tests.</description>
  <maintainer email="semantic-matcher@example.org">The semantic_matcher developers</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend><buildtool_depend>rosidl_default_generators</buildtool_depend>
  {depends}<exec_depend>rosidl_default_runtime</exec_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""


# As far as they are used: name of the package -> definitions of its messages, and the packages that these use.
PACKAGES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "foxglove_msgs": (
        {
            "Point2": "float64 x\nfloat64 y\n",
            "Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a\n",
            "PointsAnnotation": (
                "builtin_interfaces/Time timestamp\nuint8 POINTS=1\nuint8 LINE_LOOP=2\nuint8 LINE_STRIP=3\n"
                "uint8 LINE_LIST=4\nuint8 type\nPoint2[] points\nColor outline_color\nColor[] outline_colors\n"
                "Color fill_color\nfloat64 thickness\n"
            ),
            "ImageAnnotations": "PointsAnnotation[] points\n",
        },
        ("builtin_interfaces",),
    ),
    "rtabmap_msgs": (
        {
            "Point2f": "float32 x\nfloat32 y\n",
            "Point3f": "float32 x\nfloat32 y\nfloat32 z\n",
            "KeyPoint": ("Point2f pt\nfloat32 size\nfloat32 angle\nfloat32 response\nint32 octave\nint32 class_id\n"),
            "RGBDImage": (
                "std_msgs/Header header\nsensor_msgs/CameraInfo rgb_camera_info\n"
                "sensor_msgs/CameraInfo depth_camera_info\nsensor_msgs/Image rgb\nsensor_msgs/Image depth\n"
                "sensor_msgs/CompressedImage rgb_compressed\nsensor_msgs/CompressedImage depth_compressed\n"
                "KeyPoint[] key_points\nPoint3f[] points\nuint8[] descriptors\n"
            ),
        },
        ("std_msgs", "sensor_msgs"),
    ),
    "bond": (
        {
            "Status": (
                "std_msgs/Header header\nstring id\nstring instance_id\nbool active\nfloat32 heartbeat_timeout\n"
                "float32 heartbeat_period\n"
            )
        },
        ("std_msgs",),
    ),
}


@dataclass(frozen=True)
class Interfaces:
    """Packages that were built.

    Attributes:
        prefixes: where they are installed.
    """

    prefixes: tuple[Path, ...]

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process that has them."""
        front = {
            "AMENT_PREFIX_PATH": self.prefixes,
            "PYTHONPATH": self._python,
            "LD_LIBRARY_PATH": [prefix / "lib" for prefix in self.prefixes],
        }
        return {name: os.pathsep.join([*map(str, paths), os.environ.get(name, "")]) for name, paths in front.items()}

    @contextmanager
    def here(self) -> Iterator[None]:
        """Have them importable in this process, which chose its libraries long ago."""
        before = list(sys.path)
        sys.path[:0] = map(str, self._python)
        waiting = [library for prefix in self.prefixes for library in sorted(prefix.glob("lib/lib*.so"))]
        while waiting:
            # Those that need others come after them.
            left = [library for library in waiting if not _loaded(library)]
            assert len(left) < len(waiting), left
            waiting = left
        try:
            yield
        finally:
            sys.path[:] = before
            for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
                del sys.modules[name]

    @property
    def _python(self) -> list[Path]:
        patterns = ("lib/python3*/*-packages", "local/lib/python3*/*-packages")
        return [path for prefix in self.prefixes for pattern in patterns for path in prefix.glob(pattern)]


def _loaded(library: Path) -> bool:
    try:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def build(workspace: Path) -> Interfaces:
    """Generate and build all of :data:`PACKAGES` in an empty folder; skips without the tools."""
    missing = [tool for tool in ("colcon", "cmake", "g++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"messages cannot be generated here without {' and '.join(missing)}")
    for package, (messages, depends) in PACKAGES.items():
        source = workspace / "src" / package
        (source / "msg").mkdir(parents=True)
        for name, text in messages.items():
            (source / "msg" / f"{name}.msg").write_text(text)
        text = _CMAKE.format(
            package=package,
            find="\n".join(f"find_package({name} REQUIRED)" for name in depends),
            files=" ".join(f"msg/{name}.msg" for name in messages),
            depends=" ".join(depends),
        )
        (source / "CMakeLists.txt").write_text(text)
        text = _MANIFEST.format(package=package, depends="".join(f"<depend>{name}</depend>" for name in depends))
        (source / "package.xml").write_text(text)
    options = [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF", "-Wno-dev"]
    command = ["colcon", "build", "--cmake-args", *options]
    # colcon would add a limit of the load, by which a busy machine compiles one file after the other.
    environment = {**os.environ, "MAKEFLAGS": f"-j{os.cpu_count()}"}
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return Interfaces(tuple(workspace / "install" / package for package in PACKAGES))
