"""The lifecycle services, made safe against requests that the state does not allow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lifecycle_msgs.srv import ChangeState

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode


def answer_impossible_transitions(node: LifecycleNode) -> None:
    """Have ``~/change_state`` answer ``success: false`` where rclpy lets an exception end the whole process.

    rclpy raises ``RCLError`` out of the service callback, and so out of the executor, when the current state has no
    such transition (for instance ``activate`` before ``configure``).
    """
    for service in node.services:
        if service.srv_type is ChangeState:
            service.callback = _answering(node, service.callback)


def _answering(node: LifecycleNode, change_state: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    from rclpy.impl.implementation_singleton import rclpy_implementation

    @functools.wraps(change_state)
    def answer(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except rclpy_implementation.RCLError as error:
            wanted = request.transition.label or request.transition.id
            node.get_logger().warning(f"transition {wanted!r} is not possible now: {error}")
            response.success = False
            return response

    return answer
