"""The losses: modules that return a weighted scalar."""

from basicsr.utils.discovery import import_modules

import_modules(__name__, "loss")
