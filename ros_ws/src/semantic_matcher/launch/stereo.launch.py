"""Match left with right images.

ros2 launch semantic_matcher stereo.launch.py rectified:=true \\
    left_image_topic:=/left/image_rect right_image_topic:=/right/image_rect
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
            *(
                TopicArgument(
                    f"{side}_camera_info_topic",
                    f"{side}/camera_info",
                    f"Topic of the {side} camera's calibration (default: camera_info beside its images)",
                    derived=True,
                )
                for side in ("left", "right")
            ),
            *(
                TopicArgument(
                    f"{side}_mask_topic",
                    f"{side}/mask",
                    f"Topic of the {side} camera's masks, zero where keypoints are not wanted",
                    derived=True,
                )
                for side in ("left", "right")
            ),
        ],
    )
