"""Training data: scene files, pairs made of any images, rendered scenes."""
