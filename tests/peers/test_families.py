"""What `PeerTokenizer` and the table of families do for every family, on two families of a few lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import omnitok
from omnitok import OmniTokenizer, peers
from omnitok.errors import CheckpointError, OmnitokError
from omnitok.hub.names import libraries
from omnitok.models.protocol import LatentStatistics, Tokenizer, fingerprint
from omnitok.peers.base import Coded, PeerTokenizer, Traits
from omnitok.peers.family import Family


class Blocks(PeerTokenizer):
    """Mean of 4 x 4 pixels, scaled by a weight; the codes are the nearest rows of a table."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, Traits("Blocks", 3, (1, 4, 4), vocab_size=config["codes"], multiple=(8, 8)))
        self.table = nn.Embedding(config["codes"], 3)

    def encode_pixels(self, pixels: Tensor) -> Coded:
        means = F.avg_pool2d(pixels, 4).movedim(1, -1)
        codes = torch.cdist(means.flatten(0, 2), self.table.weight).argmin(-1).reshape(means.shape[:3])
        return Coded(self.lookup(codes).movedim(-1, 1), codes)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents, scale_factor=4)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.table(codes)


class Pairs(PeerTokenizer):
    """A Gaussian over pairs of frames."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        statistics = LatentStatistics((0.0,) * 3, (2.0,) * 3)
        traits = Traits(
            "Pairs", 3, (2, 1, 1), is_video_model=True, first_frame_alone=config["first"], statistics=statistics
        )
        super().__init__(config, traits)
        self.gain = nn.Parameter(torch.ones(()))

    def encode_pixels(self, pixels: Tensor) -> Coded:
        if self.config["first"]:
            pixels = torch.cat([pixels[:, :, :1], pixels], dim=2)
        latents = self.gain * pixels.unflatten(2, (-1, 2)).mean(3)
        return Coded(latents, logvar=torch.zeros_like(latents))

    def decode_latents(self, latents: Tensor) -> Tensor:
        pixels = (latents / self.gain).repeat_interleave(2, dim=2)
        return pixels[:, :, 1:] if self.config["first"] else pixels


def convert(state_dict: dict[str, Tensor], flags: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    weights = {name.replace("their_table", "table.weight"): weight for name, weight in state_dict.items()}
    return {"codes": len(state_dict["their_table"])}, weights


BLOCKS = Family("blocks", Blocks, lambda shapes: "their_table" in shapes, convert)


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the family `blocks`, which is the only one known."""
    monkeypatch.setattr(peers, "FAMILIES", (BLOCKS,))
    table = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    torch.save({"model": {"their_table": table}}, tmp_path / "blocks.pt")
    return tmp_path / "blocks.pt"


def test_every_file_that_holds_a_tokenizer_declares_a_family() -> None:
    folder = Path(peers.__file__).parent
    files = {path.stem for path in folder.rglob("*.py") if "(PeerTokenizer)" in path.read_text()} - {"causal"}
    files |= {path.stem for path in folder.rglob("*.py") if "(CausalPeer)" in path.read_text()}
    assert files == {family.build.__module__.split(".")[-1] for family in peers.FAMILIES}
    names = [family.name for family in peers.FAMILIES]
    assert names == sorted(set(names))
    assert tuple(family.name for family in peers.FAMILIES if family.library is not None) == libraries()


def test_a_family_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toys.py").write_text(
        "from omnitok.peers.family import Family\nfrom omnitok.peers.library import Library\n"
        "how = Library(('weights.bin',), lambda fields, name: fields, lambda name, fields: name)\n"
        "FAMILY = Family('toys', dict, library=how)\n"
    )
    with pytest.raises(CheckpointError, match="toys:nowhere: no such model"):
        omnitok.load_tokenizer("toys:nowhere")
    monkeypatch.setattr("omnitok.peers.libraries.__path__", [str(tmp_path)])
    monkeypatch.setattr("omnitok.hub.names.LIBRARIES_FOLDER", tmp_path)
    monkeypatch.setattr("omnitok.hub.names.libraries", libraries.__wrapped__)
    monkeypatch.setattr(peers, "FAMILIES", peers._find_families())
    assert "toys" in [family.name for family in peers.FAMILIES]
    with pytest.raises(
        CheckpointError, match=r"^nowhere: must be a folder, or a hub id owner/name, of a model of toys$"
    ):
        omnitok.load_tokenizer("toys:nowhere")
    with pytest.raises(CheckpointError, match=r"and toys:FOLDER_OR_HUB_ID$"):
        omnitok.load_tokenizer("nowhere")


def test_a_file_is_recognised_converted_saved_and_loaded(released: Path, tmp_path: Path) -> None:
    tokenizer = omnitok.load_tokenizer(released)
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(tokenizer, Blocks)
    assert not tokenizer.training
    assert (tokenizer.vocab_size, tokenizer.bits_per_token, tokenizer.causal) == (16, 4.0, True)
    assert "Blocks" in repr(tokenizer)
    again = omnitok.load_tokenizer(tokenizer.save_pretrained(tmp_path / "folder"))
    assert again.fingerprint == tokenizer.fingerprint == fingerprint(tokenizer)
    assert omnitok.load_tokenizer(tmp_path / "folder", dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match=r"config\.json: field architecture is 'PeerTokenizer'"):
        OmniTokenizer.from_pretrained(tmp_path / "folder")


@pytest.mark.parametrize("layout", ["bare .pt", "safetensors", "safetensors with a prefix"])
def test_a_file_without_flags_in_any_layout(layout: str, released: Path, tmp_path: Path) -> None:
    expected = omnitok.load_tokenizer(released).fingerprint
    weights = torch.load(released)["model"]
    path = tmp_path / "other.bin"
    if layout == "bare .pt":
        torch.save(weights, path)
    else:
        prefix = "state_dict." if "prefix" in layout else ""
        save_file({f"{prefix}{name}": weight for name, weight in weights.items()}, path)
    assert omnitok.load_tokenizer(path).fingerprint == expected


def test_a_file_of_no_family_says_what_is_accepted(released: Path, tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"resnet\.safetensors: .*OmniTokenizer's .* of blocks .*conv1\.weight"):
        omnitok.load_tokenizer(tmp_path / "resnet.safetensors")


def test_ours_are_loaded_as_before(released: Path) -> None:
    tokenizer = omnitok.load_tokenizer("omnitok-tiny-vq")
    assert isinstance(tokenizer, OmniTokenizer)
    assert tokenizer.fingerprint == OmniTokenizer.from_pretrained("omnitok-tiny-vq").fingerprint


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (1, 3, 7, 9), (2, 3, 3, 8, 16), (1, 3, 2, 5, 21)])
def test_images_go_alone_and_videos_frame_by_frame(shape: tuple[int, ...], released: Path) -> None:
    tokenizer = omnitok.load_tokenizer(released)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    encoding = tokenizer.encode(x)
    frames = 1 if x.ndim == 4 else x.shape[2]
    grid = tokenizer.latent_shape(frames, *x.shape[-2:])
    assert encoding.size == (frames, *x.shape[-2:])
    assert encoding.codes is not None
    assert encoding.codes.shape[1:] == (grid if x.ndim == 5 else grid[1:])
    assert encoding.codes.shape == (encoding.latents.shape[:1] + encoding.latents.shape[2:])
    decoded = tokenizer.decode_codes(encoding.codes, encoding.size)
    assert decoded.shape == x.shape
    torch.testing.assert_close(decoded, tokenizer.decode(encoding.latents, encoding.size))
    if x.ndim == 5:  # each frame as if it were an image
        image = tokenizer.encode(x[:, :, -1]).codes
        assert image is not None
        torch.testing.assert_close(encoding.codes[:, -1], image)


@torch.inference_mode()
def test_a_tokenizer_of_images_streams_frame_by_frame(released: Path) -> None:
    tokenizer = omnitok.load_tokenizer(released)
    x = torch.rand(2, 3, 4, 7, 9, generator=torch.Generator().manual_seed(4)) * 2 - 1
    whole, encoder, decoder = tokenizer.encode(x), tokenizer.encoder_stream(), tokenizer.decoder_stream((4, 7, 9))
    pieces = [encoder.push(x[:, :, :0]), encoder.push(x[:, :, :1]), encoder.push(x[:, :, 1:]), encoder.flush()]
    codes = [piece.codes for piece in pieces if piece.codes is not None]
    assert [code.shape[1] for code in codes] == [0, 1, 3, 0]
    assert whole.codes is not None
    assert torch.equal(torch.cat(codes, dim=1), whole.codes)
    frames = [*map(decoder.push, codes), decoder.flush()]
    assert torch.equal(torch.cat(frames, dim=2), tokenizer.decode_codes(whole.codes, whole.size))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 5, 6])
def test_frames_are_padded_to_whole_latent_frames(first: bool, frames: int) -> None:
    tokenizer = Pairs({"first": first})
    x = torch.rand(2, 3, frames, 4, 5, generator=torch.Generator().manual_seed(2)) * 2 - 1
    encoding = tokenizer.encode(x)
    assert encoding.latents.shape[2:] == tokenizer.latent_shape(frames, 4, 5)
    assert encoding.codes is None
    assert encoding.posterior is not None
    assert encoding.posterior.mean.shape == encoding.posterior.logvar.shape == encoding.latents.shape
    assert tokenizer.decode(encoding.latents).shape[2] == tokenizer.num_frames(encoding.latents.shape[2])
    assert tokenizer(x).shape == x.shape


def test_an_image_is_the_first_frame_of_a_video() -> None:
    tokenizer = Pairs({"first": True})
    video = torch.rand(1, 3, 3, 4, 4) * 2 - 1
    torch.testing.assert_close(tokenizer.encode(video[:, :, 0]).latents, tokenizer.encode(video).latents[:, :, 0])
    torch.testing.assert_close(tokenizer(video[:, :, 0]), video[:, :, 0])


def test_what_a_peer_cannot_do_is_one_sentence(released: Path) -> None:
    tokenizer, pairs = omnitok.load_tokenizer(released), Pairs({"first": False})
    x = torch.zeros(1, 3, 8, 8)
    for stream in (pairs.encoder_stream, pairs.decoder_stream):
        with pytest.raises(OmnitokError, match="Pairs cannot stream"):
            stream()
    with pytest.raises(OmnitokError, match="Pairs takes videos only, 2 frames at a time"):
        pairs.encode(x)
    with pytest.raises(OmnitokError, match="Pairs takes videos only"):
        pairs.decode(x)
    with pytest.raises(OmnitokError, match="Blocks cannot work in tiles"):
        tokenizer.encode(x, tile=4)
    assert tokenizer.encode(x, tile=8).size == (1, 8, 8)  # one tile is no tiling
    with pytest.raises(ValueError, match="has latents and no codes"):
        pairs.decode_codes(torch.zeros(1, 1, 2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="codes must lie in"):
        tokenizer.decode_codes(torch.full((1, 2, 2), 16))
    with pytest.raises(ValueError, match="size"):
        tokenizer.decode_codes(torch.zeros(1, 2, 2, dtype=torch.long), size=(1, 9, 8))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"their_table": torch.zeros(4, 3), "more": torch.zeros(1)}, "1 weights are unknown: more"),
        ({"their_table": torch.zeros(4, 2)}, r"table\.weight is \(4, 2\) instead of \(4, 3\)"),
        ({"their_table": torch.zeros(4, 3, dtype=torch.int64)}, r"weight table\.weight has dtype torch\.int64"),
        ({"nobody": torch.zeros(4, 3)}, "holds no released .* nobody"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(
    weights: dict[str, Tensor], message: str, released: Path, tmp_path: Path
) -> None:
    save_file(weights, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/bad.safetensors: .*{message}"):
        omnitok.load_tokenizer(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"blocks"', '"cubes"', "field family is cubes, known are blocks"),
        ('"codes": 16', '"codes": 17', r"table\.weight is \(16, 3\) instead of \(17, 3\)"),
        ('"codes": 16', '"codes": 99999999999999', "does not fit its config.json"),
        ('"codes"', '"koalas"', "cannot be read as a configuration of blocks"),
        ('"weights_sha256": "', '"weights_sha256": "0', "damaged or not the file that was saved"),
    ],
)
def test_an_edited_folder_is_one_sentence(old: str, new: str, message: str, released: Path, tmp_path: Path) -> None:
    folder = omnitok.load_tokenizer(released).save_pretrained(tmp_path / "folder")
    text = (folder / "config.json").read_text()
    assert old in text
    (folder / "config.json").write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match=message) as error:
        omnitok.load_tokenizer(folder)
    assert str(error.value).startswith(str(folder))
