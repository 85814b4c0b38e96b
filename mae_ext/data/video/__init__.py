"""Films: reading clips, and the child processes that decode."""
