"""Evaluation by the field's protocols (``python -m training.evaluate pose|homography|nonrigid|suite``)."""
