"""Lets the tests of this folder import `evaluation_media` (pytest's importlib mode has no folders on the path)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
