"""Text encoders and CLIP models of transformers with random weights and a vocabulary of a few words, in folders."""

import contextlib
import io
from pathlib import Path
from typing import Any

import torch

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "green", "blue", "dress", "apple", "on", "light", "dark", "background"]


def save_tokenizer(folder: Path, longest: int) -> None:
    """A tokenizer that knows `WORDS`, and puts the end of a text after it."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=longest
    ).save_pretrained(folder)


def save_t5(folder: Path) -> Any:
    """The encoder of a T5 of width 16."""
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=16, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    return _save(transformers.T5EncoderModel(config).eval(), folder, 12)


def save_clip(folder: Path) -> Any:
    """A CLIP model whose text has width 16, images have 32 x 32 pixels, and both are projected to 8 numbers."""
    import transformers

    torch.manual_seed(1)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 16, "max_position_embeddings": 10, "eos_token_id": 1, "bos_token_id": 0}
    vision = {**tower, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    return _save(transformers.CLIPModel(config).eval(), folder, 10)


def _save(model: Any, folder: Path, longest: int) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stderr(io.StringIO()):  # its bar
        model.save_pretrained(folder)
    save_tokenizer(folder, longest)
    return model
