"""Measurements: ratios taken side by side in one run. Nothing here is imported by the library or its tests' timings."""
