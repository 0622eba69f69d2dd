"""Every command of the wheel, in an environment that has what it depends on and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import make_textured_image

# In one process: each start would import torch anew.
_RUN = """
import contextlib, io, json, sys, traceback
import semantic_matcher_core
assert semantic_matcher_core.__file__.startswith(sys.prefix), semantic_matcher_core.__file__
from semantic_matcher_core.cli import main
answers = []
for arguments in json.load(open(sys.argv[1])):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    answers.append([code, out.getvalue(), err.getvalue()])
json.dump(answers, open(sys.argv[2], "w"))
"""

SIFT = ["--variant", "plain:sift", "--device", "cpu", "--max-keypoints", "200"]
WORK = [
    ["--version"],
    ["--help"],
    ["match", "a.png", "b.png", "-o", "matches.png", "--npz", "matches.npz", "--geometry", "homography", *SIFT],
    ["match", "a.png", "b.png", "--json", "--device", "cpu", "--max-keypoints", "200"],
    ["extract", "a.png", "b.png", "-o", "features.h5", *SIFT],
    ["variants"],
    ["weights", "list"],
    ["weights", "verify"],
    ["weights", "path", "compact-extractor"],
    ["doctor"],
    ["video", "x.avi", "-o", "video.mcap", *SIFT],
    ["images", "a.png", "b.png", "-o", "images.mcap", *SIFT],
    ["report", "video.mcap", "-o", "page.html"],
]
NEED = {
    "x.mcap": [["bag", "x.mcap", "-o", "bag.mcap", *SIFT]],
    "pip install scipy": [
        [
            "register-surface",
            "a.png",
            "a16.png",
            "b.png",
            "b16.png",
            "-o",
            "s.ply",
            "--intrinsics",
            "90,90,80,60",
            *SIFT,
        ],
    ],
    "pip install gradio": [["app"]],
    "pip install rerun-sdk": [["view", "x.mcap"]],
    "pip install onnx": [["export", "--variant", "plain:compact", "-o", "graphs"]],
    "semantic-matcher weights fetch": [
        ["match", "a.png", "b.png", "--variant", "plain:dalf"],
        ["weights", "path", "dalf"],
    ],
}


@pytest.fixture(scope="module")
def answers(
    wheel_python: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, ...], tuple[int, str, str]]:
    folder = tmp_path_factory.mktemp("commands")
    picture = make_textured_image(140, 180, 3)
    cv2.imwrite(str(folder / "a.png"), picture[:120, :160])
    cv2.imwrite(str(folder / "b.png"), picture[8:128, 12:172])
    for name in ("a16", "b16"):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((120, 160), 1000, np.uint16))
    writer = cv2.VideoWriter(str(folder / "x.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 120))
    for _ in range(3):
        writer.write(picture[:120, :160])
    writer.release()
    (folder / "x.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(64))
    commands = [*WORK, *(command for group in NEED.values() for command in group)]
    (folder / "commands.json").write_text(json.dumps(commands))
    python, environment = wheel_python
    command = [python, "-c", _RUN, "commands.json", "answers.json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    given = json.loads((folder / "answers.json").read_text())
    return {tuple(c): tuple(answer) for c, answer in zip(commands, given, strict=True)}


@pytest.mark.parametrize("command", WORK, ids=" ".join)
def test_works(command: list[str], answers: dict[tuple[str, ...], tuple[int, str, str]]) -> None:
    code, out, err = answers[tuple(command)]
    assert code == 0, (code, out, err)
    assert "Traceback" not in err and "make setup" not in out


@pytest.mark.parametrize(
    ("need", "command"), [(need, c) for need, group in NEED.items() for c in group], ids=lambda v: str(v)[:40]
)
def test_ends_in_one_line_that_says_what_to_install(
    need: str, command: list[str], answers: dict[tuple[str, ...], tuple[int, str, str]]
) -> None:
    code, out, err = answers[tuple(command)]
    assert code in (1, 2), (code, out, err)
    (line,) = err.splitlines()
    assert line.startswith("error: ") and need in line, line


def test_every_command_is_tried(answers: dict[tuple[str, ...], tuple[int, str, str]]) -> None:

    _, shown, _ = answers[("--help",)]
    named = set(re.findall(r"^\W*([a-z][a-z-]+)\s{2,}", shown.partition("Commands")[2], re.MULTILINE))
    # Their work is that of other commands: matching, and weights that are not here.
    assert {"match", "doctor"} < named
    assert named - {command[0] for command in answers} <= {"register", "query", "index"}
