"""Do samples show what they were asked for? Their class, by classifiers trained on real ones; colour; CLIPScore."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from omnitok.data.index import build_index
from omnitok.data.modality import Modality
from omnitok.distributed import shard
from omnitok.errors import MissingWeightsError, OmnitokError
from omnitok.hub.weights import find_weights
from omnitok.metrics.classifier import HELD_OUT, LinearClassifier, gradient_features
from omnitok.metrics.clip_score import load_clip_score
from omnitok.metrics.colors import COLORS, measure_colors
from omnitok.metrics.evaluate import Batch, EvaluationConfig, Need, Progress, Source, measured
from omnitok.metrics.networks import Network, WeightsDir, load_networks
from omnitok.metrics.registry import METRICS, check_metrics, networks_for
from omnitok.metrics.results import Results
from omnitok.metrics.sample_sets import FolderSet, common_folder
from omnitok.metrics.samples import batches, check_files
from omnitok.metrics.wanted import Wanted, read_wanted

Features = Callable[[Tensor], Tensor]
"""uint8 (n, 3, H, W) or (n, 3, T, H, W) → (n, d)."""


def evaluate_alignment(
    fake: str | os.PathLike[str],
    real: str | os.PathLike[str] | None = None,
    metrics: Sequence[str] | None = None,
    config: EvaluationConfig | None = None,
    *,
    modality: Modality = "image",
    clip: str | os.PathLike[str] | None = None,
    weights_dir: WeightsDir = None,
    device: torch.device | str = "cpu",
    networks: Mapping[str, Network] | None = None,
    state_folder: Path | None = None,
    progress: Progress | None = None,
) -> Results:
    """How many of the samples `fake` show what they were asked to show, see `omnitok.metrics.wanted.read_wanted`.

    Accuracies are over the samples that were asked for a class (or a colour), beside `chance`, what the same samples
    would reach had they been asked for in a random order, and `by`, the accuracy of each class or colour. Classifiers
    are trained on four fifths of the real samples, cut to squares of the samples' size; `real_value` is their accuracy
    on the other fifth.

    Args:
        fake: a folder that `omnitok generate` wrote, or one or a list of samples with labels or captions.
        real: a folder of real samples, a folder per class, or a list with labels; needed for classes.
        metrics: names of `omnitok.metrics.registry.METRICS` (default: those for which there is what they need).
        clip: folder or hub id of a CLIP model of transformers; clip_score needs it.
        device: where the networks compute.
        weights_dir, networks, state_folder, progress: as of `evaluate_reconstruction`.

    Raises:
        OmnitokError: samples that were asked for nothing, a file that cannot be read, or missing weights.
        ValueError: a metric that there is not.
    """
    config = config or EvaluationConfig()
    chosen = None if metrics is None else list(check_metrics(metrics, "alignment", modality))
    classes, real_files = _read_real(real, modality) if real is not None else ((), [])
    wanted = read_wanted(fake, modality, classes)
    asked = {name: sum(index >= 0 for index in _asked(name, wanted, classes)) for name in _possible(modality)}
    if chosen is None:
        chosen = [name for name, count in asked.items() if count and _has_weights(name, clip, weights_dir, networks)]
        if not chosen:
            raise OmnitokError(f"{fake}: no sample was asked for in a class of the real ones or in a colour")
    for name in chosen:
        _check(name, asked[name], fake, real, classes)
    if networks is None:
        needed = [name for name in networks_for(chosen, config.protocol) if name != "clip"]
        networks = load_networks(needed, weights_dir, device)
    score = None
    if "clip_score" in chosen:
        if clip is None:
            raise MissingWeightsError(
                "clip_score needs the config.json, model.safetensors and tokenizer.json of a CLIP model of "
                "transformers: name their folder or hub id with --clip"
            )
        score = load_clip_score(clip, device)
        networks = {**networks, "clip": Network(score.name, score.sha256, score)}
    samples = FolderSet(Path(fake), modality, config, [each.path for each in wanted])
    source = AskedSamples(samples, wanted, chosen, classes, real_files, score)
    real_values = source.learn(networks, [name for name in chosen if name.startswith("class")])
    with measured(source, chosen, config, networks, state_folder, "alignment", progress) as measurement:
        return Results(replace(row, real_value=real_values.get(row.metric)) for row in measurement.results())


class AskedSamples(Source):
    """Samples, and the answers of what judges them to what they were asked for.

    Args:
        samples: the files of `wanted`.
        classes: names of the classes of the real samples.
        real_files: (file, class number) of the real samples.
        score: of samples beside their texts.
    """

    def __init__(
        self,
        samples: FolderSet,
        wanted: Sequence[Wanted],
        metrics: Sequence[str],
        classes: Sequence[str],
        real_files: Sequence[tuple[Path, int]],
        score: Callable[[Tensor, Sequence[str]], Tensor] | None = None,
    ) -> None:
        self.samples, self.classes, self._real, self._score = samples, classes, real_files, score
        self.files = [*samples.files, *(path for path, _ in real_files)]
        self.identity = repr([list(wanted), list(classes)])
        self.names = {name: COLORS if name == "color_accuracy" else classes for name in metrics}
        self._own = shard(samples.n)
        told = [name for name in metrics if METRICS[name].gathers == "confusions"]
        self._asked = {name: torch.tensor(_asked(name, wanted, classes)) for name in told}
        self._texts = [each.text for each in wanted]
        self._judges: dict[str, Callable[[Tensor], Tensor]] = {"color_accuracy": _name_colors}
        self.total = len(self._own)
        self.row = samples.config.blank_row(samples.modality, samples.n, samples.name)
        if real_files:
            root = common_folder([path for path, _ in real_files])
            self.row = replace(self.row, reference=root, n_reference=len(real_files))

    def learn(self, networks: Mapping[str, Network], metrics: Sequence[str]) -> dict[str, float]:
        """Train the classifiers of these metrics on the real samples; their accuracy on those that are held out."""
        if not metrics:
            return {}
        see: dict[str, Features] = {}
        for name in metrics:
            network = METRICS[name].network
            see[name] = gradient_features if network is None else _features_of(networks[network])
        held = torch.tensor([place % HELD_OUT == 0 for place in _places(label for _, label in self._real)])
        labels = torch.tensor([label for _, label in self._real])
        seen: dict[str, list[Tensor]] = {name: [] for name in metrics}
        for pixels in self._real_batches():
            for name, features in see.items():
                seen[name].append(features(pixels).double())
        values = {}
        for name, features in see.items():
            x = torch.cat(seen[name])
            classifier = LinearClassifier(x[~held], labels[~held], len(self.classes))
            values[name] = float((classifier.predict(x[held]) == labels[held]).double().mean())
            self._judges[name] = lambda pixels, f=features, c=classifier: c.predict(f(pixels))  # type: ignore[misc]
        return values

    def _real_batches(self) -> Iterator[Tensor]:
        height, width = self.samples.shape()[-2:]
        if height != width:
            raise OmnitokError(
                f"{self.samples.name}: real samples are cut to squares, but these have {width} x {height} pixels; give "
                "--resolution to bring all to one size"
            )
        config = replace(self.samples.config, resolution=height)
        real = FolderSet(self.samples.path, self.samples.modality, config, [path for path, _ in self._real])
        yield from real.iterate(range(real.n), 1 if self.samples.modality == "video" else config.batch_size)

    def select(self, needs: Collection[Need]) -> None:
        """The samples are all that there is."""

    def batches(self, start: int) -> Iterator[Batch]:
        own = self._own[start:]
        size = 1 if self.samples.modality == "video" else self.samples.config.batch_size
        for part, pixels in zip(batches(own, size), self.samples.iterate(own, size), strict=True):
            answers: dict[str, tuple[Tensor, ...]] = {
                name: (asked[list(part)], self._judges[name](pixels)) for name, asked in self._asked.items()
            }
            if self._score is not None:
                texts = [self._texts[index] for index in part]
                having = [place for place, text in enumerate(texts) if text]
                score = self._score(pixels[having], [str(texts[place]) for place in having]) if having else pixels[:0]
                answers["clip_score"] = (score,)
            yield Batch(part, self.samples.name, answers=answers)


def _read_real(real: str | os.PathLike[str], modality: Modality) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Names of classes, and the files with their class numbers."""
    index = build_index(real, labels="auto")
    check_files(index[modality])
    files = [(Path(sample.path), sample.label) for sample in index[modality] if sample.label >= 0]
    numbers = sorted({label for _, label in files})
    if len(numbers) < 2:
        raise OmnitokError(
            f"{real}: has {modality}s of {len(numbers)} classes, at least 2 are needed: a folder for each, or labels"
        )
    few = [number for number in numbers if sum(label == number for _, label in files) < 2]
    names = tuple(index.classes[n] if n < len(index.classes) else str(n) for n in numbers)
    if few:
        raise OmnitokError(f"{real}: the class {names[numbers.index(few[0])]} has a single {modality}, 2 are needed")
    place = {number: position for position, number in enumerate(numbers)}
    return names, [(path, place[label]) for path, label in files]


def _possible(modality: Modality) -> list[str]:
    return [name for name, m in METRICS.items() if "alignment" in m.tasks and modality in m.modalities]


def _asked(name: str, wanted: Sequence[Wanted], classes: Sequence[str]) -> list[int]:
    """The number of the class or colour that each sample was asked for; -1 for none of these."""
    if name == "clip_score":
        return [0 if each.text else -1 for each in wanted]
    if name == "color_accuracy":
        return [COLORS.index(each.color) if each.color in COLORS else -1 for each in wanted]
    number = {name: index for index, name in enumerate(classes)}
    return [number.get(each.label or "", -1) for each in wanted]


def _check(name: str, asked: int, fake: object, real: object, classes: Sequence[str]) -> None:
    """Raise OmnitokError for a metric that has nothing to measure."""
    if name.startswith("class") and real is None:
        raise OmnitokError(f"{name} needs real samples of every class: name their folder with --real")
    if not asked and name == "clip_score":
        raise OmnitokError(f"{fake}: clip_score has nothing to measure, for no sample has a text")
    if not asked:
        names = COLORS if name == "color_accuracy" else classes
        listed = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
        raise OmnitokError(f"{fake}: {name} has nothing to measure, for no sample was asked for as one of {listed}")


def _has_weights(name: str, clip: object, weights_dir: WeightsDir, networks: Mapping[str, Network] | None) -> bool:
    network = METRICS[name].network
    if network == "clip":
        return clip is not None
    if network is None or networks is not None:
        return network is None or network in (networks or {})
    try:
        find_weights("mobilenet_v2", weights_dir)
    except MissingWeightsError:
        return False
    return True


def _places(labels: Iterator[int]) -> Iterator[int]:
    """The place of each sample within its class."""
    seen: dict[int, int] = {}
    for label in labels:
        seen[label] = seen.get(label, -1) + 1
        yield seen[label]


def _features_of(network: Network) -> Features:
    return lambda pixels: network.extract(pixels)[0].cpu()


def _name_colors(pixels: Tensor) -> Tensor:
    return torch.tensor([COLORS.index(found.object.name) for found in measure_colors(pixels)])
