"""Train a member of the reference model family from scratch on the CPU and save it as an ordinary transformers folder.

    python scripts/train_reference.py --out hybrid/assets/reference-model --log docs/reference-model-training.log
    python scripts/train_reference.py --layers 3 --width 96 --seed 1 --out runs/small     # a smaller member
    python scripts/train_reference.py --layers 4 --start-from hybrid/assets/reference-model --steps 1200 \
        --learning-rate 1e-3 --seed 1 --out runs/sibling                                  # a block less, healed

Every number comes from the seed: data, initial weights and order. The loss is taken on answers alone (after the query, up
to and including ``;``). The document length grows over the first part of training, since looking one line up is learnt
before looking one of eight up. The weights are saved in float16 (half the size) and load in any dtype.

Does not: use a GPU, a tokenizer from a hub, or any text but the synthetic language of `reference_language.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import reference_language as language
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per operation, name, mark and keyword, one per character otherwise; spaces are dropped."""
    vocabulary = {token: i for i, token in enumerate(language.vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=language.UNKNOWN))
    words = "|".join([*language.KEYWORDS, *language.NAMES, *(m.replace("$", "\\$") for m in language.MARKS)])
    pattern = Regex(rf"@[a-z]+|(?:{words})|\n|[^\n ]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(" +"), "removed"), pre_tokenizers.Split(pattern, "isolated")]
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=language.PAD,
        unk_token=language.UNKNOWN,
        eos_token=language.END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_model(layers: int, width: int, vocabulary: int) -> LlamaForCausalLM:
    """A Llama of `layers` blocks with tied embeddings; heads are 32 wide."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def uncompiled(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A plain copy for generation, whose growing caches would make torch.compile recompile without end."""
    config = model.config
    copy = build_model(config.num_hidden_layers, config.hidden_size, config.vocab_size)
    copy.load_state_dict(model.state_dict())
    return copy


class Batches:
    """Encoded training batches: right-padded ids and labels that are -100 outside the answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, rows: int, queries: int) -> None:
        self.tokenizer, self.rows, self.queries = tokenizer, rows, queries
        self.rng = random.Random(seed)

    def language(self, most_lines: int) -> tuple[torch.Tensor, torch.Tensor]:
        """ids (B, T) and labels (B, T) of documents with answered queries."""
        return self._encode([language.training_pieces(self.rng, most_lines, self.queries) for _ in range(self.rows)])

    def recall(self, items: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
        """ids (B, T) and labels (B, T) of pure look-up practice."""
        return self._encode([language.recall_pieces(self.rng, items) for _ in range(self.rows)])

    def _encode(self, sequences: list[list[tuple[str, bool]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """T is the longest row's length, rounded up to 32 so that few shapes are compiled."""
        flat = self.tokenizer([text for pieces in sequences for text, _ in pieces])["input_ids"]
        encoded = iter(flat)
        rows = []
        for pieces in sequences:
            ids: list[int] = []
            labels: list[int] = []
            for _, answer in pieces:
                part = next(encoded)
                ids += part
                labels += part if answer else [-100] * len(part)
            rows.append((ids, labels))
        longest = -(-max(len(ids) for ids, _ in rows) // 32) * 32
        ids_bt = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
        labels_bt = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows])
        return ids_bt, labels_bt


@torch.no_grad()
def evaluate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, count: int = 200
) -> dict[str, float]:
    """Greedy exact-match on first queries, by what the query asks for. The battery is fixed by the seed."""
    rng = random.Random(seed)
    sets: dict[str, list[tuple[str, str]]] = {}

    def put(name: str, doc: str, prompt: str, answer: str) -> None:
        sets.setdefault(name, []).append((f"{doc}{prompt}", answer))

    for _ in range(count):
        text = language.argument(rng, 4, 5)
        op = rng.choice(list(language.OPERATIONS))
        put("direct", "", f"q {text} {op}", language.apply([op], text))
        for lines in (1, 4, 8):
            doc = language.Document(rng, lines)
            if doc.form != "plain":
                continue
            if doc.facts:
                name = rng.choice(list(doc.facts))
                put(f"fact/{lines}", doc.text, f"ask {language.argument(rng, 2, 2)} {name}", doc.facts[name])
            single = [n for n, ops in doc.rules.items() if len(ops) == 1]
            if single:
                name = rng.choice(single)
                put(f"rule/{lines}", doc.text, f"q {text} {name}", language.apply(doc.rules[name], text))
                twice = language.apply(doc.rules[name] * 2, text)
                if lines == 4 and len(twice) <= language.LONGEST_ANSWER:
                    put("twice/4", doc.text, f"q {text} {name} {name}", twice)
                put("call", doc.text, f"call {text} {name}", f"{doc.rules[name][0]}({text})")
    model.eval()
    scores = {}
    for name, rows in sorted(sets.items()):
        inputs = tokenizer([p for p, _ in rows], padding=True, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        scores[name] = round(sum(t == a for t, (_, a) in zip(texts, rows, strict=True)) / len(rows), 3)
    return scores


class Log:
    """Rows as JSON lines, printed and kept in a file that is always whole."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[str] = []
        self.started = time.monotonic()

    @property
    def minutes(self) -> float:
        """Since the start."""
        return round((time.monotonic() - self.started) / 60, 2)

    def write(self, row: dict[str, Any]) -> None:
        """One row."""
        self.lines.append(json.dumps(row))
        print(self.lines[-1], flush=True)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def start_from(model: LlamaForCausalLM, folder: Path) -> None:
    """Copy the weights of a member of the same width; a member with more blocks gives its first ones and its last."""
    source = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    last, of = model.config.num_hidden_layers - 1, source.config.num_hidden_layers - 1
    state = source.state_dict()
    kept = {key: value for key, value in state.items() if ".layers." not in key}
    for block in range(last + 1):
        prefix = f"model.layers.{of if block == last else block}."
        kept |= {f"model.layers.{block}.{k[len(prefix) :]}": v for k, v in state.items() if k.startswith(prefix)}
    model.load_state_dict(kept)


def optimizer_for(model: LlamaForCausalLM, rate: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices alone."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--recall-steps", type=int, default=1500, help="steps of look-up practice before the language")
    parser.add_argument("--start-from", type=Path, help="a member whose weights to begin with, instead of practice")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--no-compile", action="store_true", help="skip torch.compile (about three times slower on a CPU)"
    )
    return parser.parse_args()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights in float16 and the tokenizer."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def train(args: argparse.Namespace, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, log: Log) -> None:
    """All steps. The rate warms up for 200 and falls by a cosine; document lengths grow unless the member was one before."""
    batches = Batches(tokenizer, args.seed, args.rows, args.queries)
    optimizer = optimizer_for(model, args.learning_rate)
    practice = 0 if args.start_from else args.recall_steps
    running, recalled = 0.0, 0.0
    for step in range(args.steps):
        progress = step / args.steps
        rate = args.learning_rate * min(1.0, (step + 1) / 200) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        most_lines = 8 if args.start_from else 3 + int(min(1.0, progress / 0.4) * 5)
        practising = step < practice or (progress < 0.5 and step % 5 == 0)
        ids, labels = batches.recall() if practising else batches.language(most_lines)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(input_ids=ids, labels=labels, use_cache=False)
        loss = output.loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if practising:
            asked = labels[:, 1:] >= 0
            recalled = (output.logits[:, :-1].argmax(-1) == labels[:, 1:])[asked].float().mean().item()
        running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
        if (step + 1) % 100 == 0:
            row = {"step": step + 1, "loss": round(running, 4), "rate": round(rate, 6), "most_lines": most_lines}
            log.write({**row, "recall": round(recalled, 3), "minutes": log.minutes})
        if (step + 1) % 500 == 0:
            log.write({"step": step + 1, "greedy": evaluate(uncompiled(model), tokenizer, seed=10_000)})
            save(uncompiled(model), tokenizer, args.out)


def main() -> None:
    """Set up, train, save, and write the log."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(args.layers, args.width, len(language.vocabulary()))
    if args.start_from:
        start_from(model, args.start_from)
    model.set_attn_implementation("eager")
    if not args.no_compile:
        # The step is bound by elementwise work; fusing it per block makes training 1.5 to 2.5 times faster.
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    log = Log(args.log)
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("out", "log")}
    log.write({"parameters": model.num_parameters(), **settings})
    train(args, model, tokenizer, log)
    final = uncompiled(model)
    log.write({"final": evaluate(final, tokenizer, seed=20_000), "minutes": log.minutes})
    save(final, tokenizer, args.out)


if __name__ == "__main__":
    main()
