"""The frozen encoder, what it makes of samples, and pictures of that."""
