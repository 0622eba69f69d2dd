"""The bundle for a machine with a GPU and without network, and its script, rehearsed where there is neither."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks.bare_gpu import FILE, Step, run
from semantic_matcher_core.io.images import write_image
from tests.conftest import REPOSITORY, make_textured_image
from tools import gpu_bundle
from tools.messages import SetupError

# Of what the project installs, all that such a machine has not.
ABSENT = (
    "rosbags",
    "rclpy",
    "sensor_msgs",
    "std_msgs",
    "semantic_matcher_msgs",
    "mcap",
    "lightning",
    "kornia_moons",
)
_GUARD = f"""
import sys
from importlib.abc import MetaPathFinder


class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    data = folder / "data" / "photos"
    data.mkdir(parents=True)
    for index in range(4):
        write_image(data / f"{index}.png", make_textured_image(160, 200, seed=index))
    size = gpu_bundle.write_bundle(folder / "bundle.tar", [], None, folder / "data")
    assert 0 < size <= gpu_bundle.LIMIT_MB
    with tarfile.open(folder / "bundle.tar") as archive:
        archive.extractall(folder / "there", filter="data")
    return folder / "there" / "gpu-bundle"


def test_bundle_has_what_the_script_reads(unpacked: Path) -> None:
    for name in (
        "benchmarks/bare_gpu.sh",
        "semantic_matcher_core/__init__.py",
        "tests/gpu/test_on_a_gpu.py",
        "data/photos",
    ):
        assert (unpacked / name).exists()
    assert not (unpacked / ".git").exists()


@pytest.mark.slow
def test_rehearsal(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(_GUARD)
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(tmp_path / "guard"),
        "TMPDIR": str(tmp_path),
    }
    environment.pop("SEMANTIC_MATCHER_REQUIRE_ROS", None)  # that machine has none
    script = ["bash", str(unpacked / "benchmarks" / "bare_gpu.sh"), "--out", "results", "--rehearse", "--minutes", "20"]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800)
    summary = (tmp_path / "results" / "summary.md").read_text().splitlines()
    assert [line.split(",")[0] for line in summary] == [
        f"- {name}: done" for name in ("headline", "tests", "parity", "detail", "train", "tune")
    ], done.stdout
    assert done.returncode == 0
    assert "| plain:compact | fp32 |" in (tmp_path / "results" / "gpu.md").read_text()
    tuned, trained = (tmp_path / "results" / name for name in (FILE, "runs/compact-tune/final.safetensors"))
    assert tuned.read_bytes() == trained.read_bytes()


def test_a_step_out_of_time_costs_itself_alone(tmp_path: Path) -> None:
    endless = Step("endless", (), ())
    log = tmp_path / "log"
    assert run(endless, ("-c", "print('begun', flush=True); import time; time.sleep(600)"), 3, log).startswith(
        "out of time"
    )
    assert run(Step("next", (), ()), ("-c", "raise SystemExit(3)"), 60, tmp_path / "next").startswith(
        "failed (exit code 3)"
    )


def test_too_large_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="is not a folder; it was given for weights"):
        gpu_bundle.write_bundle(tmp_path / "a.tar", [], tmp_path / "nowhere", None)
    monkeypatch.setattr(gpu_bundle, "LIMIT_MB", 1)
    with pytest.raises(SetupError, match="more than 1"):
        gpu_bundle.write_bundle(tmp_path / "a.tar", [], None, None)
    assert not list(tmp_path.iterdir())


def test_wheels_are_those_of_the_lock() -> None:
    lock = (REPOSITORY / "requirements" / "lock.txt").read_text()
    assert all("==" in line for line in gpu_bundle.pinned(lock))
    with pytest.raises(SetupError, match="pins no nothing"):
        gpu_bundle.pinned(lock, ("nothing",))
