"""The whole idea in one file, without the framework: measure -> route -> improve -> measure.

    python examples/minimal_loop.py --world data/reference --model hybrid/assets/reference-model

Needs transformers, trl and peft alone. For every capability of a world it measures what the model does (greedily, by
sampling, with a drafted text), routes it, improves it (a document from training rows, or LoRA by stock TRL GRPO, or the
one on top of the other), tests the change once on `confirm` with an exact sign test, and prints the placement.

What the framework adds is what this file leaves out: resume, sealed splits, a racing search, checkpoint selection,
correction over capabilities, intervals, checks that an adapter was really applied, and a report to argue with. A test
compares the two on the same world.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

Row = dict[str, Any]
KEEP_ABOVE, CONTEXT_GAIN, SAMPLING_GAIN, SIGNAL_RATE = 0.9, 0.1, 0.1, 0.2
MINIMUM_EFFECT, ALPHA, TRANSFER = 0.15, 0.05, 0.5
SAMPLES, PROBE_ROWS, TRIALS = 8, 64, 4


@dataclass
class Capability:
    """Rows by split, what counts as right, and the temperature of judged answers."""

    name: str
    rows: dict[str, list[Row]]
    right: Callable[[str, Row], bool]
    temperature: float


class Model:
    """A causal language model that answers prompts, with an optional LoRA adapter on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        self.base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

    @torch.inference_mode()
    def answers(self, prompts: list[str], temperature: float, model: Any = None, seed: int = 0) -> list[str]:
        """One completion per prompt; temperature 0 is greedy."""
        torch.manual_seed(seed)
        model = (model or self.base).eval()
        out: list[str] = []
        for start in range(0, len(prompts), 256):
            inputs = self.tokenizer(prompts[start : start + 256], padding=True, return_tensors="pt")
            how = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
            ids = model.generate(**inputs, max_new_tokens=14, **how)
            ids = ids[:, inputs["input_ids"].shape[1] :]
            out += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return out


def load_world(folder: Path) -> list[Capability]:
    """The capabilities of a world: exact match, except where rows carry a gold answer in a layout of its own."""
    out = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        rows = {
            f.stem: [json.loads(line) for line in f.read_text(encoding="utf-8").splitlines()]
            for f in sorted(path.glob("*.jsonl"))
        }
        laid_out = "gold" in rows["train"][0]

        def right(answer: str, row: Row) -> bool:
            return answer.strip() == row.get("gold", row["reference"])

        out.append(Capability(path.name, rows, right, 1.0 if laid_out else 0.0))
    return out


def measure(model: Model, cap: Capability, rows: list[Row], text: str = "", adapted: Any = None) -> list[bool]:
    """Whether each row's answer is right, at the capability's own temperature."""
    answers = model.answers([text + r["prompt"] for r in rows], cap.temperature, adapted)
    return [cap.right(a, r) for a, r in zip(answers, rows, strict=True)]


def mean(values: list[bool]) -> float:
    """Share of true values."""
    return sum(values) / len(values)


def sampling(model: Model, cap: Capability, rows: list[Row], text: str = "") -> tuple[float, float]:
    """pass@k minus pass@1, and the share of groups from which GRPO can learn (a pass and a failure in one group)."""
    prompts = [text + r["prompt"] for r in rows for _ in range(SAMPLES)]
    answers = model.answers(prompts, 1.0)
    counts = [sum(cap.right(a, r) for a in answers[i * SAMPLES : (i + 1) * SAMPLES]) for i, r in enumerate(rows)]
    at_1 = sum(counts) / SAMPLES / len(rows)
    at_k = mean([c > 0 for c in counts])
    return at_k - at_1, mean([0 < c < SAMPLES for c in counts])


def draft(model: Model, cap: Capability, vocabulary: dict[str, Any]) -> str:
    """A document from training rows: for every name, the line that makes most of a few failing rows right."""
    slot = re.compile(vocabulary["slots"][0])
    wrong = [r for r, ok in zip(cap.rows["train"], measure(model, cap, cap.rows["train"]), strict=True) if not ok]
    groups: dict[str, list[Row]] = {}
    for row in wrong:
        found = slot.search(row["prompt"])
        if found:
            groups.setdefault(found["name"], []).append(row)
    lines = []
    for name, rows in sorted(groups.items()):
        references = [r["reference"] for r in rows]
        facts = sorted({x for x in references if references.count(x) >= 2})
        candidates = [t.format(name=name) for t in vocabulary["rules"] if "{name}" in t]
        candidates += [t.format(name=name, reference=x) for t in vocabulary["facts"] for x in facts]
        tried = {line: mean(measure(model, cap, rows[: 2 * TRIALS], line + "\n")) for line in candidates}
        best = max(sorted(tried), key=lambda line: tried[line])
        if tried[best] > 0.2:
            lines.append(best + "\n")
    return "".join(lines)


def train(model: Model, cap: Capability, text: str, steps: int = 60) -> Any:
    """LoRA by stock TRL GRPO on the training rows, with `text` before every prompt. The base is copied, not changed."""
    by_prompt = {text + r["prompt"]: r for r in cap.rows["train"]}

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [float(cap.right(c, by_prompt[p])) for p, c in zip(prompts, completions, strict=True)]

    args = GRPOConfig(
        output_dir="runs/minimal-loop",
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=14,
        max_steps=steps,
        learning_rate=2e-3,
        scale_rewards="none",
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        seed=0,
    )
    lora = LoraConfig(r=8, lora_alpha=16, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32), lora)
    dataset = Dataset.from_dict({"prompt": list(by_prompt)})
    trainer = GRPOTrainer(adapted, reward, args=args, train_dataset=dataset, processing_class=model.tokenizer)
    trainer.train()
    return trainer.model


def route(model: Model, cap: Capability, text: str) -> tuple[str, dict[str, float]]:
    """Where to try, and the numbers that say so."""
    rows = cap.rows["search"][:PROBE_ROWS]
    base = mean(measure(model, cap, rows))
    with_text = mean(measure(model, cap, rows, text)) if text else base
    gain, signal = sampling(model, cap, rows)
    seen = {"base": base, "with text": with_text, "sampling gain": gain, "signal rate": signal}
    if base >= KEEP_ABOVE:
        return "keep", seen
    if with_text - base >= CONTEXT_GAIN:
        if with_text >= KEEP_ABOVE:
            return "skill", seen
        gain, signal = sampling(model, cap, rows, text)
        return ("both" if gain >= SAMPLING_GAIN and signal >= SIGNAL_RATE else "skill"), seen
    return ("weights" if gain >= SAMPLING_GAIN and signal >= SIGNAL_RATE else "neither"), seen


def sign_test(before: list[bool], after: list[bool]) -> float:
    """One-sided exact p of `after` being better, paired by row (McNemar)."""
    wins = sum(b > a for a, b in zip(before, after, strict=True))
    discordant = sum(a != b for a, b in zip(before, after, strict=True))
    return sum(comb(discordant, k) for k in range(wins, discordant + 1)) / 2**discordant


def ships(before: list[bool], after: list[bool]) -> bool:
    """The honest gate: better on examples that nothing before has seen, by enough to be worth it."""
    return sign_test(before, after) <= ALPHA and mean(after) - mean(before) >= MINIMUM_EFFECT


def place(model: Model, cap: Capability, vocabulary: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """Measure, route, improve, gate: the placement of one capability, and test scores of the base and the result."""
    text = draft(model, cap, vocabulary)
    tried, seen = route(model, cap, text)
    base = measure(model, cap, cap.rows["confirm"])
    adapted, document = None, text if tried in ("skill", "both") else ""
    placement = tried
    if tried == "skill" and not ships(base, measure(model, cap, cap.rows["confirm"], document)):
        placement = "undecided"
    if tried in ("weights", "both"):
        adapted = train(model, cap, document)
        before = measure(model, cap, cap.rows["confirm"], document)
        after = measure(model, cap, cap.rows["confirm"], document, adapted)
        if not ships(before, after):
            placement = "skill" if ships(base, before) else "undecided"
        else:
            gain = mean(after) - mean(base)
            varied = [measure(model, cap, cap.rows["variant"], d, a) for d, a in (("", None), (document, adapted))]
            if (mean(varied[1]) - mean(varied[0])) / gain < TRANSFER:
                placement = "neither"
    seen["test before"] = mean(measure(model, cap, cap.rows["test"]))
    if placement in ("skill", "weights", "both"):
        final = adapted if placement in ("weights", "both") else None
        seen["test after"] = mean(measure(model, cap, cap.rows["test"], document, final))
    return placement, seen


def main() -> None:
    """Place every capability of a world and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("data/reference"))
    parser.add_argument("--model", type=Path, default=Path("hybrid/assets/reference-model"))
    parser.add_argument("--json", action="store_true", help="print one JSON object: capability -> placement")
    args = parser.parse_args()
    model = Model(args.model)
    lines = (args.world / "vocabulary.yaml").read_text(encoding="utf-8").splitlines()
    vocabulary = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in lines)}
    placed = {}
    for cap in load_world(args.world):
        placed[cap.name], seen = place(model, cap, vocabulary)
        if not args.json:
            numbers = ", ".join(f"{name} {value:.2f}" for name, value in seen.items())
            print(f"{cap.name:20s} {placed[cap.name]:10s} {numbers}", flush=True)
    if args.json:
        print(json.dumps(placed))


if __name__ == "__main__":
    main()
