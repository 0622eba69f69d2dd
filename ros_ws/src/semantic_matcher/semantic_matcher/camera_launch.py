"""Launch descriptions for common cameras: the names of their drivers' topics, and what their images are good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from launch import LaunchDescription

from semantic_matcher.launching import TopicArgument, matcher_launch

TEMPORAL_TOPICS = (
    TopicArgument("image_topic", "image", "Topic of the camera's images (without /compressed)"),
    TopicArgument(
        "camera_info_topic",
        "camera_info",
        "Topic of its calibration, for odometry and geometry:=essential (default: camera_info beside the images)",
        derived=True,
    ),
    TopicArgument("depth_topic", "depth", "Topic of the depth that is registered to the images, for odometry"),
    TopicArgument("mask_topic", "mask", "Topic of masks, zero where keypoints are not wanted", derived=True),
)
REFERENCE_TOPICS = (
    TopicArgument("image_topic", "image", "Topic of the camera's images (without /compressed)"),
    TopicArgument(
        "camera_info_topic",
        "camera_info",
        "Topic of its calibration, for reference_width (default: camera_info beside the images)",
        derived=True,
    ),
    TopicArgument("mask_topic", "mask", "Topic of masks, zero where keypoints are not wanted", derived=True),
)
STEREO_TOPICS = (
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
)
_TOPICS = {"temporal_matcher": TEMPORAL_TOPICS, "stereo_matcher": STEREO_TOPICS}


@dataclass(frozen=True)
class CameraDriver:
    """What a driver publishes, and how a node takes it.

    Attributes:
        name: what documentation calls the camera.
        driver: package of the driver, and how it is started for this.
        executable: the node.
        topics: argument of the launch file -> the driver's topic.
        parameters: argument -> value, as text.
    """

    name: str
    driver: str
    executable: str
    topics: Mapping[str, str]
    parameters: Mapping[str, str] = field(default_factory=dict)


# QoS is the publisher's, whatever a driver chooses (image_reliability: auto).
CAMERAS = {
    "realsense": CameraDriver(
        "RealSense",
        "ros2 launch realsense2_camera rs_launch.py align_depth.enable:=true",
        "temporal_matcher",
        {
            "image_topic": "/camera/camera/color/image_raw",
            "camera_info_topic": "/camera/camera/color/camera_info",
            "depth_topic": "/camera/camera/aligned_depth_to_color/image_raw",
        },
        {"odometry": "true"},
    ),
    "zed": CameraDriver(
        "ZED",
        # Its own odometry on /tf would make two parents of one frame.
        "ros2 launch zed_wrapper zed_camera.launch.py camera_model:=zed2i publish_tf:=false",
        "temporal_matcher",
        {
            "image_topic": "/zed/zed_node/rgb/color/rect/image",
            "camera_info_topic": "/zed/zed_node/rgb/color/rect/camera_info",
            "depth_topic": "/zed/zed_node/depth/depth_registered",
        },
        {"odometry": "true", "rectified": "true"},
    ),
    "oak": CameraDriver(
        "OAK-D",
        "ros2 launch depthai_ros_driver driver.launch.py",
        "temporal_matcher",
        {
            "image_topic": "/oak/rgb/image_raw",
            "camera_info_topic": "/oak/rgb/camera_info",
            "depth_topic": "/oak/stereo/image_raw",
        },
        {"odometry": "true"},
    ),
    "euroc": CameraDriver(
        "EuRoC bags",
        "ros2 bag play MH_01_easy --clock",
        "stereo_matcher",
        {"left_image_topic": "/cam0/image_raw", "right_image_topic": "/cam1/image_raw"},
        # One trigger for both cameras, and distorted images.
        {"sync": "exact", "geometry": "fundamental"},
    ),
    "usb": CameraDriver(
        "USB camera",
        "ros2 run usb_cam usb_cam_node_exe",
        "temporal_matcher",
        {"image_topic": "/image_raw", "camera_info_topic": "/camera_info"},
        {"geometry": "fundamental"},
    ),
}
"""Name of the launch file -> what it starts; topics from the drivers' documentation, not tried with the hardware."""


def camera_launch(name: str) -> LaunchDescription:
    """Return the launch description for one of :data:`CAMERAS`; all arguments of its node stay, with other defaults."""
    camera = CAMERAS[name]
    topics = [replace(t, default=camera.topics.get(t.name, "")) for t in _TOPICS[camera.executable]]
    return matcher_launch(camera.executable, topics, camera.parameters)
