"""Images of an ordinary driver, that knows nothing of this package or of Fast DDS profiles, are processed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import LEFT, Client, Diagnostics, running, stamp_of, wait_until

pytestmark = pytest.mark.ros

REPOSITORY = Path(__file__).resolve().parents[2]
COUNT, RATE = 100, 10
PERIOD_S = 1 / RATE
COUNTERS = {
    "received": "images received",
    "processed": "images processed",
    "dropped": "images dropped (a newer one came first)",
    "lost": "images lost on the way (message_lost)",
    "overrun": "images that newer ones replaced before they were taken",
}


def random_xfeat(folder: Path) -> Path:
    """A folder with weights for XFeat: what is tested does not depend on their values."""
    import torch

    from semantic_matcher_core.extractors.xfeat import XFeat

    torch.manual_seed(0)
    folder.mkdir()
    torch.save(XFeat().state_dict(), folder / "xfeat.pt")
    return folder


@contextmanager
def driver(topic: str, reliability: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process of :mod:`tests.ros.driver` without the profile that this package has."""
    from semantic_matcher.fastdds_profile import PROFILE_VARIABLES

    ordinary = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
    command = [sys.executable, "-m", "tests.ros.driver", topic, reliability, str(count), str(RATE)]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, env=ordinary, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def go_on(process: subprocess.Popen[str]) -> None:
    """Have a driver go on to what it does next."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def told(process: subprocess.Popen[str]) -> Any:
    """What a driver tells next."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def counted(diagnostics: Diagnostics, name: str) -> SimpleNamespace | None:
    """A node's account of its images, as it is now."""
    statuses = diagnostics.of(name)
    return SimpleNamespace(**{k: int(statuses[-1].values[v]) for k, v in COUNTERS.items()}) if statuses else None


def settled(diagnostics: Diagnostics, name: str) -> SimpleNamespace:
    """A node's account once it has dealt with all that it received, and nothing more comes."""
    before, since = None, 0

    def still() -> SimpleNamespace | None:
        nonlocal before, since
        now, told = counted(diagnostics, name), len(diagnostics.of(name))
        if now != before:
            before, since = now, told
        # A node that has no turn on a busy machine tells nothing new: only what it has said again is over.
        same = now is not None and told >= since + 2
        return now if same and now.received == now.processed + now.dropped else None

    return wait_until(still, "a node that is done", every=0.2)


def drive(
    diagnostics: Diagnostics,
    drivers: list[tuple[subprocess.Popen[str], str]],
    meanwhile: Any = lambda: None,
    results: tuple[list[Any], ...] = (),
) -> list[SimpleNamespace]:
    """Have drivers send their images to nodes of these names, and do something meanwhile; what became of them.

    Args:
        results: of each camera of a node that has several: it is waited for a result of each before and afterwards,
            because the first image of a camera tells of none before it.

    Returns:
        Of each: ``sent`` (how many), ``stamps`` (of those at the rate), ``late`` (seconds at most, of the driver), and
        the node's own account of them.
    """
    earlier = [((now := counted(diagnostics, name)) and now.received) or 0 for _, name in drivers]
    wait_until(lambda: all(results), "images of each camera")
    for (process, name), known in zip(drivers, earlier, strict=True):
        # One of this driver's own, and a result: of what comes before its first the node cannot know.
        wait_until(
            lambda n=name, k=known: (now := counted(diagnostics, n)) and now.processed and now.received > k,
            f"images of {name}",
        )
        go_on(process)
        assert told(process) == "silent"
    begun = [settled(diagnostics, name) for _, name in drivers]
    for process, _ in drivers:
        go_on(process)
    meanwhile()
    found = []
    for process, name in drivers:
        found.append(SimpleNamespace(**told(process)))
        # Single images come now, by which the node notices what was lost before them.
        last = counted(diagnostics, name)
        assert last is not None
        wait_until(lambda n=name, r=last.received: counted(diagnostics, n).received > r + 2, "more images")
    counts = [len(results_) for results_ in results]
    wait_until(lambda: all(len(r) > n for r, n in zip(results, counts, strict=True)), "more images of each camera")
    for process, _ in drivers:
        go_on(process)
    for (process, name), before, driven in zip(drivers, begun, found, strict=True):
        driven.sent = len(driven.stamps) + told(process)
        after = settled(diagnostics, name)
        vars(driven).update({k: getattr(after, k) - getattr(before, k) for k in COUNTERS})
        assert process.wait(30) in LEFT
    return found


def can_take_best_effort() -> bool:
    """Whether an image without retransmission fits a socket's buffer here."""
    from semantic_matcher.fastdds_profile import SOCKET_BUFFER, socket_buffer_limit

    limit = socket_buffer_limit()
    return limit is not None and limit >= SOCKET_BUFFER


def assert_told_of_all(sent: int, account: SimpleNamespace, best_effort: bool) -> None:
    """That nothing was lost in silence; of best effort the very last may be, with none after it to notice it by."""
    silent = sent - account.received - account.lost - account.overrun
    assert 0 <= silent <= best_effort, f"{silent} of {sent} are not accounted for: {account}"


def test_images_of_an_ordinary_driver_are_processed(client: Client, tmp_path: Path) -> None:
    from semantic_matcher_msgs.msg import Keypoints

    variants = {"/one": "plain:sift", "/two": "plain:xfeat"}
    names = {namespace: f"{namespace}/temporal_matcher" for namespace in variants}
    keypoints = {namespace: client.listen(Keypoints, f"{names[namespace]}/keypoints") for namespace in variants}
    diagnostics = client.diagnostics()
    weights = str(random_xfeat(tmp_path / "weights"))
    with ExitStack() as stack:
        for namespace, variant in variants.items():
            parameters = {**PLAIN_SIFT, "variant": variant, "max_keypoints": 200, "weights": weights}
            arguments = ("-r", f"__ns:={namespace}")
            stack.enter_context(running("temporal_matcher", tmp_path / f"{variant[6:]}.log", parameters, arguments))
        # Both nodes at once, each with the one and then with the other kind of driver.
        for kinds in (("reliable", "best_effort"), ("best_effort", "reliable")):
            chosen = [(n, k) for n, k in zip(variants, kinds, strict=True) if k == "reliable" or can_take_best_effort()]
            with ExitStack() as drivers:
                begun = [(drivers.enter_context(driver(f"{n}/image", k, COUNT)), names[n]) for n, k in chosen]
                accounts = drive(diagnostics, begun)
                for (namespace, kind), account in zip(chosen, accounts, strict=True):
                    (subscription,) = client.node.get_subscriptions_info_by_topic(f"{namespace}/image")
                    assert subscription.qos_profile.reliability.name.lower() == kind
                    assert_told_of_all(account.sent, account, kind == "best_effort")
                    answered = {stamp_of(message.header): message for message in list(keypoints[namespace])}
                    processed = len(answered.keys() & set(account.stamps))
                    assert processed > 0
                    # A machine that keeps up is one where the driver is never a period late, and where no result is
                    # older than a period when it is published: no image had to wait for the one before.
                    ages = [float(s.values["age p95 [ms]"] or 1e9) for s in diagnostics.of(names[namespace])[-3:]]
                    kept_up = account.late < PERIOD_S and max(ages) < 1000 * PERIOD_S
                    print(f"{variants[namespace]}, {kind}: {processed} of {COUNT} processed ({kept_up=}), {ages=}")
                    assert processed >= 0.95 * COUNT or not kept_up
                    # Nothing but a node without time, which shows in what it has not taken, costs images on the way.
                    assert account.lost <= 0.05 * COUNT or account.overrun


def test_what_is_lost_while_a_node_stands_still_is_told(client: Client, log: Path) -> None:
    from semantic_matcher_msgs.msg import Keypoints

    kinds = ["reliable", *(["best_effort"] if can_take_best_effort() else [])]
    name, count = "/temporal_matcher", 30
    results = tuple(client.listen(Keypoints, f"{name}/{kind}/keypoints") for kind in kinds)
    diagnostics = client.diagnostics()
    with running("temporal_matcher", log, {**PLAIN_SIFT, "max_keypoints": 100, "cameras": kinds}) as node:

        def stand_still() -> None:
            time.sleep(0.5)
            node.process.send_signal(signal.SIGSTOP)
            time.sleep(2.0)
            node.process.send_signal(signal.SIGCONT)

        with ExitStack() as stack:
            drivers = [(stack.enter_context(driver(f"/{kind}/image", kind, count)), name) for kind in kinds]
            accounts = drive(diagnostics, drivers, stand_still, results)
    # The node's counters are those of all its cameras.
    assert_told_of_all(sum(a.sent for a in accounts), accounts[-1], "best_effort" in kinds)
    assert accounts[-1].overrun > 0 and accounts[-1].lost + accounts[-1].overrun >= 10, accounts
