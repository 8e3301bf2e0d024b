"""Pixel-space diffusion models, and how flat the minimum is that their training found."""

__version__ = "0.1.0"
