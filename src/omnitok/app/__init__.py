"""The browser page behind `omnitok app`: `models` loads, `uploads` bounds, `tokens`, `generators` and `comparing` work,
`page` wires. What gradio reads while it is imported is set here: nothing is reported to anyone, and temporary files lie
in this process's own folder, which goes with it.
"""

import os

from omnitok.atomic import scratch_folder

CACHE = scratch_folder() / "page"
"""Uploads and results, each under a name that only its owner's browser is told."""

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(CACHE)}
