"""Whole samples as a run restores them, every place from what was around it: as data, and as maps of what is unlike."""
