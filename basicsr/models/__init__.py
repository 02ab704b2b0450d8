"""The stages: which networks, which losses, in which forward."""

from basicsr.utils.discovery import import_modules

import_modules(__name__, "model")
