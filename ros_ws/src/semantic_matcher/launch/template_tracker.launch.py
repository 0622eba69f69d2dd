"""Follow a template that bends in the images of a camera.

ros2 launch semantic_matcher template_tracker.launch.py image_topic:=/camera/image_raw template_image:=poster.png
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import REFERENCE_TOPICS
from semantic_matcher.launching import matcher_launch


def generate_launch_description() -> LaunchDescription:
    """Return the node ``template_tracker``."""
    return matcher_launch("template_tracker", REFERENCE_TOPICS)
