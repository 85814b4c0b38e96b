"""Weights for other programs: written, described, and run there to see that they say the same."""
