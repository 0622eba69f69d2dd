"""Odometry and matches of a RealSense with aligned depth; start the driver beside it.

ros2 launch realsense2_camera rs_launch.py align_depth.enable:=true
ros2 launch semantic_matcher realsense.launch.py base_frame:=camera_link publish_tf:=true

On a robot whose URDF carries the camera: base_frame:=base_link.
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import camera_launch


def generate_launch_description() -> LaunchDescription:
    """See ``semantic_matcher.camera_launch``."""
    return camera_launch("realsense")
