"""mae_ext: masked autoencoders for images, video and CT/MRI volumes, on one trunk and one engine."""

__version__ = "0.1.0"
