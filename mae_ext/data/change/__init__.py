"""Changes of a sample's values: distortions, and mixtures of two samples."""
