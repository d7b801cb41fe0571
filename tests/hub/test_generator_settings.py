"""The facts beside a generator's weights."""

import dataclasses
import json

import pytest

from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.sampling import Sampling


def test_values_are_kept_and_frozen():
    settings = GeneratorSettings("omnitok-tiny-vq", classes=["cat", "dog"], sampling={"guidance_scale": 2.5})
    assert settings.sampling == Sampling(guidance_scale=2.5)
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
        ("sampling", {"top_k": 3, "sampler": "ddim"}),
        ("sampling", {"sharpness": 3}),
        ("sampling", {"guidance_interval": 0.5}),
        ("sampling", {"guidance_interval": [0.5, 0.25]}),
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
