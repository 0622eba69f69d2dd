"""Match left with right images.

ros2 launch semantic_matcher stereo.launch.py rectified:=true \\
    left_image_topic:=/left/image_rect right_image_topic:=/right/image_rect
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import STEREO_TOPICS
from semantic_matcher.launching import matcher_launch


def generate_launch_description() -> LaunchDescription:
    """Return the node ``stereo_matcher``."""
    return matcher_launch("stereo_matcher", STEREO_TOPICS)
