"""The networks: pure nn.Modules; no file, no log, no option."""

from basicsr.utils.discovery import import_modules

import_modules(__name__, "arch")
