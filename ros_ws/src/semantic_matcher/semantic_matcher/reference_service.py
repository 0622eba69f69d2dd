"""The service ``~/set_reference``: asked in the executor's thread, answered in the worker's, where the model is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from semantic_matcher_msgs.srv import SetReference

from semantic_matcher_core.errors import SemanticMatcherError

if TYPE_CHECKING:
    from semantic_matcher.matcher_node import MatcherNode

_SET_REFERENCE = "~/set_reference"


class ReferenceRequest:
    """A new reference, on its way to the worker's thread and back.

    It is either worked on, and answered with what came of it, or refused before that: never both.

    Attributes:
        message: the image.
        name: what it is to be called.
        answered: done when there is an answer; its result is the reason of a failure, or "".
        keypoints: of the new reference.
    """

    def __init__(self, message: Any, name: str, executor: Any) -> None:
        self.message = message
        self.name = name
        self.answered = Future(executor=executor)
        self.keypoints = 0
        self._executor = executor
        self._taken = False
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Begin with it; false where it has been refused."""
        with self._lock:
            first, self._taken = not self._taken, True
        return first

    def refuse(self, reason: str) -> None:
        """Answer that it will not be done, unless it has been begun."""
        if self.take():
            self.answer(reason)

    def answer(self, error: str) -> None:
        """Have it answered, from any thread."""
        self.answered.set_result(error)
        # The executor may be waiting for messages.
        if self._executor is not None:
            self._executor.wake()


class ReferenceService:
    """Serves ``~/set_reference`` for a node.

    Args:
        node: whose service it is; requests are offered to its worker.
    """

    def __init__(self, node: MatcherNode) -> None:
        self._node = node
        self._newest: Any = None
        self._waiting: ReferenceRequest | None = None
        # Of its own: while a request is in work, all others of the node are answered.
        group = ReentrantCallbackGroup()
        self._service = node.create_service(SetReference, _SET_REFERENCE, self._asked, callback_group=group)

    @property
    def topic(self) -> str:
        """The service's name in the graph."""
        return str(self._node.resolve_service_name(_SET_REFERENCE))

    def saw(self, message: Any) -> None:
        """Note the newest image, which an empty request means."""
        self._newest = message

    def forget(self) -> None:
        """Let go of the newest image, and of a request that has not been begun."""
        self._newest = None
        if self._waiting is not None:
            self._waiting.refuse("the node was deactivated before it was done; the reference stays as it was")
            self._waiting = None

    def answer(self, request: ReferenceRequest, take: Callable[[Any, str], int]) -> None:
        """Work on a request and answer it, in the worker's thread.

        Args:
            take: makes an image message the reference of that name; the number of its keypoints.
        """
        if not request.take():
            return
        error = ""
        try:
            request.keypoints = take(request.message, name_of(request.message.header, request.name))
        except SemanticMatcherError as refusal:
            error = str(refusal)
        except Exception as defect:
            error = repr(defect)
            raise
        finally:
            request.answer(error)

    async def _asked(self, request: Any, response: Any) -> Any:
        empty = request.image.width == 0 and request.image.height == 0
        message = self._newest if empty else request.image
        if self._node.state != "active":
            remedy = "start it anew" if self._node.state == "finalized" else "activate it first"
            response.message = f"the node is {self._node.state}; {remedy}"
        elif message is None:
            response.message = "no image has come yet that could be the reference"
        else:
            job = ReferenceRequest(message, request.name, self._node.executor)
            if self._waiting is not None:
                self._waiting.refuse("a newer request came before it was begun")
            self._waiting = job
            self._node.offer(_SET_REFERENCE, job)
            error = await job.answered
            response.success, response.keypoints = not error, job.keypoints
            response.message = error or _done(name_of(message.header, request.name), job.keypoints)
        # Apart: rclpy allows one severity for each line of code.
        if response.success:
            self._node.get_logger().info(f"set_reference: {response.message}")
        else:
            self._node.get_logger().warning(f"set_reference: {response.message}")
        return response


def name_of(header: Any, name: str) -> str:
    """Return what a reference is called in ``reference_name``, logs and diagnostics: its frame where it was given
    no name.
    """
    return name or str(header.frame_id) or "reference"


def _done(name: str, keypoints: int) -> str:
    text = f"{name!r} is the reference now"
    return text if keypoints else f"{text}, but it has no keypoints: nothing will be matched with it"
