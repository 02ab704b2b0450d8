"""Face recognisers: frozen, differentiable, one adapter per weight layout."""

from basicsr.recognizers.adapter import (
    Recognizer,
    RecognizerOutput,
    RecognizerSpec,
    load_recognizer,
    save_recognizer,
)
from basicsr.recognizers.crop import crop_to_template
from basicsr.recognizers.embedding_store import EmbeddedFiles, Framing, embed_files
from basicsr.recognizers.weights_file import find_recognizer

__all__ = [
    "EmbeddedFiles",
    "Framing",
    "Recognizer",
    "RecognizerOutput",
    "RecognizerSpec",
    "crop_to_template",
    "embed_files",
    "find_recognizer",
    "load_recognizer",
    "save_recognizer",
]
