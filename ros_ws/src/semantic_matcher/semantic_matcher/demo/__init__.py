"""`python -m semantic_matcher.demo`: camera, matcher nodes and recorder on a real ROS graph, with measured accuracy."""
