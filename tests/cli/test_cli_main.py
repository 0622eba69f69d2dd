"""The command line as a whole: help without torch, exit codes, one line for what went wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import semantic_matcher_core
from semantic_matcher_core.cli import main
from semantic_matcher_core.cli.app import app

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "kornia", "cv2", "numpy", "h5py", "matplotlib", "rosbags", "pandas", "scipy")


def commands() -> list[list[str]]:
    """Every command and subcommand, read from the program itself."""
    found: list[list[str]] = [[]]
    found += [[str(info.name)] for info in app.registered_commands]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found.append([str(group.name)])
        found += [[str(group.name), str(info.name)] for info in group.typer_instance.registered_commands]
    return found


def test_all_commands_are_there() -> None:
    assert {tuple(c) for c in commands()} >= {
        (),
        ("match",),
        ("extract",),
        ("weights",),
        ("weights", "fetch"),
        ("variants",),
        ("doctor",),
    }


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from semantic_matcher_core.cli import main\n"
        f"for command in {commands()!r}:\n"
        "    assert main([*command, '--help']) == 0, command\n"
        f"    heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "    assert not heavy, f'{command} imports {heavy}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240, cwd=REPOSITORY
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: semantic-matcher") == len(commands())


@pytest.mark.parametrize("command", commands(), ids=lambda c: " ".join(c) or "(none)")
def test_help_explains_every_option(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    for line in capsys.readouterr().out.splitlines():
        cells = line.strip("│ ").split()
        # A line that has an option and its type, but nothing more, is not explained.
        # (Further right an explanation may name another option.)
        if line.startswith("│") and line[1:8].lstrip(" *").startswith("--"):
            assert len(cells) > 2, line


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"semantic-matcher {semantic_matcher_core.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "No such command 'frobnicate'; see: semantic-matcher --help"),
        (["match", "a.png"], "missing argument 'image1'; see: semantic-matcher match --help"),
        (["match", "a", "b", "--max-keypoints", "0"], "'--max-keypoints'"),
        (["match", "a", "b", "--max-keypoints", "many"], "'--max-keypoints'"),
        (["match", "a", "b", "--banana"], "No such option"),
        (
            ["match", "a", "b", "--geometry", "affine"],
            "unknown --geometry 'affine'; use none, homography or fundamental",
        ),
        (["match", "a", "b", "--variant", "nope"], "unknown variant 'nope'; known: compact, xfeat, "),
        (
            ["match", "a", "b", "--variant", "xfeat", "--dino", "B"],
            "give --variant, or --descriptor and --dino, not both",
        ),
        (["weights", "fetch", "nope"], "nope"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ") and message.lower() in line.lower()


def test_failures_are_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", str(tmp_path / "a.png"), "b.png", "--variant", "plain:sift"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == f"error: no such image file: {tmp_path / 'a.png'}\n"


def test_defects_show_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("semantic_matcher_core.io.images.read_bytes", broken)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        main(["match", "a.png", "b.png", "--variant", "plain:sift"])


def test_an_interrupt_ends_with_130_and_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("semantic_matcher_core.io.images.read_bytes", interrupted)
    assert main(["match", "a.png", "b.png", "--variant", "plain:sift"]) == 130
    assert capsys.readouterr().err.strip() == "error: interrupted"


@pytest.mark.parametrize(
    ("option", "value"), [("--max-keypoints", "-5"), ("--max-keypoints", "many"), ("--min-similarity", "nan")]
)
def test_a_value_that_is_refused_is_named(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", "a.png", "b.png", option, value]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: Invalid value for '{option}'") and value in captured.err
    assert captured.err.count("\n") == 1


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) in (0, 2)  # older releases of typer say 0
    captured = capsys.readouterr()
    assert "Usage: semantic-matcher" in captured.out + captured.err


def test_doctor_reports(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) in (0, 1)
    assert "Python" in capfd.readouterr().out


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "semantic_matcher_core.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        cwd=REPOSITORY,
    )
    assert done.stdout.startswith("semantic-matcher ")


def test_a_reader_that_stops_listening_is_no_error() -> None:
    command = f"{sys.executable} -m semantic_matcher_core.cli weights list --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=240, cwd=REPOSITORY
    )
    assert done.stdout == "[" and done.stderr == ""
