#!/bin/bash
# ROS, the virtual environment and the built workspace, then the command.
set -e
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source "$(dirname "${BASH_SOURCE[0]}")/../tools/env.sh"
exec "$@"
