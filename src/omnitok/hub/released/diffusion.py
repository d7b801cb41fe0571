"""Released diffusion transformers (DiT, Latte) -> `DiffusionTransformer`.

Two kinds of file: the reference `.safetensors`, whose flags are the constructor's arguments, and the released `.pt`
({"model", "ema", "opt", "args"}), whose flags name a model (`args.model`, "DiT-XL/2"), with the EMA weights taken. The
weights' own shapes say nearly everything, so flags are needed only for the number of heads.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from omnitok.errors import CheckpointError
from omnitok.hub.architectures import build_on_meta, check_shapes, rename_weights, shape_of, shapes_of, to_float32
from omnitok.hub.released.flags import Flags
from omnitok.hub.released.reader import ReleasedCheckpoint
from omnitok.models.diffusion_transformer import (
    DIFFUSION_TRANSFORMERS,
    DiffusionTransformer,
    DiffusionTransformerConfig,
)
from omnitok.models.positions import sincos_1d, sincos_2d

_MODULES = {
    "x_embedder.proj": "embed",
    "t_embedder.mlp.0": "embed_time.0",
    "t_embedder.mlp.2": "embed_time.2",
    "y_embedder.embedding_table": "embed_label",
    "final_layer.adaLN_modulation.1": "modulation",
    "final_layer.linear": "head",
}
_IN_BLOCK = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "mlp.fc1": "expand",
    "mlp.fc2": "project",
    "adaLN_modulation.1": "modulation",
}
_BLOCK = re.compile(r"blocks\.(?P<index>\d{1,4})\.(?P<module>.+)")
_TABLES = ("pos_embed", "temp_embed")
_TABLE_TOLERANCE = 2e-3  # tables saved in half precision are rounded by up to 5e-4


def convert_diffusion_transformer(checkpoint: ReleasedCheckpoint) -> DiffusionTransformer:
    """A released DiT or Latte, in `eval` mode.

    Raises:
        CheckpointError: flags or weights that are not those of a released diffusion transformer.
    """
    weights = dict(checkpoint.state_dict)
    if all(name.startswith("module.") for name in weights):  # saved from inside DistributedDataParallel
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    config = config_from_weights(checkpoint.hyper_parameters, weights)
    renamed = convert_weights(weights, config)
    model = build_on_meta(config)
    check_shapes(shapes_of(model), {name: tuple(tensor.shape) for name, tensor in renamed.items()})
    model.load_state_dict(renamed, assign=True)
    return model.eval()


# ------------------------------------------------------------------------------------------------------ configuration


def config_from_weights(
    hyper_parameters: Mapping[str, object], weights: Mapping[str, Tensor]
) -> DiffusionTransformerConfig:
    """The configuration that the weights' shapes ask for, checked against the flags that speak of the same.

    Raises:
        CheckpointError: missing weights, contradicting flags, or an unknown number of heads.
    """
    flags = Flags(hyper_parameters)
    embed = shape_of(weights, "x_embedder.proj.weight", 4)
    width, channels, patch, _ = embed
    depth = 1 + max((int(m["index"]) for m in map(_BLOCK.fullmatch, weights) if m), default=-1)
    if not 0 < depth <= len(weights):
        raise CheckpointError(f"the file names {depth} blocks among its {len(weights)} weights")
    expand, _ = shape_of(weights, "blocks.0.mlp.fc1.weight", 2)
    head, _ = shape_of(weights, "final_layer.linear.weight", 2)
    if patch != embed[3]:
        raise CheckpointError(f"the patch embedding has shape {embed}, which no square patch gives")
    outputs = head / patch**2
    if outputs not in (channels, 2 * channels):
        raise CheckpointError(
            f"the output has {outputs:g} channels; the latents' {channels} or twice that are accepted"
        )
    num_classes = 0
    if "y_embedder.embedding_table.weight" in weights:
        num_classes = _label_rows(flags, weights)
    fields: dict[str, object] = {
        "in_channels": channels,
        "patch_size": patch,
        "hidden_size": width,
        "depth": depth,
        "learn_sigma": outputs == 2 * channels,
    }
    if "hidden_size" in hyper_parameters:  # else they are a run's, maybe another part's
        flags.agree(fields)
    extras, expected = flags.get("extras"), 2 if num_classes else 1
    if extras not in (None, expected):
        raise CheckpointError(
            f"flag extras is {extras!r}; 1 (no condition, no label table) and 2 (class labels) can be converted"
        )
    try:
        return DiffusionTransformerConfig(
            latent_channels=channels,
            patch_size=patch,
            width=width,
            depth=depth,
            heads=_heads(flags, width, depth),
            feedforward_multiple=expand / width,
            num_classes=num_classes,
            temporal="temp_embed" in weights,
            learn_sigma=outputs == 2 * channels,
        )
    except ValueError as error:
        raise CheckpointError(f"the weights describe no diffusion transformer: {error}") from error


def _label_rows(flags: Flags, weights: Mapping[str, Tensor]) -> int:
    """Number of classes: the table has one more row, the null label."""
    rows, _ = shape_of(weights, "y_embedder.embedding_table.weight", 2)
    claimed = flags.get("num_classes")
    if rows < 2 or (claimed is not None and claimed != rows - 1):
        raise CheckpointError(
            f"the label table has {rows} rows, flag num_classes is {claimed!r}; expected is one more row than classes"
        )
    return rows - 1


def _heads(flags: Flags, width: int, depth: int) -> int:
    """Number of heads, which no shape tells: its flag, or the published model's that the flags or the sizes name."""
    if flags.get("num_heads") is not None:
        return flags.integer("num_heads", lowest=1, highest=width)
    named = flags.get("model")
    config = DIFFUSION_TRANSFORMERS.get(named.lower()) if isinstance(named, str) else None
    for candidate in (config, *DIFFUSION_TRANSFORMERS.values()):
        if candidate is not None and (candidate.width, candidate.depth) == (width, depth):
            return candidate.heads
    raise CheckpointError(
        f"flag num_heads is missing, and no published size has width {width} and depth {depth}, so the number of heads "
        "is unknown"
    )


# ------------------------------------------------------------------------------------------------------------ weights


def convert_weights(weights: Mapping[str, Tensor], config: DiffusionTransformerConfig) -> dict[str, Tensor]:
    """Released weights under our names, float32, in memory of their own; the position tables are verified and left out.

    Raises:
        CheckpointError: unknown weights, listed; weights that are not floating point; a position table that is not the
            sin-cos one, which this model computes.
    """
    converted = {name: to_float32(name, tensor) for name, tensor in weights.items()}
    for name in [name for name in converted if name in _TABLES]:
        _verify_table(name, converted.pop(name), config)
    renamed = rename_weights(converted, _new_name)
    renamed["embed.weight"] = renamed["embed.weight"].flatten(1)  # d (c p q)
    return renamed


def _new_name(name: str) -> str | None:
    module, _, parameter = name.rpartition(".")
    if module in _MODULES:
        return f"{_MODULES[module]}.{parameter}"
    match = _BLOCK.fullmatch(module)
    if match is None or match["module"] not in _IN_BLOCK:
        return None
    return f"blocks.{match['index']}.{_IN_BLOCK[match['module']]}.{parameter}"


def _verify_table(name: str, table: Tensor, config: DiffusionTransformerConfig) -> None:
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != config.width:
        raise CheckpointError(f"weight {name} has shape {tuple(table.shape)}; expected is (1, n, {config.width})")
    n = table.shape[1]
    if name == "temp_embed":
        expected = sincos_1d(n, config.width, torch.device("cpu"))
    else:
        side = round(n**0.5)
        if side * side != n:
            raise CheckpointError(f"weight {name} has {n} positions, which are no square grid")
        expected = sincos_2d(side, side, config.width, torch.device("cpu"))
    difference = float((table[0].float() - expected).abs().max()) if n else 0.0
    if not difference <= _TABLE_TOLERANCE:  # NaN included
        raise CheckpointError(f"weight {name} is not the sin-cos table: it differs by up to {difference:.3g}")
