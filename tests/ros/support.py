"""Nodes in processes of their own, and a client that feeds and hears them."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

# What a machine may take that is busy with much else; nothing waits that long when it works.
TIMEOUT_S = 180.0
READY = "active, waiting for"
# How soon a node subscribes as a publisher offers it, and how much sooner a publisher may know of a subscriber than
# the other way round.
_FOLLOWS_S, _SETTLES_S = 1.0, 0.05


def wait_until(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT_S, every: float = 0.02) -> Any:
    """The first true value of ``condition()``; fails the test when there is none in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.0f} s for {what}")
        time.sleep(every)


def default_signals() -> None:
    """Give the signals that end a process their own actions back; to be called in it before it runs its program."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class WarmProcess:
    """A node's process, forked off one that has imported all of it; what is used of ``subprocess.Popen``.

    Nothing else is shared: DDS, the model and threads begin in the fork. Importing alone takes seconds.

    Args:
        module: module of the node below ``semantic_matcher``.
        arguments: its command line.
        environment: all of it.
        log: file for what it prints.
    """

    def __init__(self, module: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([f"semantic_matcher.{kind}_node" for kind in _KINDS])
        options = (module, arguments, dict(environment), str(log))
        self._process = context.Process(target=_run_warm, args=options, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_KINDS = ("temporal", "stereo", "reference", "template")


def _run_warm(module: str, arguments: list[str], environment: dict[str, str], log: str) -> None:
    default_signals()
    with open(log, "wb") as sink:
        for number in (1, 2):
            os.dup2(sink.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = dict.fromkeys([*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *sys.path])
    sys.argv = [module, *arguments]
    runpy.run_module(f"semantic_matcher.{module}", run_name="__main__", alter_sys=True)


# How a process ends that has called :func:`leave`.
LEFT = (0, -signal.SIGALRM)


class NodeProcess:
    """A node of the package in a process of its own; what it prints is in ``output``.

    Args:
        module: module of the node below ``semantic_matcher``.
        log: file for what it prints.
        parameters: node parameters.
        arguments: more ROS arguments, e.g. ``-r __ns:=/front``.
        environment: more environment variables.
        cold: begin with a fresh interpreter, as a user does, instead of a :class:`WarmProcess`.
    """

    def __init__(
        self,
        module: str,
        log: Path,
        parameters: Mapping[str, Any] | None = None,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        cold: bool = False,
    ) -> None:
        given = ["--ros-args", *arguments]
        for name, value in (parameters or {}).items():
            given += ["-p", f"{name}:={_ros_text(value)}"]
        self._log = log
        self._log.touch()
        complete = {**os.environ, **(environment or {})}
        # Where libraries are is asked once, when a program is loaded.
        if not cold and complete.get("LD_LIBRARY_PATH") == os.environ.get("LD_LIBRARY_PATH"):
            self.process: Any = WarmProcess(module, given, complete, log)
            return
        with open(log, "wb") as sink:
            self.process = subprocess.Popen(
                [*self.command(module), *given],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=complete,
                # nohup, cron and a shell's & have all that they start ignore signals, the tests' processes too.
                preexec_fn=default_signals,
            )

    def command(self, module: str) -> list[str]:
        """How a cold one is started."""
        return [sys.executable, "-m", f"semantic_matcher.{module}"]

    @property
    def output(self) -> str:
        """All it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, text: str, timeout: float = TIMEOUT_S) -> None:
        """Wait until it has printed ``text``; fails when it ends before."""

        def printed() -> bool:
            ended = self.process.poll() is not None
            if text in self.output:
                return True
            assert not ended, f"the node ended with {self.process.returncode} before {text!r}:\n{self.output}"
            return False

        try:
            wait_until(printed, f"{text!r} in the node's output", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def stop(self, number: int = signal.SIGINT, timeout: float = TIMEOUT_S) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


def _ros_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_ros_text, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


@contextmanager
def running(module: str, log: Path, *args: Any, ready: str = READY, **options: Any) -> Iterator[NodeProcess]:
    """A node that has printed ``ready``; it is ended, and if need be killed, at the end."""
    node = NodeProcess(module, log, *args, **options)
    try:
        node.wait_for(ready)
        yield node
    except BaseException:
        print(f"--- output of {module}:\n{node.output}")
        raise
    finally:
        if node.process.poll() is None:
            node.process.terminate()
            try:
                node.process.wait(10.0)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()


@functools.cache
def participant() -> Any:
    """The rclpy context of all nodes in this process; the first call must follow the fixture ``ros``.

    Fast DDS 2.14 may wait for ever when a participant ends: it gives up closing what hears shared memory when another
    process has held a lock for a second, as one does that stands still, or waits for a busy machine; but its thread
    goes on. So there is one, which a node keeps until the process ends.
    """
    import rclpy
    from rclpy.context import Context

    context = Context()
    rclpy.init(context=context)
    keeper = rclpy.create_node("_keeper", context=context, start_parameter_services=False, enable_rosout=False)

    def end() -> None:
        _end_by_alarm(10)
        keeper.destroy_node()
        context.try_shutdown()

    atexit.register(end)
    return context


@contextmanager
def in_process(executable: str, parameters: Mapping[str, Any]) -> Iterator[Any]:
    """The node of an executable in this process, not configured and without an executor; it is taken down at the end.

    A process of its own takes seconds to start; this one does for what a node does when it is told to.
    """
    from rclpy.parameter import Parameter

    modules = {"template_tracker": ("template_node", "TemplateTrackerNode")}
    kind, _, what = executable.partition("_")
    module, name = modules.get(executable, (f"{kind}_node", f"{kind.title()}{what.title()}"))
    node_class = getattr(importlib.import_module(f"semantic_matcher.{module}"), name)
    given = [Parameter(key, value=value) for key, value in parameters.items()]
    node = node_class(context=participant(), parameter_overrides=given)
    try:
        yield node
    finally:
        node.stop_working(10.0)
        node.destroy_node()
        # The lifecycle services live as long as the node's state machine, and other tests would call them.
        del node
        gc.collect()


@contextmanager
def serving(executable: str, parameters: Mapping[str, Any]) -> Iterator[tuple[Any, Callable[[], None]]]:
    """The same with an executor in a thread, so that it hears and answers; the node, and what ends that."""
    from rclpy.executors import SingleThreadedExecutor

    with in_process(executable, parameters) as node:
        executor, ending = SingleThreadedExecutor(context=node.context), threading.Event()
        executor.add_node(node)

        def spin() -> None:
            while not ending.is_set():
                executor.spin_once(timeout_sec=0.05)

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()

        def end() -> None:
            ending.set()
            thread.join()

        try:
            yield node, end
        finally:
            end()
            executor.shutdown()


def configure_refusal(executable: str, parameters: Mapping[str, Any]) -> str:
    """Why a node cannot be configured with these parameters: the error in its log and diagnostics."""
    from rclpy.lifecycle import TransitionCallbackReturn

    with in_process(executable, parameters) as node:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert node.state == "unconfigured" and not node.outputs and node.model is None
        return str(node.statistics.last_error)


def leave(within_s: int = 10) -> None:
    """Take the part in ROS of this process down; where that hangs, an alarm ends the process (:data:`LEFT`).

    It may hang: see :func:`participant`.
    """
    import rclpy

    _end_by_alarm(within_s)
    rclpy.try_shutdown()
    signal.alarm(0)


def _end_by_alarm(within_s: int) -> None:
    sys.stdout.flush()
    # The system's own, because a hanging call of native code may keep Python's threads and handlers from running.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(within_s)


class Client:
    """A ROS node of the test, with an executor in a thread; what arrives is kept in lists."""

    def __init__(self, name: str = "test_client") -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.node = rclpy.create_node(name, context=participant())
        self._executor = SingleThreadedExecutor(context=participant())
        self._executor.add_node(self.node)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        """End everything."""
        self._stopping.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()

    def publisher(self, message_type: type, topic: str, subscribers: int = 1, reliable: bool = True) -> Any:
        """A publisher that has found its subscribers."""
        publisher = self.node.create_publisher(message_type, topic, _qos(10, reliable))
        wait_until(lambda: publisher.get_subscription_count() >= subscribers, f"a subscriber of {topic}")
        # Nodes subscribe anew as they find that a publisher is reliable; an image before that would be lost, and the
        # test wait for nothing. Those that were told otherwise do not.
        end = time.monotonic() + _FOLLOWS_S
        while reliable and time.monotonic() < end and not self._followed(topic, subscribers):
            time.sleep(0.01)
        wait_until(lambda: publisher.get_subscription_count() >= subscribers, f"a subscriber of {topic}")
        time.sleep(_SETTLES_S)
        return publisher

    def _followed(self, topic: str, subscribers: int) -> bool:
        from rclpy.qos import QoSReliabilityPolicy

        infos = self.node.get_subscriptions_info_by_topic(topic)
        return sum(i.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE for i in infos) >= subscribers

    def listen(self, message_type: type, topic: str, depth: int = 50) -> list[Any]:
        """The list that messages of a topic will be put into."""
        received: list[Any] = []
        self.node.create_subscription(message_type, topic, received.append, _qos(depth, True))
        return received

    def call(self, service_type: type, name: str, /, timeout: float = TIMEOUT_S, **fields: Any) -> Any:
        """The response of a service."""
        client = self.node.create_client(service_type, name)
        try:
            wait_until(client.service_is_ready, f"service {name}", timeout)
            future = client.call_async(service_type.Request(**fields))
            wait_until(future.done, f"an answer of {name}", timeout)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def set_parameter(self, node: str, name: str, value: Any) -> Any:
        """Set one parameter; the ``SetParametersResult``."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        message = Parameter(name, value=value).to_parameter_msg()
        return self.call(SetParameters, f"{node}/set_parameters", parameters=[message]).results[0]

    def change_state(self, node: str, label: str) -> bool:
        """Ask for a lifecycle transition, as ``ros2 lifecycle set`` does; whether it succeeded."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        numbers = {
            "configure": Transition.TRANSITION_CONFIGURE,
            "cleanup": Transition.TRANSITION_CLEANUP,
            "activate": Transition.TRANSITION_ACTIVATE,
            "deactivate": Transition.TRANSITION_DEACTIVATE,
            "shutdown": Transition.TRANSITION_INACTIVE_SHUTDOWN,
        }
        transition = Transition(id=numbers[label])
        return bool(self.call(ChangeState, f"{node}/change_state", transition=transition).success)

    def state(self, node: str) -> str:
        """The lifecycle state's label."""
        from lifecycle_msgs.srv import GetState

        return str(self.call(GetState, f"{node}/get_state").current_state.label)

    def diagnostics(self) -> Diagnostics:
        """The diagnostics that arrive from now on."""
        from diagnostic_msgs.msg import DiagnosticArray

        return Diagnostics(self.listen(DiagnosticArray, "/diagnostics"))


class Diagnostics:
    """The statuses of nodes, as they came on /diagnostics."""

    def __init__(self, received: list[Any]) -> None:
        self._received = received

    def of(self, node: str) -> list[SimpleNamespace]:
        """All statuses of a node: ``level`` (int), ``message``, ``values`` (dict)."""
        return [
            SimpleNamespace(
                level=int.from_bytes(status.level, "little"),
                message=status.message,
                values={pair.key: pair.value for pair in status.values},
            )
            for array_ in list(self._received)
            for status in array_.status
            # Without the first slash, as diagnostics are aggregated by.
            if f"/{status.name}" == node
        ]

    def wait_for(self, node: str, condition: Callable[[SimpleNamespace], Any], what: str) -> SimpleNamespace:
        """The first status that meets a condition."""
        return wait_until(lambda: next((s for s in self.of(node) if condition(s)), None), f"diagnostics: {what}")


def _qos(depth: int, reliable: bool) -> Any:
    from rclpy.qos import QoSProfile, QoSReliabilityPolicy

    reliability = QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=depth, reliability=reliability)


def image_message(pixels: np.ndarray, stamp_ns: int, frame_id: str = "camera_optical_frame") -> Any:
    """A sensor_msgs/Image, rgb8 or mono8."""
    from sensor_msgs.msg import Image

    pixels = np.ascontiguousarray(pixels)
    message = Image(height=pixels.shape[0], width=pixels.shape[1], step=pixels.strides[0])
    message.encoding = "rgb8" if pixels.ndim == 3 else "mono8"
    message.data = array("B", pixels.tobytes())
    set_stamp(message, stamp_ns)
    message.header.frame_id = frame_id
    return message


def set_stamp(message: Any, stamp_ns: int) -> None:
    """Set the header's time stamp."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)


def machine_stamps() -> Iterator[int]:
    """The time of the machine in nanoseconds, each later than the one before."""
    newest = 0
    while True:
        newest = max(newest + 1, time.time_ns())
        yield newest


def stamp_of(header: Any) -> int:
    """A header's time stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def of_stamp(messages: list[Any], stamp_ns: int) -> Any | None:
    """The message with this time stamp, or ``None``."""
    return next((m for m in list(messages) if stamp_of(m.header) == stamp_ns), None)


def floats(values: Any) -> np.ndarray:
    """A numeric array field as numpy sees it."""
    return np.asarray(values)
