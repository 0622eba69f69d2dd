"""Point the CMake files of the ROS wheels at this virtual environment.

The wheels' exported targets name two folders of the machine they were built on: the Python headers and NumPy's
headers. CMake refuses imported targets whose include folders do not exist, so both are replaced after installing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

from tools.messages import SetupError, run_main, say

_BUILD_PYTHON = rb"/opt/python/cp3\d+-cp3\d+"
# Not followed by more of a file name: `…/include/python3.11` must not match within `…/include/python3.11-dbg`.
_END = rb"(?![\w.-])"
_NUMPY_HEADERS = re.compile(_BUILD_PYTHON + rb"/lib/python3\.\d+/site-packages/numpy/(?:_core|core)/include" + _END)
_PYTHON_HEADERS = re.compile(_BUILD_PYTHON + rb"/include/python3\.\d+" + _END)


def rewrite(content: bytes, python_headers: str, numpy_headers: str) -> bytes:
    """Return ``content`` of a CMake file with the build machine's two folders replaced; unchanged when it names
    neither.
    """
    content = _NUMPY_HEADERS.sub(lambda _: numpy_headers.encode(), content)
    return _PYTHON_HEADERS.sub(lambda _: python_headers.encode(), content)


def relocate(prefix: Path, python_headers: str, numpy_headers: str) -> list[Path]:
    """Rewrite every ``.cmake`` file below ``prefix/share`` and ``prefix/lib/cmake``; returns those that changed."""
    changed = []
    for folder in (prefix / "share", prefix / "lib" / "cmake"):
        for file in sorted(folder.rglob("*.cmake")):
            before = file.read_bytes()
            after = rewrite(before, python_headers, numpy_headers)
            if after != before:
                # A new file, not the old one overwritten: installers may hard-link files to a shared cache.
                temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
                temporary.write_bytes(after)
                temporary.replace(file)
                changed.append(file)
    return changed


def header_folders(python: Path) -> tuple[str, str]:
    """Return the folders of Python's and NumPy's C headers, as ``python`` (a virtual environment's) knows them."""
    code = "import numpy, sysconfig; print(sysconfig.get_paths()['include']); print(numpy.get_include())"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or len(lines) < 2:
        raise SetupError(f"{python} cannot import numpy: {done.stderr.strip()}")
    return lines[-2], lines[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("venv", type=Path, help="folder of the virtual environment")
    venv = parser.parse_args().venv
    changed = relocate(venv, *header_folders(venv / "bin" / "python"))
    say(f"{len(changed)} CMake files of the ROS wheels now point at {venv}")
    return 0


if __name__ == "__main__":
    run_main(main)
