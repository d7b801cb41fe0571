"""Weights of the feature networks (LPIPS, Inception, I3D, MobileNetV2): where they lie and what they must be.

They are looked for in the folder that the user names (`--weights-dir`, else OMNITOK_WEIGHTS) and where torch keeps what
torchvision and pytorch-fid have downloaded; nothing is downloaded but by `fetch_weights`. A file is used only when its
sha256 is the published one. The hashes are of the files as their authors distribute them; torchvision's file names
carry the first eight digits. MobileNetV2 is published for TensorFlow Lite alone, and `fetch_weights` converts it.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from omnitok.atomic import atomic_path, scratch_folder, sha256_of
from omnitok.errors import CheckpointError, MediaError, MissingWeightsError, reading
from omnitok.hub.mobilenet_v2 import convert_mobilenet_v2

WEIGHTS_VARIABLE = "OMNITOK_WEIGHTS"


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights: what it is, the names it may have inside the weights folder, its sha256, source, licence.

    Attributes:
        sha256: in lowercase hexadecimal; the whole hash, or its published first digits.
        convert: where the source is a file of another format: makes ours of it, in each form that it may have.
    """

    title: str
    file_names: tuple[str, ...]
    sha256: str
    source: str
    licence: str
    convert: Callable[[Path], Iterable[bytes]] | None = None

    @property
    def source_name(self) -> str:
        """The last part of the source."""
        return self.source.partition("?")[0].rpartition("/")[2]

    @property
    def can_be_fetched(self) -> bool:
        """Whether the source is a file, not a page about it."""
        return self.convert is not None or self.source_name == Path(self.file_names[0]).name


_LPIPS_HEADS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1"
_TORCHVISION = "https://download.pytorch.org/models"

WEIGHTS: dict[str, WeightsFile] = {
    "vgg16": WeightsFile(
        title="VGG16 trained on ImageNet (backbone of LPIPS vgg)",
        file_names=("vgg16-397923af.pth",),
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        source=f"{_TORCHVISION}/vgg16-397923af.pth",
        licence="BSD-3-Clause (torchvision)",
    ),
    "alexnet": WeightsFile(
        title="AlexNet trained on ImageNet (backbone of LPIPS alex)",
        file_names=("alexnet-owt-7be5be79.pth",),
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        source=f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
        licence="BSD-3-Clause (torchvision)",
    ),
    "squeezenet": WeightsFile(
        title="SqueezeNet 1.1 trained on ImageNet (backbone of LPIPS squeeze)",
        file_names=("squeezenet1_1-b8a52dc0.pth",),
        sha256="b8a52dc0",
        source=f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth",
        licence="BSD-3-Clause (torchvision)",
    ),
    "lpips_vgg": WeightsFile(
        title="linear heads of LPIPS v0.1 vgg",
        file_names=("lpips_heads/vgg.pth",),
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        source=f"{_LPIPS_HEADS}/vgg.pth",
        licence="BSD-2-Clause",
    ),
    "lpips_alex": WeightsFile(
        title="linear heads of LPIPS v0.1 alex",
        file_names=("lpips_heads/alex.pth",),
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        source=f"{_LPIPS_HEADS}/alex.pth",
        licence="BSD-2-Clause",
    ),
    "lpips_squeeze": WeightsFile(
        title="linear heads of LPIPS v0.1 squeeze",
        file_names=("lpips_heads/squeeze.pth",),
        sha256="4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
        source=f"{_LPIPS_HEADS}/squeeze.pth",
        licence="BSD-2-Clause",
    ),
    "inception": WeightsFile(
        title="FID Inception (1008 classes, 2015-12-05)",
        # torch-fidelity distributes the same file under the second name.
        file_names=("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        source="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        licence="Apache-2.0",
    ),
    "i3d": WeightsFile(
        title="I3D trained on Kinetics-400 (TF-hub port of VideoGPT, for FVD)",
        file_names=("i3d_pretrained_400.pt",),
        sha256="55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
        source="https://github.com/wilson1yan/VideoGPT (i3d_pretrained_400.pt)",
        licence="Apache-2.0",
    ),
    "i3d_torchscript": WeightsFile(
        title="I3D trained on Kinetics-400 (TorchScript of StyleGAN-V, for FVD)",
        file_names=("i3d_torchscript.pt",),
        sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        source="https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        licence="Apache-2.0",
    ),
    "mobilenet_v2": WeightsFile(
        title="MobileNetV2 1.0 224 trained on ImageNet (dequantised, batch norm folded)",
        file_names=("mobilenet_v2.safetensors",),
        sha256="caf5fc66a3a4b77621fed3546b502554e8e0e20684a91ef30db3a8033c5cb392",
        source="https://raw.githubusercontent.com/google-coral/test_data/master/mobilenet_v2_1.0_224_quant.tflite",
        licence="Apache-2.0",
        convert=convert_mobilenet_v2,
    ),
}


def weights_folders(weights_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where weights are looked for: in `weights_dir` alone, or, where that is None, in the folder that OMNITOK_WEIGHTS
    names and in torch's own (TORCH_HOME/hub/checkpoints)."""
    if weights_dir is not None:
        return [Path(weights_dir)]
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    torch_home = os.path.expanduser(os.environ.get("TORCH_HOME", os.path.join(cache, "torch")))
    named = os.environ.get(WEIGHTS_VARIABLE)
    return [*([Path(named)] if named else []), Path(torch_home) / "hub" / "checkpoints"]


def find_weights(name: str, weights_dir: str | os.PathLike[str] | None = None) -> Path:
    """The file of the weights `name` (a key of WEIGHTS) in `weights_folders`, with the right hash.

    Raises:
        MissingWeightsError: the file is absent, or its hash is another.
    """
    weights, folders = WEIGHTS[name], weights_folders(weights_dir)
    wrong = ""
    for path in (folder / file_name for folder in folders for file_name in weights.file_names):
        if path.is_file():
            with reading(path, MissingWeightsError, "file of weights"):
                found = file_sha256(path)
            if found.startswith(weights.sha256):
                return path
            wrong = f"{path} has the sha256 {found[:16]}… instead"
    raise MissingWeightsError(_missing(weights, wrong or f"it is not in {' or '.join(map(str, folders))}"))


def fetch_weights(name: str, weights_dir: str | os.PathLike[str] | None = None, progress: bool = False) -> Path:
    """Download the weights `name` to the first of `weights_folders`, unless they are there; the file.

    Where they are to be converted, what the source offers is taken from one of the folders if it is there.

    Raises:
        MissingWeightsError: they cannot be downloaded, are not published as a file, or have another hash.
    """
    weights, folders = WEIGHTS[name], weights_folders(weights_dir)
    with contextlib.suppress(MissingWeightsError):
        return find_weights(name, weights_dir)
    if not weights.can_be_fetched:
        raise MissingWeightsError(_missing(weights, "its source is no file that could be fetched"))
    path = folders[0] / weights.file_names[0]
    if weights.convert is None:
        _download(weights.source, path, weights.sha256, progress)
        return path
    originals = [folder / weights.source_name for folder in folders]
    original = next((file for file in originals if file.is_file()), None)
    if original is None:
        original = scratch_folder() / weights.source_name
        _download(weights.source, original, None, progress)
    content = _convert(weights, original)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def _download(source: str, path: Path, sha256: str | None, progress: bool) -> None:
    with reading(source, MissingWeightsError, "file of weights"), atomic_path(path) as temporary:
        torch.hub.download_url_to_file(source, str(temporary), sha256, progress)


def _convert(weights: WeightsFile, original: Path) -> bytes:
    """Our file of the one that the source offers.

    Raises:
        MissingWeightsError: it cannot be read, or holds other weights.
    """
    assert weights.convert is not None
    found = ""
    try:
        for content in weights.convert(original):
            found = hashlib.sha256(content).hexdigest()
            if found.startswith(weights.sha256):
                return content
    except (CheckpointError, MediaError) as error:
        raise MissingWeightsError(str(error)) from error
    raise MissingWeightsError(
        f"{original}: is not the published {weights.source_name}: its weights make a {weights.file_names[0]} with the "
        f"sha256 {found[:16]}… instead of {weights.sha256[:16]}…"
    )


def read_weights(name: str, weights_dir: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """The state dict in the file of the weights `name`, in float32 on the CPU; see `find_weights` for what is raised.

    Pickles are read with `weights_only=True`: tensors, never code.
    """
    path = find_weights(name, weights_dir)
    with reading(path, MissingWeightsError, "file of weights"):
        is_safetensors = path.suffix == ".safetensors"
        state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hexadecimal; remembered while size and time of the file stay the same."""
    status = os.stat(path)
    return _sha256(os.path.abspath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: str, size: int, modified: int) -> str:
    return sha256_of(path)


def _missing(weights: WeightsFile, found: str) -> str:
    then = "`omnitok weights` says where files are looked for, and fetches some"
    if weights.convert is not None:
        then = "`omnitok weights --fetch` converts it, and downloads it where it is not there"
    return (
        f"{weights.title}: needs {weights.file_names[0]} with the sha256 {weights.sha256[:8]}…, but {found}; "
        f"get it from {weights.source} ({weights.licence}) and name its folder with --weights-dir or "
        f"{WEIGHTS_VARIABLE}; {then}"
    )
