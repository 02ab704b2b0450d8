"""The metrics: figures per image, with the direction in which they are better."""

from basicsr.utils.discovery import import_modules

import_modules(__name__, "metric")
