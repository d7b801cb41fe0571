"""Training a generator over a tokenizer's tokens: from shards, or of pixels that are encoded at each step."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from omnitok.data.loader import Batch, load_batches
from omnitok.data.pixel_format import as_color
from omnitok.data.samples import Index
from omnitok.data.token_shards import TokenShards
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.generation.loading import make_generator
from omnitok.generation.request import Items
from omnitok.hub.architectures import Generator, build
from omnitok.hub.folder import TrainedGenerator, save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.names import list_models
from omnitok.models.conditions import EmbeddingCondition, make_conditions, split_condition
from omnitok.models.protocol import Tokenizer
from omnitok.peers import load_tokenizer
from omnitok.training.config import AnyConfig, AnyGeneratorConfig, learns_classes
from omnitok.training.data import GeneratorData, held_out_batches, open_data, open_held_out, pixel_format_of
from omnitok.training.task import Say, Snapshot, Task, side_by_side
from omnitok.training.tasks.generator_objectives import OBJECTIVES, Draws, Objective, conditions_of, draw_batch
from omnitok.training.transfer import load_source, start_from, with_architecture


class GeneratorTask(Task):
    """A language model, a masked model or a diffusion transformer by its configuration.

    Attributes:
        tokenizer: in `eval` mode, from `resolve` on.
        data: this process's batches.
        settings: what is written beside the weights.
    """

    config: AnyGeneratorConfig
    model: Generator
    tokenizer: Tokenizer
    data: GeneratorData
    settings: GeneratorSettings

    def __init__(self, config: AnyGeneratorConfig) -> None:
        self.config = config
        self._source: TrainedGenerator | None = None

    # ---------------------------------------------------------------------------------------------------------- start

    def resolve(self, processes: Processes, saved: AnyConfig | None, say: Say) -> None:
        """Load the tokenizer and what the run starts from, open the data, and complete the configuration from them."""
        self.processes = processes
        config = self.config
        if isinstance(saved, AnyGeneratorConfig) and (saved.init is not None or config.init is not None):
            architecture: Any = saved.model  # that of what it started from
            config = dataclasses.replace(config, model=architecture)
        name = config.tokenizer or (TokenShards(config.shards[0]).tokenizer if config.shards else None)
        if name is None:
            raise OmnitokError("pixels need a tokenizer: give --tokenizer NAME")
        tokenizer = load_tokenizer(name)
        sha256 = tokenizer.fingerprint
        self.tokenizer = tokenizer.to(processes.device).requires_grad_(False)
        config = dataclasses.replace(config, tokenizer=name)
        if config.validation_shards:  # then nothing is held out, unless the run began without them
            config = dataclasses.replace(config, held_out=0.0 if saved is None else saved.held_out)
        self.data = data = open_data(config, self.tokenizer, processes)
        self._held_out = open_held_out(config, self.tokenizer, data)
        if config.held_out and self._held_out is None:
            say(
                f"nothing is validated: held_out={config.held_out:g} of so few files is none, nor is it of tars; "
                "--set validation_shards=DIR names other samples"
            )
        if saved is None and config.init is not None:
            self._source = load_source(config.init)
            config = with_architecture(config, self._source)
        self.config = config = _complete(config, data, tokenizer)
        self.sample_counts, self.preview_fps = data.samples, data.fps or super().preview_fps
        frames, height, width = data.pixels
        embeddings = data.embeddings if isinstance(config.model.condition, EmbeddingCondition) else None
        self.settings = GeneratorSettings(
            tokenizer=name,
            tokenizer_sha256=sha256,
            # A model may have room for more classes than the data name; then only numbers tell them.
            classes=data.classes if len(data.classes) == config.model.num_classes else (),
            height=height,
            width=width,
            num_frames=frames,
            sampling=config.sampling if config.model.is_conditional else _unguided(config.sampling),
            fps=data.fps,
            embeddings=embeddings.source if embeddings else "",
            embeddings_sha256=embeddings.sha256 if embeddings else "",
        )

    def build(self, say: Say) -> None:
        """The model: random, or with the weights that it starts from."""
        config, source, device = self.config, self._source, self.processes.device
        torch.manual_seed(config.seed)
        model = build(config.model)
        if source is not None:
            unknown = start_from(model, source, self.settings.classes)
            if unknown:
                say(f"{config.init} does not know the classes {', '.join(unknown)}: they begin anew")
            same = ("", self.settings.tokenizer_sha256, *self.tokenizer.compatible_tokenizers)
            if source.settings.tokenizer_sha256 not in same:
                known = source.settings.tokenizer
                say(f"{config.init} learnt tokens of another tokenizer ({known}, or other weights of it)")
        else:
            OBJECTIVES[type(config)].begin(config, model, self.tokenizer)
        self._objective = self._build_objective(model)
        self.prepare(model.to(device).train(), self._objective)

    def _build_objective(self, model: nn.Module) -> Objective:
        return OBJECTIVES[type(self.config)](self.config, model, self.tokenizer.latent_statistics)

    def blank_copy(self) -> Generator:
        return build(self.config.model)

    def parts_of(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {"model": model}

    # ----------------------------------------------------------------------------------------------------------- step

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        pin_memory = self.processes.device.type == "cuda"
        batches = load_batches(self.data.dataset, start, stop, self.config.data.workers, pin_memory=pin_memory)
        return batches if self.config.shards else map(self._encode, batches)

    @torch.no_grad()
    def _encode(self, batch: Batch) -> Batch:
        encoding = self.tokenizer.encode(batch.inputs.to(self.tokenizer.device, non_blocking=True), check_range=False)
        tokens = encoding.tokens  # as in shards
        return dataclasses.replace(batch, inputs=tokens.float() if tokens.is_floating_point() else tokens)

    def split(self, batch: Batch) -> list[tuple[Draws, None]]:
        """(tokens, labels, which labels are dropped, the objective's random numbers) of each part."""
        draws = draw_batch(self._objective, batch, self.config, self.processes)
        given = (batch.inputs, conditions_of(self.config, batch), *draws)
        whole = [x.to(self.processes.device, non_blocking=True) for x in given]
        chunks = (x.chunk(self.config.optimizer.accumulation) for x in whole)
        return [(inputs, None) for inputs in zip(*chunks, strict=True)]

    def learn(self, outputs: dict[str, Tensor], part: None, step: int, parts: int) -> dict[str, Tensor]:
        (outputs["loss"] / parts).backward()
        return outputs

    def forward_flops(self, shape: tuple[int, ...]) -> int:
        grid = self.tokenizer.latent_shape(shape[2] if len(shape) == 5 else 1, *shape[-2:])
        with FakeTensorMode(), torch.random.fork_rng(devices=[]), torch.no_grad():
            model = self.blank_copy()
            with FlopCounterMode(display=False) as counter:
                condition = model.config.condition
                none = None if condition is None else make_conditions(condition, [None] * shape[0])
                self._objective.evaluate(model, shape[0], grid, none)
        return counter.get_total_flops()

    # -------------------------------------------------------------------------------------------------------- results

    def export(self, model: Generator, folder: Path, last: bool) -> None:
        """Write the model folder with its settings, and the tokenizer into it, unless that is known by name."""
        is_held = not last and (folder / "tokenizer").exists()
        known = is_held or self.settings.tokenizer in list_models()
        save_generator(model, self.settings, folder, None if known else self.tokenizer)

    @torch.no_grad()
    def preview(self, model: Generator) -> Mapping[str, Tensor]:
        """Samples of one class or caption each, side by side: images, and of a model of videos also videos."""
        generator = make_generator(model, self.tokenizer, self.settings)
        chosen = self._preview_items(self.config.log.images)
        lengths = {"image": 1} | ({"video": self.settings.num_frames} if self.settings.num_frames > 1 else {})
        return {
            name: as_color(side_by_side(generator.sample(chosen, num_frames=frames).cpu().float().clamp(-1, 1)))
            for name, frames in lengths.items()
        }

    def _preview_items(self, count: int) -> Items:
        """What the preview's samples are asked to show: the classes, or the conditions of the first batch, in turns."""
        classes, condition = self.config.model.num_classes, self.config.model.condition
        if condition is None and not classes:
            return [None] * count
        if condition is None:
            return [i * classes // count if count < classes else i % classes for i in range(count)]
        rows = conditions_of(self.config, self.data.dataset[0])
        return [split_condition(rows[i % len(rows)]) for i in range(count)]

    @torch.no_grad()
    def validate(self, snapshot: Snapshot) -> Mapping[str, float]:
        """ "image_loss" and "video_loss", those that are there, over `validation_shards` or what is held out.

        Every label is kept, and what is random is the same at every call.
        """
        source = self._held_out
        if source is None or (model := snapshot(False)) is None:
            return {}
        config = dataclasses.replace(self.config, label_dropout=0.0)
        device = next(model.parameters()).device
        alone = Processes(0, 1, device)
        batches = held_out_batches(source, config, self.data.classes, pixel_format_of(self.tokenizer, config.data))
        objective = self._build_objective(model).to(device)
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for batch in map(self._encode, batches) if isinstance(source, Index) else batches:
            draws = draw_batch(objective, batch, config, alone)
            tensors = [tensor.to(device) for tensor in (batch.inputs, conditions_of(config, batch), *draws)]
            name = f"{batch.modality}_loss"
            sums[name] = sums.get(name, 0.0) + float(objective(*tensors)["loss"]) * batch.size
            counts[name] = counts.get(name, 0) + batch.size
        return {name: total / counts[name] for name, total in sums.items()}


def _complete(config: AnyGeneratorConfig, data: GeneratorData, tokenizer: Tokenizer) -> AnyGeneratorConfig:
    """`config` with the model's classes, codebook, channels and grid as the data and their tokenizer have them.

    Raises:
        OmnitokError: tokens of the wrong kind, or more classes than the model is said to have.
    """
    objective = OBJECTIVES[type(config)]
    if objective.learns_codes != tokenizer.is_discrete:
        kinds = {True: ("codes", "quantizer"), False: ("latents", "VAE")}
        (wanted, source), (found, _) = kinds[objective.learns_codes], kinds[tokenizer.is_discrete]
        raise OmnitokError(f"{config.name} learns {wanted}, found {found}: use the tokens of a {source}")
    if 0 < config.model.num_classes < data.class_count:
        raise OmnitokError(
            f"model.num_classes is {config.model.num_classes}, but the data have {data.class_count} classes; "
            "0 takes the number from the data"
        )
    classes = (config.model.num_classes or data.class_count) if learns_classes(config) else 0
    grid = tokenizer.latent_shape(*data.pixels)
    changes = {"num_classes": classes, **objective.fit(config, tokenizer, grid, classes)}
    if isinstance(config.model.condition, EmbeddingCondition) and data.embeddings is not None:
        changes |= {"condition": dataclasses.replace(config.model.condition, channels=data.embeddings.width)}
    model: Any = dataclasses.replace(config.model, **changes)
    return dataclasses.replace(config, model=model)


def _unguided(sampling: Any) -> Any:
    """A recipe's defaults of sampling for an unconditional model, which has nothing to be guided by."""
    return dataclasses.replace(sampling, guidance_scale=1.0, video_guidance_scale=None)
