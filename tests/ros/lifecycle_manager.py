"""The other side of a bond, as nav2's lifecycle manager holds it."""

from __future__ import annotations

import time
from typing import Any

from tests.ros.support import Client


class Manager:
    """Says that it lives, ten times a second, and notes what a node says.

    Args:
        client: whose node it is.
        name: the node's name, which is the id of the bond.
        topic: of the bond.
    """

    def __init__(self, client: Client, name: str, topic: str = "/bond") -> None:
        from bond.msg import Status

        self._client, self._type, self._name = client, Status, name
        self._instance = f"manager {time.monotonic_ns()}"
        self._alive = True
        self.heard: list[tuple[float, Any]] = []
        self._publisher = client.node.create_publisher(Status, topic, 5)
        self._subscription = client.node.create_subscription(Status, topic, self._hear, 100)
        self._timer = client.node.create_timer(0.1, self._say)

    def close(self) -> None:
        """Let go of the topic without a word."""
        self._client.node.destroy_timer(self._timer)
        self._client.node.destroy_subscription(self._subscription)

    def leave(self) -> None:
        """Say that it goes."""
        self._alive = False
        self._say()

    @property
    def formed(self) -> bool:
        """Whether the node has said that it lives."""
        return any(message.active for _, message in list(self.heard))

    @property
    def broken(self) -> bool:
        """Whether it has said that it goes."""
        return any(not message.active for _, message in list(self.heard))

    @property
    def beats(self) -> int:
        """How often it has said that it lives."""
        return sum(message.active for _, message in list(self.heard))

    @property
    def last(self) -> Any:
        """What it said last."""
        return self.heard[-1][1]

    @property
    def silent_for(self) -> float:
        """Seconds since it said anything."""
        return time.monotonic() - self.heard[-1][0]

    def beats_in(self, seconds: float) -> int:
        """How often it says in so many seconds from now on that it lives."""
        before = self.beats
        time.sleep(seconds)
        return self.beats - before

    def _hear(self, message: Any) -> None:
        if message.id == self._name and message.instance_id != self._instance:
            self.heard.append((time.monotonic(), message))

    def _say(self) -> None:
        message = self._type(id=self._name, instance_id=self._instance, active=self._alive)
        message.heartbeat_timeout, message.heartbeat_period = 4.0, 0.1
        self._publisher.publish(message)
