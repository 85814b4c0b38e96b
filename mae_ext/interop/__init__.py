"""Weights from and to other libraries, one module for each foreign format."""
