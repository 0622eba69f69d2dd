"""Odometry and matches of a ZED with registered depth; start the driver beside it.

ros2 launch zed_wrapper zed_camera.launch.py camera_model:=zed2i publish_tf:=false
ros2 launch semantic_matcher zed.launch.py base_frame:=zed_camera_link publish_tf:=true

The wrapper's publish_tf is its own odometry, which would make two parents of one frame on /tf. On a robot whose URDF
carries the camera: base_frame:=base_link.
Topics are those of its wrapper from 5 on; of older ones:
image_topic:=/zed/zed_node/rgb/image_rect_color camera_info_topic:=/zed/zed_node/rgb/camera_info
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import camera_launch


def generate_launch_description() -> LaunchDescription:
    """See ``semantic_matcher.camera_launch``."""
    return camera_launch("zed")
