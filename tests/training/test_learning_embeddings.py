"""Generators that learn a video's own sound, and what a text encoder says of captions: from files to samples."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from helpers.training import train
from omnitok import load_generator
from omnitok.cli import main
from omnitok.data import read_image
from omnitok.data.image import write_image
from omnitok.errors import OmnitokError
from omnitok.generation.asked import parse_asked
from omnitok.hub.folder import load_tokenizer
from omnitok.models.code_sequence import MaskedModelConfig
from omnitok.models.conditions import EmbeddingCondition
from omnitok.models.sampling import MaskedSampling
from omnitok.training.config import AnyGeneratorConfig, MaskedModelTrainConfig, OptimizerConfig

RATE, FPS, FRAMES = 16_000, 8, 5
COLORS = {300: (220, 40, 40), 700: (40, 200, 60), 1600: (50, 60, 230), 3500: (240, 240, 240)}  # by the pitch in Hz


def write_tone(path: Path, hertz: float, color: tuple[int, int, int], phase: float) -> None:
    """A video of one colour, with a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=FPS)
        video.width, video.height, video.pix_fmt = 16, 16, "bgr0"
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), color, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        times = np.arange(FRAMES * RATE // FPS) / RATE
        tone = (0.5 * np.sin(2 * np.pi * hertz * times + phase)).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def masked(lm: AnyGeneratorConfig, shards: Path, condition: EmbeddingCondition, steps: int) -> AnyGeneratorConfig:
    return MaskedModelTrainConfig(
        name="mask",
        model=MaskedModelConfig(width=48, depth=2, heads=4, condition=condition),
        shards=(str(shards),),
        data=replace(lm.data, images=(), videos=(), image_batch=8, video_batch=8),
        optimizer=OptimizerConfig(lr=4e-3, warmup_steps=20),
        engine=lm.engine,
        log=lm.log,
        held_out=0.0,
        label_smoothing=0.0,
        tasks={"generation": 1.0},
        steps=steps,
        checkpoint_every=1000,
        sampling=MaskedSampling(steps=4),
    )  # fmt: skip


def test_the_pitch_of_a_tone_decides_the_colour(
    generator_configs: dict[str, AnyGeneratorConfig],
    tokenizers: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "media").mkdir()
    (tmp_path / "asked").mkdir()
    for hertz, color in COLORS.items():
        for i in range(4):
            pitch, phase = hertz * rng.uniform(0.93, 1.07), rng.uniform(0, 6)
            write_tone(tmp_path / "media" / f"{hertz}-{i}.mkv", pitch, color, phase)
        write_tone(tmp_path / "asked" / f"{hertz}.mkv", hertz, (0, 0, 0), 1.0)  # another sound, and no colour
    command = ["tokenize", str(tmp_path / "media"), "--frames", str(FRAMES), "--embed", "audio", "--model"]
    shards = tmp_path / "shards"
    assert main([*command, tokenizers["vq"], "-o", str(shards), "--device", "cpu", "--workers", "0"]) == 0

    lm = generator_configs["lm"]
    config = masked(lm, shards, EmbeddingCondition(channels=7), steps=260)  # the width is that of the data
    model = train(config, tmp_path / "run").model
    generator = load_generator(model)
    assert generator.model.config.condition == EmbeddingCondition(channels=64)
    assert generator.settings.embeddings == "audio"

    tokenizer = load_tokenizer(tokenizers["vq"])
    solid = [
        torch.tensor(color)[:, None, None, None].expand(3, FRAMES, 16, 16) / 127.5 - 1 for color in COLORS.values()
    ]
    codes = tokenizer.encode(torch.stack(solid)).codes
    assert len({tuple(each.flatten().tolist()) for each in codes}) == len(COLORS)
    out = tmp_path / "out"
    asked = [str(tmp_path / "asked" / f"{hertz}.mkv") for hertz in COLORS]
    command = [
        "generate",
        str(model),
        "--embeddings",
        *asked,
        "--frames",
        str(FRAMES),
        "--count",
        "2",
        "--device",
        "cpu",
    ]
    assert main([*command, "-o", str(out), "--json"]) == 0
    capsys.readouterr()
    sounds = [each.value for each in parse_asked(generator, files=[Path(path) for path in asked])]
    drawn = generator.sample_codes(sounds * 8, tuple(codes.shape[1:]), seed=1)
    assert (drawn == codes.repeat(8, 1, 1, 1)).flatten(1).all(1).float().mean() > 0.95
    assert len(list(out.glob("*.mp4"))) == 8
    silence = generator.sample_codes([None] * 8, tuple(codes.shape[1:]), seed=1)  # anything
    assert len({tuple(each.flatten().tolist()) for each in silence}) > 1


def test_captions_of_a_frozen_text_encoder(
    generator_configs: dict[str, AnyGeneratorConfig], tokenizers: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from helpers.text_models import save_t5

    save_t5(tmp_path / "t5")
    media = tmp_path / "media"
    media.mkdir()
    for name, value in (("red", (0.9, -0.8, -0.8)), ("blue", (-0.8, -0.7, 0.9))):
        for i in range(4):
            write_image(media / f"{name}{i}.png", torch.tensor(value)[:, None, None].expand(3, 16, 16))
            (media / f"{name}{i}.txt").write_text(f"a {name} dress\na {name} apple")
    command = ["tokenize", str(media), "--embed", f"text:{tmp_path / 't5'}", "--model", tokenizers["vq"]]
    assert main([*command, "-o", str(tmp_path / "shards"), "--device", "cpu", "--workers", "0"]) == 0
    config = masked(generator_configs["lm"], tmp_path / "shards", EmbeddingCondition(max_length=8), steps=140)
    generator = load_generator(train(config, tmp_path / "run").model)
    assert generator.settings.embeddings == f"text:{tmp_path / 't5'}"
    codes = (
        load_tokenizer(tokenizers["vq"])
        .encode(torch.stack([read_image(media / f"{n}0.png") for n in ("red", "blue")]))
        .codes
    )
    drawn = generator.sample_codes(["a red dress", "a blue apple"] * 8, (1, *codes.shape[1:]), seed=1)
    assert (drawn[:, 0] == codes.repeat(8, 1, 1)).flatten(1).all(1).float().mean() > 0.9
    away = generator.sample_codes(["a red dress"], (1, *codes.shape[1:]), negative="a blue dress", guidance_scale=2.0)
    assert torch.equal(away[:, 0], codes[:1])
    other = save_t5(tmp_path / "other")
    other.shared.weight.data.add_(1)
    other.save_pretrained(tmp_path / "t5")
    with pytest.raises(OmnitokError, match=r"has weights .*, not "):
        load_generator(tmp_path / "run" / "model").sample("a red dress")


def test_what_has_no_embeddings_is_refused(generator_configs: dict[str, AnyGeneratorConfig], tmp_path: Path) -> None:
    lm = generator_configs["lm"]
    config = replace(masked(lm, tmp_path, EmbeddingCondition(), 1), shards=(), data=lm.data, tokenizer=lm.tokenizer)
    with pytest.raises(OmnitokError, match="there are no embeddings to learn: give shards"):
        train(config, tmp_path / "run")
