"""Decoded video frames to 8-bit R'G'B' as a standard screen shows them: matrix, range, alpha and high dynamic range."""

import functools

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation

# ITU-T H.273 codes of the matrix coefficients, as FFmpeg reports them in `frame.colorspace`.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_PQ, _HLG = 16, 18  # H.273 transfer characteristics: SMPTE ST 2084 and ARIB STD-B67
_PEAK_NITS = 1000.0  # what HDR is mastered for most often, and the nominal peak of HLG
_WHITE_NITS = 203.0  # HDR reference white, ITU-R BT.2408: becomes (nearly) the white of the 8-bit image
_KNEE = 0.6  # linear light below this share of white is left alone by the tone curve

# swscale's fast paths repeat chroma samples and round coarsely; these flags interpolate and round.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

# Linear BT.2020 to linear BT.709 primaries (ITU-R BT.2087).
_BT2020_TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))


def frame_to_rgb(frame: av.VideoFrame, width: int, height: int) -> torch.Tensor:
    """Colors of one decoded frame.

    The frame's own matrix and range tags decide. Untagged YCbCr is taken as limited range, BT.709 from 1280 columns or
    577 lines up and BT.601 below (the rule of the common players). PQ and HLG are tone-mapped to standard range; other
    wide-gamut material keeps its numbers. Alpha is composited over white.

    Returns:
        uint8 (height, width, 3), unrotated; frames of another size are resized to (height, width).
    """
    matrix, limits = _tags(frame)
    has_alpha = any(component.is_alpha for component in frame.format.components)
    is_hdr = frame.color_trc in (_PQ, _HLG)
    layout = "rgba" if has_alpha else "rgb48le" if is_hdr else "rgb24"
    converted = frame.reformat(
        width=width,
        height=height,
        format=layout,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=limits,
        dst_color_range=ColorRange.JPEG,
        interpolation=_SCALING,
        threads=1,
    ).to_ndarray()
    if has_alpha:
        pixels = torch.from_numpy(converted).to(torch.int32)  # (H, W, 4)
        color, alpha = pixels[..., :3], pixels[..., 3:]
        return ((color * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)  # over white
    if is_hdr:
        return _tone_map(converted, int(frame.color_trc))
    return torch.from_numpy(np.ascontiguousarray(converted))


def rgb_to_yuv420p(pixels: np.ndarray) -> av.VideoFrame:
    """uint8 (H, W, 3) to a limited-range BT.709 yuv420p frame that carries these tags."""
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=_SCALING,
        threads=1,
    )
    frame.colorspace = Colorspace.ITU709
    frame.color_range = ColorRange.MPEG
    return frame


def _tags(frame: av.VideoFrame) -> tuple[Colorspace, ColorRange]:
    is_large = frame.width >= 1280 or frame.height > 576
    matrix = _MATRICES.get(int(frame.colorspace), Colorspace.ITU709 if is_large else Colorspace.ITU601)
    full_by_nature = frame.format.is_rgb or frame.format.name.startswith(("yuvj", "gray", "ya", "mono", "pal"))
    if full_by_nature or int(frame.color_range) == ColorRange.JPEG:
        return matrix, ColorRange.JPEG
    return matrix, ColorRange.MPEG


@functools.cache
def _light(transfer: int) -> torch.Tensor:
    """Linear light relative to reference white for every 16-bit code: (65536,). HLG still lacks its system gamma."""
    code = torch.linspace(0, 1, 65536, dtype=torch.float64)
    if transfer == _PQ:  # SMPTE ST 2084, the inverse of its equation 5.2
        root = code ** (32 / 2523)
        nits = 1e4 * ((root - 107 / 128).clamp(min=0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)
        return (nits / _WHITE_NITS).float()
    a, b, c = 0.17883277, 0.28466892, 0.55991073  # ARIB STD-B67
    return torch.where(code <= 0.5, code**2 / 3, (((code - c) / a).exp() + b) / 12).float()


def _tone_map(rgb48: np.ndarray, transfer: int) -> torch.Tensor:
    """BT.2020 PQ or HLG, uint16 (H, W, 3), to BT.709 with BT.1886's 2.4 gamma, uint8 (H, W, 3).

    Light up to the knee keeps its level; above it the brightest channel follows an extended Reinhard curve that meets
    1 at the peak, and the other channels keep their ratio to it, so that hues stay.
    """
    light = _light(transfer)[torch.from_numpy(rgb48.astype(np.int32))]  # (H, W, 3)
    if transfer == _HLG:  # opto-optical transfer of BT.2100 at 1000 cd/m2: gamma 1.2 on luminance
        luminance = light @ light.new_tensor((0.2627, 0.6780, 0.0593))
        light = light * (luminance.clamp(min=1e-6) ** 0.2 * (_PEAK_NITS / _WHITE_NITS)).unsqueeze(-1)
    light = (light @ light.new_tensor(_BT2020_TO_BT709).T).clamp(min=0)
    brightest = light.amax(-1, keepdim=True).clamp(min=1e-6)
    excess = (brightest - _KNEE).clamp(min=0) / (1 - _KNEE)
    reach = (_PEAK_NITS / _WHITE_NITS - _KNEE) / (1 - _KNEE)
    mapped = _KNEE + (1 - _KNEE) * (excess * (1 + excess / reach**2) / (1 + excess)).clamp(max=1)
    light = light * torch.where(brightest > _KNEE, mapped / brightest, 1.0)
    return (light.clamp(0, 1) ** (1 / 2.4) * 255).round().to(torch.uint8)
