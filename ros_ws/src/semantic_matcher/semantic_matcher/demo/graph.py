"""The demo's graph, from its start to its recording: camera, matcher nodes, recorder. No ROS in this process."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from semantic_matcher.demo.errors import DemoError
from semantic_matcher.demo.processes import Process, Processes
from semantic_matcher.demo.topics import TOPICS

_IMAGE = "sensor_msgs/msg/Image"
_MESSAGES = "semantic_matcher_msgs/msg"
START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0
"""How long a matcher may take for one pair of images."""
NO_LOG_FILE = ("--disable-external-lib-logs",)
"""ROS argument without which each process writes a log file below the user's home."""
_QUIET_S = 1.0


@dataclass(frozen=True)
class Matcher:
    """A matcher node of the graph.

    Attributes:
        executable: its name, and its node's.
        remappings: its image topics, from its own names to the camera's.
        sides: prefixes of its keypoints and descriptors topics.
    """

    executable: str
    remappings: dict[str, str]
    sides: tuple[str, ...]

    @property
    def matches_topic(self) -> str:
        """Where its matches are."""
        return f"/{self.executable}/matches"

    @property
    def keypoints_topics(self) -> tuple[str, ...]:
        """Where its keypoints are."""
        return tuple(f"/{self.executable}/{side}keypoints" for side in self.sides)

    def outputs(self, *, descriptors: bool) -> list[tuple[str, str]]:
        """Return topics that it publishes, with their types."""
        found = [(topic, f"{_MESSAGES}/Keypoints") for topic in self.keypoints_topics]
        if descriptors:
            found += [(f"/{self.executable}/{side}descriptors", f"{_MESSAGES}/Descriptors") for side in self.sides]
        return [*found, (self.matches_topic, f"{_MESSAGES}/Matches"), (f"/{self.executable}/debug_image", _IMAGE)]


MATCHERS = {
    "temporal": Matcher("temporal_matcher", {"image": TOPICS["temporal"][0]}, ("",)),
    "stereo": Matcher("stereo_matcher", {}, ("left/", "right/")),
}


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        modes: keys of :data:`MATCHERS`, in the order they are fed.
        parameters: of each matcher node, as text.
        camera: arguments of the camera process.
        descriptors: record them as well; they are most of the bytes.
        output: folder of the results, which is there.
    """

    modes: tuple[str, ...]
    parameters: dict[str, str]
    camera: tuple[str, ...]
    descriptors: bool
    output: Path

    @property
    def recording(self) -> Path:
        """The MCAP file."""
        return self.output / "matches.mcap"

    @property
    def stamps(self) -> Path:
        """The file where the camera says which frame got which stamp."""
        return self.output / "logs" / "frames.json"


@dataclass(frozen=True)
class Outcome:
    """How it went.

    Attributes:
        stamps: frame of each stamp, by mode.
        start_s: seconds until the first frame.
        lost: messages that the recorder could not keep up with, by topic.
    """

    stamps: dict[str, dict[int, int]]
    start_s: float
    lost: dict[str, int]


def run_graph(plan: Plan, environment: dict[str, str], progress: Callable[[str, int], None]) -> Outcome:
    """Start all processes, have the camera play, and end them; afterwards the recording is complete.

    Args:
        plan: what to run.
        environment: of all processes.
        progress: called with a matcher's name and the frames sent to it so far, now and then.

    Raises:
        DemoError: a process failed or did not answer.
    """
    missing = [name for name in ("rclpy", "semantic_matcher_msgs") if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(
            f"{' and '.join(missing)} cannot be imported: this is no built ROS environment; run `make demo`"
        )
    started = time.monotonic()
    logs = plan.stamps.parent
    plan.stamps.unlink(missing_ok=True)
    with Processes(environment, logs) as processes:
        matchers = {mode: _start_matcher(processes, MATCHERS[mode], plan.parameters) for mode in plan.modes}
        recorder = processes.start("recorder", _recorder_command(plan))
        camera = processes.start("camera", [*_python("camera"), "--log", str(plan.stamps), *plan.camera])
        first = plan.modes[0]
        processes.wait_for(
            lambda: "playing" in camera.reports,
            f"{MATCHERS[first].executable} to start and subscribe to the camera",
            START_TIMEOUT_S,
            matchers[first],
        )
        start_s = time.monotonic() - started
        answers = Answers(recorder, {mode: MATCHERS[mode].matches_topic for mode in plan.modes})
        for mode in plan.modes:
            _until_played(processes, camera, mode, answers, progress)
        for mode in plan.modes:
            processes.wait_for(
                partial(answers.complete, mode),
                f"matches on {MATCHERS[mode].matches_topic}",
                ANSWER_TIMEOUT_S,
                matchers[mode],
            )
        processes.wait_for(lambda: bool(camera.reports.get("done")), "the camera to end", ANSWER_TIMEOUT_S, camera)
        processes.stop(recorder)
        if recorder.exit_code != 0:
            raise DemoError(f"the recorder failed; its last lines ({recorder.log}):{recorder.last_lines()}")
    stamps: dict[str, dict[int, int]] = {mode: {} for mode in plan.modes}
    for frame in json.loads(plan.stamps.read_text(encoding="utf-8")):
        stamps[frame["sequence"]][frame["stamp_ns"]] = frame["index"]
    return Outcome(stamps, start_s, {topic: count for topic, count in recorder.reports["lost"].items() if count})


def _start_matcher(processes: Processes, matcher: Matcher, parameters: dict[str, str]) -> Process:
    arguments = [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
    for own, camera in matcher.remappings.items():
        arguments += ["-r", f"{own}:={camera}"]
    return processes.start(
        matcher.executable, [str(_executable(matcher.executable)), "--ros-args", *NO_LOG_FILE, *arguments]
    )


def _executable(name: str) -> Path:
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    path = None
    with suppress(PackageNotFoundError):
        path = Path(get_package_prefix("semantic_matcher")) / "lib" / "semantic_matcher" / name
    if path is None or not path.is_file():
        raise DemoError(f"the ROS package semantic_matcher with its node {name} is not built; run `make demo`")
    return path


def _recorder_command(plan: Plan) -> list[str]:
    topics = [(f"/{topic}", _IMAGE) for mode in plan.modes for topic in TOPICS[mode]]
    for mode in plan.modes:
        topics += MATCHERS[mode].outputs(descriptors=plan.descriptors)
    topics.append(("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"))
    arguments = [text for topic, msgtype in topics for text in ("--record", topic, msgtype)]
    return [*_python("recorder"), "--output", str(plan.recording), *arguments]


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", f"semantic_matcher.demo.{module}"]


class Answers:
    """Watches the matches arrive, to know when no more are to come.

    Args:
        recorder: the process that counts them.
        topics: where they are, by mode.
    """

    def __init__(self, recorder: Process, topics: dict[str, str]) -> None:
        self._recorder = recorder
        self._topics = topics
        self._counts = dict.fromkeys(topics, 0)
        self._changed = dict.fromkeys(topics, time.monotonic())
        self._longest = dict.fromkeys(topics, 0.0)

    def look(self) -> None:
        """Take note of how many there are; to be called often."""
        now = time.monotonic()
        for mode, topic in self._topics.items():
            count = self._recorder.reports.get("counts", {}).get(topic, 0)
            if count == self._counts[mode]:
                continue
            # The first one says little of the pace: it comes after the wait for the camera.
            if self._counts[mode]:
                self._longest[mode] = max(self._longest[mode], now - self._changed[mode])
            self._counts[mode], self._changed[mode] = count, now

    def complete(self, mode: str) -> bool:
        """Return whether some came, and none for long enough that all pairs must have been worked on."""
        self.look()
        quiet = time.monotonic() - self._changed[mode]
        return self._counts[mode] > 0 and quiet > max(_QUIET_S, 2 * self._longest[mode])


def _until_played(
    processes: Processes, camera: Process, mode: str, answers: Answers, progress: Callable[[str, int], None]
) -> None:
    """Wait until the camera has played a mode to its end, however long that takes, as long as it sends frames."""
    sent = 0

    def goes_on() -> bool:
        answers.look()
        return mode in camera.reports.get("played", []) or camera.reports.get(f"sent_{mode}", 0) != sent

    while mode not in camera.reports.get("played", []):
        sent = camera.reports.get(f"sent_{mode}", 0)
        progress(MATCHERS[mode].executable, sent)
        processes.wait_for(goes_on, f"the camera's frame {sent + 1} for {mode}", ANSWER_TIMEOUT_S, camera)
