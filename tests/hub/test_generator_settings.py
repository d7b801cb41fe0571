"""The facts beside a generator's weights."""

import dataclasses
import json

import pytest

from omnitok.hub.generator_settings import GeneratorSettings


def test_values_are_kept_and_frozen():
    sampling = {"guidance_scale": 2.5, "top_k": None, "sampler": "euler"}
    settings = GeneratorSettings("omnitok-tiny-vq", classes=["cat", "dog"], sampling=sampling)
    sampling["guidance_scale"] = 1.0
    interval = GeneratorSettings("omnitok-tiny-vq", sampling={"guidance_interval": [0, 0.5]})  # as JSON gives it
    assert interval.sampling["guidance_interval"] == (0.0, 0.5)
    assert settings.sampling["guidance_scale"] == 2.5
    assert settings.sampling_of(clips=True) == settings.sampling_of(clips=False) == settings.sampling
    both = dataclasses.replace(settings, sampling={"guidance_scale": 4.0, "clip_guidance_scale": 1.5, "steps": 3})
    assert both.sampling_of(clips=False) == {"guidance_scale": 4.0, "steps": 3}
    assert both.sampling_of(clips=True) == {"guidance_scale": 1.5, "steps": 3}
    assert settings.classes == ("cat", "dog")
    assert settings.label_of("dog") == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.height = 3
    assert dataclasses.replace(settings, height=64).sampling == settings.sampling
    assert GeneratorSettings(**json.loads(json.dumps(dataclasses.asdict(settings)))) == settings


@pytest.mark.parametrize(
    "field, value",
    [
        ("tokenizer", ""),
        ("tokenizer_sha256", "abc"),
        ("classes", ("cat", "cat")),
        ("classes", ("",)),
        ("height", 0),
        ("width", True),
        ("num_frames", 1.5),
        ("sampling", {"top_k": float("nan")}),
        ("sampling", {"top_k": [1]}),
        ("sampling", {"guidance_interval": 0.5}),
        ("sampling", {"guidance_interval": [0.5, 0.25]}),
        ("sampling", {"guidance_interval": [0, "1"]}),
        ("fps", 0.0),
        ("latent_scale", 0.0),
        ("latent_scale", float("inf")),
    ],
)
def test_senseless_values_are_named(field: str, value: object):
    with pytest.raises(ValueError, match=field):
        GeneratorSettings(**({"tokenizer": "x"} | {field: value}))


def test_unknown_class_lists_known_ones():
    with pytest.raises(ValueError, match=r"unknown class 'cow'; known are cat, dog"):
        GeneratorSettings("x", classes=("cat", "dog")).label_of("cow")
    with pytest.raises(ValueError, match="no names"):
        GeneratorSettings("x").label_of("cow")
