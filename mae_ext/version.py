"""The version of the package, for wheels, checkpoints and reports."""

__version__ = "0.1.0"
