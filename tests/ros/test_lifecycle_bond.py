"""Signs of life for a lifecycle manager, with messages of their own kind and a stand-in for nav2's manager."""

from __future__ import annotations

import time

import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.lifecycle_manager import Manager
from tests.ros.support import Client, serving, wait_until

pytestmark = [pytest.mark.ros, pytest.mark.slow]

NAME = "/temporal_matcher"
PARAMETERS = {**PLAIN_SIFT, "autostart": False}


def test_the_bond_follows_the_states(client: Client, interfaces_here: dict[str, str]) -> None:
    with serving("temporal_matcher", {**PARAMETERS, "bond_heartbeat_period": 0.1}) as (node, hang):
        first = Manager(client, "temporal_matcher")
        assert client.change_state(NAME, "configure")
        assert first.beats_in(0.3) == 0
        assert client.change_state(NAME, "activate")
        wait_until(lambda: first.beats >= 3, "signs of life")
        assert (first.last.id, first.last.heartbeat_timeout) == ("temporal_matcher", 4.0)
        assert first.last.heartbeat_period == pytest.approx(0.1)
        assert client.change_state(NAME, "deactivate")
        wait_until(lambda: first.broken, "the end of the bond")
        first.close()

        # A manager that goes is answered, and the node goes on without a bond.
        second = Manager(client, "temporal_matcher")
        assert client.change_state(NAME, "activate")
        wait_until(lambda: second.formed, "a new bond")
        assert second.last.instance_id != first.last.instance_id and not second.broken
        second.leave()
        wait_until(lambda: second.broken, "the answer")
        assert second.beats_in(0.3) == 0 and client.state(NAME) == "active"
        second.close()

        # Another one's bond is not this one's.
        third = Manager(client, "temporal_matcher")
        assert client.change_state(NAME, "deactivate") and client.change_state(NAME, "activate")
        wait_until(lambda: third.formed, "a new bond")
        other = Manager(client, "stereo_matcher")
        other.leave()
        heard = third.beats
        wait_until(lambda: third.beats > heard + 3, "signs of life")
        assert not third.broken
        before = len(list(node.publishers)), len(list(node.subscriptions)), len(list(node.timers))
        assert client.change_state(NAME, "deactivate") and client.change_state(NAME, "activate")
        assert before == (len(list(node.publishers)), len(list(node.subscriptions)), len(list(node.timers)))
        third.heard.clear()
        wait_until(lambda: third.formed, "the bond again")
        # One that hangs, as one that dies, says nothing any more, which is how a manager knows.
        hang()
        wait_until(lambda: third.silent_for > 0.5, "silence")
        assert not third.broken
    # A node that is taken down says so.
    wait_until(lambda: third.broken, "the end of the bond")


def test_there_is_no_bond_unless_it_is_asked_for(client: Client, interfaces_here: dict[str, str]) -> None:
    with serving("temporal_matcher", PARAMETERS) as (node, _):
        manager = Manager(client, "temporal_matcher")
        assert client.change_state(NAME, "configure") and client.change_state(NAME, "activate")
        time.sleep(0.3)
        assert not manager.heard and node.count_publishers("/bond") == 1
