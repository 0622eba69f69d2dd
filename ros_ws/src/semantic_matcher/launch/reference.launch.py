"""Match the images of a camera with stored ones.

ros2 launch semantic_matcher reference.launch.py image_topic:=/camera/image_raw reference_images:=[map.png]
"""

from launch import LaunchDescription

from semantic_matcher.launching import TopicArgument, matcher_launch


def generate_launch_description() -> LaunchDescription:
    """Return the node ``reference_matcher``."""
    return matcher_launch(
        "reference_matcher",
        [
            TopicArgument("image_topic", "image", "Topic of the camera's images (without /compressed)"),
            TopicArgument(
                "camera_info_topic",
                "camera_info",
                "Topic of its calibration, for reference_width (default: camera_info beside the images)",
                derived=True,
            ),
            TopicArgument("mask_topic", "mask", "Topic of masks, zero where keypoints are not wanted", derived=True),
        ],
    )
