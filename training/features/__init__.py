"""Features computed once for a whole data set, and read back in training."""
