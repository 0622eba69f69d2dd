"""Match each image of a camera with an earlier one.

ros2 launch semantic_matcher temporal.launch.py image_topic:=/camera/image_raw descriptor:=xfeat dino:=none
"""

from launch import LaunchDescription

from semantic_matcher.launching import TopicArgument, matcher_launch


def generate_launch_description() -> LaunchDescription:
    """The node ``temporal_matcher``."""
    return matcher_launch(
        "temporal_matcher",
        [
            TopicArgument("image_topic", "image", "Topic of the camera's images (without /compressed)"),
            TopicArgument(
                "camera_info_topic",
                "camera_info",
                "Topic of its calibration, for geometry:=essential (default: camera_info beside the images)",
                derived=True,
            ),
            TopicArgument("mask_topic", "mask", "Topic of masks, zero where keypoints are not wanted", derived=True),
        ],
    )
