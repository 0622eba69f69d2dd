"""A virtual environment with gradio and rerun that sees another one's packages, for the tests of app and viewer."""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

# The versions that the page and the viewer's recordings are tested with.
PACKAGES = ("gradio==6.31.0", "rerun-sdk==0.41.0")


def make(base: Path, output: Path) -> None:
    """Make the environment; packages that these bring come before those of ``base``."""
    done = output / ".done"
    if done.is_file() and done.read_text(encoding="utf-8") == " ".join(PACKAGES):
        return
    venv.create(output, with_pip=False, clear=True)
    (base_packages,) = base.glob("lib/python3.*/site-packages")
    (own_packages,) = output.glob("lib/python3.*/site-packages")
    (own_packages / "base.pth").write_text(f"{base_packages.resolve()}\n")
    python = output / "bin" / "python"
    # pip is the base's: it sees what is there already, and installs the rest.
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True, timeout=600
    )
    done.write_text(" ".join(PACKAGES), encoding="utf-8")


def main() -> int:
    """Make the environment that the command line describes; 1 where that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="the environment with everything else")
    parser.add_argument("--output", type=Path, required=True, help="the environment to make")
    arguments = parser.parse_args()
    try:
        make(arguments.venv, arguments.output)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"no environment for the app: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
