"""Matches of a EuRoC bag's two cameras; start the driver beside it.

ros2 bag play MH_01_easy --clock
ros2 launch semantic_matcher euroc.launch.py use_sim_time:=true

For odometry rectify the images first (image_proc), and give their topics and rectified:=true odometry:=true.
"""

from launch import LaunchDescription

from semantic_matcher.camera_launch import camera_launch


def generate_launch_description() -> LaunchDescription:
    """See ``semantic_matcher.camera_launch``."""
    return camera_launch("euroc")
