"""Option files: YAML in, checked and frozen Options out."""

from basicsr.config.arguments import add_option_arguments, answer_from_args, options_from_args
from basicsr.config.explain import explain, resolved
from basicsr.config.options import Options
from basicsr.config.parse import parse_options
from basicsr.config.schema import Registries

__all__ = [
    "Options",
    "Registries",
    "add_option_arguments",
    "answer_from_args",
    "explain",
    "options_from_args",
    "parse_options",
    "resolved",
]
