"""Images of an ordinary driver, that knows nothing of this package or of Fast DDS profiles, are processed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, running

pytestmark = pytest.mark.ros

NAME = "/temporal_matcher"
REPOSITORY = Path(__file__).resolve().parents[2]
RATE = 10
SENT, PROCESSED = "images received", "images processed"
DROPPED = "images dropped (a newer one came first)"
LOST = "images lost on the way (message_lost)"


def random_xfeat(folder: Path) -> Path:
    """A folder with weights for XFeat: what is tested does not depend on their values."""
    import torch

    from semantic_matcher_core.extractors.xfeat import XFeat

    torch.manual_seed(0)
    folder.mkdir()
    torch.save(XFeat().state_dict(), folder / "xfeat.pt")
    return folder


@pytest.mark.parametrize(("variant", "count"), [("plain:sift", 100), ("plain:xfeat", 50)])
@pytest.mark.parametrize("reliability", ["reliable", "best_effort"])
def test_images_of_an_ordinary_driver_are_processed(
    client: Client, log: Path, tmp_path: Path, variant: str, count: int, reliability: str
) -> None:
    from semantic_matcher_msgs.msg import Keypoints

    from semantic_matcher.fastdds_profile import PROFILE_VARIABLES, SOCKET_BUFFER, socket_buffer_limit

    limit = socket_buffer_limit()
    if reliability == "best_effort" and (limit is None or limit < SOCKET_BUFFER):
        pytest.skip(f"net.core.rmem_max is {limit}: an image without retransmission does not fit a socket's buffer")
    parameters: dict[str, Any] = {**PLAIN_SIFT, "variant": variant, "max_keypoints": 200}
    if variant == "plain:xfeat":
        parameters["weights"] = str(random_xfeat(tmp_path / "weights"))
    client.listen(Keypoints, f"{NAME}/keypoints")
    diagnostics = client.diagnostics()
    ordinary = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
    with running("temporal_matcher", log, parameters) as node:
        command = [sys.executable, "-m", "tests.ros.driver", "/image", reliability, str(count), str(RATE)]
        driver = subprocess.run(
            command, cwd=REPOSITORY, env=ordinary, capture_output=True, text=True, timeout=60 + count / RATE
        )
        assert driver.returncode == 0, driver.stderr

        def settled(status: Any) -> bool:
            values = {key: int(status.values[key]) for key in (SENT, PROCESSED, DROPPED)}
            return values[SENT] >= 0.95 * count and values[PROCESSED] + values[DROPPED] == values[SENT]

        values = diagnostics.wait_for(NAME, settled, f"at least 95 % of {count} images").values
        # What a machine busy with other tests cannot keep up with is dropped for newer ones, and counted.
        assert int(values[PROCESSED]) + int(values[DROPPED]) >= 0.95 * count
        assert int(values[PROCESSED]) > 0 and values[LOST] == "0"
        print(f"{variant}, {reliability}: {values[PROCESSED]} of {count} processed, {values[DROPPED]} dropped")
        (subscription,) = client.node.get_subscriptions_info_by_topic("/image")
        assert subscription.qos_profile.reliability.name.lower() == reliability
        assert "lost on the way" not in node.output
