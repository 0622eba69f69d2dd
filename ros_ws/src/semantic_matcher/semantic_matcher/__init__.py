"""ROS 2 nodes round semantic_matcher_core: parameters, conversion, one call into the core."""
