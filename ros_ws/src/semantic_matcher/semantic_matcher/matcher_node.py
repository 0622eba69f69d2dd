"""What the matcher nodes have in common: parameters, lifecycle, worker, diagnostics."""

from __future__ import annotations

import functools
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage

from semantic_matcher.calibration import CameraInfoInput, MissingCalibrationError
from semantic_matcher.clocks import clock_standing, is_an_age
from semantic_matcher.declared_parameters import Parameters, ignored, unknown_overrides
from semantic_matcher.depth_input import DepthInput
from semantic_matcher.diagnostics import diagnostic_array
from semantic_matcher.image_input import ImageInput
from semantic_matcher.lifecycle_bond import Bond, bond_messages
from semantic_matcher.lifecycle_services import answer_impossible_transitions
from semantic_matcher.mask_input import MaskInput
from semantic_matcher.matching_model import MatchingModel, geometry_refusal, model_name, name_refusal
from semantic_matcher.messages import stamp_ns
from semantic_matcher.node_statistics import Statistics
from semantic_matcher.output import Output
from semantic_matcher.passing_thread import in_passing_thread
from semantic_matcher.problems import Problems, Throttle
from semantic_matcher.process_memory import resident_bytes
from semantic_matcher.qos_overrides import QoSOverrides
from semantic_matcher.skipped import warn_of_skipped
from semantic_matcher.worker import NewestFrameWorker
from semantic_matcher_core.errors import ConfigError, ImageError, SemanticMatcherError
from semantic_matcher_core.io.image_messages import compressed_to_rgb, image_to_rgb
from semantic_matcher_core.io.masks import Mask, read_masks
from semantic_matcher_core.options import TABLES, named

_LOG_EVERY_S = 5.0
# How soon the node answers what happens on the graph without an event.
_REVIEW_S = 0.5
# A calibration may come after the first image, and the first message of /clock some time after the start.
_GRACE_S = 2.0
# Far beyond what an image takes on any machine: what takes longer will hardly end.
_STUCK_S = 30.0

T = TypeVar("T")
Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def _transition(arrives_at: str, undo: str = "") -> Callable[[Transition], Transition]:
    """Note the state a transition arrives at, and report what goes wrong: rclpy would swallow the exception.

    ``undo`` names the method that takes back what a transition that fails has done so far.
    """

    def decorate(callback: Transition) -> Transition:
        @functools.wraps(callback)
        def reporting(self: MatcherNode, state: LifecycleState) -> TransitionCallbackReturn:
            try:
                result = callback(self, state)
            except SemanticMatcherError as error:
                self.report_error(f"{callback.__name__[3:]} failed: {error}", throttled=False)
                if undo:
                    getattr(self, undo)()
                return TransitionCallbackReturn.FAILURE
            except Exception as error:  # noqa: BLE001 - a defect: reported with its traceback, answered by on_error
                what = f"{callback.__name__[3:]} failed: {error!r}"
                self.report_error(what, traceback.format_exc(), throttled=False)
                return TransitionCallbackReturn.ERROR
            if result == TransitionCallbackReturn.SUCCESS:
                self.state = arrives_at
            return result

        return reporting

    return decorate


class MatcherNode(LifecycleNode):
    """A managed node that takes images in and publishes keypoints, descriptors and matches.

    A subclass says which images it wants, what it publishes, and what it does with the newest of them in the worker's
    thread. Everything else runs in the executor's thread and never waits for the networks, apart from the transitions.

    Args:
        executable: name of the node and of its parameter table.
        load_model: makes the model of parameter values.
        node_options: passed to rclpy's ``LifecycleNode``.

    Raises:
        ValueError: a parameter is refused; the message is fit for the user.
    """

    def __init__(
        self,
        executable: str,
        load_model: Callable[[SimpleNamespace], MatchingModel] = MatchingModel.load,
        **node_options: Any,
    ) -> None:
        super().__init__(executable, **node_options)
        self.state = "unconfigured"
        self.statistics = Statistics()
        self.model: MatchingModel | None = None
        self._bond: Bond | None = None
        try:
            self.parameters = Parameters(self, TABLES[executable], self._refusal)
        except Exception:
            # What DDS has of the node would stay in the machine's shared memory.
            self.destroy_node()
            raise
        self._load_model = load_model
        self._settings = self.parameters.values
        self.qos_overrides = QoSOverrides(self)
        self.outputs: dict[str, Output] = {}
        self._inputs: list[ImageInput | CameraInfoInput | DepthInput | MaskInput] = []
        self._stored_masks: list[Mask | None] = []
        self._masks: dict[str, MaskInput] = {}
        self._problems = Problems(self.get_logger())
        self._errors = Throttle(_LOG_EVERY_S)
        self._missing_since: dict[str, float] = {}
        self._clock_moved = time.monotonic()
        self._worker = NewestFrameWorker(self._work, self._failed, name=executable)
        self._dropped_before = 0
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Of the steady clock: diagnostics go on while a simulation is paused.
        self._timer = self.create_timer(
            self.parameters.values.diagnostics_period, self.report_now, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._reviews = self.create_timer(_REVIEW_S, self.review, clock=Clock(clock_type=ClockType.STEADY_TIME))
        answer_impossible_transitions(self)
        table = TABLES[executable]
        known = [spec.name for spec in table]
        for text in [*unknown_overrides(self, known), *ignored(self, self.parameters.values, table)]:
            self.get_logger().warning(text)

    # What a subclass adds.

    @abstractmethod
    def create_outputs(self) -> dict[str, Output]:
        """Make the publishers, by name."""

    @abstractmethod
    def create_inputs(self) -> Sequence[ImageInput | CameraInfoInput | DepthInput]:
        """Make the subscriptions; those of images lead to :meth:`offer`."""

    def image_prefixes(self) -> list[str]:
        """Return what stands before ``image`` and ``mask`` in the names of the topics, of each camera."""
        return [""]

    def prepare(self, settings: SimpleNamespace) -> None:
        """Load what is needed besides the model, while configuring."""

    @abstractmethod
    def begin(self, model: MatchingModel) -> None:
        """Begin anew with a model, before the first image."""

    @abstractmethod
    def end(self) -> None:
        """Let go of all that is kept of the images, some of which may be in the device's memory."""

    @abstractmethod
    def apply(self, settings: SimpleNamespace) -> None:
        """Take new parameter values; in the worker's thread, between two images."""

    @abstractmethod
    def process(self, source: str, item: Any) -> None:
        """Work on what was offered and publish; in the worker's thread."""

    def started(self) -> None:
        """Do what is due once the outputs can publish; in the executor's thread, with the worker running."""

    def resumed(self, source: str) -> None:
        """Prepare for images of a source that come from now on, first or after a pause; in the executor's thread."""

    def review_more(self) -> None:
        """Note problems of the node's own kind, twice a second."""

    # What a subclass calls.

    def image_input(
        self, name: str, source: str, prefix: str = "", receive: Callable[[Any], None] | None = None, keep: bool = False
    ) -> ImageInput:
        """Make a subscription to images, of which those of the outputs below ``prefix`` are made.

        Args:
            name: the topic's relative name.
            source: what they are offered as, unless ``receive`` is given.
            prefix: of the outputs.
            receive: called with each instead.
            keep: subscribe also while there is no subscriber.
        """
        return ImageInput(
            self,
            name,
            receive or functools.partial(self.offer, source),
            (lambda: True) if keep else functools.partial(self.wanted, prefix),
            functools.partial(self.resumed, source),
        )

    def wanted(self, prefix: str = "") -> bool:
        """Return whether images have to be processed for the outputs whose names begin with ``prefix``."""
        if not self.parameters.values.lazy:
            return True
        return any(output.calls_for_images for name, output in self.outputs.items() if name.startswith(prefix))

    def offer_wanted(self, prefix: str, source: str, item: Any) -> None:
        """Do :meth:`offer` while the outputs below ``prefix`` are wanted; else count it."""
        if self.wanted(prefix):
            self.offer(source, item)
        else:
            self.statistics.count("unwanted")

    def soon(self, callback: Callable[[], None]) -> None:
        """Have the executor call this after what it does now."""
        if self.executor is not None:
            self.executor.create_task(callback)

    def offer(self, source: str, item: Any) -> None:
        """Have the worker process this next, instead of what it has not begun of this source. Sources take turns."""
        self._worker.offer(source, item)

    def image_of(self, message: Any) -> Any:
        """Return the pixels of an image message.

        Raises:
            ImageError: the message cannot be used.
        """
        full_scale = self._settings.image_full_scale or None
        if isinstance(message, CompressedImage):
            return compressed_to_rgb(message, full_scale=full_scale)
        # No other code has the message, and images are never written to.
        return image_to_rgb(message, full_scale=full_scale, copy=False)

    def mask_of(self, prefix: str, header: Any, pixels: Any) -> Any:
        """Return where keypoints of an image are wanted, ``H x W`` bool; ``None`` for everywhere.

        Args:
            prefix: one of :meth:`image_prefixes`.
            header, pixels: of the image.

        Raises:
            ImageError: its mask is of another size.
        """
        return self._masks[prefix].of(header, pixels.shape[:2])

    def age_of(self, header: Any) -> float | None:
        """Return seconds since the header's stamp, or ``None`` where it has none."""
        stamp = stamp_ns(header)
        return (self.get_clock().now().nanoseconds - stamp) * 1e-9 if stamp else None

    def is_stale(self, header: Any, source: str = "") -> bool:
        """Return whether an image of a source is too old to be worth processing; counted."""
        limit = self._settings.max_image_age
        if limit == 0:
            return False
        age = self.age_of(header)
        stale = age is not None and age > limit
        if stale:
            self.skipped("stale", source)
        return stale

    def skipped(self, why: str, source: str) -> None:
        """Count an image that is left out for its age (``stale``) or its time stamp (``out of order``)."""
        self.statistics.count(why)
        self.statistics.count(f"{why}:{source}")

    def set_problem(self, subject: str, text: str, kind: str = "", *, error: bool = False) -> None:
        """Warn of something, in the log once and in the diagnostics for as long as it lasts; an empty text ends it.

        ``kind`` is what the text is without its figures, ``error`` that it is logged as an error, as of
        :class:`~semantic_matcher.problems.Problems`.
        """
        self._problems.set(subject, text, kind, error=error)

    def check_frame(self, header: Any, what: str) -> None:
        """Warn of images without a frame, which leaves what is published in it nowhere; ``what`` names that."""
        text = (
            f"the images have no frame_id, so RViz and TF can place {what} nowhere: set it in the camera's driver "
            "(frame_id, camera_frame_id)"
        )
        self.set_problem(f"frame of {what}", "" if header.frame_id else text)

    def has_problem(self, subject: str) -> bool:
        """Return whether something is wrong with a subject now."""
        return self._problems.has(subject)

    def beside(self, what: str, work: Callable[[], None]) -> None:
        """Do what is made beside matches; where it fails, that is reported, and costs none of the other results."""
        try:
            work()
        except SemanticMatcherError as error:
            self.report_error(f"{what} failed: {error}")
        except Exception as error:  # noqa: BLE001 - a defect: reported with its traceback
            self.report_error(f"{what} failed: {error!r}", traceback.format_exc())

    def calibration(self, subject: str, find: Callable[[], T]) -> T | None:
        """Return what ``find()`` gives; ``None``, and a problem, where its calibration is missing or of no use."""
        try:
            found = find()
        except MissingCalibrationError as error:
            since = self._missing_since.setdefault(subject, time.monotonic())
            if time.monotonic() - since >= _GRACE_S:
                self.set_problem(subject, str(error))
            return None
        except ConfigError as error:
            self._missing_since.pop(subject, None)
            self.set_problem(subject, str(error))
            return None
        self._missing_since.pop(subject, None)
        self.set_problem(subject, "")
        return found

    def finished(self, source: str, header: Any) -> None:
        """Note that an image was processed and its results are published."""
        self.statistics.count("processed")
        self.statistics.count(f"processed:{source}")
        age = self.age_of(header)
        agree = all(image_input.clocks_agree for image_input in self._image_inputs())
        if age is not None and agree and is_an_age(age):
            self.statistics.add_age(age)

    @property
    def settings(self) -> SimpleNamespace:
        """The parameter values that hold for the item in work."""
        return self._settings

    def report_error(self, text: str, details: str = "", throttled: bool = True) -> None:
        """Show an error in the diagnostics and log it; those that each image may bring, once in five seconds each."""
        self.statistics.error(text)
        if not throttled or self._errors.passes(text):
            self.get_logger().error("\n".join(filter(None, (text, details))))

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters as rclpy does, whose own refusal leaves out the names of those that there are not."""
        if unknown := [p.name for p in parameter_list if not self.has_parameter(p.name)]:
            raise ParameterNotDeclaredException(unknown)
        return super().set_parameters_atomically(parameter_list)

    # Lifecycle.

    def autostart(self) -> bool:
        """Configure and activate; whether both succeeded."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    @_transition("inactive", undo="_free")
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, warm it up, create the publishers."""
        settings = self.parameters.values
        if settings.bond_heartbeat_period > 0:
            bond_messages()
        name = model_name(settings)
        self.get_logger().info(f"configuring: loading {name} for device {settings.device}")
        self.model = in_passing_thread(lambda: self._loaded(settings))
        for name, value in self.model.facts().items():
            self.statistics.set(name, value)
        self._stored_masks = read_masks(named(settings.mask), len(self.image_prefixes()))
        self.prepare(settings)
        self.outputs = self.create_outputs()
        self.get_logger().info(f"configured: {', '.join(f'{k} {v}' for k, v in self.model.facts().items())}")
        for note in self.model.licence_notes():
            self.get_logger().warning(note)
        return super().on_configure(state)

    def _loaded(self, settings: SimpleNamespace) -> MatchingModel:
        model = self._load_model(settings)
        model.warm_up(settings.warmup_width, settings.warmup_height)
        return model

    @_transition("active", undo="_halt")
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Bring the model to its device, subscribe, begin to work."""
        assert self.model is not None
        self.model.to_device()
        self._settings = self.parameters.values
        # First: what is stored is extracted as the parameters are now, which may have changed since configure.
        self.model.apply(self._settings)
        in_passing_thread(functools.partial(self.begin, self.model))
        self.apply(self._settings)
        self.statistics.restart()
        self._clock_moved = time.monotonic()
        stored = zip(self.image_prefixes(), self._stored_masks, strict=True)
        self._masks = {prefix: MaskInput(self, f"{prefix}mask", mask) for prefix, mask in stored}
        self._worker.start()
        self._inputs = [*self.create_inputs(), *self._masks.values()]
        result = super().on_activate(state)
        self.started()
        self._review_inputs()
        idle = "" if any(i.is_open for i in self._image_inputs()) else " and for a subscriber of an output"
        self.get_logger().info(f"active, waiting for {' and '.join(i.topic for i in self._image_inputs())}{idle}")
        for text in self.qos_overrides.without_effect():
            self.get_logger().warning(text)
        if self._settings.bond_heartbeat_period > 0:
            self._bond = Bond(self, self._settings.bond_heartbeat_period)
        return result

    @_transition("inactive")
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the image in work, free the device's memory."""
        self._halt()
        if self.model is not None:
            self.model.to_host()
        return super().on_deactivate(state)

    @_transition("unconfigured")
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything that configure made."""
        self._free()
        return super().on_cleanup(state)

    @_transition("finalized")
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state."""
        self._free()
        return super().on_shutdown(state)

    @_transition("unconfigured")
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything after a defect in a transition, so that the node can be configured again."""
        self._free()
        return super().on_error(state)

    def stop_working(self, timeout: float) -> bool:
        """Stop the worker before the process ends; whether it stopped within ``timeout`` seconds."""
        return self._worker.stop(timeout)

    def destroy_node(self) -> None:
        """Take the node down, with what DDS has of it."""
        self._end_bond()
        super().destroy_node()
        # rclpy forgets the state machine, which keeps the DDS participant alive, and with it 64 MB of shared memory
        # that a process leaves behind when it ends without finalisation.
        self._state_machine.destroy_when_not_in_use()

    def _end_bond(self) -> None:
        if self._bond is not None:
            self._bond.destroy()
        self._bond = None

    def _halt(self) -> None:
        self._end_bond()
        for image_input in self._inputs:
            image_input.destroy()
        self._inputs = []
        self._worker.stop()
        self._masks = {}
        self._problems.clear()
        self._missing_since.clear()
        self.end()

    def _image_inputs(self) -> list[ImageInput]:
        return [image_input for image_input in self._inputs if isinstance(image_input, ImageInput)]

    def _free(self) -> None:
        self._halt()
        for output in self.outputs.values():
            output.destroy()
        self.outputs = {}
        if self.model is not None:
            self.model.unload()
            self.model = None

    def _refusal(self, values: SimpleNamespace) -> str:
        of_model = name_refusal(values) if self.model is None else self.model.refusal(values)
        return of_model or geometry_refusal(values)

    # The worker's thread.

    def _work(self, source: str, item: Any) -> None:
        assert self.model is not None
        if self._settings is not self.parameters.values:
            self._settings = self.parameters.values
            self.model.apply(self._settings)
            self.apply(self._settings)
        self.process(source, item)

    def _failed(self, source: str, error: Exception) -> None:
        if isinstance(error, ImageError):
            self.statistics.count("refused")
            self.report_error(f"image refused: {error}")
        elif isinstance(error, SemanticMatcherError):
            self.statistics.count("failed")
            self.report_error(f"matching failed: {error}")
        else:
            self.statistics.count("failed")
            self.report_error(
                f"matching failed: {error!r}",
                "".join(traceback.format_exception(type(error), error, error.__traceback__)),
            )

    # What happens on the graph.

    def review(self) -> None:
        """Subscribe as is wanted and offered now, and note what is wrong and what no longer is."""
        if self.state != "active":
            return
        self._review_inputs()
        for output in self.outputs.values():
            output.review()
        clock: Any = self.get_clock()
        standing = clock.ros_time_is_active and clock.now().nanoseconds == 0
        # A simulation that is reset begins at 0, too.
        self._clock_moved = self._clock_moved if standing else time.monotonic()
        self.set_problem("clock", clock_standing() if time.monotonic() - self._clock_moved >= _GRACE_S else "")
        self.set_problem("name", self._namesakes())
        seconds = self._worker.seconds_in_work
        stuck = (
            f"an image has been in work for {seconds:.0f} s, and newer ones are dropped: the device hangs, or the "
            "model is too much for this machine; start the node anew, or with a smaller variant"
        )
        self.set_problem("work", stuck if seconds >= _STUCK_S else "", kind="an image stays in work")
        warn_of_skipped(self)
        self.review_more()

    def _namesakes(self) -> str:
        """Return what is wrong where another node has this one's name, such as one that was left running."""
        own = (self.get_name(), self.get_namespace())
        count = self.get_node_names_and_namespaces().count(own)
        if count < 2:
            return ""
        return (
            f"{count} nodes are called {self.get_fully_qualified_name()}: what they publish is mixed, and either "
            "answers services; end the others, or give this one another name with -r __node:=<name>"
        )

    def _review_inputs(self) -> None:
        for any_input in self._inputs:
            any_input.review()

    # Diagnostics.

    def report_now(self) -> None:
        """Publish diagnostics."""
        values = self.parameters.values
        dropped = self._worker.dropped.total()
        self.statistics.count("dropped", dropped - self._dropped_before)
        self._dropped_before = dropped
        self._show_memory()
        holds = self.state == "unconfigured" or self.statistics.error_holds(max(values.diagnostics_period, 1.0))
        errors = [self.statistics.last_error] if holds else []
        self._diagnostics.publish(
            diagnostic_array(
                self.get_clock().now().to_msg(),
                self.get_fully_qualified_name().lstrip("/"),
                self.statistics,
                state=self.state,
                idle=self.state == "active" and not self.wanted(),
                problems=self._problems.now(),
                errors=[error for error in errors if error],
            )
        )

    def _show_memory(self) -> None:
        self.statistics.set("memory [MB]", f"{resident_bytes() / 1e6:.1f}")
        on_device = None if self.model is None else self.model.device_memory()
        if on_device is not None:
            self.statistics.set("memory of the GPU [MB]", f"{on_device / 1e6:.1f}")
