"""Entry points of torch.hub: `torch.hub.load(CHECKOUT_OR_REPOSITORY, "omnitok_tiny_vq")`.

Each trained model is one, called by its name with underscores; `tokenizer` and `generator` take any name or path. What
they need beside torch is in pyproject.toml; the package itself need not be installed.
"""

import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

dependencies = ["torch", "numpy", "PIL", "av", "einops", "filelock", "safetensors", "huggingface_hub", "pydantic"]

_SOURCE = str(_Path(__file__).resolve().parent / "src")
if _SOURCE not in _sys.path:
    _sys.path.insert(0, _SOURCE)

from omnitok import load_generator as generator  # noqa: E402 (found only now)
from omnitok import load_tokenizer as tokenizer  # noqa: E402
from omnitok.hub.names import model_info as _model_info  # noqa: E402
from omnitok.hub.names import pretrained_models as _pretrained_models  # noqa: E402


def _entry_point(name: str) -> _Callable[..., _Any]:
    info = _model_info(name)
    load = tokenizer if info.kind == "tokenizer" else generator

    def entry_point(device: str = "cpu", **how: _Any) -> _Any:
        return load(name, device=device, **how)

    entry_point.__doc__ = f"{name}, a {info.kind}: {info.description} Arguments are those of `{load.__name__}`."
    return entry_point


globals().update({name.replace("-", "_"): _entry_point(name) for name in _pretrained_models()})

__all__ = ["dependencies", "generator", "tokenizer"]
