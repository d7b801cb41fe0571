"""The page: its tabs, and how they do their work: one at a time, in a folder of its own, errors as sentences."""

import html
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from omnitok.app import generator_tabs, generators, tokenizer_tabs, uploads
from omnitok.app.models import Models
from omnitok.app.parts import Work, gr
from omnitok.atomic import scratch_folder

QUEUE = 16
"""Requests that may wait; whoever comes then is told that the page is busy."""

_SESSIONS = 100  # whose tokens are kept, the latest ones

_STYLE = """
.upload video { max-height: 24rem !important }
@media (max-width: 640px) { #samples .grid-container { grid-template-columns: 1fr 1fr !important } }
"""


def build(models: Models, explain: Callable[[BaseException], str]) -> gr.Blocks:
    """The page, not yet served.

    Args:
        explain: one sentence for anything that is raised.
    """

    def on(event: Any, name: str, work: Work, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        def handler(progress: Any = gr.Progress(), *values: Any) -> Iterator[Any]:  # noqa: B008 (gradio looks for it)
            def report(done: int, total: int) -> None:
                progress((done, total if total > 0 else None))

            with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
                try:
                    shown = work(Path(folder), report, *values)
                except Exception as error:
                    sentence = _without_folders(explain(error))
                    show_all = os.environ.get("OMNITOK_DEBUG") == "1"
                    raise gr.Error(html.escape(sentence, quote=False), print_exception=show_all) from error
                yield shown  # gradio copies the files before it goes on

        # One at a time, whatever it is: models are as quick for one as the machine allows.
        event(handler, inputs, outputs, api_name=name, concurrency_limit=1, concurrency_id="models")

    kept = uploads.KEPT_SECONDS.value
    page = gr.Blocks(title="omnitok", analytics_enabled=False, delete_cache=(min(60, kept), kept))
    with page:
        gr.Markdown("# omnitok\nImages and videos to tokens and back. Nothing leaves this machine.")
        if models.tokenizers:
            with gr.Tab("Reconstruct", elem_id="reconstruct"):
                tokenizer_tabs.reconstruct_tab(models, on)
            with gr.Tab("Edit tokens", elem_id="edit"):
                tokenizer_tabs.edit_tab(models, on)
        if models.generators:
            with gr.Tab("Generate", elem_id="generate"):
                generator_tabs.generate_tab(models, on)
        if any(map(generators.makes_videos, models.generators.values())):
            with gr.Tab("Predict and Interpolate", elem_id="predict"):
                generator_tabs.predict_tab(models, on)
        if any(map(generators.can_fill, models.generators.values())):
            with gr.Tab("Inpaint", elem_id="inpaint"):
                generator_tabs.inpaint_tab(models, on)
        if models.tokenizers:
            with gr.Tab("Compare", elem_id="compare"):
                tokenizer_tabs.compare_tab(models, on)
    return page.queue(max_size=QUEUE)


@contextmanager
def served(page: gr.Blocks, port: int) -> Iterator[str]:
    """Serve the page to this machine alone until the context ends; gives its address.

    Raises:
        OSError: the port is taken.
    """
    # Above this Pillow warns, and above twice as much it refuses: gradio opens what the editors send.
    Image.MAX_IMAGE_PIXELS = 4 * uploads.MAX_PIXELS.value
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        state_session_capacity=_SESSIONS,
        max_file_size=uploads.MAX_BYTES.value,
        css=_STYLE,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # no fonts are fetched
    )
    try:
        yield address
    finally:
        page.close(verbose=False)


def _without_folders(sentence: str) -> str:
    """Files as their users call them: what was uploaded and what is made of it lie in folders that only we know."""
    return re.sub(re.escape(f"{scratch_folder()}/") + "([^/ ]+/)*", "", sentence)
