"""Errors that a person can act on. Their text is one line: the place, what was found, what was expected, a way out."""


class UserError(Exception):
    """A fault that the user can put right. Entry points print the text and leave with exit code 2, no stack trace."""


class OptionError(UserError):
    """An option file or a command line says something that cannot be."""


class WeightsError(UserError):
    """A weights file or checkpoint is missing, broken, unsafe, or made for another network."""


class ImageFileError(UserError):
    """A picture is missing, broken, or not of the size that was asked for."""
