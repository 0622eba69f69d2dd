"""Odometry and matches of an OAK-D with depth aligned to its colour camera; start the driver beside it.

ros2 launch depthai_ros_driver driver.launch.py
ros2 launch semantic_matcher oak.launch.py base_frame:=oak-d-base-frame publish_tf:=true

On a robot whose URDF carries the camera: base_frame:=base_link. Topics are those of its driver from 3 on, which on
Jazzy is depthai_ros_driver_v3. Version 2 (camera.launch.py) aligns depth with its rectified images:
image_topic:=/oak/rgb/image_rect rectified:=true
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import camera_launch


def generate_launch_description() -> LaunchDescription:
    """See ``semantic_matcher.camera_launch``."""
    return camera_launch("oak")
