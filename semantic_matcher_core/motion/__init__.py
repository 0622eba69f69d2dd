"""From matches to motion: disparity, relative and metric pose, odometry, localisation."""
