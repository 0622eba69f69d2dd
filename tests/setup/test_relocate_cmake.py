from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import numpy
import pytest

from tools.messages import SetupError
from tools.relocate_cmake import header_folders, relocate, rewrite

EXPORTED = """set_target_properties(std_msgs::py PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "/opt/python/cp{0}-cp{0}/include/python{1};\
/opt/python/cp{0}-cp{0}/lib/python{1}/site-packages/numpy/{2}/include;${{_IMPORT_PREFIX}}/include/std_msgs"
)
"""


@pytest.mark.parametrize("python", ["310", "311", "312", "313"])
@pytest.mark.parametrize("core", ["_core", "core"])
def test_both_folders_are_replaced_for_every_python(python: str, core: str) -> None:
    text = EXPORTED.format(python, f"3.{python[1:]}", core)
    result = rewrite(text.encode(), "/home/me/include", "/home/me/numpy").decode()
    assert '"/home/me/include;/home/me/numpy;${_IMPORT_PREFIX}/include/std_msgs"' in result
    assert "/opt/python" not in result


@pytest.mark.parametrize(
    "text",
    [
        "set(x /opt/python/bin)",
        "/opt/python/cp311-cp311/include/python3.11-dbg",
        "/opt/python/cp27-cp27m/include/python2.7",
        "",
    ],
)
def test_other_paths_stay(text: str) -> None:
    assert rewrite(text.encode(), "/a", "/b") == text.encode()


def test_replacements_are_taken_literally() -> None:
    text = b"/opt/python/cp311-cp311/include/python3.11"
    assert rewrite(text, r"/odd\1/\g<0>", "/b") == rb"/odd\1/\g<0>"


def test_relocate_touches_cmake_files_that_name_the_folders_once(tmp_path: Path) -> None:
    share, cmake = tmp_path / "share" / "pkg" / "cmake", tmp_path / "lib" / "cmake" / "pkg"
    share.mkdir(parents=True)
    cmake.mkdir(parents=True)
    text = EXPORTED.format("311", "3.11", "_core")
    (share / "export.cmake").write_text(text)
    (cmake / "export.cmake").write_text(text)
    (share / "plain.cmake").write_text("nothing here")
    (share / "notes.txt").write_text(text)
    cached = tmp_path / "cached.cmake"
    os.link(share / "export.cmake", cached)
    changed = relocate(tmp_path, "/py", "/np")
    assert sorted(changed) == sorted([share / "export.cmake", cmake / "export.cmake"])
    assert "/opt/python" not in (share / "export.cmake").read_text()
    assert (share / "notes.txt").read_text() == text
    assert cached.read_text() == text, "the installer's cache is not ours to change"
    assert relocate(tmp_path, "/py", "/np") == []
    assert not list(tmp_path.rglob("*.tmp"))


def test_header_folders_are_those_of_the_interpreter_asked() -> None:
    assert header_folders(Path(sys.executable)) == (sysconfig.get_paths()["include"], numpy.get_include())


def test_header_folders_without_numpy(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named numpy' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(SetupError, match="cannot import numpy: No module named numpy"):
        header_folders(python)
