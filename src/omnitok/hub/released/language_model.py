"""Released language models (a GPT over the codes of a tokenizer) -> `LanguageModel`.

Two kinds of file: the reference `.safetensors` with the GPT's weights alone, and a Lightning `.ckpt`, where they stand
under `transformer.` beside the tokenizer that the model was trained on. The sizes come from the weights' shapes; the
flags tell the number of heads and how the ids are laid out.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from omnitok.errors import CheckpointError
from omnitok.hub.architectures import build_on_meta, check_shapes, listed, shape_of, shapes_of, to_float32
from omnitok.hub.released.flags import Flags
from omnitok.hub.released.reader import ReleasedCheckpoint
from omnitok.models.code_sequence import LanguageModelConfig, Prefix
from omnitok.models.language_model import LanguageModel

_MODULES = {"tok_emb.weight": "token_embedding.weight", "head.weight": "head.weight"}
_NORM = {"ln_f.weight": "norm.weight", "ln_f.bias": "norm.bias"}
_IN_BLOCK = {
    "ln1": "attention_norm",
    "ln2": "feedforward_norm",
    "attn.proj": "attention.out",
    "mlp.0": "feedforward.expand",
    "mlp.2": "feedforward.project",
}
_FUSED = ("attn.query", "attn.key", "attn.value")  # rows of `attention.qkv`, in this order
_BLOCK = re.compile(r"blocks\.(?P<index>\d{1,4})\.(?P<module>.+)\.(?P<parameter>weight|bias|mask)")
# What a training checkpoint holds beside the GPT: the tokenizer, under its own prefix or loose.
_SET_ASIDE = (
    "first_stage_model.",
    "cond_stage_model.",
    "encoder.",
    "decoder.",
    "codebook.",
    "pre_vq_conv.",
    "post_vq_conv.",
    "image_discriminator.",
    "video_discriminator.",
    "perceptual_model.",
    "video_perceptual_model.",
)
# Flags of the authors' code that change the network or its sequences, with the value that all released models have.
_ONLY_VALUE: dict[str, object] = {
    "n_unmasked": 0,
    "vtokens_pos": False,
    "sample_every_n_latent_frames": 0,
    "cond_stage_key": "label",
}
_PATCH, _TEMPORAL_PATCH = 8, 4  # of the released tokenizers


def convert_language_model(checkpoint: ReleasedCheckpoint) -> LanguageModel:
    """A released language model, in `eval` mode.

    Raises:
        CheckpointError: flags or weights that are not those of a released language model.
    """
    weights = gpt_weights(checkpoint.state_dict)
    config = config_from_flags(checkpoint.hyper_parameters, weights)
    model = build_on_meta(config)
    renamed = convert_weights(weights)
    check_shapes(shapes_of(model), {name: tuple(tensor.shape) for name, tensor in renamed.items()})
    model.load_state_dict(renamed, assign=True)
    return model.eval()


def gpt_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the GPT without their prefix.

    Raises:
        CheckpointError: weights that belong neither to it nor to the tokenizer beside it, listed; two GPTs.
    """
    prefixes = [name.removesuffix("tok_emb.weight") for name in state_dict if name.endswith("tok_emb.weight")]
    if len(prefixes) != 1:
        raise CheckpointError(f"holds {len(prefixes)} language models instead of one")
    prefix = prefixes[0]
    outer = prefix.removesuffix("transformer.")  # "module." where it was saved from inside DistributedDataParallel
    weights, unknown = {}, []
    for name, tensor in state_dict.items():
        if name.startswith(prefix) and _is_gpt(name.removeprefix(prefix)):
            weights[name.removeprefix(prefix)] = tensor
        elif not name.removeprefix(outer).startswith(_SET_ASIDE):
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"holds {len(unknown)} unknown weights: {listed(unknown)}")
    return weights


def _is_gpt(name: str) -> bool:
    if name in _MODULES or name in _NORM or name == "pos_emb":
        return True
    match = _BLOCK.fullmatch(name)
    if match is None:
        return False
    if match["parameter"] == "mask":
        return match["module"] == "attn"
    return match["module"] in _IN_BLOCK or match["module"] in _FUSED


def convert_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The GPT's weights under our names, float32, in memory of their own; the constant causal masks are set aside.

    Raises:
        CheckpointError: a weight that is not floating point; a block without one of its three projections.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        match = _BLOCK.fullmatch(name)
        if match is not None and match["parameter"] == "mask":
            continue
        tensor = to_float32(name, tensor)
        if name == "pos_emb":
            renamed["position_embedding"] = tensor.squeeze(0)
        elif match is None:
            renamed[(_MODULES | _NORM)[name]] = tensor
        elif match["module"] in _IN_BLOCK:
            renamed[f"blocks.{match['index']}.{_IN_BLOCK[match['module']]}.{match['parameter']}"] = tensor
        elif match["module"] == _FUSED[0]:
            start = f"blocks.{match['index']}."
            parts = [weights.get(f"{start}{module}.{match['parameter']}") for module in _FUSED]
            found = [part for part in parts if part is not None and part.shape[1:] == tensor.shape[1:]]
            if len(found) < len(_FUSED):
                raise CheckpointError(f"block {match['index']} lacks a query, key or value {match['parameter']}")
            fused = torch.cat([part.to(torch.float32) for part in found])
            renamed[f"{start}attention.qkv.{match['parameter']}"] = fused
    return renamed


def config_from_flags(hyper_parameters: Mapping[str, object], weights: Mapping[str, Tensor]) -> LanguageModelConfig:
    """The configuration that the weights' shapes and the flags ask for.

    Without `class_cond_dim` nothing tells classes from codes (the reference file): all ids are then codes, and the
    sequence starts with id 0, as in the released unconditional model.

    Raises:
        CheckpointError: a missing or senseless flag, or one that the weights contradict.
    """
    flags = Flags(hyper_parameters)
    flags.only(_ONLY_VALUE)
    vocabulary, width = shape_of(weights, "tok_emb.weight", 2)
    _, context, _ = shape_of(weights, "pos_emb", 3)
    hidden, _ = shape_of(weights, "blocks.0.mlp.0.weight", 2)
    depth = 1 + max((int(m["index"]) for m in map(_BLOCK.fullmatch, weights) if m), default=-1)
    if depth > len(weights):
        raise CheckpointError(f"the file names {depth} blocks among its {len(weights)} weights")
    flags.agree({"n_layer": depth, "n_embd": width, "block_size": context})
    unconditional = flags.boolean("unconditional", False)
    num_classes = 0 if unconditional else flags.integer("class_cond_dim", 0)
    has_start = flags.boolean("starts_with_sos", False) and not unconditional
    prefix: Prefix = "start"
    if num_classes:
        prefix = ("class start" if flags.boolean("class_first", False) else "start class") if has_start else "class"
    codes = vocabulary - num_classes - has_start
    if codes < 1:
        raise CheckpointError(f"flag class_cond_dim is {num_classes}, but the weights have only {vocabulary} ids")
    frames, side_h, side_w = _grid(flags, context + 1 - len(prefix.split()))
    try:
        return LanguageModelConfig(
            codebook_size=codes,
            num_classes=num_classes,
            null_class=False,
            prefix=prefix,
            has_bos=has_start,
            latent_frames=frames,
            latent_height=side_h,
            latent_width=side_w,
            width=width,
            depth=depth,
            heads=flags.integer("n_head"),
            feedforward_multiple=hidden / width,
            positions="learned",
            context=context,
            norm="layer",
            activation="gelu",
            bias=True,
        )
    except (ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"the flags describe no language model: {error}") from error


def _grid(flags: Flags, codes: int) -> tuple[int, int, int]:
    """Latent grid of the training: from the flags where they tell, else one row of as many codes as fit."""
    side = flags.integer("resolution", 0) // _PATCH
    if side < 1 or side * side > codes:
        return 1, 1, max(codes, 1)
    longest = 1 + (max(flags.integer("sequence_length", 1), 1) - 1) // _TEMPORAL_PATCH
    return min(longest, codes // (side * side)), side, side
