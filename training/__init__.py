"""Offline: data preparation, feature export, training and evaluation, run as ``python -m training.<module>``."""
