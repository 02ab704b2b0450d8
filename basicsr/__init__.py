"""ID-CodeFormer: CodeFormer that is told who the person is. Importing this package imports nothing heavy."""

from importlib import metadata

try:
    __version__ = metadata.version("id-codeformer")
except metadata.PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+checkout"
