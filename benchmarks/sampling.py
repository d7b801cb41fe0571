"""Speed of sampling codes from a language model: ours against the usual ways, with the same sizes in one run.

- `static cache`: `LanguageModelGenerator.sample_codes`
- `compiled static cache`: the same with `compile=True`; only with --compile
- `concatenating cache`: the same weights, keys and values joined with `torch.cat` every step
- `no cache`: the same weights, the whole sequence again for every code
- `transformers static cache`: `generate` of a Llama of the same sizes (needs `pip install transformers`)

Every road samples the same number of codes with the same temperature and top-k; ours have the same random numbers, so
they must give the same codes. Rounds alternate between the roads, and the best round of each counts; on one CPU thread
it is the time of the processor, so that other work on the machine disturbs the ratios little. `no cache` is run
once, for the first batch size only. The last column is what of the machine's copying bandwidth the weights alone take
up: bytes of weights read a step, times steps a second, over bytes read and written by a large copy in the same run.

    python benchmarks/sampling.py [--batch 1 8] [--width 512] [--depth 8] [--heads 8] [--height 8] [--width-codes 16]
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.generation.autoregressive import LanguageModelGenerator, choose
from omnitok.generation.random import hashed_gumbel, item_keys
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.code_sequence import LanguageModelConfig, prefix_ids
from omnitok.models.kv_cache import rotary_tables
from omnitok.models.language_model import LanguageModel
from omnitok.models.positions import rotate
from omnitok.models.sampling import TokenSampling
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig

CODES, CLASSES = 8192, 10
Road = Callable[[int, TokenSampling], Tensor]  # batch, how -> codes (b, n)


def prefix(model: LanguageModel, batch: int) -> Tensor:
    return prefix_ids(model.config, torch.arange(batch, device=model.device) % CLASSES)


def sample_loop(
    model: LanguageModel, batch: int, count: int, sampling: TokenSampling, next_logits: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """The loop of the slower roads; `next_logits` gets all new ids and how many came before."""
    keys, codes = item_keys(0, range(batch), model.device), []
    new, before = prefix(model, batch), 0
    for position in range(count):
        logits = next_logits(new, before)[:, model.config.code_offset :].float()
        noise = partial(hashed_gumbel, keys, position) if sampling.temperature else None
        codes.append(choose(logits, noise, sampling))
        before += new.shape[1]
        new = codes[-1][:, None] + model.config.code_offset
    return torch.stack(codes, dim=1)


def static_road(model: LanguageModel, height: int, width: int, compiled: bool = False) -> Road:
    tokenizer = TokenizerConfig(width=32, heads=1, head_dim=32, encoder_blocks="w", decoder_blocks="w")
    settings = GeneratorSettings("none", height=8 * height, width=8 * width)
    generator = LanguageModelGenerator(model, OmniTokenizer.from_config(tokenizer), settings)

    def run(batch: int, sampling: TokenSampling) -> Tensor:
        labels = torch.arange(batch) % CLASSES
        codes = generator.sample_codes(labels, temperature=sampling.temperature, top_k=sampling.top_k, compile=compiled)
        return codes.flatten(1)

    return run


def compiled_road(model: LanguageModel, height: int, width: int) -> Road:
    return static_road(model, height, width, compiled=True)


def uncached_road(model: LanguageModel, height: int, width: int) -> Road:
    def run(batch: int, sampling: TokenSampling) -> Tensor:
        past: list[Tensor] = []

        def next_logits(new: Tensor, before: int) -> Tensor:
            past.append(new)
            return model.head(model.features(torch.cat(past, dim=1), grid=(height, width))[:, -1])

        return sample_loop(model, batch, height * width, sampling, next_logits)

    return run


def concatenating_road(model: LanguageModel, height: int, width: int) -> Road:
    config = model.config
    tables = rotary_tables(config, config.max_tokens(height, width), (height, width), model.device, model.dtype)

    def run(batch: int, sampling: TokenSampling) -> Tensor:
        past: list[tuple[Tensor, Tensor] | None] = [None] * config.depth

        def next_logits(new: Tensor, before: int) -> Tensor:
            rotation = [table[before : before + new.shape[1]] for table in tables]
            x = model.token_embedding(new)
            for i, block in enumerate(model.blocks):
                qkv = block.attention.qkv(block.attention_norm(x)).unflatten(-1, (3 * config.heads, -1))
                qk, v = qkv.split([2 * config.heads, config.heads], dim=2)
                q, k = rotate(qk, *rotation).chunk(2, dim=2)
                q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
                if (old := past[i]) is not None:
                    k, v = torch.cat([old[0], k], dim=2), torch.cat([old[1], v], dim=2)
                past[i] = (k, v)
                y = F.scaled_dot_product_attention(q, k, v, is_causal=before == 0)
                x = x + block.attention.out(y.transpose(1, 2).flatten(2))
                x = x + block.feedforward(block.feedforward_norm(x))
            return model.head(model.norm(x[:, -1]))

        return sample_loop(model, batch, height * width, sampling, next_logits)

    return run


def transformers_road(model: LanguageModel, height: int, width: int) -> Road:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config, count = model.config, height * width
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=int(config.feedforward_multiple * (2 / 3) * config.width),
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            max_position_embeddings=config.prefix_length + count,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    llama = llama.to(model.device, model.dtype).eval()
    found, wanted = (sum(p.numel() for p in m.parameters()) for m in (llama, model))
    if found != wanted:
        raise RuntimeError(f"the Llama has {found} parameters, ours {wanted}: the sizes are not the same")

    def run(batch: int, sampling: TokenSampling) -> Tensor:
        how = GenerationConfig(
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or None,
            top_k=sampling.top_k or None,
            cache_implementation="static",
            pad_token_id=0,
        )
        ids = prefix(model, batch)
        return llama.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)[:, ids.shape[1] :]

    return run


def seconds(run: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


@torch.inference_mode()
def timed(road: Road, batch: int, how: TokenSampling, device: torch.device, best: float) -> tuple[float, Tensor]:
    """The shorter of `best` and this run's seconds, and its codes."""
    codes: list[Tensor] = []
    return min(best, seconds(lambda: codes.append(road(batch, how)), device)), codes[0]


def copy_bandwidth(device: torch.device, megabytes: int = 256) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.ones(megabytes * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--width", type=int, default=512, help="of the transformer")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--height", type=int, default=8, help="of an image, in codes")
    parser.add_argument("--width-codes", type=int, default=16, help="of an image, in codes")
    parser.add_argument("--top-k", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="also our step through torch.compile (a minute more)")
    parser.add_argument("--without", nargs="*", default=[], help="roads to leave out, by their first word")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    device = torch.device(a.device)
    config = LanguageModelConfig(
        codebook_size=CODES,
        num_classes=CLASSES,
        latent_frames=1,
        latent_height=a.height,
        latent_width=a.width_codes,
        width=a.width,
        depth=a.depth,
        heads=a.heads,
    )
    model = LanguageModel(config).to(device, getattr(torch, a.dtype)).eval()
    roads = {
        "static cache": static_road,
        "compiled static cache": compiled_road,
        "concatenating cache": concatenating_road,
        "no cache": uncached_road,
        "transformers static cache": transformers_road,
    }
    built = {
        name: make(model, a.height, a.width_codes)
        for name, make in roads.items()
        if name.split()[0] not in a.without and (a.compile or make is not compiled_road)
    }
    weights = sum(p.nbytes for p in model.parameters()) - model.token_embedding.weight.nbytes
    bandwidth = copy_bandwidth(device)
    count = a.height * a.width_codes
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {count} codes, {a.dtype}, {device}")
    print(f"{weights / 1e6:.1f} MB of weights a step, copying at {bandwidth / 1e9:.2f} GB/s\n")
    print("| batch | road | tokens/s | time relative to ours | share of the bandwidth |")
    print("|---|---|---|---|---|")
    sampling = TokenSampling(top_k=a.top_k)
    for batch in a.batch:
        here = {name: road for name, road in built.items() if name != "no cache" or batch == a.batch[0]}
        best, codes = dict.fromkeys(here, math.inf), {}
        for round_ in range(a.rounds + 1):  # the first warms up
            for name, road in here.items():
                if round_ == 0 or name != "no cache":
                    best[name], codes[name] = timed(
                        road, batch, sampling, device, best[name] if round_ > 1 else math.inf
                    )
        ours = [found for name, found in codes.items() if "transformers" not in name]
        agreement = min(float((found == ours[0]).float().mean()) for found in ours)
        if agreement < 0.99 and a.dtype == "float32":
            raise RuntimeError(f"only {agreement:.1%} of the codes of our roads agree")
        for name, time_taken in best.items():
            steps = count / time_taken
            relative = time_taken / best["static cache"] if "static cache" in best else math.nan
            share = f"{weights * steps / bandwidth:.0%}" if name != "no cache" else ""
            print(f"| {batch} | {name} | {batch * steps:.1f} | {relative:.2f} | {share} |", flush=True)


if __name__ == "__main__":
    main()
