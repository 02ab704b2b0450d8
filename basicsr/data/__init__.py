"""The data: datasets, degradation, sampling."""

from basicsr.utils.discovery import import_modules

import_modules(__name__, "dataset")
