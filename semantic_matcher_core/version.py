"""The version, by itself: the package's face imports everything else."""

__version__ = "0.1.0"
