"""The masked model and its training masks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from omnitok.models.code_sequence import MaskedModelConfig
from omnitok.models.masked_model import CodePatches, MaskedModel, masked_model_losses
from omnitok.models.token_masks import DEFAULT_TASKS, IMAGE_TASKS, draw_hidden, draw_region

CONFIG = MaskedModelConfig(
    codebook_size=11, num_classes=3, latent_frames=3, latent_height=4, latent_width=5, width=24, depth=2, heads=2
)


def build(patch: int = 1) -> MaskedModel:
    torch.manual_seed(0)
    model = MaskedModel(replace(CONFIG, patch=patch)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)  # so that everything has a say
    return model


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 3, 4, 5), (2, 1, 2, 3)])
def test_hidden_codes_are_not_seen_and_known_ones_are_on_both_sides(shape: tuple[int, ...], patch: int) -> None:
    model, labels = build(patch), torch.tensor([0, -1])
    codes = torch.randint(11, shape)
    hidden = torch.zeros(shape, dtype=torch.bool)
    hidden[..., 0, 1] = True
    other = torch.where(hidden, (codes + 1) % 11, codes)
    logits = model(model.ids(codes, labels, hidden), shape[-2:])
    assert logits.shape == (2, codes[0].numel(), 11)
    assert torch.equal(model(model.ids(other, labels, hidden), shape[-2:]), logits)
    for place in (0, -1):  # before and after
        changed = codes.flatten(1).clone()
        changed[:, place] = (changed[:, place] + 1) % 11
        changed_logits = model(model.ids(changed.reshape(shape), labels, hidden), shape[-2:])
        assert ((changed_logits - logits).abs().amax((1, 2)) > 1e-4).all()
    assert not torch.allclose(model(model.ids(codes, torch.tensor([1, 1]), hidden), shape[-2:]), logits)


@pytest.mark.parametrize("patch", [1, 2])
def test_an_image_is_a_video_of_one_frame(patch: int) -> None:
    model, codes = build(patch), torch.randint(11, (2, 4, 5))
    assert torch.equal(model(model.ids(codes)), model(model.ids(codes[:, None])))


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 1)])
def test_patches_are_convolutions_of_their_own_stride(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    patches, (h, w), d = CodePatches(replace(CONFIG, patch=2)), grid, CONFIG.width
    x = torch.randn(2, 1 + 3 * h * w, d)
    joined, coarse = patches.join(x, grid), patches.coarse(grid)
    frames = x[:, 1:].unflatten(1, (3, h, w)).flatten(0, 1).permute(0, 3, 1, 2)
    kernel = patches.join_codes.weight.reshape(d, 2, 2, d).permute(0, 3, 1, 2)
    wanted = F.conv2d(F.pad(frames, (0, w % 2, 0, h % 2)), kernel, stride=2)
    assert coarse == wanted.shape[2:]
    assert torch.equal(joined[:, :1], x[:, :1])
    torch.testing.assert_close(joined[:, 1:], wanted.permute(0, 2, 3, 1).unflatten(0, (2, 3)).flatten(1, 3))
    kernel = patches.part_codes.weight.reshape(2, 2, d, d).permute(3, 2, 0, 1)
    wanted = F.conv_transpose2d(wanted, kernel, stride=2)[:, :, :h, :w]
    parted = patches.part(joined[:, 1:], grid)
    torch.testing.assert_close(parted, wanted.permute(0, 2, 3, 1).unflatten(0, (2, 3)).flatten(1, 3))


@pytest.mark.parametrize("patch", [1, 2])
def test_a_fixed_batch_is_learnt(patch: int) -> None:
    torch.manual_seed(1)
    model = MaskedModel(replace(CONFIG, patch=patch))
    codes = torch.randint(11, (4, 3, 4, 5))
    hidden = draw_hidden((4, 3, 4, 5), DEFAULT_TASKS, torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, -1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = masked_model_losses(model, codes, hidden, labels)["cross_entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02
    smooth = masked_model_losses(model, codes, hidden, labels, label_smoothing=0.1)["cross_entropy"]
    assert smooth > loss + 0.1
    dropped = masked_model_losses(model, codes, hidden, labels, torch.ones(4, dtype=torch.bool))["cross_entropy"]
    none = masked_model_losses(model, codes, hidden, torch.full((4,), -1))["cross_entropy"]
    assert torch.equal(dropped, none)


def test_codes_made_of_digits() -> None:
    torch.manual_seed(1)
    config = replace(CONFIG, codebook_size=12, code_factors=(3, 4))
    model = MaskedModel(config)
    table = model.token_embedding.weight
    assert len(table) == config.code_offset + 7
    code = 2 + 3 * 1  # the digits 2 and 1
    ids = torch.tensor([[0, config.mask_id, config.code_offset + code]])
    first = table[config.code_offset :]
    expected = torch.stack([table[0], table[config.mask_id], first[2] + first[3 + 1]])
    assert torch.equal(model.embed(ids)[0], expected)
    codes = torch.randint(12, (4, 3, 4, 5))
    hidden = draw_hidden((4, 3, 4, 5), DEFAULT_TASKS, torch.Generator().manual_seed(0))
    logits = model.eval()(model.ids(codes, hidden=hidden), (4, 5)).unflatten(1, (3, 4, 5))[hidden]
    assert logits.shape[1] == 7
    likelihood = logits[:, :3].log_softmax(1)[:, :, None] + logits[:, 3:].log_softmax(1)[:, None]  # m 3 4
    of_codes = likelihood.transpose(1, 2).flatten(1)  # m 12
    loss = masked_model_losses(model, codes, hidden)["cross_entropy"]
    torch.testing.assert_close(loss, torch.nn.functional.nll_loss(of_codes, codes[hidden]))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=4e-3)
    for _ in range(300):
        loss = masked_model_losses(model, codes, hidden, torch.tensor([0, 1, 2, -1]))["cross_entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02
    with pytest.raises(ValueError, match="product codebook_size, 12, found"):
        replace(config, code_factors=(3, 3))


def test_regions_of_tasks() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        first = draw_region("prediction", (5, 4, 4), generator).flatten(1)
        known = int((~first.any(1)).sum())
        assert 1 <= known <= 4
        assert first[known:].all()
        middle = draw_region("interpolation", (5, 4, 4), generator).flatten(1)
        assert middle.all(1).tolist() == [False, True, True, True, False]
        assert not middle[0].any()
        for task in ("inpainting", "outpainting", "free"):
            region = draw_region(task, (5, 8, 8), generator)
            assert torch.equal(region, region[:1].expand(5, 8, 8))  # the same in every frame
            assert 0 < region[0].sum() < 64
        assert draw_region("generation", (1, 4, 4), generator).all()


def test_masks_of_a_step() -> None:
    shape = (2000, 4, 4)
    hidden = draw_hidden(shape, {"generation": 1.0}, torch.Generator().manual_seed(0))
    assert hidden.flatten(1).any(1).all()
    share = hidden.float().mean(0)
    assert share.mean() == pytest.approx(2 / torch.pi, abs=0.04)  # the mean of cos(pi / 2 u), rounded up
    assert (share - share.mean()).abs().max() < 0.05  # everywhere alike
    for t, tasks in ((1, IMAGE_TASKS), (2, (*IMAGE_TASKS, "prediction")), (4, tuple(DEFAULT_TASKS))):
        for task in DEFAULT_TASKS:
            weights = {"generation": 0.0, task: 1.0}
            if task in tasks:
                assert draw_hidden((3, t, 4, 4), weights, torch.Generator().manual_seed(0)).flatten(1).any(1).all()
    assert torch.equal(*(draw_hidden(shape, DEFAULT_TASKS, torch.Generator().manual_seed(5)) for _ in range(2)))


@pytest.mark.parametrize(
    "codes, labels, hidden, message",
    [
        (torch.zeros(1, 4, 5, dtype=torch.long), torch.tensor([3]), None, r"labels must lie in \[0, 2\]"),
        (torch.full((1, 4, 5), 11), None, None, r"codes must lie in \[0, 10\]"),
        (torch.zeros(1, 4, 5, dtype=torch.long), None, torch.ones(1, 4, 4).bool(), "hidden must be boolean"),
    ],
)
def test_errors(codes: torch.Tensor, labels: torch.Tensor | None, hidden: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build().ids(codes, labels, hidden)
    with pytest.raises(ValueError, match="5 x 5 are outside"):
        build()(torch.zeros(1, 26, dtype=torch.long), (5, 5))
