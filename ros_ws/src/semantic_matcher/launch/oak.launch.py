"""Odometry and matches of an OAK-D with depth aligned to its colour camera; start the driver beside it.

ros2 launch depthai_ros_driver camera.launch.py
ros2 launch semantic_matcher oak.launch.py base_frame:=base_link publish_tf:=true
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import camera_launch


def generate_launch_description() -> LaunchDescription:
    """See ``semantic_matcher.camera_launch``."""
    return camera_launch("oak")
