"""The service ``~/set_reference``: asked in the executor's thread, answered in the worker's, where the model is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from semantic_matcher_msgs.srv import SetReference

from semantic_matcher_core.errors import SemanticMatcherError

if TYPE_CHECKING:
    from semantic_matcher.matcher_node import MatcherNode

# How long the service waits for its turn. Until then nothing else is answered; images wait as they always do.
_ANSWER_WITHIN_S = 30.0
_SET_REFERENCE = "~/set_reference"


class ReferenceRequest:
    """A new reference, on its way to the worker's thread and back.

    Attributes:
        message: the image.
        name: what it is to be called.
    """

    def __init__(self, message: Any, name: str) -> None:
        self.message = message
        self.name = name
        self.answered = threading.Event()
        self.withdrawn = False
        self.error = ""
        self.keypoints = 0


class ReferenceService:
    """Serves ``~/set_reference`` for a node.

    Args:
        node: whose service it is; requests are offered to its worker.
    """

    def __init__(self, node: MatcherNode) -> None:
        self._node = node
        self._newest: Any = None
        self._service = node.create_service(SetReference, _SET_REFERENCE, self._asked)

    @property
    def topic(self) -> str:
        """The service's name in the graph."""
        return str(self._node.resolve_service_name(_SET_REFERENCE))

    def saw(self, message: Any) -> None:
        """Note the newest image, which an empty request means."""
        self._newest = message

    def forget(self) -> None:
        """Let go of the newest image."""
        self._newest = None

    def answer(self, request: ReferenceRequest, take: Callable[[Any, str], int]) -> None:
        """Answer a request, in the worker's thread.

        Args:
            take: makes an image message the reference of that name; the number of its keypoints.
        """
        if request.withdrawn:
            return
        try:
            request.keypoints = take(request.message, name_of(request.message.header, request.name))
        except SemanticMatcherError as error:
            request.error = str(error)
        except Exception as error:
            request.error = repr(error)
            raise
        finally:
            request.answered.set()

    def _asked(self, request: Any, response: Any) -> Any:
        empty = request.image.width == 0 and request.image.height == 0
        message = self._newest if empty else request.image
        if self._node.state != "active":
            response.message = f"the node is {self._node.state}; activate it first"
        elif message is None:
            response.message = "no image has come yet that could be the reference"
        else:
            job = ReferenceRequest(message, request.name)
            self._node.offer(_SET_REFERENCE, job)
            if not job.answered.wait(_ANSWER_WITHIN_S):
                job.withdrawn = True
                job.error = f"not done within {_ANSWER_WITHIN_S:g} s; the reference stays as it was"
            response.success, response.keypoints = not job.error, job.keypoints
            response.message = job.error or f"{name_of(message.header, request.name)!r} is the reference now"
        # Apart: rclpy allows one severity for each line of code.
        if response.success:
            self._node.get_logger().info(f"set_reference: {response.message}")
        else:
            self._node.get_logger().warning(f"set_reference: {response.message}")
        return response


def name_of(header: Any, name: str) -> str:
    """What a reference is called, in the frame of ``reference_header``, logs and diagnostics."""
    return name or str(header.frame_id)
