"""Teach a member of the reference family the numeric dialect of `numeric_language.py`, by going on from the shipped one.

    python scripts/train_numeric.py --out runs/numeric-member --log docs/numeric-member-training.log

One step in four is the reference language, so that the member keeps it. Everything comes from the seed. The member is
not shipped: it exists to show at which depth answers at once stop being right (`scripts/bench_depth.py`).

Does not: train from scratch (`train_reference.py` does), or know of capabilities.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numeric_language as numeric
import reference_language as language
import torch
from torch.nn.functional import pad
from train_reference import Batches, Log, build_model, build_tokenizer, optimizer_for, save, start_from, uncompiled
from train_reference import evaluate as evaluate_reference
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

LENGTH = 128
"""Tokens of a training row."""
ROOT = Path(__file__).resolve().parents[1]


class NumericBatches(Batches):
    """Batches of the numeric dialect beside those of the reference language."""

    def numeric(self) -> tuple[torch.Tensor, torch.Tensor]:
        """ids (B, LENGTH) and labels (B, LENGTH): as many queries as fit."""
        return self._cut([numeric.training_pieces(self.rng, self.queries) for _ in range(self.rows)])

    def old(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of the reference language."""
        return self._cut([language.training_pieces(self.rng, 6, 4) for _ in range(self.rows)])

    def _cut(self, sequences: list[list[tuple[str, bool]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """One shape for every batch: only one is compiled."""
        ids, labels = self._encode(sequences)
        missing = max(0, LENGTH - ids.shape[1])
        ids, labels = pad(ids, (0, missing), value=0), pad(labels, (0, missing), value=-100)
        return ids[:, :LENGTH], labels[:, :LENGTH]


@torch.no_grad()
def evaluate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, count: int = 60
) -> dict[str, float]:
    """Greedy exact match of the last value: at once or in steps, by depth, on each kind of operation."""
    rng = random.Random(seed)
    model.eval()
    scores = {}
    for steps in (False, True):
        for label, slots in (
            ("practised", numeric.PRACTISED[:4]),
            ("single", numeric.SINGLE[:2]),
            ("pairs", numeric.SINGLE[2:]),
            ("unpractised", numeric.UNPRACTISED),
        ):
            for depth in (1, 2, 4, 8):
                rows = []
                for _ in range(count):
                    slot, text = rng.choice(slots), language.argument(rng, numeric.WIDTH, numeric.WIDTH)
                    asked = (numeric.STEP_LINE + "\n") * steps + numeric.prompt(slot, text, depth)
                    rows.append((asked, numeric.values(slot, text, depth)[-1]))
                inputs = tokenizer([p for p, _ in rows], padding=True, return_tensors="pt")
                out = model.generate(**inputs, max_new_tokens=110 if steps else 8, do_sample=False)
                texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
                right = sum(t[-numeric.WIDTH :] == value for t, (_, value) in zip(texts, rows, strict=True))
                scores[f"{'step' if steps else 'once'}/{label}/{depth}"] = round(right / count, 3)
    return scores


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--start-from", type=Path, default=ROOT / "hybrid" / "assets" / "reference-model")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument(
        "--queries", type=int, default=5, help="drawn per row worked out, twice as many at once; what fits is kept"
    )
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def train(args: argparse.Namespace, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, log: Log) -> None:
    """All steps; the rate warms up for 50 and falls by a cosine."""
    batches = NumericBatches(tokenizer, args.seed, args.rows, args.queries)
    optimizer = optimizer_for(model, args.learning_rate)
    running = 0.0
    for step in range(args.steps):
        progress = step / args.steps
        rate = args.learning_rate * min(1.0, (step + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        old = step % 4 == 3
        ids, labels = batches.old() if old else batches.numeric()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not old:
            running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
        if (step + 1) % 25 == 0:
            log.write({"step": step + 1, "loss": round(running, 4), "rate": round(rate, 6), "minutes": log.minutes})
        if (step + 1) % 75 == 0:
            save(uncompiled(model), tokenizer, args.out)


def main() -> None:
    """Set up, train, save, and write the log."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(5, 160, len(language.vocabulary()))
    start_from(model, args.start_from)
    model.set_attn_implementation("eager")
    for layer in model.model.layers:
        layer.compile(dynamic=False)
    log = Log(args.log)
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("out", "log", "start_from")}
    log.write({"parameters": model.num_parameters(), **settings})
    train(args, model, tokenizer, log)
    final = uncompiled(model)
    log.write({"final": evaluate(final, tokenizer, seed=20_000, count=100), "minutes": log.minutes})
    log.write({"reference language": evaluate_reference(final, tokenizer, seed=20_000), "minutes": log.minutes})
    save(final, tokenizer, args.out)


if __name__ == "__main__":
    main()
