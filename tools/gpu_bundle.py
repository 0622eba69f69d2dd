"""Pack what ``benchmarks/bare_gpu.sh`` needs on a machine without network: project, missing wheels, weights, data.

The machine is taken to have Python with torch for CUDA, numpy, OpenCV, h5py, safetensors and pytest; what else the core
imports comes along as wheels.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tools.messages import SetupError, run_main, say
from tools.setup_venv import REPOSITORY, REQUIREMENTS

# What the core needs and such a machine lacks; versions from requirements/lock.txt.
WHEELS = ("kornia", "kornia_rs", "poselib", "simplejpeg")
LIMIT_MB = 45
_NOT_NEEDED = ("docs/", "docker/", "ros_ws/", "examples/", "launch")


def pinned(lock: str, names: tuple[str, ...] = WHEELS) -> list[str]:
    """Return ``name==version`` of each name in the text of a lock file.

    Raises:
        SetupError: a name is not pinned there.
    """
    pins = {line.split("==")[0].lower().replace("-", "_"): line.strip() for line in lock.splitlines() if "==" in line}
    try:
        return [pins[name.replace("-", "_")] for name in names]
    except KeyError as error:
        raise SetupError(f"requirements/lock.txt pins no {error.args[0]}") from error


def download_wheels(folder: Path, python_version: str) -> list[Path]:
    """Download wheels of :data:`WHEELS` for Linux on x86-64.

    Raises:
        SetupError: pip could not bring them.
    """
    for requirement in pinned((REQUIREMENTS / "lock.txt").read_text(encoding="utf-8")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        # What pip prints is kept: a question for a user's name would wait unseen.
        command += ["--no-input", "--only-binary=:all:", "--python-version", python_version, "--dest", str(folder)]
        for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
            command += ["--platform", platform]
        done = subprocess.run([*command, requirement], text=True, capture_output=True)
        if done.returncode != 0:
            raise SetupError(f"pip could not download {requirement}: {done.stderr.strip()[-400:]}")
    return sorted(folder.glob("*.whl"))


def project_files() -> list[str]:
    """Return files of the project that travel: those that git tracks, and new ones that it does not ignore."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise SetupError(f"git ls-files failed: {done.stderr.strip()}")
    names = [name for name in done.stdout.split("\0") if name and (REPOSITORY / name).is_file()]
    return [name for name in names if not name.startswith(_NOT_NEEDED) or name.endswith(".msg")]


def write_bundle(output: Path, wheels: list[Path], weights: Path | None, data: Path | None) -> float:
    """Write the archive; gives its size in MB.

    Raises:
        SetupError: it is too large, or a folder is not there. Nothing is left behind.
    """
    temporary = output.with_name(output.name + ".part")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(temporary, "w") as archive:
            for name in project_files():
                archive.add(REPOSITORY / name, f"gpu-bundle/{name}", recursive=False)
            for wheel in wheels:
                archive.add(wheel, f"gpu-bundle/wheels/{wheel.name}")
            for what, folder in (("weights", weights), ("data", data)):
                if folder is None:
                    continue
                if not folder.is_dir():
                    raise SetupError(f"{folder} is not a folder; it was given for {what}")
                archive.add(folder, f"gpu-bundle/{what}")
            note = b"Unpack anywhere and run: bash gpu-bundle/benchmarks/bare_gpu.sh --out RESULTS\n"
            info = tarfile.TarInfo("gpu-bundle/READ-ME.txt")
            info.size = len(note)
            archive.addfile(info, io.BytesIO(note))
        size = temporary.stat().st_size / 1e6
        if size > LIMIT_MB:
            raise SetupError(
                f"the bundle has {size:.1f} MB, more than {LIMIT_MB}; give smaller WEIGHTS or DATA folders"
            )
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist" / "gpu-bundle.tar")
    parser.add_argument("--python-version", default="3.12", help="of the machine with the GPU")
    parser.add_argument("--weights", type=Path, help="folder of published weights to take along")
    parser.add_argument("--data", type=Path, help="folder of training data to take along")
    parser.add_argument("--no-wheels", action="store_true", help="the machine has what the core imports")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheels = [] if args.no_wheels else download_wheels(Path(folder), args.python_version)
        size = write_bundle(args.output, wheels, args.weights, args.data)
    say(f"{args.output}: {size:.1f} MB")
    return 0


if __name__ == "__main__":
    run_main(main)
