"""Restoring photos with trained weights."""

from basicsr.inference.restorer import FaceRestorer, References, RestoredFace

__all__ = ["FaceRestorer", "References", "RestoredFace"]
