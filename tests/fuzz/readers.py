"""What is fuzzed: for each reader of ours, how its files are made and damaged, and the call that reads them."""

import contextlib
import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from fuzz.mutants import (
    Mutate,
    dump_json,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_png,
    mutate_value,
    mutate_zip,
)
from helpers.small import SMALL
from helpers.tflite import small_mobilenet_v2, tflite
from omnitok import peers
from omnitok.data import TokenShards, VideoReader, read_image, read_image_array, write_video
from omnitok.data.index import build_index
from omnitok.data.samples import sample_file
from omnitok.data.shard_format import EmbeddingFormat, FileFailure, TokenFormat, TokenRecord, read_json, write_json
from omnitok.data.shard_writing import Token, begin_folder, read_shard, write_index, write_shard
from omnitok.data.token_file import TokenHeader, open_tokens, write_tokens
from omnitok.data.token_packing import pack
from omnitok.distributed import Processes
from omnitok.errors import MediaError
from omnitok.hub.folder import load_generator_model, load_tokenizer, save_generator, save_tokenizer
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.mobilenet_v2 import convert_mobilenet_v2
from omnitok.hub.released import convert_checkpoint
from omnitok.metrics.evaluate import EvaluationConfig
from omnitok.metrics.frechet import load_statistics
from omnitok.metrics.protocols import PROTOCOLS
from omnitok.metrics.sample_sets import open_samples
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.peers.vqgan import VQGAN
from omnitok.recipes import RECIPES
from omnitok.training.checkpoint import Checkpoints
from omnitok.training.checkpoint_reader import CHECKSUMS, write_checksums
from omnitok.training.logging import JsonlLogger
from omnitok.training.settings import read_config, write_config

PARITY = Path(__file__).parents[1] / "parity/data"

MUTATORS: dict[str, Mutate] = {
    ".json": mutate_json,
    ".jsonl": mutate_lines,
    ".csv": mutate_lines,
    ".txt": mutate_lines,
    ".png": mutate_png,
    ".npz": mutate_zip,
    ".ckpt": mutate_zip,
}


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        build: writes good files into a folder.
        read: reads a mutant: the damaged file, or the folder with one damaged file.
        is_folder: which of the two.
        count: mutants in `make test`; about five seconds' worth.
        mutators: by suffix, in place of the usual ones.
        finish: changes what depends on the damaged file, such as checksums; takes the folder and the file.
        is_tolerant: whether damage is passed over.
    """

    build: Callable[[Path], object]
    read: Callable[[Path], object]
    is_folder: bool = False
    count: int = 300
    mutators: Mapping[str, Mutate] | None = None
    finish: Callable[[Path, Path, random.Random], object] | None = None
    is_tolerant: bool = False

    def make(self, place: Path, rng: random.Random) -> Path:
        """Write a mutant; its path."""
        good, mutant = place / "good", place / "mutant"
        if not good.exists():
            mutant.mkdir(parents=True)
            building = place / "building"
            building.mkdir(exist_ok=True)
            self.build(building)
            building.rename(good)
        files = sorted(path for path in good.rglob("*") if path.is_file())
        chosen = rng.choice(files)
        for file in files if self.is_folder else ():
            copy, status = mutant / file.relative_to(good), file.stat()
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists() or copy.stat().st_mtime_ns != status.st_mtime_ns:  # the last mutant's
                shutil.copy2(file, copy)
        changed = mutant / chosen.relative_to(good)
        mutate = (self.mutators or {}).get(chosen.suffix) or MUTATORS.get(chosen.suffix, mutate_bytes)
        changed.write_bytes(mutate(chosen.read_bytes(), rng))
        if self.finish is not None:
            self.finish(mutant, changed, rng)
        return mutant if self.is_folder else changed


# ---------------------------------------------------------------------------------------------------- images and videos


def waves(frames: int, height: int, width: int) -> torch.Tensor:
    """(3, frames, height, width) in [-1, 1]."""
    small = torch.rand(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(small, (frames, height, width), mode="trilinear")[0]


def build_images(folder: Path) -> None:
    levels = ((waves(3, 24, 40) + 1) * 127.5).byte().permute(1, 2, 3, 0).numpy()
    frames = [Image.fromarray(level) for level in levels]
    for suffix in ("png", "jpg", "webp", "bmp", "tif", "ppm"):
        frames[0].save(folder / f"a.{suffix}")
    for suffix in ("gif", "webp"):
        frames[0].save(folder / f"animated.{suffix}", save_all=True, append_images=frames[1:], duration=100)
    Image.fromarray(levels[0, ..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    frames[0].quantize(16).save(folder / "palette.png")


def build_bands(folder: Path) -> None:
    bands = ((waves(1, 24, 40) + 1) * 127.5).byte().permute(1, 2, 3, 0).numpy()[0]
    np.save(folder / "a.npy", np.concatenate([bands, bands[..., :2]], axis=2))
    for name, compression in (("a", None), ("b", "tiff_deflate")):
        Image.fromarray(bands).save(folder / f"{name}.tif", compression=compression)


def build_videos(folder: Path) -> None:
    for suffix in ("mp4", "mkv", "webm", "gif"):
        write_video(folder / f"a.{suffix}", waves(12, 32, 48), fps=12)
    levels = ((waves(12, 32, 48) + 1) * 127.5).byte().permute(1, 2, 3, 0).numpy()
    for suffix, codec in (("avi", "mpeg4"), ("ts", "mpeg2video")):
        with av.open(folder / f"a.{suffix}", "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for level in levels:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(level, "rgb24")))
            container.mux(stream.encode(None))


def read_whole_video(path: Path) -> None:
    for fps in (None, 10.0):
        with VideoReader(path, fps) as reader:
            for _ in reader:
                pass


# --------------------------------------------------------------------------------------------------------- token shards


def build_shards(folder: Path) -> None:
    embeddings = EmbeddingFormat(source="text:some/t5", width=3, sha256="b" * 64)
    format = TokenFormat("codes", "uint16", 64, "some-vq", "a" * 64, ("ape", "bee"), {"resolution": 24}, embeddings)
    begin_folder(folder, format.to_json())
    for number in range(2):
        tokens = []
        for i, grid in enumerate([(3, 3), (3, 3), (2, 3, 3)]):
            frames = 1 if len(grid) == 2 else 5
            size, crop, captions = (frames, 24, 24), (0, 0, 30, 30), ("an ape", "a bee")[:i]
            record = TokenRecord(f"ape/{i}.png", i % 2, size, (30, 30), None, 0, 0, crop, False, captions)
            embeddings = tuple(np.full((k + 1, 3), k, dtype=np.float16) for k in range(i))
            tokens.append(Token(record, pack(torch.full(grid, i), format), embeddings))
        write_shard(folder, number, format, tokens, [FileFailure(key="bad.png", reason="bad")])
    write_index(folder, format, [report for n in range(2) if (report := read_shard(folder, n)) is not None])


def mutate_stamped_json(data: bytes, rng: random.Random) -> bytes:
    """JSON whose checksum of itself is right again, mostly."""
    if rng.random() < 0.2:
        return mutate_json(data, rng)
    content = json.loads(data)
    content.pop("sha256")
    changed = mutate_value(content, rng)
    if isinstance(changed, dict):
        text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
        changed = {**changed, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return dump_json(changed)


def restamp_sizes(folder: Path, changed: Path, rng: random.Random) -> None:
    """Let the index have the sizes that files have now, so that more than these is looked at."""
    if changed.suffix == ".json" or rng.random() < 0.2:
        return
    index = read_json(folder / "index.json")
    for shard in index["shards"]:
        for file in [*shard["arrays"], *shard["tables"], *shard["captions"]["files"], *shard["embeddings"]["files"]]:
            file["bytes"] = (folder / shard["name"] / file["file"]).stat().st_size
    write_json(folder / "index.json", index)


def read_shards(path: Path) -> None:
    for number in range(2):
        read_shard(path, number)
    shards = TokenShards(path)
    for i in range(min(len(shards), 20)):
        item = shards[i]
        assert item.key is not None
        assert item.size is not None
        shards.embeddings(i)
    assert len(shards.labels) == len(shards)
    for _ in shards.blocks():
        pass
    shards.verify()


# --------------------------------------------------------------------------------------------------------------- models


def build_tokenizer(folder: Path) -> None:
    torch.manual_seed(0)
    save_tokenizer(OmniTokenizer.from_config(SMALL), folder / "model")


def read_tokenizer(path: Path) -> None:
    load_tokenizer(str(path / "model"))


def build_released(folder: Path) -> None:
    shutil.copy(PARITY / "vqvae_lightning.ckpt", folder)
    shutil.copy(PARITY / "gpt.safetensors", folder)
    weights = {"state_dict": {"x_embedder.proj.weight": torch.ones(2, 4, 2, 2)}, "hyper_parameters": {"depth": 1}}
    torch.save(weights, folder / "old.pt", _use_new_zipfile_serialization=False)


def build_peer(folder: Path) -> None:
    """A file of another project, and one older than torch 1.6 of the same."""
    shape = {"width": 32, "widths": [32, 32], "blocks": 1, "attention": [1]}
    weights = VQGAN(shape | {"z_channels": 4, "latent_channels": 4, "codebook_size": 8}).state_dict()
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    save_file(zeros, folder / "vqgan.safetensors")
    torch.save({"state_dict": zeros}, folder / "vqgan.pt", _use_new_zipfile_serialization=False)


def build_tflite(folder: Path) -> None:
    (folder / "mobilenet_v2.tflite").write_bytes(tflite(small_mobilenet_v2()))


def read_tflite(path: Path) -> None:
    for _ in convert_mobilenet_v2(path):
        pass


def mutate_offsets(data: bytes, rng: random.Random) -> bytes:
    """A flatbuffer: the bytes, or a few of its numbers, which are offsets, counts and places of fields mostly."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        place = 4 * rng.randrange(len(data) // 4)
        number = int.from_bytes(changed[place : place + 4], "little")
        near = number + rng.randint(-8, 8), number * 2, rng.randrange(len(data)), len(data) - place, -place, 2**28
        changed[place : place + 4] = (rng.choice(near) % 2**32).to_bytes(4, "little")
    return bytes(changed)


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The JSON header with a right length before it, or the bytes."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    header = mutate_json(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


MUTATORS[".safetensors"] = mutate_safetensors


# ------------------------------------------------------------------------------------------------------------ trainings


def mutate_yaml(data: bytes, rng: random.Random) -> bytes:
    """YAML: the bytes, one thing in it replaced, or references that grow without end."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    changed = mutate_value(yaml.safe_load(data), rng)
    if rng.random() < 0.1:
        return b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
            b"%s: &%s [%s]\n" % (n, n, b", ".join([b"*" + o] * 9)) for o, n in zip([b"a", *KEYS], KEYS, strict=False)
        )
    return dump_json(changed)


KEYS = [b"optimizer", b"data", b"model", b"weights", b"log", b"engine", b"init", b"name"]
MUTATORS[".yaml"] = mutate_yaml


def build_config(folder: Path) -> None:
    write_config(RECIPES["tiny-lm"], folder / "generator.yaml")
    write_config(RECIPES["tiny-joint"], folder / "tokenizer.yaml")


# ------------------------------------------------------------------------------------------------ lists, tokens, arrays


def build_lists(folder: Path) -> None:
    names = [f"{i}.{suffix}" for i, suffix in enumerate(("png", "jpg", "mp4", "png"))]
    for name in names:
        (folder / "below" / name).parent.mkdir(exist_ok=True)
        (folder / "below" / name).touch()
    (folder / "a.txt").write_text("".join(f"below/{name}\t{i}\n" for i, name in enumerate(names)))
    rows = "".join(f"below/{name},cat {name},x,a caption,below/1.embedding.npy\n" for name in names)
    (folder / "a.csv").write_text("path,label,source,caption,embedding\n" + rows)
    lines = [{"path": f"below/{name}", "label": 3, "text": ["a", "b"], "embedding": ""} for name in names]
    np.save(folder / "below/1.embedding.npy", np.ones((2, 3)))
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "below/0.txt").write_text("one caption\nanother one\n")
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i, name in enumerate(names):
            row = b'{"label": 7, "captions": ["a", "b"]}'
            members = {name: b"pixels", f"{i}.cls": b"7", f"{i}.json": row, f"{i}.txt": b"a\nb"}
            for member, content in members.items():
                info = tarfile.TarInfo(f"x/{member}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


NAMES = ("a.txt", "a.csv", "a.jsonl", "a.tar", "below")


def read_lists(path: Path) -> None:
    for name in NAMES:
        with contextlib.suppress(MediaError):  # one of them is damaged, and each is to be reached
            for labels in ("auto", "folders"):
                index = build_index([path / name], labels=labels, captions=labels == "auto", embeddings=True)
                for number in range(min(len(index), 10)):
                    _, sample = index.locate(number)
                    with contextlib.suppress(MediaError), sample_file(sample):
                        sample.read_captions()
                        sample.read_embedding()
    index = build_index([path / name for name in NAMES], captions=True, embeddings=True)
    for _, sample in (index.locate(number) for number in range(len(index))):
        sample.read_captions()
        sample.read_embedding()


def build_tokens(folder: Path) -> None:
    codes = torch.arange(2 * 4 * 6).reshape(2, 4, 6)
    header = TokenHeader("video", 5, 32, 48, "some-vq", "a" * 64, "a.mp4", 10.0)
    write_tokens(folder / "video.safetensors", codes, header)
    image = TokenHeader("image", 1, 32, 48, "some-vae", "a" * 64, "a.png")
    write_tokens(folder / "image.safetensors", torch.zeros(8, 4, 6), image)


def read_tokens(path: Path) -> None:
    with open_tokens(path) as file:
        if file.header.kind == "image":
            file.tokens()
        else:
            for _ in file.pieces(2):
                pass


def build_arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(folder / "statistics.npz", mu=rng.random(4), sigma=np.eye(4), n=10, network="inception")
    np.savez_compressed(folder / "packed.npz", mu=rng.random(4), sigma=np.eye(4))


def build_samples(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(folder / "images.npz", arr_0=rng.integers(0, 255, (3, 16, 20, 3), dtype=np.uint8))
    np.savez_compressed(
        folder / "packed.npz", arr_0=np.zeros((3, 16, 20, 3), np.uint8), mu=rng.random(4), sigma=np.eye(4)
    )


def read_samples(path: Path) -> None:
    samples = open_samples(path, "image", EvaluationConfig(PROTOCOLS["official"]))
    if samples.n:
        for _ in samples.iterate(range(min(samples.n, 3)), 2):
            pass


# ----------------------------------------------------------------------------------------- generators, runs, their logs


def build_generator(folder: Path) -> None:
    torch.manual_seed(0)
    config = LanguageModelConfig(
        codebook_size=64, num_classes=2, latent_frames=2, latent_height=2, latent_width=2, width=32, depth=1, heads=2
    )
    settings = GeneratorSettings("vq", "a" * 64, ("cat", "dog"), 16, 16, 5, {"guidance_scale": 1.5}, 8.0)
    save_generator(LanguageModel(config), settings, folder / "model")


def read_generator(path: Path) -> None:
    load_generator_model(path / "model")


def small_state() -> dict[str, torch.Tensor]:
    return {
        "model/a": torch.arange(64.0),
        "model/b": torch.ones(4, 4, dtype=torch.bfloat16),
        "run/step": torch.tensor(3),
    }


def open_checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", 2, Processes(0, 1, torch.device("cpu")))


def build_checkpoints(folder: Path) -> None:
    checkpoints = open_checkpoints(folder)
    checkpoints.save(3, small_state())
    checkpoints.finish()


def reseal(folder: Path, changed: Path, rng: random.Random) -> None:
    """Let the hashes be right, so that more than these is looked at."""
    if changed.name != CHECKSUMS and rng.random() < 0.8:
        (changed.parent / CHECKSUMS).unlink()
        write_checksums(changed.parent)


def read_checkpoints(path: Path) -> None:
    checkpoints = open_checkpoints(path)
    step = checkpoints.latest()
    if step is not None:
        checkpoints.load(step, small_state())


def build_log(folder: Path) -> None:
    rows = [{"step": step, "modality": "image", "loss": 1 / step, "seconds": 0.1 * step} for step in range(1, 6)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_log(path: Path) -> None:
    log = JsonlLogger(path, 3, tensorboard=False)
    log.write({"step": 4, "loss": 0.5})
    log.draw_curves()
    log.close()


READERS = {
    "images": Reader(build_images, read_image),
    "bands": Reader(build_bands, read_image_array),
    "videos": Reader(build_videos, read_whole_video, count=200),
    "shards": Reader(
        build_shards, read_shards, is_folder=True, mutators={".json": mutate_stamped_json}, finish=restamp_sizes
    ),
    "tokenizer": Reader(build_tokenizer, read_tokenizer, is_folder=True, count=200),
    "released": Reader(build_released, convert_checkpoint, count=200),
    "peer": Reader(build_peer, peers.load_tokenizer, count=100),
    "tflite": Reader(build_tflite, read_tflite, mutators={".tflite": mutate_offsets}),
    "config": Reader(build_config, read_config, count=200),
    "generator": Reader(build_generator, read_generator, is_folder=True, count=200),
    "checkpoints": Reader(build_checkpoints, read_checkpoints, is_folder=True, count=200, finish=reseal),
    "log": Reader(build_log, read_log, is_folder=True, count=100, is_tolerant=True),
    "samples": Reader(build_samples, read_samples),
    "lists": Reader(build_lists, read_lists, is_folder=True),
    "tokens": Reader(build_tokens, read_tokens),
    "statistics": Reader(build_arrays, load_statistics),
}
