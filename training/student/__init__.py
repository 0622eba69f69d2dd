"""Distilling the bundled extractor on one device: pictures, views, teacher, light and losses all live there."""
