"""ScanNet: download, frame extraction, covisibility, HDF5 (``python -m training.scannet``)."""
