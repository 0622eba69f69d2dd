"""Match the images of a camera with stored ones.

ros2 launch semantic_matcher reference.launch.py image_topic:=/camera/image_raw reference_images:=[map.png]
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import REFERENCE_TOPICS
from semantic_matcher.launching import matcher_launch


def generate_launch_description() -> LaunchDescription:
    """Return the node ``reference_matcher``."""
    return matcher_launch("reference_matcher", REFERENCE_TOPICS)
