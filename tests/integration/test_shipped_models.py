"""The models inside the package are what their cards say, on real pictures."""

import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from omnitok import OmniTokenizer, load_generator
from omnitok.data import VideoReader, list_media
from omnitok.data.loader import load_training_image
from omnitok.data.transforms import fit_square
from omnitok.hub.names import BUNDLED_FOLDER, model_info, pretrained_models
from omnitok.metrics import psnr
from omnitok.metrics.drawn import measure_drawn
from omnitok.models.protocol import fingerprint

# dB on every 12th file of the evaluation sets, pictures and clips; those of the whole sets are in the models' cards.
HELD_OUT_PSNR = {"omnitok-tiny-vq": (27.2, 24.9), "omnitok-tiny-vae": (30.6, 26.4)}
DRAWN_REGION = 12.0  # dB that every region of 64 x 64 pixels of drawn images has at least, but for fine patterns
DRAWN_LARGEST = 2.0  # of their pixels before the clamp
SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.fixture(scope="module")
def tokenizer() -> OmniTokenizer:
    return OmniTokenizer.from_pretrained("omnitok-tiny-vq")


def picture(name: str) -> Tensor:
    """A picture of scikit-image's, (1, 3, H, W) in [-1, 1]."""
    return (torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1) / 127.5 - 1)[None]


@pytest.mark.parametrize("name", sorted(pretrained_models()))
def test_card_names_the_weights_it_describes(name: str) -> None:
    card = (BUNDLED_FOLDER / name / "README.md").read_text()
    info = model_info(name)
    model = OmniTokenizer.from_pretrained(name) if info.kind == "tokenizer" else load_generator(name).model
    assert fingerprint(model) in card
    assert info.source == "bundled"


@torch.inference_mode()
def test_clips_of_the_shipped_diffusion_model_cohere() -> None:
    """Robot arms in a room: what changes from frame to frame is a small part of what differs between clips."""
    clips = load_generator("omnitok-tiny-dit").sample(["close", "pour"], 17, seed=0)
    motion = (clips[:, :, 1:] - clips[:, :, :-1]).abs().mean(dim=(1, 3, 4))  # (2, 16)
    assert 0.002 < motion.mean() < 0.03
    assert motion.max() < 0.08
    assert (clips[0] - clips[1]).abs().mean() > 0.2


@pytest.mark.parametrize(("name", "expected"), [("astronaut", 25.0), ("chelsea", 26.5), ("coffee", 25.7)])
@torch.inference_mode()
def test_real_pictures_come_back(tokenizer: OmniTokenizer, name: str, expected: float) -> None:
    x = picture(name)
    encoding = tokenizer.encode(x)
    assert encoding.codes is not None
    assert len(encoding.codes.unique()) > 500
    assert psnr(tokenizer.decode_codes(encoding.codes, encoding.size).clamp(-1, 1), x) > expected


@torch.inference_mode()
def test_tiles_leave_no_seams_in_a_real_picture(tokenizer: OmniTokenizer) -> None:
    x = picture("astronaut")
    whole, whole_codes = tokenizer(x), tokenizer.encode(x).codes
    encoding = tokenizer.encode(x, tile=192)
    assert (encoding.codes == whole_codes).float().mean() > 0.99
    tiled = tokenizer.decode(tokenizer.encode(x).latents, encoding.size, tile=192)
    difference = (tiled - whole).abs()
    assert difference.mean() < 0.002
    seams = torch.tensor([192, 384])
    jump = (tiled[..., seams] - tiled[..., seams - 1]).abs().mean()
    usual = (whole[..., seams] - whole[..., seams - 1]).abs().mean()
    assert jump < 1.05 * usual


@torch.inference_mode()
def test_a_stream_of_a_real_clip_equals_the_whole(tokenizer: OmniTokenizer) -> None:
    still = picture("coffee")[..., :160, :200]
    clip = torch.stack([still.roll(3 * i, dims=-1) for i in range(11)], dim=2)  # (1, 3, 11, 160, 200)
    whole = tokenizer.encode(clip)
    encoder, decoder = tokenizer.encoder_stream(), tokenizer.decoder_stream(whole.size)
    codes = [encoder.push(piece).codes for piece in clip.split((2, 5, 1, 3), dim=2)] + [encoder.flush().codes]
    assert torch.equal(torch.cat([c for c in codes if c is not None], dim=1), whole.codes)
    pixels = torch.cat([decoder.push(c) for c in codes if c is not None], dim=2)
    assert (pixels - tokenizer.decode(whole.latents, whole.size)).abs().max() < 1e-5


def small_letters(seed: int) -> Tensor:
    """Lines of random text in random colours, (3, 256, 256) in [-1, 1]."""
    rng = random.Random(seed)
    plain = tuple(rng.randrange(256) for _ in range(3))
    picture = Image.new("RGB", (256, 256), rng.choice(["white", "black", plain]))
    draw = ImageDraw.Draw(picture)
    for row in range(22):
        left = rng.randrange(-20, 60)
        text = "".join(rng.choice("abcdefgh ijklmno pqrstuvw xyzABCDEFG 0123456789") for _ in range(50))
        colour, size = rng.choice(["black", "red", "blue", "white", "gray"]), rng.choice([10, 12, 16])
        draw.text((left, 12 * row), text, fill=colour, font=ImageFont.load_default(size))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


@pytest.mark.parametrize("name", HELD_OUT_PSNR)
@torch.inference_mode()
def test_no_window_breaks_up_over_small_letters(name: str) -> None:
    """Two trained states of the VAE turned a window of such pictures to garbage, an error of 0.5 to 1.6 in it."""
    tokenizer = OmniTokenizer.from_pretrained(name)
    pictures = torch.stack([small_letters(seed) for seed in range(0, 60, 3)])
    errors = (tokenizer(pictures).clamp(-1, 1) - pictures).square().mean(1)  # (b, 256, 256)
    assert torch.nn.functional.avg_pool2d(errors, 64).max() < 0.4


@pytest.mark.parametrize(
    "name", ["omnitok-tiny-vae", "omnitok-tiny-vq", "omnitok-tiny-vae-perceptual", "omnitok-tiny-vq-perceptual"]
)
def test_drawn_images_come_back(name: str) -> None:
    """Letters, lines, stripes, codes, screens and plain colours: no region breaks up, and no pixel runs away."""
    figures = measure_drawn(OmniTokenizer.from_pretrained(name))
    worst = min((f for f in figures if not f.fine), key=lambda f: f.worst_region)
    assert worst.worst_region > DRAWN_REGION, worst
    furthest = max(figures, key=lambda f: f.largest)
    assert furthest.largest < DRAWN_LARGEST, furthest
    if name == "omnitok-tiny-vae":
        assert min(f.psnr for f in figures if f.name.startswith("flat")) > 48


@pytest.mark.parametrize("name", ["omnitok-tiny-lm", "omnitok-tiny-dit", "omnitok-tiny-mask"])
def test_shipped_generators_make_pictures_of_their_class(name: str) -> None:
    """Apples are heaps of red, yellow and green fruit; trousers are blue or grey before a pale wall."""
    generator = load_generator(name)
    apples, trousers = generator.sample(["apple"] * 4 + ["pants"] * 4, seed=0).split(4)
    assert apples.shape == trousers.shape == (4, 3, 64, 64)
    assert apples.abs().max() <= 1
    warmth = [(x[:, 0] - x[:, 2]).mean(dim=(1, 2)) for x in (apples, trousers)]  # red less blue, of each picture
    assert warmth[0].min() > 0.3
    assert warmth[0].mean() > warmth[1].mean() + 0.4


def test_the_shipped_model_of_texts_makes_the_colours_that_it_is_asked_for() -> None:
    generator = load_generator("omnitok-tiny-text")
    texts = ["a red apple", "a green apple", "a pair of blue pants"]
    red, green, blue = (
        x.mean(dim=(0, 2, 3)) for x in generator.sample([t for t in texts for _ in range(4)], seed=0).split(4)
    )
    assert red[0] > red[1] + 0.3
    assert green[1] > green[0] - 0.1
    assert green[1] > red[1] + 0.3
    assert blue[2] > blue[0]
    with pytest.raises(ValueError, match="may have 96 bytes"):
        generator.sample("red " * 30)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(("name", "expected"), HELD_OUT_PSNR.items())
@torch.inference_mode()
def test_quality_on_held_out_pictures_and_clips(name: str, expected: tuple[float, float]) -> None:
    """A part of the evaluation sets."""
    tokenizer = OmniTokenizer.from_pretrained(name)
    pictures = [
        load_training_image(path, 256, "center_crop", flip=False, seed=0)
        for path in list_media([SHARED / "eval_images"])[::12]
    ]
    found = sum(psnr(tokenizer(x[None]).clamp(-1, 1), x[None]) for x in pictures) / len(pictures)
    clips = [
        torch.stack(list(islice(VideoReader(path), 17)), dim=1) for path in list_media([SHARED / "eval_videos"])[::12]
    ]
    squares = [fit_square(clip, 128, "center_crop") for clip in clips]
    found_clips = sum(psnr(tokenizer(x[None]).clamp(-1, 1), x[None]) for x in squares) / len(squares)
    assert found > expected[0]
    assert found_clips > expected[1]
