"""Match each image of a camera with an earlier one.

ros2 launch semantic_matcher temporal.launch.py image_topic:=/camera/image_raw descriptor:=xfeat dino:=none
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import TEMPORAL_TOPICS
from semantic_matcher.launching import matcher_launch


def generate_launch_description() -> LaunchDescription:
    """Return the node ``temporal_matcher``."""
    return matcher_launch("temporal_matcher", TEMPORAL_TOPICS)
