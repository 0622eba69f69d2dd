"""Match left with right images.

ros2 launch semantic_matcher stereo.launch.py left_image_topic:=/left/image_rect right_image_topic:=/right/image_rect
"""

from launch import LaunchDescription

from semantic_matcher.launching import TopicArgument, matcher_launch


def generate_launch_description() -> LaunchDescription:
    """The node ``stereo_matcher``."""
    return matcher_launch(
        "stereo_matcher",
        [
            TopicArgument("left_image_topic", "left/image", "Topic of the left images (without /compressed)"),
            TopicArgument("right_image_topic", "right/image", "Topic of the right images (without /compressed)"),
            TopicArgument("left_camera_info_topic", "left/camera_info", "Topic of the left camera's calibration"),
            TopicArgument("right_camera_info_topic", "right/camera_info", "Topic of the right camera's calibration"),
        ],
    )
