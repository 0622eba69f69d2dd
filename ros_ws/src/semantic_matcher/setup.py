"""ament_python package: nodes, launch files, configuration."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "semantic_matcher"

setup(
    # Not the package's own name: pip takes `semantic_matcher` and the core's `semantic-matcher` for one distribution.
    name="semantic-matcher-ros",
    version="0.1.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={"": ["*.yaml", "*.xml", "*.jpg", "*.png"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{PACKAGE}/config", sorted(glob("config/*"))),
        (f"share/{PACKAGE}/rviz", sorted(glob("rviz/*"))),
    ],
    zip_safe=False,
    # What `colcon test` looks for before it runs pytest in test/.
    extras_require={"test": ["pytest"]},
    description="ROS 2 nodes that match camera images by local features and semantics",
    license="Apache-2.0",
    maintainer="The semantic_matcher developers",
    maintainer_email="semantic-matcher@example.org",
    entry_points={
        "console_scripts": [
            "temporal_matcher = semantic_matcher.temporal_matcher:main",
            "stereo_matcher = semantic_matcher.stereo_matcher:main",
            "reference_matcher = semantic_matcher.reference_matcher:main",
            "template_tracker = semantic_matcher.template_tracker:main",
        ],
    },
)
