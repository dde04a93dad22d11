"""How fast tokens are generated, beside transformers with the same weights, and at any distance.

    python benchmarks/decode_speed.py

Random weights of the shape of 130m. Both libraries first have to generate the same ids in float32.
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from measurement import (
    Sample,
    cpu_seconds,
    in_turn,
    measure,
    print_table,
    spread,
    text_of,
    write_result,
)

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.decoder import Decoder
from biomamba.model.generation import Generation, GenerationOptions, Vocabulary, prefill
from biomamba.model.language_model import MambaLM

BAR = 4.0  # times the rate of transformers
CONTEXT_BAR = 1.05  # time per token after the longest context over that after the shortest
PROMPT_TOKENS = 16
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SEGMENT_TOKENS = 512


def main() -> None:
    """Measure, print and write."""
    options = _options()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = Mamba2Config(d_model=options.d_model, n_layer=options.layers, vocab_size=50_277)
    model = MambaLM(config, ChunkedScan()).eval()
    results: dict[str, Any] = {
        "parameters": config.num_parameters(),
        "threads": torch.get_num_threads(),
        "new_tokens": options.tokens,
    }
    twin = {name: _twin(model).to(dtype) for name, dtype in PRECISIONS.items()}
    results["batches"] = {
        str(batch): against_transformers(model, twin, batch, options.tokens, options.repeats)
        for batch in options.batches
    }
    del twin
    if options.contexts:
        results["contexts"] = by_context(model, options.contexts, options.tokens, options.repeats)
    _print(results)
    write_result("decode_speed", results, options.output)


def against_transformers(
    model: MambaLM, twin: dict[str, Any], batch: int, num_tokens: int, repeats: int
) -> dict[str, Any]:
    """Let both continue the same prompts by the same number of tokens, in turn."""
    prompts = torch.randint(model.config.vocab_size, (batch, PROMPT_TOKENS))
    ours, theirs = {}, {}
    for name, dtype in PRECISIONS.items():
        ours[name] = partial(_ours, Decoder(model, dtype), prompts.tolist())
        theirs[name] = partial(_theirs, twin[name], prompts)
    first, second = ours["float32"](8), theirs["float32"](8)
    if first != second:
        raise RuntimeError(f"the libraries generate different ids: {first} and {second}")

    works = {f"transformers {name}": work for name, work in theirs.items()}
    works |= {f"ours {name}": work for name, work in ours.items()}
    samples = in_turn(
        {name: partial(_behind_the_first, work, batch, num_tokens) for name, work in works.items()},
        repeats,
    )
    milliseconds = {
        name: spread([batch * 1_000 / each.per_wall_second for each in found])
        for name, found in samples.items()
    }
    return {
        "milliseconds_per_step": milliseconds,
        "ratio": {
            name: {
                other: spread(
                    [
                        a.per_wall_second / b.per_wall_second
                        for a, b in zip(samples[f"ours {name}"], samples[other], strict=True)
                    ]
                )
                for other in works
                if other.startswith("transformers")
            }
            for name in ours
        },
        "bar": BAR,
    }


def _behind_the_first(work: Callable[[int], Any], batch: int, num_tokens: int) -> Sample:
    """Measure all tokens but the first, which comes with the prompt: that is taken off."""
    first = measure(lambda: _amount(work, 1))
    both = measure(lambda: _amount(work, num_tokens + 1))
    return Sample(
        batch * num_tokens,
        both.cpu_seconds - first.cpu_seconds,
        both.wall_seconds - first.wall_seconds,
    )


def _amount(work: Callable[[int], Any], num_tokens: int) -> float:
    work(num_tokens)
    return num_tokens


def by_context(
    model: MambaLM, contexts: Sequence[int], num_tokens: int, repeats: int
) -> dict[str, Any]:
    """Step after prompts of several lengths, in turn, and note the memory that each took."""
    cases: dict[str, Callable[[], Sample]] = {}
    facts: dict[str, Any] = {}
    for length in sorted(contexts):
        prompt = torch.randint(model.config.vocab_size, (length,)).tolist()
        begin = time.perf_counter()
        logits, states = prefill(model, [prompt], SEGMENT_TOKENS)
        facts[str(length)] = {
            "prefill_tokens_per_second": length / (time.perf_counter() - begin),
            "peak_memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        decoder = Decoder(model)
        decoder.load(states)
        cases[str(length)] = partial(_steps, decoder, logits.argmax(-1), num_tokens)
    samples = in_turn(cases, repeats)
    shortest = [each.per_wall_second for each in samples[str(min(contexts))]]
    for name, found in samples.items():
        rates = [each.per_wall_second for each in found]
        facts[name] |= {
            "milliseconds_per_step": spread([1_000 / rate for rate in rates]),
            "time_ratio": spread([a / b for a, b in zip(shortest, rates, strict=True)]),
        }
    return facts | {"bar": CONTEXT_BAR}


def _steps(decoder: Decoder, ids: torch.Tensor, num_tokens: int) -> Sample:
    decoder.step(ids)
    wall, cpu = time.perf_counter(), cpu_seconds()
    for _ in range(num_tokens):
        ids = decoder.step(ids).argmax(-1)
    return Sample(num_tokens, cpu_seconds() - cpu, time.perf_counter() - wall)


def _ours(decoder: Decoder, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    options = GenerationOptions(max_new_tokens=num_tokens)
    vocabulary = Vocabulary(decoder.model.config.padded_vocab_size, None)
    generation = Generation(decoder, prompts, options, vocabulary, range(len(prompts)))
    ids: list[list[int]] = [[] for _ in prompts]
    while not generation.is_finished:
        for row, token in generation.advance().items():
            ids[row].append(token)
    return ids


def _theirs(twin: Any, prompts: torch.Tensor, num_tokens: int) -> list[list[int]]:
    found = twin.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    ids: list[list[int]] = found[:, PROMPT_TOKENS:].tolist()
    return ids


def _twin(model: MambaLM) -> Any:
    """Return transformers' Mamba2 with the same weights."""
    ours = model.config
    assert isinstance(ours, Mamba2Config)
    config = transformers.Mamba2Config(
        hidden_size=ours.d_model,
        num_hidden_layers=ours.n_layer,
        vocab_size=ours.padded_vocab_size,
        state_size=ours.d_state,
        head_dim=ours.headdim,
        num_heads=ours.nheads,
        n_groups=ours.ngroups,
        conv_kernel=ours.d_conv,
        expand=ours.expand,
        layer_norm_epsilon=ours.norm_eps,
        tie_word_embeddings=True,
    )
    twin = transformers.Mamba2ForCausalLM(config)
    weights = {
        name.replace("backbone.embedding.", "backbone.embeddings."): tensor
        for name, tensor in model.state_dict().items()
    }
    twin.load_state_dict(weights | {"lm_head.weight": model.head_weight})
    twin.tie_weights()
    return twin.eval()


def _print(results: dict[str, Any]) -> None:
    print_table(
        f"{results['parameters'] / 1e6:.0f} million parameters, {results['threads']} threads "
        f"(bar: {BAR:.0f} times)",
        ["rows, precision", "ms per step", "x transformers float32", "x transformers bfloat16"],
        [
            [
                f"{batch} {name}",
                text_of(each["milliseconds_per_step"][f"ours {name}"], 1),
                *(text_of(each["ratio"][name][f"transformers {other}"]) for other in PRECISIONS),
            ]
            for batch, each in results["batches"].items()
            for name in PRECISIONS
        ],
    )
    if "contexts" not in results:
        return
    print_table(
        f"One row after a prompt (bar: {CONTEXT_BAR} times)",
        ["prompt tokens", "ms per step", "times the shortest", "prefill tokens/s", "peak MB"],
        [
            [
                length,
                text_of(each["milliseconds_per_step"], 1),
                text_of(each["time_ratio"]),
                f"{each['prefill_tokens_per_second']:,.0f}",
                f"{each['peak_memory_megabytes']:,.0f}",
            ]
            for length, each in results["contexts"].items()
            if length != "bar"
        ],
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--contexts", type=int, nargs="*", default=[512, 32_768])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
