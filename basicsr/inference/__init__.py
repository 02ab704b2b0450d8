"""Restoring photos with trained weights."""

from basicsr.inference.restorer import FaceRestorer, RestoredFace

__all__ = ["FaceRestorer", "RestoredFace"]
