"""Options of a draw: what each accepts, and which of several sources counts."""

import math

import pytest

from omnitok.models.sampling import DiffusionSampling, Sampling, TokenSampling, choose_sampling, narrow, read_sampling


@pytest.mark.parametrize(
    "kind, field, value",
    [
        (TokenSampling, "guidance_scale", -1.0),
        (TokenSampling, "guidance_scale", math.inf),
        (TokenSampling, "guidance_scale", "high"),
        (TokenSampling, "guidance_interval", (0.5, 0.2)),
        (TokenSampling, "guidance_interval", (0.5, 2.0)),
        (TokenSampling, "guidance_interval", (0.5,)),
        (TokenSampling, "temperature", -0.1),
        (TokenSampling, "temperature", math.nan),
        (TokenSampling, "top_k", -1),
        (TokenSampling, "top_k", 2.5),
        (TokenSampling, "top_p", 0.0),
        (TokenSampling, "top_p", 1.1),
        (TokenSampling, "steps", 3),
        (DiffusionSampling, "sampler", "plms"),
        (DiffusionSampling, "steps", 0),
        (DiffusionSampling, "steps", 1001),
        (DiffusionSampling, "guided_channels", 0),
        (DiffusionSampling, "eta", 2.0),
        (DiffusionSampling, "spacing", "karras"),
        (DiffusionSampling, "shift", 0.0),
    ],
)
def test_senseless_values_are_named_in_one_sentence(kind: type[Sampling], field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        kind(**{field: value})
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_says_only_what_differs_from_the_defaults_and_is_read_back() -> None:
    for sampling in (Sampling(), TokenSampling(top_k=5), DiffusionSampling(steps=3, guidance_interval=(0, 0.5))):
        found = read_sampling(sampling.chosen())
        assert found.chosen() == sampling.chosen()
        assert narrow(found, type(sampling)) == sampling
    assert TokenSampling(top_k=5.0, top_p=None) == TokenSampling(top_k=5)  # as JSON may give them


def test_the_former_name_of_the_guidance_of_videos() -> None:
    assert read_sampling({"clip_guidance_scale": 1.5, "steps": 3}).video_guidance_scale == 1.5


def test_what_the_caller_gives_counts_before_the_default() -> None:
    default = DiffusionSampling(guidance_scale=4.0, video_guidance_scale=1.5, sampler="euler", steps=25)
    assert choose_sampling(default, {"guidance_scale": None}, is_video=False).guidance_scale == 4
    assert choose_sampling(default, {}, is_video=True).guidance_scale == 1.5
    assert choose_sampling(default, {"guidance_scale": 3.0}, is_video=True).guidance_scale == 3
    assert choose_sampling(default, {"sampler": "euler"}, is_video=False).steps == 25
    assert choose_sampling(default, {"sampler": "heun"}, is_video=False).steps is None  # 25 were for the other
    with pytest.raises(TypeError, match="unknown sampling arguments top_k; accepted are guidance_scale"):
        choose_sampling(default, {"top_k": 3}, is_video=False)
