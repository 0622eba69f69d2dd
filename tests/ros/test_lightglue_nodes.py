"""LightGlue in a node: the core's matches, its options at run time, and combinations refused by name at start."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core import SemanticMatcher
from tests.conftest import make_textured_image
from tests.ros.support import READY, TIMEOUT_S, Client, NodeProcess, floats, running
from tests.ros.test_temporal_matcher import exchange

pytestmark = pytest.mark.ros
LIGHTGLUE = {
    "descriptor": "xfeat",
    "dino": "none",
    "matcher": "lightglue",
    "max_keypoints": 200,
    "torch_threads": 1,
    "warmup_width": 0,
}


def test_matches_are_the_cores(client: Client, log: Path, teachers: None) -> None:
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    picture = make_textured_image(300, 380, 3)
    views = [picture[7 * i : 240 + 7 * i, 12 * i : 320 + 12 * i] for i in range(3)]
    core = SemanticMatcher.from_pretrained("plain:xfeat", matcher="lightglue", max_keypoints=200, device="cpu")
    keypoints = client.listen(Keypoints, "/temporal_matcher/keypoints")
    matches = client.listen(Matches, "/temporal_matcher/matches")
    with running("temporal_matcher", log, LIGHTGLUE) as node:
        camera = client.publisher(Image, "/image")
        exchange(camera, views[0], [keypoints, matches])
        for previous, current in itertools.pairwise(views):
            _, found = exchange(camera, current, [keypoints, matches])
            expected = core.match(core.extract(previous), core.extract(current))
            assert len(expected) > 20
            np.testing.assert_array_equal(floats(found.index0), expected.indices[:, 0].numpy())
            np.testing.assert_array_equal(floats(found.index1), expected.indices[:, 1].numpy())
            np.testing.assert_allclose(floats(found.confidence), expected.confidence.numpy(), atol=1e-4)
        assert client.set_parameter("temporal_matcher", "filter_threshold", 0.9).successful
        last = exchange(camera, views[0], [keypoints, matches])[1]
        assert len(last.confidence) > 0 and min(last.confidence) > 0.9
        refused = client.set_parameter("temporal_matcher", "ratio", 0.8)
        assert not refused.successful
        assert "ratio is of matcher 'nearest', and has no use with 'lightglue'" in refused.reason
        assert "variant plain:xfeat" in node.output and "matcher lightglue" in node.output
        assert node.stop() == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"descriptor": "edgepoint2-t32", "dino": "none"}, "not trained for extractor 'edgepoint2-t32'"),
        ({"variant": "compact"}, "variant 'compact' reasons about them; take dino 'none'"),
    ],
)
def test_wrong_combinations_are_refused_at_start(client: Client, log: Path, parameters: dict, message: str) -> None:
    node = NodeProcess("temporal_matcher", log, {**parameters, "matcher": "lightglue"})
    try:
        assert node.process.wait(TIMEOUT_S) == 1
        assert message in node.output and READY not in node.output
        assert "Traceback" not in node.output
    finally:
        node.process.kill()
