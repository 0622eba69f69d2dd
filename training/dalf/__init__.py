"""Training of DALF: keypoint sampling, rewards, losses, schedule (``python -m training.train_dalf``)."""
