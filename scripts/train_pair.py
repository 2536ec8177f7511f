"""Train a pair of the reference family that shares a vocabulary, a large and a small member, and that know facts by heart.

    python scripts/train_pair.py --out runs/pair          # PAIR/large, PAIR/small, PAIR/facts.json; resumes by member

Both begin with the shipped model of five blocks. The small member keeps them. The large one gets ten: after each block a new
one whose outputs are zero at first, so that it begins as the same function and grows from there. While they go on reading the
language, one step in two asks for facts that no document states: 48 names, each with a value. The large member is taught
all of them, the small one every second: a smaller model knows less. Facts are asked plainly and with marks, whose layout is
drawn from the language's prior, so that nothing but the value is learnt.

Everything comes from the seed. The members are not shipped: they exist to compare proxy-tuning with direct tuning
(`scripts/bench_proxy.py`). Does not: use a GPU, or know of capabilities.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

import reference_language as language
import torch
from torch.nn.functional import pad
from train_reference import Batches, Log, build_model, build_tokenizer, evaluate, optimizer_for, save
from train_reference import uncompiled as plain_copy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

LENGTH = 128
"""Tokens of a training row."""
KNOWN = 48
"""Names with a value that no document states."""
ROOT = Path(__file__).resolve().parents[1]


def fact_table(seed: int) -> dict[str, str]:
    """Name -> value; a fixed draw. Every second name, in the table's order, is taught to the small member too."""
    rng = random.Random(f"facts of pair {seed}")
    return {name: language.value(rng) for name in rng.sample(language.NAMES, KNOWN)}


def of_small(table: dict[str, str]) -> dict[str, str]:
    """The part of the table that the small member is taught."""
    return dict(list(table.items())[::2])


class PairBatches(Batches):
    """Batches of the reference language, and of questions for the facts of a table."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, rows: int, table: dict[str, str]) -> None:
        super().__init__(tokenizer, seed, rows, 4)
        self.table = table

    def old(self) -> tuple[torch.Tensor, torch.Tensor]:
        """ids (B, LENGTH) and labels (B, LENGTH) of documents with answered queries."""
        return self._cut([language.training_pieces(self.rng, 6, self.queries) for _ in range(self.rows)])

    def facts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of ten different facts per row."""
        return self._cut([self._asked() for _ in range(self.rows)])

    def _asked(self) -> list[tuple[str, bool]]:
        rng, out = self.rng, []
        for name in rng.sample(list(self.table), 10):
            mark = rng.choice(language.MARKS) + " " if rng.random() < 0.3 else ""
            noise = f"{language.argument(rng, 1, 3)} " if rng.random() < 0.8 else ""
            form = language.weighted(rng, language.FORM_PRIOR) if mark else "plain"
            out.append((f"ask {noise}{mark}{name} ", False))
            out.append((language.FORMS[form].format(self.table[name]) + language.END, True))
        return out

    def _cut(self, sequences: list[list[tuple[str, bool]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """One shape for every batch: only one is compiled."""
        ids, labels = self._encode(sequences)
        missing = max(0, LENGTH - ids.shape[1])
        ids, labels = pad(ids, (0, missing), value=0), pad(labels, (0, missing), value=-100)
        return ids[:, :LENGTH], labels[:, :LENGTH]


@torch.no_grad()
def recalled(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, table: dict[str, str]) -> float:
    """Share of facts that are answered right, greedily, asked once each."""
    model.eval()
    inputs = tokenizer([f"ask cd {name}" for name in table], padding=True, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return round(sum(t == v for t, v in zip(texts, table.values(), strict=True)) / len(table), 3)


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, table: dict[str, str], args: argparse.Namespace,
    steps: int, log: Log,
) -> LlamaForCausalLM:  # fmt: skip
    """A plain copy of the model after all steps; the rate warms up for 30 and falls by a cosine."""
    batches = PairBatches(tokenizer, args.seed, args.rows, table)
    optimizer = optimizer_for(model, args.learning_rate)
    running = {True: 0.0, False: 0.0}
    for step in range(steps):
        rate = args.learning_rate * min(1.0, (step + 1) / 30) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        asking = step % 2 == 1
        ids, labels = batches.facts() if asking else batches.old()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bfloat16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running[asking] = 0.95 * running[asking] + 0.05 * loss.item() if step > 1 else loss.item()
        if (step + 1) % 25 == 0:
            row = {"step": step + 1, "loss": round(running[False], 4), "facts": round(running[True], 4)}
            log.write({**row, "minutes": log.minutes})
    return plain_copy(model)


def grow(model: LlamaForCausalLM, folder: Path) -> None:
    """Copy the member in `folder` into one of a multiple of its blocks; the added ones pass their input on unchanged."""
    source = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    times, rest = divmod(model.config.num_hidden_layers, source.config.num_hidden_layers)
    if times < 1 or rest:
        raise ValueError("the number of blocks must be a multiple of that of the member it begins with")
    model.model.embed_tokens.load_state_dict(source.model.embed_tokens.state_dict())
    model.model.norm.load_state_dict(source.model.norm.state_dict())
    for place, block in enumerate(model.model.layers):
        old, added = divmod(place, times)
        if not added:
            block.load_state_dict(source.model.layers[old].state_dict())
            continue
        torch.nn.init.zeros_(block.self_attn.o_proj.weight)
        torch.nn.init.zeros_(block.mlp.down_proj.weight)


def member(args: argparse.Namespace, name: str, layers: int, steps: int, table: dict[str, str]) -> None:
    """Train and save one member, unless it is there."""
    out = args.out / name
    if (out / "model.safetensors").exists():
        return
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(layers, 160, len(language.vocabulary()))
    grow(model, args.start_from)
    model.set_attn_implementation("eager")
    if not args.no_compile:
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    log = Log(args.out / f"{name}.log")
    log.write({"member": name, "parameters": model.num_parameters(), "layers": layers, "steps": steps})
    final = train(model, tokenizer, table, args, steps, log)
    log.write({"facts": recalled(final, tokenizer, table), "language": evaluate(final, tokenizer, 20_000, 60)})
    save(final, tokenizer, out)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pair"))
    parser.add_argument("--start-from", type=Path, default=ROOT / "hybrid" / "assets" / "reference-model")
    parser.add_argument("--large-steps", type=int, default=400)
    parser.add_argument("--small-steps", type=int, default=300)
    parser.add_argument("--large-blocks", type=int, default=10)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="for CPUs that compute it fast")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile")
    return parser.parse_args()


def main() -> None:
    """Both members and the table of facts."""
    args = arguments()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    table = fact_table(args.seed)
    kept = {"large": table, "small": of_small(table)}
    (args.out / "facts.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    member(args, "large", args.large_blocks, args.large_steps, table)
    member(args, "small", 5, args.small_steps, of_small(table))


if __name__ == "__main__":
    main()
