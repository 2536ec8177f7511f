"""Throughput of many short queries over one document: stock `generate`, the backend, and the backend with sharing.

    python scripts/bench_prefix.py                                # the reference model, about 1,000 tokens, 200 queries
    python scripts/bench_prefix.py --model data/gemma-model --queries 32 --repeats 1 --batch-sizes 8

Every way reads the same prompts (document and query), decodes greedily to the same end tokens, and is timed from text to
text. The stock way is batched `model.generate` on the whole prompts at the best of the batch sizes given. "Shared,
first call" starts with a fresh backend each time, so that the check of the model and the document are paid; "shared,
next call" finds the document's keys and values in the backend's store. Medians over the repeats, all ways in turn.

The reference model has 512 positions; its rotary encoding has no other trace of that number, so a copy in memory gets as
many positions as the prompts need, with the same weights. What it answers that far out means nothing; how fast it does
so, and whether all ways answer alike, does.

Does not: measure quality, or serve several documents.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import reference_language as language
import torch

from hybrid.backends.base import Completion, Request, Sampling
from hybrid.backends.loading import LoadedModel, load_base
from hybrid.backends.rendering import count_tokens
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import ModelConfig, TransformersBackendConfig

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Answers = list[tuple[str, int]]
"""Text and new tokens of every query, in order."""


def reference_prompts(loaded: LoadedModel, tokens: int, queries: int) -> tuple[str, list[str]]:
    """A document in the reference model's language, and queries that name its rules."""
    rng = random.Random(0)
    lines: list[str] = []
    while count_tokens(loaded.tokenizer, "\n".join(lines)) < tokens:
        lines.append(f"rule {rng.choice(language.NAMES)} {rng.choice(sorted(language.OPERATIONS))}.")
    return "\n".join(lines) + "\n", [
        f"q {language.argument(rng)} {rng.choice(language.NAMES)} " for _ in range(queries)
    ]


def english_prompts(loaded: LoadedModel, tokens: int, queries: int) -> tuple[str, list[str]]:
    """A table of facts in English, and questions about it."""
    rng = random.Random(0)
    lines: list[str] = []
    while count_tokens(loaded.tokenizer, "\n".join(lines)) < tokens:
        lines.append(f"The key of room {len(lines) + 1} hangs on hook {rng.randrange(1000)}.")
    asked = [rng.randrange(len(lines)) + 1 for _ in range(queries)]
    return "\n".join(lines) + "\n\n", [f"Question: On which hook hangs the key of room {i}?\nAnswer:" for i in asked]


def with_positions(loaded: LoadedModel, needed: int) -> tuple[LoadedModel, str]:
    """The model with at least `needed` positions, and what was changed for it."""
    limit = loaded.model.config.get_text_config().max_position_embeddings
    if needed <= limit:
        return loaded, "as it is"
    model = copy.deepcopy(loaded.model)
    model.config.get_text_config().max_position_embeddings = 2048
    return dataclasses.replace(loaded, model=model), f"a copy in memory with 2048 positions instead of {limit}"


def stock(loaded: LoadedModel, prompts: Sequence[str], sampling: Sampling, rows: int) -> Answers:
    """Batched `model.generate` on the whole prompts, in the order given."""
    found: Answers = []
    tokenizer, ends = loaded.tokenizer, set(loaded.stop_ids)
    for start in range(0, len(prompts), rows):
        batch = tokenizer(list(prompts[start : start + rows]), return_tensors="pt", padding=True).to(loaded.info.device)
        with torch.inference_mode():
            output = loaded.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
            )
        for ids in output[:, batch["input_ids"].shape[1] :].tolist():
            end = next((i for i, token in enumerate(ids) if token in ends), None)
            text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            found.append((text, len(ids) if end is None else end + 1))
    return found


def backend(loaded: LoadedModel, share: bool) -> TransformersBackend:
    """A fresh backend at its default batch size."""
    return TransformersBackend(loaded, TransformersBackendConfig(), share_prefixes=share)


def through(served: TransformersBackend, prompts: Sequence[str], sampling: Sampling) -> Answers:
    """The backend's answers."""
    completions: list[Completion] = served.generate([Request(prompt, 0) for prompt in prompts], sampling, None)
    return [(c.text, c.tokens_out) for c in completions]


def timed(way: Callable[[], Answers], clock: Callable[[], float]) -> tuple[float, Answers]:
    """Seconds by `clock`, and answers."""
    started = clock()
    answers = way()
    return clock() - started, answers


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference", help="a model folder, or `reference`")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--document", type=int, default=1000, help="tokens of the document, at least")
    parser.add_argument("--new-tokens", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 200], help="tried for stock generate")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's choice)")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="cpu: for one thread on a busy machine")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]

    model = ModelConfig(
        path=options.model, dtype=options.dtype, **({"threads": options.threads} if options.threads else {})
    )
    with tempfile.TemporaryDirectory() as cache:
        loaded = load_base(model, Path, Path(cache))
    loaded.tokenizer.model_max_length = 1 << 30  # else it warns of every prompt beyond the reference model's positions
    prompts_of = reference_prompts if options.model == "reference" else english_prompts
    document, queries = prompts_of(loaded, options.document, options.queries)
    prompts = [document + query for query in queries]
    longest = max(count_tokens(loaded.tokenizer, prompt) for prompt in prompts) + 1
    loaded, changed = with_positions(loaded, longest + options.new_tokens)
    sampling = Sampling(max_new_tokens=options.new_tokens)

    print(
        f"model {options.model}, {changed}; {loaded.info.parameters:,} parameters, {options.dtype}, {loaded.info.device}"
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    print(f"{len(prompts)} queries over a document of {count_tokens(loaded.tokenizer, document)} tokens, prompts of up")
    print(
        f"to {longest} tokens, greedy, up to {options.new_tokens} new tokens, {options.repeats} repeats, {options.clock} clock",
        flush=True,
    )

    warm = prompts[:2]
    stock(loaded, warm, sampling, 2)
    through(backend(loaded, False), warm, sampling)
    through(backend(loaded, True), warm, sampling)
    sizes = sorted({min(size, len(prompts)) for size in options.batch_sizes})
    tried = {size: timed(lambda size=size: stock(loaded, prompts, sampling, size), clock)[0] for size in sizes}  # type: ignore[misc]
    best = min(tried, key=lambda size: tried[size])
    print("stock generate by batch size: " + ", ".join(f"{size}: {seconds:.2f} s" for size, seconds in tried.items()))

    seconds: dict[str, list[float]] = {}
    answers: dict[str, Answers] = {}
    for _ in range(options.repeats):
        served = backend(loaded, True)
        ways: dict[str, Callable[[], Answers]] = {
            f"stock generate, batches of {best}": lambda: stock(loaded, prompts, sampling, best),
            "backend, whole prompts": lambda: through(backend(loaded, False), prompts, sampling),
            "backend, shared, first call": lambda served=served: through(served, prompts, sampling),  # type: ignore[misc]
            "backend, shared, next call": lambda served=served: through(served, prompts, sampling),  # type: ignore[misc]
        }
        for name, way in ways.items():
            spent, answers[name] = timed(way, clock)
            seconds.setdefault(name, []).append(spent)

    first = next(iter(answers))
    base = statistics.median(seconds[first])
    print("\n| way | seconds (median, range) | queries/s | new tokens/s | times stock | equal answers |")
    print("|---|---|---|---|---|---|")
    for name, found in answers.items():
        middle = statistics.median(seconds[name])
        spread = f"{middle:.2f} ({min(seconds[name]):.2f} to {max(seconds[name]):.2f})"
        made = sum(tokens for _, tokens in found) / middle
        equal = sum(a == b for a, b in zip(found, answers[first], strict=True))
        rates = f"{len(prompts) / middle:.1f} | {made:.1f} | {base / middle:.1f}"
        print(f"| {name} | {spread} | {rates} | {equal} of {len(prompts)} |")
    print(f"\nover the two shared calls: {served.prefix_use}")
    print("\n".join(served.warnings) or "no warnings")


if __name__ == "__main__":
    main()
