"""Follow a template that bends in the images of a camera.

ros2 launch semantic_matcher template_tracker.launch.py image_topic:=/camera/image_raw template_image:=poster.png
"""

from launch import LaunchDescription

from semantic_matcher.launching import TopicArgument, matcher_launch


def generate_launch_description() -> LaunchDescription:
    """Return the node ``template_tracker``."""
    return matcher_launch(
        "template_tracker",
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
