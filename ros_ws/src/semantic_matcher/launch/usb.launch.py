"""Matches of a USB camera; start the driver beside it.

ros2 run usb_cam usb_cam_node_exe
ros2 launch semantic_matcher usb.launch.py
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import camera_launch


def generate_launch_description() -> LaunchDescription:
    """See ``semantic_matcher.camera_launch``."""
    return camera_launch("usb")
