"""The version of what is installed, for rows and files that say what made them."""

from importlib import metadata

try:
    VERSION = metadata.version("omnitok")
except metadata.PackageNotFoundError:  # run from the source tree, not installed
    VERSION = "0+unknown"
