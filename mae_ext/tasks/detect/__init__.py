"""Detection of boxes in pictures."""
