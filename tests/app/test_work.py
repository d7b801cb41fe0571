"""What the tabs do, without a browser and without gradio."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.conditioned import save_conditioned
from helpers.small import SMALL
from omnitok import OmniTokenizer
from omnitok.app import generators, tokens, uploads
from omnitok.app.comparing import compare_files
from omnitok.app.models import Models, load_models
from omnitok.data import write_image, write_video
from omnitok.data.drawn import drawn_image, drawn_set
from omnitok.data.ken_burns import ken_burns
from omnitok.errors import CheckpointError, MediaError, OmnitokError
from omnitok.generation.loading import AnyGenerator
from omnitok.metrics import psnr
from omnitok.models.conditions import EmbeddingCondition, TextCondition


@pytest.fixture(scope="module")
def vq() -> OmniTokenizer:
    torch.manual_seed(0)
    return OmniTokenizer.from_config(SMALL).eval()


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(["omnitok-tiny-vae-perceptual", "omnitok-tiny-dit", "omnitok-tiny-lm"])


@cache
def shapes() -> Tensor:
    return next(sample.pixels for sample in drawn_set() if sample.name == "shapes-0")[:, :128, :128]


def video(frames: int = 9, side: int = 64) -> Tensor:
    return ken_burns(shapes(), frames, side, False, 0)


def ignore(done: int, total: int) -> None:
    pass


# -------------------------------------------------------------------------------------------------------------- models


def test_a_generator_shares_the_tokenizer_that_is_there(models: Models) -> None:
    assert list(models.tokenizers) == ["omnitok-tiny-vae-perceptual"]
    assert list(models.generators) == ["omnitok-tiny-dit", "omnitok-tiny-lm"]
    shared = models.tokenizers["omnitok-tiny-vae-perceptual"]
    assert models.generators["omnitok-tiny-dit"].tokenizer is shared
    assert models.generators["omnitok-tiny-lm"].tokenizer is not shared
    with pytest.raises(CheckpointError, match="no such model"):
        load_models(["nothing"])


def test_a_page_begins_with_codes_and_latents(vq: OmniTokenizer) -> None:
    vae = OmniTokenizer.from_config(replace(SMALL, bottleneck="kl"))
    several = {"vae": vae, "vae 2": vae, "vq": vq, "vq 2": vq}
    assert Models(several, {}).unlike_tokenizers() == ["vae", "vq"]
    assert Models({"a": vq, "b": vq, "c": vq}, {}).unlike_tokenizers() == ["a", "b"]
    assert Models({}, {}).unlike_tokenizers() == []


# ------------------------------------------------------------------------------------------------------------- uploads


def test_images_come_within_the_side_at_their_aspect(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    write_image(path, drawn_image(96, 0)[:, :64])
    assert torch.equal(uploads.read_image(path, 96), uploads.read_image(path, 1024))
    assert uploads.read_image(path, 48).shape == (3, 32, 48)
    assert uploads.read_image(path, 48, (20, 10)).shape == (3, 20, 10)


def test_videos_come_within_frames_and_side(tmp_path: Path) -> None:
    path = str(tmp_path / "a.mp4")
    write_video(path, video(), 5)
    pixels, fps = uploads.read_video(path, 4, 32)
    assert pixels.shape == (3, 4, 32, 32)
    assert fps == 5


def test_uploads_above_a_bound_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, film = str(tmp_path / "a.png"), str(tmp_path / "a.mp4")
    write_image(image, drawn_image(96, 0))
    write_video(film, video(), 3)
    uploads.check_files([image, film])
    for variable, value, read, path, said in (
        ("BYTES", "100", uploads.read_image, image, "a file of .* is above the bound of 100"),
        ("PIXELS", "1000", uploads.read_image, image, "an image of 96x96 pixels is above the bound of 8000"),
        ("PIXELS", "1000", uploads.check_video, film, "a video of 64x64 pixels is above the bound of 1000"),
        ("SECONDS", "2", uploads.check_video, film, "a video of 3 seconds is above the bound of 2"),
    ):
        with monkeypatch.context() as bounded:
            bounded.setenv(f"OMNITOK_APP_MAX_{variable}", value)
            with pytest.raises(MediaError, match=said):
                read(path, *[64] * (read is uploads.read_image))


def test_nothing_and_too_much_and_lists_of_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="upload an image first"):
        uploads.read_image(None, 64)
    with pytest.raises(MediaError, match="upload a video first"):
        uploads.read_video(None, 4, 64)
    for paths in (None, [], ["a.png"] * 9):
        with pytest.raises(MediaError, match="from 1 to 8 images and videos"):
            uploads.check_files(paths)
    names = tmp_path / "list.txt"  # a list names files of this machine, which are none of a stranger's business
    names.write_text("/etc/passwd\n")
    with pytest.raises(MediaError, match="neither an image nor a video"):
        uploads.check_files([str(names)])


# -------------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("frames", [0, 9])
def test_reconstructions_are_those_of_the_tokenizer(vq: OmniTokenizer, frames: int) -> None:
    pixels = video(frames)[:, :, :50] if frames else drawn_image(64, 1)[:, :50]
    made = tokens.reconstruct(vq, pixels)
    with torch.inference_mode():
        expected = vq.encode(pixels[None])
        assert torch.equal(made.tokens, expected.codes)
        assert torch.allclose(made.pixels, vq(pixels[None])[0].clamp(-1, 1), atol=1e-5)
    assert made.count == expected.codes.numel()
    assert made.bits_per_pixel == pytest.approx(made.count * 6 / pixels[0].numel())
    if not frames:
        assert made.psnr == pytest.approx(psnr(pixels[None], made.pixels[None]), rel=1e-5)


def test_tokens_are_squares_and_alike_where_they_are_equal(vq: OmniTokenizer) -> None:
    grid = tokens.tokenize(vq, drawn_image(64, 1)[:, :32])
    drawn = tokens.draw(vq, grid.tokens)
    assert drawn.shape == (3, 4 * 64, 8 * 64)
    cells = drawn.unflatten(1, (4, 64)).unflatten(3, (8, 64))  # 3 h 64 w 64
    assert torch.equal(cells, cells[:, :, :1, :, :1].expand_as(cells))
    colours, codes = cells[:, :, 0, :, 0].flatten(1).T, grid.tokens.flatten()
    for code in codes.unique():
        assert len(colours[codes == code].unique(dim=0)) == 1
    assert len(colours.unique(dim=0)) > 1


def test_tokens_of_a_frame_are_those_of_its_latent_frame(vq: OmniTokenizer) -> None:
    codes = tokens.reconstruct(vq, video(9)).tokens
    for frame, latent in ((0, 0), (1, 1), (4, 1), (5, 2), (8, 2)):
        assert torch.equal(tokens.draw(vq, codes, frame), tokens.draw(vq, codes[:, latent]))


def test_latents_are_drawn_too(models: Models) -> None:
    vae = models.tokenizers["omnitok-tiny-vae-perceptual"]
    made = tokens.reconstruct(vae, drawn_image(64, 1))
    drawn = tokens.draw(vae, made.tokens)
    assert drawn.shape == (3, 512, 512)
    assert drawn.std() > 0.1


def test_changed_tokens_are_the_painted_ones(vq: OmniTokenizer) -> None:
    grid = tokens.tokenize(vq, drawn_image(64, 1))
    paint = torch.zeros(512, 512, dtype=torch.bool)
    paint[70, 130:200] = True  # row 1, columns 2 and 3
    chosen = tokens.chosen_tokens(paint, grid)
    assert chosen.nonzero().tolist() == [[1, 2], [1, 3]]
    changed, other = tokens.change(vq, grid, chosen, "replace", 5)
    assert other is None
    assert changed.tokens[0, 1, 2:4].tolist() == [5, 5]
    assert torch.equal(changed.tokens[..., ~chosen], grid.tokens[..., ~chosen])
    assert not torch.equal(tokens.to_image(vq, changed), tokens.to_image(vq, grid))


def test_a_shuffle_keeps_the_tokens_and_a_second_swap_undoes_the_first(vq: OmniTokenizer) -> None:
    first, second = (tokens.tokenize(vq, drawn_image(64, seed)) for seed in (1, 2))
    chosen = torch.zeros(8, 8, dtype=torch.bool)
    chosen[2:5, 1:6] = True
    shuffled, _ = tokens.change(vq, first, chosen, "shuffle", 1)
    assert torch.equal(shuffled.tokens[..., chosen].sort().values, first.tokens[..., chosen].sort().values)
    assert not torch.equal(shuffled.tokens, first.tokens)
    one, other = tokens.change(vq, first, chosen, "swap", other=second)
    assert other is not None
    assert torch.equal(one.tokens[..., chosen], second.tokens[..., chosen])
    assert torch.equal(other.tokens[..., chosen], first.tokens[..., chosen])
    again, back = tokens.change(vq, one, chosen, "swap", other=other)
    assert back is not None
    assert torch.equal(again.tokens, first.tokens)
    assert torch.equal(back.tokens, second.tokens)


def test_changes_that_make_no_sense_are_one_sentence(vq: OmniTokenizer) -> None:
    grid, chosen = tokens.tokenize(vq, drawn_image(64, 1)), torch.ones(8, 8, dtype=torch.bool)
    small = tokens.tokenize(vq, drawn_image(32, 1))
    for said, *arguments in (
        ("paint on the tokens", ~chosen, "replace"),
        ("from 0 to 63, found 64", chosen, "replace", 64),
        ("from 0 to 63, found 0.5", chosen, "replace", 0.5),
        ("second image of 64x64 pixels, found none", chosen, "swap"),
        ("second image of 64x64 pixels, found 32x32", chosen, "swap", 0, small),
    ):
        with pytest.raises(ValueError, match=said):
            tokens.change(vq, grid, *arguments)


def test_errors_are_black_where_there_are_none() -> None:
    image = drawn_image(32, 0)
    other = image.clone()
    other[:, 5, 7] = -other[:, 5, 7].sign()
    found = tokens.error_of(image, other)
    assert found[:, 5, 7].tolist() == [1, 1, 1]
    found[:, 5, 7] = -1
    assert torch.equal(found, torch.full_like(image, -1))


# ---------------------------------------------------------------------------------------------------------- generators


def test_options_are_those_of_the_generator(models: Models) -> None:
    dit, lm = models.generators.values()
    assert list(generators.option_help(dit)) == ["guidance_scale", "steps"]
    assert list(generators.option_help(lm)) == ["guidance_scale", "temperature", "top_k", "top_p"]
    given = {"guidance_scale": " 2 ", "steps": "3", "temperature": "", "top_k": None}
    assert generators.own_options(dit, given) == {"guidance_scale": "2", "steps": "3"}
    assert generators.own_options(lm, given) == {"guidance_scale": "2"}


def test_samples_are_those_of_the_generator(models: Models) -> None:
    dit = models.generators["omnitok-tiny-dit"]
    done: list[int] = []
    made = generators.generate(
        dit, "leopard", {"seed": 3, "steps": "2", "progress": lambda step, total: done.append(step)}, 1, 2
    )
    assert torch.equal(made, dit.sample(["leopard", "leopard"], seed=3, steps=2))
    assert done == [1, 2]
    assert generators.generate(dit, "", {"steps": 1}, 100, 1).shape == (1, 3, 17, 64, 64)
    with pytest.raises(ValueError, match="found 'unicorn'"):
        generators.generate(dit, "unicorn", {}, 1, 1)
    with pytest.raises(ValueError, match="steps must be"):
        generators.generate(dit, "", {"steps": "many"}, 1, 1)


def test_texts_and_what_to_lead_away_from_are_asked_for(models: Models, vq: OmniTokenizer, tmp_path: Path) -> None:
    lm = models.generators["omnitok-tiny-lm"]
    assert not generators.takes_text(lm)
    assert generators.away_from(lm, "") == {}
    assert generators.away_from(lm, "watch") == {"negative": lm.settings.classes.index("watch")}
    with pytest.raises(ValueError, match="found 'unicorn'"):
        generators.away_from(lm, "unicorn")
    vq.save_pretrained(tmp_path / "vq")
    for name, condition in (("text", TextCondition(max_length=20)), ("embeddings", EmbeddingCondition(channels=3))):
        generator = load_models([save_conditioned(condition, tmp_path / "vq", tmp_path / name)]).generators.popitem()[1]
        assert generators.takes_text(generator) == (name == "text")
        assert not generators.has_classes(generator)
        assert torch.equal(generators.generate(generator, "", {}, 1, 1), generator.sample([None]))
        if name == "text":
            away = generators.away_from(generator, "a blue one")
            made = generators.generate(generator, "a red dress", away, 1, 2)
            assert torch.equal(made, generator.sample(["a red dress"] * 2, negative="a blue one"))
            assert not torch.equal(made, generators.generate(generator, "a red dress", {}, 1, 2))
            with pytest.raises(ValueError, match="a text may have 20 bytes"):
                generators.generate(generator, "a text that is too long", {}, 1, 1)
        else:
            assert generators.away_from(generator, "a blue one") == {}


def test_predictions_begin_with_what_was_given(models: Models, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", video(9), 6)
    dit = models.generators["omnitok-tiny-dit"]
    made, fps = generators.predict(dit, "", {"steps": 1}, str(tmp_path / "a.mp4"), 5)
    assert made.shape == (3, 17, 64, 64)
    assert fps == 6
    red = torch.tensor([1.0, -1, -1])
    assert torch.equal(made[:, :5, 0, 0], red[:, None].expand(3, 5))
    assert not torch.equal(made[:, 5, 0, 0], red)
    assert psnr(made[None, :, :5, 4:-4, 4:-4], video(9)[None, :, :5, 4:-4, 4:-4]) > 20
    with pytest.raises(OmnitokError, match="at least 12 are needed"):
        generators.predict(dit, "", {"steps": 1}, str(tmp_path / "a.mp4"), 12)


@pytest.fixture(scope="module", params=["omnitok-tiny-dit", "omnitok-tiny-mask"])
def filler(request: pytest.FixtureRequest, models: Models) -> AnyGenerator:
    return models.generators.get(request.param) or load_models([request.param]).generators[request.param]


def test_language_models_fill_nothing(models: Models, filler: AnyGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert generators.can_fill(filler)
    assert generators.can_interpolate(filler)
    assert not generators.can_fill(models.generators["omnitok-tiny-lm"])
    monkeypatch.setattr(filler, "settings", replace(filler.settings, num_frames=2))
    assert not generators.can_interpolate(filler)


def test_only_holes_are_filled(filler: AnyGenerator, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", drawn_image(128, 3))
    paint = torch.zeros(64, 64, dtype=torch.bool)  # the editor's size may be another
    paint[20:40, 16:32] = True
    mask = generators.save_mask(tmp_path / "mask.png", paint, (128, 128))
    holes, filled, _ = generators.inpaint(filler, "", {"steps": 1}, str(tmp_path / "a.png"), mask)
    assert holes.shape == filled.shape == (3, 64, 64)
    assert torch.equal(holes[:, ~paint], filled[:, ~paint])
    assert (holes[:, paint] == 0).all()
    assert not (filled[:, paint] == 0).any(0).all()
    with pytest.raises(ValueError, match="paint over what is to be filled"):
        generators.save_mask(tmp_path / "mask.png", ~paint & paint, (128, 128))


def test_holes_of_videos_are_filled_in_all_frames(filler: AnyGenerator, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", video(9), 6)
    paint = torch.zeros(64, 64, dtype=torch.bool)
    paint[:, :24] = True
    mask = generators.save_mask(tmp_path / "mask.png", paint, (64, 64))
    holes, filled, fps = generators.inpaint(filler, "", {"steps": 1}, str(tmp_path / "a.mp4"), mask)
    assert holes.shape == filled.shape == (3, 9, 64, 64)
    assert fps == 6
    assert torch.equal(holes[..., 24:], filled[..., 24:])
    assert not torch.equal(holes[..., :24], filled[..., :24])


def test_margins_lie_around_an_image(filler: AnyGenerator, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", drawn_image(64, 3)[:, :32, :40])
    wide = generators.outpaint(filler, "", {"steps": 1}, str(tmp_path / "a.png"), 10, 20, 50, 25)
    assert wide.shape == (3, 32 + 16 + 8, 40 + 4 + 8)
    assert torch.allclose(wide[:, 16:48, 4:44], uploads.read_image(str(tmp_path / "a.png"), 64))


def test_images_and_the_ends_of_a_video_are_joined(filler: AnyGenerator, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_image(tmp_path / f"{seed}.png", drawn_image(64, seed))
    paths = [str(tmp_path / f"{seed}.png") for seed in (1, 2)]
    made, _ = generators.interpolate(filler, "", {"steps": 1}, *paths, 9)
    assert made.shape == (3, 9, 64, 64)
    for frame, path in ((0, paths[0]), (-1, paths[1])):
        assert torch.allclose(made[:, frame], uploads.read_image(path, 64))
    with pytest.raises(ValueError, match="num_frames must be at least 6"):
        generators.interpolate(filler, "", {"steps": 1}, *paths, 3)
    with pytest.raises(MediaError, match="upload an image first"):
        generators.interpolate(filler, "", {"steps": 1}, None, paths[1], 9)

    write_video(tmp_path / "a.mp4", video(21), 6)
    made, fps = generators.refill(filler, "", {"steps": 1}, str(tmp_path / "a.mp4"), 3, 17)
    assert made.shape == (3, 17, 64, 64)
    assert fps == 6
    (given, _), inner = uploads.read_video(str(tmp_path / "a.mp4"), 21, 64), slice(4, -4)
    for ours, theirs in ((slice(3), slice(3)), (slice(-3, None), slice(-3, None))):
        assert torch.allclose(made[:, ours, inner, inner], given[:, theirs, inner, inner])
        assert torch.equal(made[:, ours, 0, 0], torch.tensor([1.0, -1, -1])[:, None].expand(3, 3))
    assert not torch.equal(made[:, 3, 0, 0], torch.tensor([1.0, -1, -1]))


# ------------------------------------------------------------------------------------------------------------- compare


def test_a_comparison_is_one_page(models: Models, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", drawn_image(64, 1))
    made = compare_files(
        models, [str(tmp_path / "a.png")], ["omnitok-tiny-vae-perceptual"], False, tmp_path / "out", ignore
    )
    ((titles, rows),) = made.tables
    assert titles[0] == "model (images)"
    assert rows[0][:2] == ["omnitok-tiny-vae-perceptual", "2.0000"]
    assert made.page.read_text().startswith("<!doctype html>")
    assert [path.suffix for path, _ in made.shown] == [".png"]
    with pytest.raises(ValueError, match="at least one tokenizer"):
        compare_files(models, [str(tmp_path / "a.png")], [], False, tmp_path / "out", ignore)


def test_models_of_runs_are_told_apart(vq: OmniTokenizer, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", drawn_image(64, 1))
    two = Models({"runs/a/model": vq, "runs/b/model": vq}, {})
    made = compare_files(two, [str(tmp_path / "a.png")], list(two.tokenizers), False, tmp_path / "out", ignore)
    ((_, rows),) = made.tables
    assert [row[0] for row in rows] == ["a", "b"]
