"""The lifecycle services, made safe against requests that the state does not allow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode


_NAMES = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_CLEANUP: "cleanup",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: "shutdown of an unconfigured node",
    Transition.TRANSITION_INACTIVE_SHUTDOWN: "shutdown of an inactive node",
    Transition.TRANSITION_ACTIVE_SHUTDOWN: "shutdown of an active node",
}


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
        except rclpy_implementation.RCLError:
            wanted = request.transition.label or _NAMES.get(request.transition.id, request.transition.id)
            state = node._state_machine.current_state[1]
            possible = sorted({label for _, label, *_ in node._state_machine.available_transitions}) or ["none"]
            node.get_logger().warning(
                f"transition {wanted!r} is not possible in state {state!r}: possible are {', '.join(possible)}"
            )
            response.success = False
            return response

    return answer
