"""Parts of the demo without a graph: its processes, what it plays, and what it measures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("semantic_matcher.demo.processes")

from semantic_matcher.demo import evaluation, interruption, sequences
from semantic_matcher.demo.domain import graph_environment, own_domain
from semantic_matcher.demo.errors import DemoError
from semantic_matcher.demo.processes import Process, Processes
from semantic_matcher.demo.scenes import transfer
from semantic_matcher.demo.sources import open_source
from semantic_matcher_core.errors import BagError, ImageError

PRELUDE = "import time, sys, signal; from semantic_matcher.demo.processes import report; "


def start(processes: Processes, code: str, name: str = "worker") -> Process:
    return processes.start(name, [sys.executable, "-u", "-c", PRELUDE + code])


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(os.environ, tmp_path)


def test_reports_and_log_are_told_apart(processes: Processes, tmp_path: Path) -> None:
    with processes:
        worker = start(processes, "print('hello'); report(count=1); report(count=2, done=True); print('bye')")
        processes.wait_for(lambda: bool(worker.reports.get("done")), "the end", 30.0, worker)
        assert worker.wait(30.0)
        processes.check()  # it is done
    assert worker.reports == {"count": 2, "done": True}
    assert (tmp_path / "worker.log").read_text().split() == ["hello", "bye"]


def test_what_is_no_report_or_finds_no_room_stops_nothing(processes: Processes, tmp_path: Path) -> None:
    # More than a pipe holds: a process whose pipe nobody empties waits for ever.
    more = "[print('x' * 1000) for _ in range(1000)]; "
    (tmp_path / "full.log").symlink_to("/dev/full")
    with processes:
        for name in ("worker", "full"):
            code = "print('@ {\"count\": 1 [INFO] found'); print('@ 5'); " + more + "report(done=True)"
            worker = start(processes, code, name)
            processes.wait_for(lambda worker=worker: bool(worker.reports.get("done")), "the end", 30.0, worker)
            assert worker.reports == {"done": True}
    assert (tmp_path / "worker.log").read_text().startswith('@ {"count": 1 [INFO] found\n@ 5\nxxx')


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "print('first'); sys.exit('no camera')",
            r"worker ended with exit code 1; .*worker\.log\):\n    first\n    no",
        ),
        ("sys.exit(0)", r"worker ended with exit code 0; .*\n    \(it printed nothing\)"),
        ("import os; print('x'); os.kill(os.getpid(), signal.SIGKILL)", r"worker was killed by SIGKILL; .*\n    x"),
    ],
)
def test_a_process_that_ends_is_noticed(processes: Processes, code: str, words: str) -> None:
    with processes:
        worker = start(processes, code)
        with pytest.raises(DemoError, match=words):
            processes.wait_for(lambda: False, "anything", 30.0, worker)


def test_a_process_that_never_answers(processes: Processes) -> None:
    with processes:
        worker = start(processes, "print('thinking'); time.sleep(600)")
        processes.wait_for(lambda: "thinking" in worker.last_lines(), "its first words", 30.0, worker)
        with pytest.raises(
            DemoError, match=r"waited 0 s in vain for an answer; the last lines of worker .*\n    think"
        ):
            processes.wait_for(lambda: False, "an answer", 0.2, worker)
    assert worker.exit_code == -signal.SIGINT


def test_only_the_last_lines_are_shown(processes: Processes) -> None:
    with processes:
        worker = start(processes, "[print(f'line {i}') for i in range(50)]")
        worker.wait(30.0)
    shown = worker.last_lines().split("\n    ")[1:]
    assert shown == [f"line {i}" for i in range(42, 50)]


def test_what_does_not_stop_is_killed(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semantic_matcher.demo.processes._GRACE_S", 0.5)
    with processes:
        worker = start(processes, "signal.signal(signal.SIGINT, signal.SIG_IGN); report(deaf=True); time.sleep(600)")
        processes.wait_for(lambda: bool(worker.reports.get("deaf")), "its start", 30.0, worker)
    assert worker.exit_code == -signal.SIGKILL


def test_a_program_that_is_not_there(processes: Processes) -> None:
    with processes, pytest.raises(DemoError, match=r"cannot start worker: .*no such program"):
        processes.start("worker", ["/no such program"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_got_lost_ends_the_next_wait(processes: Processes) -> None:
    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)  # the exception it raises is ignored here
            time.sleep(0.01)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        interruption.listen()
        with processes:
            worker = start(processes, "time.sleep(600)")
            Finalized()
            with pytest.raises(KeyboardInterrupt):
                processes.wait_for(lambda: False, "anything", 30.0, worker)
        assert worker.exit_code is not None
    finally:
        interruption.listen()
        for number, handler in before.items():
            signal.signal(number, handler)


def test_domains_are_not_shared() -> None:
    with own_domain() as first, own_domain() as second:
        assert first != second
        assert {first, second} <= set(range(1, 102))
    with own_domain(7) as wanted:
        assert wanted == 7


def test_the_graph_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    environment = graph_environment(33)
    assert environment["ROS_DOMAIN_ID"] == "33"
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_LOCALHOST_ONLY" not in environment
    assert Path(environment["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()


def pictures(count: int) -> list[np.ndarray]:
    return [np.full((40, 60, 3), (20 * i, 100, 50), np.uint8) for i in range(count)]


def test_a_folder_of_images_is_played_in_natural_order(tmp_path: Path) -> None:
    for index, image in enumerate(pictures(11)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    source = open_source(tmp_path)
    frames = list(source.frames())
    assert source.count == 11
    np.testing.assert_allclose([seconds for seconds, _ in frames], np.arange(11) / 5.0)
    for (_, image), expected in zip(frames, pictures(11), strict=True):
        np.testing.assert_array_equal(image, expected)
    faster = [seconds for seconds, _ in open_source(tmp_path, rate=20.0).frames()]
    np.testing.assert_allclose(faster, np.arange(11) / 20.0)


def test_a_video_is_played_at_its_own_pace(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (60, 40))
    for image in pictures(6):
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    frames = list(open_source(path).frames())
    np.testing.assert_allclose([seconds for seconds, _ in frames], np.arange(6) / 12.5, atol=2e-3)
    for (_, image), expected in zip(frames, pictures(6), strict=True):
        assert np.abs(image.astype(int) - expected).max() < 8


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    from semantic_matcher_core.io.mcap import McapWriter
    from semantic_matcher_core.io.messages import header_message, image_message

    path = tmp_path / "two_cameras.mcap"
    second = 1_000_000_000
    with McapWriter(path) as mcap:
        for index, image in enumerate(pictures(5)):
            # Received late and unevenly, but stamped at 10 Hz.
            stamp = 1000 * second + index * second // 10
            mcap.write("/front/image", image_message(image, header_message(stamp)), stamp + index * index * second)
        mcap.write("/back/image", image_message(pictures(1)[0][..., 0], header_message(second)), 2000 * second)
    return path


def test_a_bag_is_played_by_its_stamps(bag: Path) -> None:
    source = open_source(bag)
    frames = list(source.frames())
    assert "5 images of /front/image" in source.description and "/back/image" in source.description
    np.testing.assert_allclose([seconds for seconds, _ in frames], np.arange(5) / 10.0)
    np.testing.assert_array_equal(frames[3][1], pictures(5)[3])
    ((_, grey),) = open_source(bag, "/back/image").frames()
    assert grey.shape == (40, 60, 3)


def test_what_cannot_be_played(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"no topic '/up/image'; did you mean '/back/image'\? image topics: /back/image"):
        open_source(bag, "/up/image")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ImageError, match="is no video"):
        open_source(text)
    with pytest.raises(DemoError, match="--topic /a has no meaning"):
        open_source(text, "/a")
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), pictures(1)[0])
    with pytest.raises(DemoError, match="is one image"):
        open_source(picture)


def match(points0: np.ndarray, points1: np.ndarray, stamps: tuple[int, int], latency: float = 0.1) -> evaluation.Match:
    return evaluation.Match(stamps[1], stamps[0], points0, points1, np.ones(len(points0)), latency)


def true_match(count: int = 200) -> evaluation.Match:
    """Exact matches from frame 2 (stamp 20) to frame 5 (stamp 50)."""
    sequence = sequences.temporal()
    points = np.random.default_rng(2).uniform((0, 0), (639, 479), (4 * count, 2))
    moved = transfer(sequence.scene, *sequence.cameras(2), *sequence.cameras(5), points)
    kept = np.flatnonzero(~np.isnan(moved[:, 0]))[:count]
    return match(points[kept], moved[kept], (20, 50))


def test_errors_are_distances_from_the_truth() -> None:
    index_of = {20: 2, 50: 5}
    exact = true_match()
    np.testing.assert_allclose(evaluation.errors_px(exact, sequences.temporal(), index_of), 0.0, atol=1e-9)
    shifted = match(exact.points0, exact.points1 + np.array([3.0, 4.0]), (20, 50))
    np.testing.assert_allclose(evaluation.errors_px(shifted, sequences.temporal(), index_of), 5.0, atol=1e-9)
    nowhere = match(np.array([[-50.0, 10.0]]), np.array([[10.0, 10.0]]), (20, 50))
    assert np.isinf(evaluation.errors_px(nowhere, sequences.temporal(), index_of)).all()


def test_stereo_errors_are_between_left_and_right() -> None:
    sequence = sequences.stereo()
    left, right = sequence.cameras(3)
    points = np.random.default_rng(2).uniform((0, 0), (639, 479), (500, 2))
    moved = transfer(sequence.scene, left, right, points)
    kept = ~np.isnan(moved[:, 0])
    pair = match(points[kept], moved[kept], (30, 30))
    np.testing.assert_allclose(evaluation.errors_px(pair, sequence, {30: 3}), 0.0, atol=1e-9)


def test_figures_of_a_sequence() -> None:
    exact = true_match(200)
    wrong = exact.points1.copy()
    wrong[:50] += 30.0
    recording = evaluation.Recording(
        (match(exact.points0, wrong, (20, 50), 0.1), match(exact.points0[:100], exact.points1[:100], (20, 50), 0.3)),
        (300, 500, 400),
    )
    stamps = {10 * index: index for index in range(8)}
    figures = evaluation.measure(recording, stamps, first_has_no_partner=True, sequence=sequences.temporal())
    assert (figures.frames, figures.matched, figures.dropped) == (8, 1, 6)
    assert (figures.keypoints, figures.matches) == (400, 150)
    assert figures.correct == pytest.approx(250 / 300)
    assert figures.latency_ms == pytest.approx(200.0) and figures.latency_p95_ms == pytest.approx(290.0)


def test_figures_without_truth() -> None:
    exact = true_match(300)
    # As of one plane, which one homography explains.
    homography = np.array([[0.95, 0.03, 12.0], [-0.02, 1.02, 4.0], [2e-5, 1e-5, 1.0]])
    points1 = cv2.perspectiveTransform(exact.points0[None], homography)[0]
    points1[:75] = np.random.default_rng(5).uniform((0, 0), (639, 479), (75, 2))
    pair = match(exact.points0, points1, (20, 50))
    figures = evaluation.measure(evaluation.Recording((pair,), (300,)), {20: 0, 50: 1}, first_has_no_partner=True)
    assert figures.correct is None
    assert figures.homography == pytest.approx(0.75, abs=0.02)
    assert figures.epipolar is not None and 0.74 <= figures.epipolar < 0.95
    assert (figures.matched, figures.dropped) == (1, 0)


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_few_matches_have_no_inliers(count: int) -> None:
    few = match(np.zeros((count, 2)), np.zeros((count, 2)), (20, 50))
    assert evaluation.epipolar_inliers(few).shape == (count,)
    assert not evaluation.epipolar_inliers(few).any()
    assert evaluation.homography_inliers(few).shape == (count,)
    figures = evaluation.measure(evaluation.Recording((few,), ()), {20: 0, 50: 1}, first_has_no_partner=True)
    assert figures.matches == count and figures.epipolar == 0.0


def test_frames_come_in_order_and_trouble_comes_after_them() -> None:
    from semantic_matcher.demo.camera import Ahead

    def shots() -> Iterator[tuple[float, list[np.ndarray]]]:
        for index in range(20):
            yield float(index), [np.zeros((2, 2, 3), np.uint8)]
        raise ImageError("frame 20 is damaged")

    seen = []
    with pytest.raises(ImageError, match="frame 20"):
        for seconds, _ in Ahead(shots(), depth=4):
            seen.append(seconds)
    assert seen == list(range(20))


def test_the_end_of_the_matches_is_told_by_their_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from semantic_matcher.demo import graph

    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    recorder = SimpleNamespace(reports={})
    answers = graph.Answers(recorder, {"temporal": "/matches"})  # type: ignore[arg-type]

    def after(seconds: float, count: int) -> bool:
        clock.now += seconds
        recorder.reports["counts"] = {"/matches": count}
        return answers.complete("temporal")

    assert not after(50.0, 0), "none has come yet"
    assert not after(1.0, 1)
    assert not after(4.0, 2), "four seconds a pair"
    assert not after(7.0, 2)
    assert after(2.0, 2)


def test_an_interruption_that_a_finalizer_loses_is_raised_again_without_a_traceback() -> None:
    code = """
import signal, os
from semantic_matcher.demo import interruption
interruption.listen()
class Lost:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass
try:
    Lost()
    print("went on")
    interruption.check()
except KeyboardInterrupt:
    print("interrupted")
class Broken:
    def __del__(self):
        raise ValueError("another")
Broken()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout == "went on\ninterrupted\n"
    assert "KeyboardInterrupt" not in done.stderr and "ValueError: another" in done.stderr
