"""What all quantizers must hold, and lookup-free, spherical, residual and product quantization against others' code."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.losses.objective import entropy_loss
from omnitok.models.bottlenecks import (
    BOTTLENECKS,
    BinarySphericalQuantizer,
    BSQConfig,
    FSQConfig,
    LFQConfig,
    LookupFreeQuantizer,
    ProductQuantizer,
    PVQConfig,
    ResidualVectorQuantizer,
    RVQConfig,
    SimpleVectorQuantizer,
    SimVQConfig,
    VectorQuantizer,
    VQConfig,
    build_bottleneck,
)
from omnitok.models.bottlenecks.base import Quantizer, digits, from_digits, group_bases
from omnitok.models.tokenizer import OmniTokenizer

WIDTH = 12
CONFIGS = (
    VQConfig(latent_channels=4, codebook_size=64),
    FSQConfig(levels=(4, 4, 4)),
    LFQConfig(bits=6, group_bits=4),
    BSQConfig(bits=6, group_bits=4),
    RVQConfig(latent_channels=4, codebook_sizes=(8, 4, 2)),
    PVQConfig(latent_channels=4, codebook_sizes=(16, 4)),
    SimVQConfig(latent_channels=4, codebook_size=64),
)
every_quantizer = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type)
Make = Callable[..., OmniTokenizer]


@every_quantizer
def test_codes_are_made_of_digits(config: Any) -> None:
    bottleneck = build_bottleneck(WIDTH, config)
    bases = bottleneck.code_bases
    assert math.prod(bases) == bottleneck.vocab_size == 64
    codes = torch.arange(64)
    assert torch.equal(from_digits(digits(codes, bases), bases), codes)
    if len(bases) > 1 and config.type != "rvq":  # the digits have channels of their own
        latents = bottleneck.lookup(codes)
        same_first = latents[codes % bases[0] == 0]
        assert torch.equal(same_first[:, :1], same_first[:1, :1].expand(len(same_first), 1))


def test_digits_are_grouped() -> None:
    assert group_bases((2,) * 7, 4) == (4, 4, 4, 2)
    assert group_bases((70, 2), 64) == (70, 2)  # what is larger by itself stays so
    assert group_bases((30,), 4) == (30,)


@pytest.fixture
def features() -> Tensor:
    return torch.randn(2, 3, 4, 5, WIDTH)


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("vector_quantize_pytorch")


def quantizer(config: Any) -> Any:
    return build_bottleneck(WIDTH, config)


def test_these_are_all() -> None:
    assert {config.type for config in CONFIGS} == {kind for kind, (c, _) in BOTTLENECKS.items() if c.is_discrete}


# ------------------------------------------------------------------------------------------------------ of every kind


@every_quantizer
def test_codes_are_their_latents(config: Any, features: Tensor) -> None:
    q = quantizer(config)
    assert isinstance(q, Quantizer)
    assert (q.vocab_size, q.bits_per_token) == (64, pytest.approx(6))
    every = torch.arange(64)
    vectors = q.lookup(every)
    assert vectors.shape == (64, config.latent_channels)
    if config.type != "rvq":  # there another sum may be nearer than the one found greedily
        assert torch.equal(q.codes_of(vectors), every)
    for out in (q.encode(features), q.eval()(features), q.train()(features)):
        assert out.codes.shape == (2, 3, 4, 5)
        assert out.codes.dtype == torch.int64
        assert 0 <= out.codes.min() <= out.codes.max() < 64
    out = q.eval()(features)
    assert torch.equal(q.lookup(out.codes), out.latents)
    assert q.decode(out.latents).shape == features.shape
    empty = q.encode(features[:, :0])  # what a stream asks before a frame is whole
    assert (empty.codes.shape, empty.latents.shape) == ((2, 0, 4, 5), (2, 0, 4, 5, config.latent_channels))


@every_quantizer
def test_gradient_passes_straight_through(config: Any, features: Tensor) -> None:
    q, weight = quantizer(config).train(), torch.randn(2, 3, 4, 5, config.latent_channels)
    x = features.requires_grad_()
    out = q(x, seeds=[1, 2])
    (through,) = torch.autograd.grad((out.latents * weight).sum(), x)
    (plain,) = torch.autograd.grad((q(x, quantize=False).latents * weight).sum(), x)
    assert torch.allclose(through, plain, atol=1e-6)
    assert set(out.losses) == {"commitment"} & set(config.losses)
    assert torch.equal(out.unquantized, q(x, quantize=False).latents)


@every_quantizer
def test_only_training_learns_and_in_float32(config: Any, features: Tensor) -> None:
    q = quantizer(config).to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    expected = q.eval().encode(features.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for out in (q.encode(features.bfloat16()), q(features.bfloat16()), q.train().encode(features.bfloat16())):
            assert torch.equal(out.latents, expected.latents)
        assert torch.equal(q.lookup(expected.codes), expected.latents)
        assert all(loss.dtype == torch.float32 for loss in q(features.bfloat16(), quantize=False).losses.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in q.state_dict().items())
    assert {tensor.dtype for tensor in q.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    statistics = q(features).statistics
    assert bool(statistics) == any(not torch.equal(tensor, before[name]) for name, tensor in q.state_dict().items())


@every_quantizer
def test_similarities_are_largest_at_the_code(config: Any, features: Tensor) -> None:
    if "entropy" not in config.losses:
        return
    q = quantizer(config).eval()
    z = q.project(features).flatten(0, -2)
    scores = q.similarities(z)
    assert math.prod(score.shape[1] for score in scores) == 64
    code, place = torch.zeros(len(z), dtype=torch.int64), 1
    for score in scores:
        code, place = code + place * score.argmax(dim=1), place * score.shape[1]
    assert torch.equal(code, q.codes_of(z))
    if config.type not in ("rvq",):  # the distance of the whole is the sum of its parts'
        total = sum(score.amax(dim=1) for score in scores)
        assert torch.allclose(total, -(z - q.lookup(code)).square().sum(dim=1), atol=1e-5)


@every_quantizer
def test_kept_codes_take_the_place_of_the_nearest(config: Any) -> None:
    bottleneck = build_bottleneck(WIDTH, config).train()
    features = torch.randn(3, 2, 3, 3, WIDTH, requires_grad=True)
    kept = {1: torch.arange(18).reshape(2, 3, 3)}
    out = bottleneck(features, seeds=[0, 1, 2], kept=kept)
    assert torch.equal(out.codes[1], kept[1])
    own = bottleneck.codes_of(out.unquantized)
    assert torch.equal(out.codes[::2], own[::2]) or config.type in ("vq", "rvq", "pvq")  # whose rows have moved since
    torch.testing.assert_close(out.latents, bottleneck.lookup(out.codes), atol=1e-6, rtol=0)
    gradient = torch.autograd.grad(out.latents.square().sum(), features, retain_graph=True)[0].flatten(1).abs().amax(1)
    assert gradient[1] == 0
    assert gradient[::2].all()
    if "commitment" in out.losses and config.type != "simvq":
        distance = F.mse_loss(out.unquantized, bottleneck.lookup(out.codes))
        torch.testing.assert_close(out.losses["commitment"], distance)
        pull = torch.autograd.grad(out.losses["commitment"], features)[0].flatten(1).abs().amax(1)
        assert pull[1] > 0


@every_quantizer
def test_a_tokenizer_learns_streams_and_tokenizes(config: Any, fresh: Make, pixels: Callable[..., Tensor]) -> None:
    tok = fresh(bottleneck=config).requires_grad_(True).train()
    ramp = torch.linspace(-1, 1, 16)
    x = torch.stack([(a * ramp[:, None] + b * ramp).sin() for a, b in ((2, 1), (0, 3), (-3, 2), (1, -1))])
    x = x[:, None].repeat(1, 3, 1, 1)
    optimizer = torch.optim.Adam(tok.parameters(), lr=5e-3)
    losses = []
    for step in range(25):
        out = tok.autoencode(x, seeds=[4 * step + i for i in range(4)])
        losses.append(F.mse_loss(out.reconstruction, x))
        (losses[-1] + 0.25 * sum(out.bottleneck.losses.values())).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5]), (sum(losses[-5:]), sum(losses[:5]))
    tok.eval().requires_grad_(False)
    video = pixels(2, 3, 7, 9, 6)
    whole = tok.encode(video)
    assert torch.equal(tok.lookup_codes(whole.codes).permute(0, 4, 1, 2, 3), whole.latents)
    assert torch.equal(tok.encode(video[:, :, 0]).codes, tok.encode(video[:, :, :1]).codes[:, 0])
    stream = tok.encoder_stream()
    parts = [stream.push(video[:, :, :2]), stream.push(video[:, :, 2:]), stream.flush()]
    agree = torch.cat([part.codes for part in parts], dim=1) == whole.codes
    assert agree.float().mean() > 0.97  # sums in another order may cross from one code to the next
    decoder = tok.decoder_stream(whole.size)
    frames = torch.cat([decoder.push(whole.codes[:, :2]), decoder.push(whole.codes[:, 2:]), decoder.flush()], dim=2)
    torch.testing.assert_close(frames, tok.decode_codes(whole.codes, whole.size), atol=1e-5, rtol=0)
    assert dataclasses.replace(tok.config) == tok.config  # the settings of files


# ---------------------------------------------------------------------------------------------------- each by itself


@pytest.mark.parametrize("kind, config", [(LookupFreeQuantizer, LFQConfig), (BinarySphericalQuantizer, BSQConfig)])
def test_signs_and_their_losses_are_those_of_vector_quantize_pytorch(
    kind: type[LookupFreeQuantizer], config: Any, theirs: ModuleType, features: Tensor
) -> None:
    """Their first channel is the highest bit, the paper's (eq. 4) and ours the lowest."""
    bits = 7
    other = theirs.LFQ(dim=bits, codebook_size=2**bits, spherical=kind is BinarySphericalQuantizer).train()
    other.commitment_loss_weight = 1.0
    q = kind(WIDTH, config(bits=bits, group_bits=bits)).train()
    flat = q.project_in(features).reshape(1, -1, bits)
    (latents, codes, _), (of_samples, of_mean, commitment) = other(flat.flip(-1), return_loss_breakdown=True)
    out = q(features)
    assert torch.equal(out.codes.flatten(), codes.flatten().long())
    torch.testing.assert_close(out.latents.reshape(1, -1, bits), latents.flip(-1))
    torch.testing.assert_close(out.losses["commitment"], commitment)
    every = torch.arange(2**bits)
    torch.testing.assert_close(q.lookup(every), other.indices_to_codes(every[None])[0].flip(-1))
    (scores,) = q.similarities(out.unquantized.flatten(0, -2))
    # They leave out terms of the entropy whose probability is below 1e-5.
    assert entropy_loss(scores, 0.01, diversity=0.0).item() == pytest.approx(of_samples.item(), abs=1e-3)
    assert entropy_loss(scores, 0.01).item() == pytest.approx((of_samples - of_mean).item(), abs=1e-3)


@pytest.mark.parametrize("config", [LFQConfig, BSQConfig])
def test_groups_of_bits_leave_the_entropy_of_a_position_as_it_is(config: Any, features: Tensor) -> None:
    """Of independent bits it is the sum of theirs; the entropy of the mean is bounded by the sum over groups."""
    whole = quantizer(config(bits=6, group_bits=6))
    z = whole.project(features).flatten(0, -2)
    of_samples, both = (entropy_loss(whole.similarities(z)[0], 0.5, diversity) for diversity in (0.0, 1.0))
    for group_bits, groups in ((4, 2), (1, 6)):
        parts = quantizer(config(bits=6, group_bits=group_bits)).similarities(z)
        assert len(parts) == groups
        torch.testing.assert_close(sum(entropy_loss(part, 0.5, 0.0) for part in parts), of_samples)
        assert sum(entropy_loss(part, 0.5) for part in parts) <= both + 1e-5


def test_the_entropy_loss_brings_codes_into_use() -> None:
    """Of features that differ little, few signs differ; the loss spreads them."""
    q = LookupFreeQuantizer(WIDTH, LFQConfig(bits=6, group_bits=3)).train()
    x = torch.randn(WIDTH) + 0.2 * torch.randn(16, 1, 4, 4, WIDTH)
    before = q(x).codes.unique().numel()
    optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
    for _ in range(60):
        z = q(x).unquantized.flatten(0, -2)
        torch.stack([entropy_loss(scores, 1.0) for scores in q.similarities(z)]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert q(x).codes.unique().numel() > max(30, 2 * before)


def test_residuals_are_those_of_vector_quantize_pytorch(theirs: ModuleType, features: Tensor) -> None:
    sizes, c = (16, 8, 4), 6
    q = ResidualVectorQuantizer(WIDTH, RVQConfig(latent_channels=c, codebook_sizes=sizes)).eval()
    other = theirs.ResidualVQ(dim=c, codebook_size=sizes, kmeans_init=False, rotation_trick=False)
    for book, layer in zip(q.books, other.layers, strict=True):
        layer._codebook.embed.copy_(book.codebook[None])
    z = q.project(features)
    latents, codes, commitment = other.train()(z.reshape(1, -1, c), freeze_codebook=True)
    out = q(features)
    places = torch.tensor([1, 16, 16 * 8])
    assert torch.equal(out.codes.flatten(), (codes.long() * places).sum(dim=-1).flatten())
    torch.testing.assert_close(out.latents.reshape(1, -1, c), latents)
    torch.testing.assert_close(out.losses["commitment"], commitment.sum())  # with their weight of 1 for each layer
    every = torch.arange(q.vocab_size)
    digits = torch.stack([every % 16, every // 16 % 8, every // 128], dim=-1)
    torch.testing.assert_close(q.lookup(every), other.get_output_from_indices(digits[None])[0])


def test_groups_are_those_of_vector_quantize_pytorch(theirs: ModuleType, features: Tensor) -> None:
    """Theirs with a codebook per head; the commitment agrees because groups are equally wide."""
    q = ProductQuantizer(WIDTH, PVQConfig(latent_channels=6, codebook_sizes=(8, 8))).eval()
    other = theirs.VectorQuantize(
        dim=6, codebook_dim=3, heads=2, separate_codebook_per_head=True, codebook_size=8, rotation_trick=False
    )
    other._codebook.embed.copy_(torch.stack([book.codebook for book in q.books]))
    z = q.project(features)
    assert torch.allclose(z.unflatten(-1, (2, 3)).norm(dim=-1), torch.tensor(1.0))
    latents, codes, commitment = other.train()(z.reshape(1, -1, 6), freeze_codebook=True)
    out = q(features)
    assert torch.equal(out.codes.flatten(), (codes.long() * torch.tensor([1, 8])).sum(dim=-1).flatten())
    torch.testing.assert_close(out.latents.reshape(1, -1, 6), latents)
    torch.testing.assert_close(out.losses["commitment"], commitment.sum())


def test_mapped_codes_are_those_of_vector_quantize_pytorch(theirs: ModuleType, features: Tensor) -> None:
    q = SimpleVectorQuantizer(WIDTH, SimVQConfig(latent_channels=6, codebook_size=32)).train()
    other = theirs.SimVQ(dim=6, codebook_size=32, rotation_trick=False)
    other.load_state_dict({"frozen_codebook": q.frozen_codebook, "code_transform.weight": q.code_map.weight})
    latents, codes, loss = other(q.project(features).reshape(1, -1, 6))
    out = q(features)
    assert torch.equal(out.codes.flatten(), codes.flatten())
    torch.testing.assert_close(out.latents.reshape(1, -1, 6), latents)
    torch.testing.assert_close(out.losses["commitment"], loss)
    before = q.lookup(torch.arange(32)).detach()
    out.losses["commitment"].backward()
    with torch.no_grad():
        q.code_map.weight -= 0.1 * q.code_map.weight.grad
    assert ((q.lookup(torch.arange(32)) - before).norm(dim=-1) > 0).all()  # also those that nothing is assigned to


@pytest.mark.parametrize("config", [RVQConfig, PVQConfig])
def test_one_codebook_is_vector_quantization(config: Any, features: Tensor) -> None:
    """Also in training; a residual codebook is not normalised, and its rows start off the sphere by their jitter."""
    q = quantizer(config(latent_channels=4, codebook_sizes=(32,))).train()
    normalize = config is PVQConfig
    vq = VectorQuantizer(WIDTH, VQConfig(latent_channels=4, codebook_size=32, normalize_codes=normalize)).train()
    vq.load_state_dict({name.removeprefix("books.0."): tensor for name, tensor in q.state_dict().items()})
    for step in range(3):
        ours, plain = (each(features + step, seeds=[2 * step, 2 * step + 1]) for each in (q, vq))
        tolerance = 0.0 if normalize else 0.02
        assert (ours.codes == plain.codes).float().mean() > 0.95
        torch.testing.assert_close(ours.latents, plain.latents, atol=tolerance + 1e-6, rtol=0)
        assert {f"{name}_0" for name in plain.statistics} == set(ours.statistics)


def test_more_levels_leave_less_over(features: Tensor) -> None:
    errors = []
    for levels in (1, 2, 3):
        torch.manual_seed(0)
        q = quantizer(RVQConfig(latent_channels=4, codebook_sizes=(16,) * levels, decay=0.8)).train()
        for step in range(20):
            out = q(features, seeds=[step, step + 100])
        errors.append((out.unquantized - out.latents).square().mean().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize(
    "config, fields, message",
    [
        (LFQConfig, {"bits": 0}, "at least 1, found 0"),
        (BSQConfig, {"bits": 31}, "at most 30, found 31"),
        (SimVQConfig, {"feature_share": -1.0}, "at least 0, found -1"),
        (LFQConfig, {"group_bits": 17}, "at most 16, found 17"),
        (RVQConfig, {"codebook_sizes": (2**16, 2**15)}, "product below 2147483648, found 2147483648"),
        (RVQConfig, {"codebook_sizes": ()}, "at least 1 item"),
        (PVQConfig, {"codebook_sizes": (8, 8, 8)}, "multiple of the 3 groups.*found 8"),
    ],
)
def test_settings_that_make_no_sense(config: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**fields)
