import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.processes import in_process_group, on_two_processes
from omnitok.models.bottlenecks import (
    DiagonalGaussian,
    GaussianPosterior,
    KLConfig,
    RVQConfig,
    VectorQuantizer,
    VQConfig,
    build_bottleneck,
)
from omnitok.models.tokenizer import OmniTokenizer

WIDTH, DIM, SIZE = 12, 4, 32


@pytest.fixture
def features() -> Tensor:
    return torch.randn(2, 3, 4, 5, WIDTH)


def quantizer(**options: object) -> VectorQuantizer:
    return VectorQuantizer(WIDTH, VQConfig(latent_channels=DIM, codebook_size=SIZE, **options))


def initialised(**options: object) -> VectorQuantizer:
    vq = quantizer(**options)
    vq.initialised.fill_(True)
    return vq


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_state(module: torch.nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def codebook_moved(vq: VectorQuantizer, before: dict[str, Tensor]) -> bool:
    return not torch.equal(vq.codebook, before["codebook"])


# ------------------------------------------------------------------------------------------------ vector quantizer


def test_lookup_of_the_codes_is_the_latents(features: Tensor) -> None:
    vq = quantizer()
    for out in (vq.encode(features), vq.eval()(features)):
        assert out.codes.shape == (2, 3, 4, 5)
        assert out.codes.dtype == torch.int64
        assert torch.equal(vq.lookup(out.codes), out.latents)
        assert out.posterior is None


@pytest.mark.parametrize("scale", (1.0, 3.0))
def test_nearest_is_brute_force(scale: float) -> None:
    """Also for a table off the unit sphere, as the released one is, and over several chunks."""
    vq = quantizer()
    vq.codebook.mul_(torch.rand(SIZE, 1) * scale)
    z = torch.randn(1000, DIM)
    distances = torch.cdist(z.double(), vq.codebook.double())
    for chunk in (4096, 7):
        codes = vq.nearest(z, chunk)
        best = distances.min(dim=1).values
        assert (distances.gather(1, codes[:, None])[:, 0] - best).max() <= 1e-6
    assert vq.nearest(z[:0]).shape == (0,)


def test_features_are_put_on_the_unit_sphere(features: Tensor) -> None:
    vq = quantizer()
    z = vq(features, quantize=False).latents
    assert torch.allclose(z.norm(dim=-1), torch.ones(2, 3, 4, 5), atol=1e-6)
    assert torch.allclose(z, F.normalize(vq.project_in(features), dim=-1))


@pytest.mark.parametrize("training", (True, False))
def test_encode_changes_no_state(features: Tensor, training: bool) -> None:
    vq = quantizer().train(training)
    before = state(vq)
    vq.encode(features)
    assert same_state(vq, before)


def test_initialisation_and_updates_in_training_alone(features: Tensor) -> None:
    vq = quantizer()
    before = state(vq)
    vq.eval()(features)
    vq.train()(features, quantize=False)
    assert same_state(vq, before)
    vq(features)
    assert bool(vq.initialised)
    assert codebook_moved(vq, before)


def test_initialisation_is_from_the_batch_and_once(features: Tensor) -> None:
    vq = quantizer(restart_threshold=0.0)
    flat = vq(features, quantize=False).latents.detach().reshape(-1, DIM)
    vq._initialise(flat, [torch.Generator().manual_seed(i) for i in range(2)])
    nearest = torch.cdist(vq.codebook, flat).min(dim=1)
    assert nearest.values.max() < 0.02  # jitter of 1e-3 apart, rows of the batch
    assert nearest.indices.unique().numel() == SIZE  # 120 rows for 32 codes: all distinct
    before = state(vq)
    vq.train()(features)
    change = (vq.codebook - before["codebook"]).norm(dim=-1).max()
    assert change < 0.05  # a step of the moving average, not a new table


def test_fewer_features_than_codes() -> None:
    vq = quantizer().train()
    out = vq(torch.randn(1, 1, 1, 3, WIDTH))
    assert out.latents.isfinite().all()
    assert vq.codebook.isfinite().all()
    assert vq.codebook.unique(dim=0).shape[0] == SIZE


@pytest.mark.parametrize("normalize_codes", (True, False))
def test_moving_averages_in_closed_form(features: Tensor, normalize_codes: bool) -> None:
    """After n batches N = d^n N_0 + (1 - d) sum_i d^(n - 1 - i) count_i, the sums likewise, codes their quotient."""
    decay, steps = 0.9, 3
    vq = initialised(decay=decay, normalize_codes=normalize_codes, restart_threshold=0.0).train()
    z = vq(features, quantize=False).latents.detach().reshape(-1, DIM)
    size, total = decay**steps * vq.cluster_size, decay**steps * vq.cluster_sum
    for i in range(steps):
        one_hot = F.one_hot(vq(features).codes.flatten(), SIZE).float()
        weight = (1 - decay) * decay ** (steps - 1 - i)
        size, total = size + weight * one_hot.sum(dim=0), total + weight * one_hot.T @ z
    assert torch.allclose(vq.cluster_size, size, atol=1e-5)
    assert torch.allclose(vq.cluster_sum, total, atol=1e-5)
    expected = total / size[:, None]
    assert torch.allclose(vq.codebook, F.normalize(expected, dim=-1) if normalize_codes else expected, atol=1e-5)


def test_dead_codes_are_moved_onto_features(features: Tensor) -> None:
    vq = initialised(restart_threshold=0.1)
    vq.cluster_size[5] = 1e-6
    eval_before = state(vq)
    vq.eval()(features)
    assert same_state(vq, eval_before)
    flat = vq(features, quantize=False).latents.detach().reshape(-1, DIM)
    away = -flat.mean(dim=0)
    vq.codebook[5] = vq.cluster_sum[5] = 10 * away  # nothing is nearest to it
    vq.train()(features)
    assert torch.cdist(vq.codebook[5:6], flat).min() < 0.02
    assert vq.cluster_size[5] > 0.1 * vq.cluster_size.mean()
    off = initialised(restart_threshold=0.0).train()
    off.cluster_size[5] = 1e-6
    off.codebook[5] = off.cluster_sum[5] = 10 * away
    off(features)
    assert off.cluster_size[5] < 1e-5


def test_codebook_learns_clusters() -> None:
    """On features of four directions, sixteen codes find all, though the first batch has only one."""
    vq = VectorQuantizer(WIDTH, VQConfig(latent_channels=DIM, codebook_size=16, decay=0.8)).train()
    centres = F.normalize(torch.randn(4, WIDTH), dim=-1)
    vq(centres[0].expand(1, 1, 8, 8, WIDTH))
    for _ in range(60):
        x = centres[torch.randint(4, (1, 1, 8, 8))] + 0.01 * torch.randn(1, 1, 8, 8, WIDTH)
        out = vq(x)
    assert out.codes.unique().numel() >= 4
    assert out.losses["commitment"] < 1e-3


def test_gradient_passes_straight_through(features: Tensor) -> None:
    vq = initialised().train()
    x, weight = features.clone().requires_grad_(), torch.randn(2, 3, 4, 5, DIM)
    (through,) = torch.autograd.grad((vq(x).latents * weight).sum(), x)
    (plain,) = torch.autograd.grad((F.normalize(vq.project_in(x), dim=-1) * weight).sum(), x)
    assert torch.allclose(through, plain, atol=1e-6)
    assert not vq.codebook.requires_grad


def test_commitment_and_statistics(features: Tensor) -> None:
    vq = initialised().train()
    before = state(vq)
    out = vq(features)
    z = F.normalize(vq.project_in(features), dim=-1)
    assert torch.allclose(out.losses["commitment"], (z - before["codebook"][out.codes]).square().mean())
    counts = torch.bincount(out.codes.flatten(), minlength=SIZE).float()
    assert torch.allclose(out.statistics["codebook_usage"], (counts > 0).float().mean())
    p = counts[counts > 0] / counts.sum()
    assert torch.allclose(out.statistics["codebook_perplexity"], (-(p * p.log()).sum()).exp())
    assert vq.eval()(features).statistics == {}


def test_buffers_survive_a_round_trip(features: Tensor) -> None:
    vq = quantizer().train()
    vq(features)
    other = quantizer()
    other.load_state_dict(vq.state_dict())
    assert same_state(other, state(vq))
    assert bool(other.initialised)
    twin = copy.deepcopy(vq)
    for each in (vq, twin):  # and the next step is the same: nothing is initialised from data again
        torch.manual_seed(1)
        each(features)
    assert same_state(twin, state(vq))


def test_two_processes_share_their_codebooks(tmp_path: Path) -> None:
    """Equal to one process with the joined batch, also with initialisation from data and restarts."""
    torch.manual_seed(0)
    vq = initialised(restart_threshold=0.0).train()
    batches = [torch.randn(4, 1, 2, 5, WIDTH) for _ in range(3)]
    batches[0] = batches[0][:, :, :1, :3]  # 12 rows for 32 codes
    levels = RVQConfig(latent_channels=DIM, codebook_sizes=(16, 8))
    rvq = build_bottleneck(WIDTH, levels).train()
    runs = {"plain": (True, 0.0), "data": (False, 0.3)}  # whether it is initialised, and its threshold

    def prepare(run: str) -> None:
        vq.initialised.fill_(runs[run][0])
        vq.config = VQConfig(latent_channels=DIM, codebook_size=SIZE, restart_threshold=runs[run][1])

    def share(rank: int) -> None:
        torch.manual_seed(100 + rank)
        for run in runs:
            prepare(run)
            for i, batch in enumerate(batches):
                vq(batch[rank::2], seeds=[10 * i + rank, 10 * i + rank + 2])
            torch.save(vq.state_dict(), tmp_path / f"{run}{rank}.pt")
        for i, batch in enumerate(batches):
            rvq(batch[rank::2], seeds=[10 * i + rank, 10 * i + rank + 2])
        torch.save(rvq.state_dict(), tmp_path / f"levels{rank}.pt")

    on_two_processes(in_process_group(share))
    joined = {}
    for run in runs:
        prepare(run)
        for i, batch in enumerate(batches):
            torch.manual_seed(7 if run == "plain" else 8)  # not what decides
            vq(batch, seeds=[10 * i + j for j in range(4)])
        joined[run] = state(vq)
    for i, batch in enumerate(batches):
        rvq(batch, seeds=[10 * i + j for j in range(4)])
    joined["levels"] = state(rvq)
    for run, expected in joined.items():
        first, second = (torch.load(tmp_path / f"{run}{rank}.pt") for rank in (0, 1))
        for name, tensor in expected.items():
            assert torch.equal(first[name], second[name])
            assert torch.allclose(first[name].float(), tensor.float(), atol=1e-6), name
    assert not torch.equal(joined["data"]["codebook"], joined["plain"]["codebook"])


def test_restarts_follow_the_seeds_of_the_samples_and_nothing_else(features: Tensor) -> None:
    vq = quantizer(restart_threshold=1.0).train()
    books = []
    for order, seeds in (([0, 1], [3, 4]), ([1, 0], [4, 3]), ([0, 1], [3, 5])):
        other = copy.deepcopy(vq)
        for _ in range(2):
            other(features[order], seeds=seeds)
        books.append(other.codebook)
    assert torch.allclose(books[0], books[1], atol=1e-6)
    assert not torch.allclose(books[0], books[2], atol=1e-2)
    for bottleneck in (vq, DiagonalGaussian(WIDTH, KLConfig(latent_channels=DIM)).train()):
        with pytest.raises(ValueError, match=r"batch of 2.*found 3"):
            bottleneck(features, seeds=[1, 2, 3])


def test_noise_follows_the_seeds_of_the_samples(features: Tensor) -> None:
    kl = DiagonalGaussian(WIDTH, KLConfig(latent_channels=DIM)).train()
    latents = kl(features, seeds=[3, 4]).latents
    assert torch.equal(kl(features.flip(0), seeds=[4, 3]).latents.flip(0), latents)
    assert torch.allclose(kl(features[1:], seeds=[4]).latents, latents[1:], atol=1e-6)
    assert not torch.allclose(kl(features, seeds=[3, 5]).latents[1], latents[1], atol=1e-2)
    assert not torch.equal(kl(features).latents, kl(features).latents)


# ------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("make", (quantizer, lambda: DiagonalGaussian(WIDTH, KLConfig())), ids=("vq", "kl"))
def test_float32_whatever_surrounds_it(make: Callable[[], torch.nn.Module], features: Tensor) -> None:
    bottleneck = make().eval()
    expected = bottleneck.encode(features.bfloat16().float())
    for cast in (bottleneck.to(torch.bfloat16), bottleneck.half(), bottleneck.double()):
        tensors = [tensor for tensor in cast.state_dict().values() if tensor.is_floating_point()]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
    out = bottleneck.encode(features.bfloat16())
    assert torch.equal(out.latents, expected.latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for out in (bottleneck.encode(features.bfloat16()), bottleneck(features.bfloat16())):
            assert out.latents.dtype == torch.float32
            assert torch.equal(out.latents, expected.latents)
        assert bottleneck.decode(expected.latents).dtype == torch.float32
        assert all(loss.dtype == torch.float32 for loss in bottleneck.train()(features).losses.values())


def test_float32_in_a_tokenizer(fresh: Callable[..., OmniTokenizer]) -> None:
    tok = fresh().to(torch.bfloat16)
    assert tok.dtype == torch.bfloat16
    assert tok.bottleneck.codebook.dtype == torch.float32
    assert tok.encode(torch.zeros(1, 3, 4, 4)).latents.dtype == torch.float32
    assert tok(torch.zeros(1, 3, 4, 4).bfloat16()).dtype == torch.bfloat16
    assert fresh().to("meta").bottleneck.codebook.is_meta


# ------------------------------------------------------------------------------------------------ diagonal Gaussian


def test_kl_is_that_of_torch_distributions() -> None:
    mean, logvar = torch.randn(3, 4, 2, 5, 5), torch.randn(3, 4, 2, 5, 5)
    ours = GaussianPosterior(mean, logvar).kl()
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)).flatten(1).sum(dim=1)
    assert ours.shape == (3,)
    assert torch.allclose(ours, theirs, rtol=1e-4)
    assert torch.equal(GaussianPosterior(torch.zeros(1, 4), torch.zeros(1, 4)).kl(), torch.zeros(1))


def test_posterior_samples() -> None:
    posterior = GaussianPosterior(
        torch.full((1, 20_000), 2.0), torch.full((1, 20_000), 2 * torch.tensor(0.5).log().item())
    )
    draw = posterior.sample(torch.Generator().manual_seed(3))
    assert torch.equal(draw, posterior.sample(torch.Generator().manual_seed(3)))
    assert not torch.equal(draw, posterior.sample(torch.Generator().manual_seed(4)))
    assert draw.mean().item() == pytest.approx(2.0, abs=0.02)
    assert draw.std().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(posterior.mode(), posterior.mean)


def test_gaussian_bottleneck(features: Tensor) -> None:
    kl = DiagonalGaussian(WIDTH, KLConfig(latent_channels=DIM))
    mean, logvar = kl.project_in(features).chunk(2, dim=-1)
    out = kl.encode(features)
    assert out.codes is None
    assert torch.equal(out.latents, mean)
    assert torch.equal(out.posterior.logvar, logvar)
    assert torch.equal(kl.eval()(features).latents, mean)
    sampled = kl.train()(features)
    assert not torch.equal(sampled.latents, mean)
    assert torch.allclose(sampled.losses["kl"], out.posterior.kl().mean())
    with torch.no_grad():
        kl.project_in.bias[DIM:] = torch.tensor([1000.0, -1000.0, 0, 0])
    clamped = kl.encode(features).posterior.logvar
    assert (clamped[..., 0] == 20).all()
    assert (clamped[..., 1] == -30).all()
    assert kl.train()(features).losses["kl"].isfinite()


# ------------------------------------------------------------------------------------------------ bottleneck as a part


def test_swapping_the_bottleneck_keeps_the_rest(tiny: Callable[..., OmniTokenizer]) -> None:
    vq = tiny()
    vae = OmniTokenizer(vq.encoder, DiagonalGaussian(16, KLConfig(latent_channels=6)), vq.decoder).eval()
    assert vae.config.bottleneck == KLConfig(latent_channels=6)
    assert vae.encoder is vq.encoder
    assert vae.decoder is vq.decoder
    assert replace(vae.config, bottleneck=vq.config.bottleneck) == vq.config
    x = torch.rand(1, 3, 3, 8, 8) - 0.5
    assert vae.encode(x).latents.shape == (1, 6, 2, 2, 2)
    assert vae(x).shape == x.shape
    back = OmniTokenizer(vae.encoder, vq.bottleneck, vae.decoder)
    assert back.config == vq.config
    assert torch.equal(back.encode(x).codes, vq.encode(x).codes)
    with pytest.raises(ValueError, match=r"width.* 16 .*8"):
        OmniTokenizer(vq.encoder, DiagonalGaussian(8, KLConfig(latent_channels=6)), vq.decoder)


@pytest.mark.parametrize("codes", [64, 128, 200, 1024])
def test_nearest_is_the_plain_argmin_also_of_ties_and_for_any_chunk(codes: int) -> None:
    quantizer = VectorQuantizer(16, VQConfig(latent_channels=4, codebook_size=codes))
    torch.manual_seed(0)
    quantizer.codebook.copy_(F.normalize(torch.randn(codes, 4), dim=-1))
    quantizer.codebook[codes // 2 :] = quantizer.codebook[: codes - codes // 2].clone()  # every code twice
    z = F.normalize(torch.randn(300, 4), dim=-1)
    plain = torch.addmm(0.5 * quantizer.codebook.square().sum(-1), z, quantizer.codebook.t(), alpha=-1.0).argmin(-1)
    assert plain.max() < codes - codes // 2 + 1
    for chunk in (None, 1, 7, 4096):
        found = quantizer.nearest(z, chunk)
        torch.testing.assert_close(quantizer.codebook[found], quantizer.codebook[plain])
        assert torch.equal(found, plain)
