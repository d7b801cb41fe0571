"""Tokenizers of transformers behind our protocol answer as they do themselves, with random weights at small sizes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import omnitok
from omnitok.cli import main
from omnitok.errors import CheckpointError, NotFiniteError, OmnitokError
from omnitok.models.protocol import Tokenizer
from omnitok.peers import describe_from

transformers = pytest.importorskip("transformers")

LEVELS = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "embed_dim": 4}
FIELDS: dict[str, dict[str, Any]] = {
    "ChameleonVQVAE": {**LEVELS, "num_embeddings": 64, "latent_channels": 8, "resolution": 16, "attn_resolutions": [8]},
    "Emu3VQVAE": {**LEVELS, "codebook_size": 64, "hidden_size": 32, "attn_resolutions": [1]},
    "JanusVQVAE": {**LEVELS, "num_embeddings": 64, "latent_channels": 8, "num_patches": 6},
}


def build(name: str) -> Any:
    """A model of that class, the same at each call; no statistic or bias is a zero or one that hides a mistake."""
    kind = getattr(transformers, name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(kind.config_class(**FIELDS[name])).eval()
        for name, weight in model.state_dict().items():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.rand(weight.shape))
            elif weight.ndim > 1:  # theirs are so small that all pixels have one code
                gain = 3 if weight.ndim == 5 else 1
                weight.normal_(0, 1 if "embedding" in name else gain * weight[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What their `save_pretrained` writes, by class."""
    found = {name: tmp_path_factory.mktemp(name) for name in FIELDS}
    for name, folder in found.items():
        build(name).save_pretrained(folder)
    return found


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


@torch.inference_mode()
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(("height", "width"), [(12, 12), (11, 14)])
def test_images_equal_theirs(name: str, height: int, width: int, folders: dict[str, Path]) -> None:
    tokenizer, model = omnitok.load_tokenizer(f"transformers:{folders[name]}"), build(name)
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.vocab_size, tokenizer.latent_channels) == (64, 4)
    x = pixels(2, 3, height, width)
    full = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    h, w = full.shape[2] // 2, full.shape[3] // 2
    sizes = {"image_sizes": [full.shape[2:]] * 2} if name == "Emu3VQVAE" else {}
    tokens = model.encode(full, **sizes).image_tokens
    codes = torch.stack(tokens) if sizes else tokens.reshape(2, h, w)
    encoding = tokenizer.encode(x)
    assert encoding.codes is not None
    assert torch.equal(encoding.codes, codes)
    assert len(codes.unique()) > 10
    assert torch.equal(encoding.latents, tokenizer.lookup_codes(codes).movedim(-1, 1))
    if name == "ChameleonVQVAE":
        with pytest.raises(OmnitokError, match=r"^ChameleonVQVAE of transformers has no decoder: it makes codes"):
            tokenizer.decode_codes(codes)
        return
    if name == "Emu3VQVAE":
        reconstruction = model.decode(codes)
    else:
        model.quantize.quant_state_dims = [h, w]  # it decodes one size only
        reconstruction = model.decode(codes.flatten(1))
    for size, expected in ((None, reconstruction), (encoding.size, reconstruction[:, :, :height, :width])):
        assert torch.equal(tokenizer.decode_codes(codes, size), expected)
        assert torch.equal(tokenizer.decode(encoding.latents, size), expected)


@torch.inference_mode()
def test_clips_of_emu3_equal_theirs(folders: dict[str, Path]) -> None:
    tokenizer, model = omnitok.load_tokenizer(f"transformers:{folders['Emu3VQVAE']}"), build("Emu3VQVAE")
    assert tokenizer.downsample == (4, 2, 2)
    x = pixels(1, 3, 22, 7, 6)  # more latent frames than rows
    full = F.pad(x, (0, 0, 0, 1, 0, 2), mode="replicate")
    out = model.encode(full.transpose(1, 2), image_sizes=[(100, 100)])
    (codes,), decoded = out.image_tokens, model.decode(torch.stack(out.image_tokens))
    encoding = tokenizer.encode(x)
    assert encoding.codes is not None
    assert encoding.codes.shape[1:] == tokenizer.latent_shape(22, 7, 6) == (6, 4, 3)
    assert torch.equal(encoding.codes[0], codes)
    assert torch.equal(tokenizer.decode_codes(encoding.codes, encoding.size), decoded.transpose(1, 2)[:, :, :22, :7])
    image = tokenizer.encode(x[:, :, 0]).codes
    clip = tokenizer.encode(x[:, :, :1]).codes
    assert image is not None
    assert clip is not None
    assert torch.equal(image, clip[:, 0])
    assert tokenizer.decode_codes(clip).shape[2] == tokenizer.num_frames(1) == 4
    with pytest.raises(OmnitokError, match=r"^Emu3VQVAE cannot stream here: encode and decode the whole video$"):
        tokenizer.encoder_stream()
    with pytest.raises(ValueError, match=r"size \(T, H, W\) must lie between \(1, 1, 1\) and \(1, 8, 6\)"):
        tokenizer.decode_codes(image, (2, 7, 6))


@torch.inference_mode()
def test_frames_of_a_model_of_images_go_one_by_one(folders: dict[str, Path]) -> None:
    tokenizer = omnitok.load_tokenizer(f"transformers:{folders['JanusVQVAE']}")
    video = pixels(1, 3, 3, 8, 10)
    codes = tokenizer.encode(video).codes
    stream = tokenizer.encoder_stream()
    pieces = [stream.push(video[:, :, :2]), stream.push(video[:, :, 2:]), stream.flush()]
    assert codes is not None
    assert torch.equal(torch.cat([piece.codes for piece in pieces if piece.codes is not None], 1), codes)
    with pytest.raises(NotFiniteError, match="pixels hold"):
        tokenizer.encode(torch.full((1, 3, 8, 8), torch.nan), check_range=False)


def test_bfloat16_and_a_folder_of_ours(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("Emu3VQVAE", "JanusVQVAE"):
        tokenizer = omnitok.load_tokenizer(f"transformers:{folders[name]}", dtype=torch.bfloat16)
        assert tokenizer(pixels(1, 3, 7, 6)).dtype == torch.bfloat16
        tokenizer = omnitok.load_tokenizer(f"transformers:{folders[name]}")
        again = omnitok.load_tokenizer(tokenizer.save_pretrained(tmp_path / name))
        assert again.fingerprint == tokenizer.fingerprint


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("prefix", ["vqmodel.", "model.vqmodel."])
@pytest.mark.parametrize("in_parts", [False, True])
def test_the_tokenizer_of_a_whole_model(prefix: str, in_parts: bool, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["Emu3VQVAE"]
    fields = {"model_type": "emu3", "vq_config": json.loads((folder / "config.json").read_text())}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    weights = {f"{prefix}{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    other = {"model.text_model.embed_tokens.weight": torch.zeros(3, 2)}
    if in_parts:
        names = sorted(weights)
        parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2], "text.safetensors": list(other)}
        for part in ("a.safetensors", "b.safetensors"):  # the part without the tokenizer is not asked for
            save_file({name: weights[name] for name in parts[part]}, tmp_path / part)
        index = {"weight_map": {name: part for part, its in parts.items() for name in its}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(weights | other, tmp_path / "model.safetensors")
    expected = omnitok.load_tokenizer(f"transformers:{folder}").fingerprint
    assert omnitok.load_tokenizer(f"transformers:{tmp_path}").fingerprint == expected


@pytest.mark.slow
def test_whole_models_as_they_are_written(tmp_path: Path) -> None:
    text = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 32,
    }
    text |= {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 12, "patch_size": 2}
    vision |= {"projection_dim": 8}
    chameleon = transformers.ChameleonConfig(vq_config=FIELDS["ChameleonVQVAE"], vocabulary_map={"<image>": 1}, **text)
    janus_vq = {**FIELDS["JanusVQVAE"], "projection_dim": 8, "image_token_embed_dim": 8}
    text_config = {**text, "model_type": "llama"}
    emu = transformers.Emu3Config(vq_config=FIELDS["Emu3VQVAE"], text_config=text, vocabulary_map={"<image>": 1})
    wholes = {
        "ChameleonVQVAE": transformers.ChameleonForConditionalGeneration(chameleon),
        "Emu3VQVAE": transformers.Emu3ForConditionalGeneration(emu),
        "JanusVQVAE": transformers.JanusForConditionalGeneration(
            transformers.JanusConfig(vq_config=janus_vq, vision_config=vision, text_config=text_config)
        ),
    }
    for name, whole in wholes.items():
        whole.save_pretrained(tmp_path / name)
        tokenizer = omnitok.load_tokenizer(f"transformers:{tmp_path}#{name}")
        theirs = whole.model.vqmodel.state_dict()
        ours = {key.removeprefix("model."): weight for key, weight in tokenizer.state_dict().items()}  # type: ignore[attr-defined]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_configuration_is_enough_to_describe_it(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folders["Emu3VQVAE"] / "config.json", tmp_path)
    described = describe_from("transformers", str(tmp_path))
    assert next(described.parameters()).is_meta
    assert main(["models", f"transformers:{tmp_path}", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["bottleneck"], row["temporal_patch_size"], row["bits_per_token"]) == ("Emu3VQVAE", 4, 6)
    assert row["parameters"] == sum(weight.numel() for weight in build("Emu3VQVAE").parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_type": "llama"},
            "field model_type is llama, known tokenizers are chameleon_vqgan, emu3_vqgan, janus_",
        ),
        ({"model_type": ["emu3_vqgan"]}, "field model_type is .*emu3_vqgan"),
        ({"model_type": "glm_image_vqmodel"}, "glm_image_vqmodel has codes of the features of another network"),
        ({"vq_config": 3}, "field vq_config must hold the tokenizer's configuration, found 3"),
        ({"num_res_blocks": 2}, r"weights are missing: model\.\S+, "),
        ({"num_res_blocks": 10**9}, "field num_res_blocks asks for more than 1000 layers"),
        ({"base_channels": "wide"}, "cannot be read as a configuration of transformers"),
        ({"channel_multiplier": []}, "cannot be read as a configuration of transformers"),
        ({"codebook_size": 10**12}, r"embedding\.weight is \(64, 4\) instead of"),
        ({"out_channels": 4}, "field out_channels is 4, which must be 3 here"),
        ({"double_latent": True}, "field double_latent is True, which must be False here"),
        ({"hidden_size": 64}, "field hidden_size is 64, which must be 32 here"),
        ({"temporal_downsample_factor": 3}, "field temporal_downsample_factor must be a power of 2, found 3"),
    ],
)
def test_a_config_that_is_wrong_is_one_sentence(
    fields: dict[str, object], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders["Emu3VQVAE"], copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(CheckpointError, match=message) as error:
        omnitok.load_tokenizer(f"transformers:{copy}")
    assert str(error.value).startswith(str(copy))
    assert "\n" not in str(error.value)


def test_files_that_are_wrong_are_one_sentence(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(reference: str, message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as error:
            omnitok.load_tokenizer(reference)
        assert "\n" not in str(error.value)

    refused(f"transformers:{tmp_path}", r"holds no config\.json$")
    refused(
        f"transformers:{tmp_path / 'nowhere'}", "must be a folder, or a hub id owner/name, of a model of transformers"
    )
    refused(str(folders["JanusVQVAE"]), rf"holds a model of transformers; say transformers:{folders['JanusVQVAE']}$")
    shutil.copy(folders["JanusVQVAE"] / "config.json", tmp_path)
    refused(f"transformers:{tmp_path}", r"holds no model\.safetensors$")
    weights = load_file(folders["JanusVQVAE"] / "model.safetensors")
    del weights["quantize.embedding.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    refused(f"transformers:{tmp_path}", r"1 weights are missing: model\.quantize\.embedding\.weight$")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("transformers:someone/model", "^someone/model: not a folder here, and the Hugging Face hub cannot be")


def test_without_transformers_it_is_one_sentence(folders: dict[str, Path]) -> None:
    script = (
        "import sys; sys.modules['transformers'] = None; import omnitok\n"
        f"try: omnitok.load_tokenizer('transformers:{folders['JanusVQVAE']}')\n"
        "except omnitok.errors.MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("pip install 'transformers'")
