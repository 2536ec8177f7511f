"""Predicted against measured memory of a training: python scripts/bench_memory.py [--seeds 0-4] [--device cpu|cuda]

Every case trains two optimiser steps in a process of its own, on the reference model and on a larger random Llama of 57 M
parameters that is made here, and prints what `hybrid` predicted beside what it measured, above the base: resident memory on
a CPU, allocated memory on CUDA. One JSON per case and seed under --out; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """One training. `model` is `reference` or `larger`; `filler` lengthens every prompt by so many tokens."""

    name: str
    model: str
    method: str
    rows: int
    filler: int
    answer: int
    quantization: str | None = None
    optimizer: str = "adamw"
    rows_per_device: int | None = None


CASES = (
    Case("reference, GRPO 64 x 40+14", "reference", "grpo", 64, 30, 14),
    Case("reference, GRPO 64 x 300+14", "reference", "grpo", 64, 290, 14),
    Case("reference, GRPO 64 x 300+14, passes of 8", "reference", "grpo", 64, 290, 14, rows_per_device=8),
    Case("reference nf4, GRPO 64 x 300+14", "reference", "grpo", 64, 290, 14, "nf4", "adamw_8bit"),
    Case("larger, GRPO 16 x 128+32", "larger", "grpo", 16, 118, 32),
    Case("larger, GRPO 16 x 128+32, passes of 2", "larger", "grpo", 16, 118, 32, rows_per_device=2),
    Case("larger nf4, GRPO 16 x 128+32", "larger", "grpo", 16, 118, 32, "nf4", "adamw_8bit"),
    Case("larger int8, SFT 16 x 128+8", "larger", "sft", 16, 118, 8, "int8"),
    Case("larger, SFT 16 x 128+8", "larger", "sft", 16, 118, 8),
)


def larger(folder: Path) -> Path:
    """A random Llama: 8 layers of 512, a vocabulary of 32,000, the reference model's tokenizer."""
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from hybrid.backends.transformers_files import reference_folder

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    AutoTokenizer.from_pretrained(reference_folder()).save_pretrained(folder)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run(case: Case, seed: int, device: str, out: Path) -> dict[str, object]:
    """Train the case in this process; returns its figures in MiB."""
    import shutil

    from hybrid.backends.loading import load_base
    from hybrid.capability.types import Example, Score
    from hybrid.config.schema import GrpoConfig, LoraConfig, ModelConfig, QuantizationConfig, SftConfig, WeightsConfig
    from hybrid.weights.base import TrainJob
    from hybrid.weights.build import build_trainer
    from hybrid.weights.schedule import plain

    class Length:
        """Rewards differ between completions, so that every group teaches something."""

        def grade(self, completion: str, example: Example) -> Score:
            return Score(sum(map(ord, completion)) % 7 / 7, False)

        def fingerprint(self) -> str:
            return "length"

    path = "reference" if case.model == "reference" else str(larger(out / "larger"))
    quantization = QuantizationConfig(type=case.quantization) if case.quantization else None  # type: ignore[arg-type]
    model = ModelConfig(path=path, device=device, threads=1, quantization=quantization)  # type: ignore[arg-type]
    filler = " ".join(["q"] * (case.filler // 2))
    folder = out / "jobs" / f"{case.name}-{seed}".replace(" ", "-").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)
    job = TrainJob(
        capability="memory",
        examples=tuple(
            Example(id=f"e{i}", prompt=f"{filler} q Kar abcd =", reference="abcdefgh"[: max(1, case.answer - 1)])
            for i in range(case.rows)
        ),
        skill="",
        stages=plain(case.rows),
        grader=Length(),
        model=model,
        weights=WeightsConfig(
            grpo=GrpoConfig(steps=2, prompts_per_step=case.rows // 8, generations=8),
            sft=SftConfig(steps=2, batch=case.rows),
            lora=LoraConfig(rank=32, alpha=32),
            optimizer=case.optimizer,  # type: ignore[arg-type]
            rows_per_device=case.rows_per_device,
            checkpoint_every=2,
        ),
        max_new_tokens=case.answer,
        seed=seed,
        out=folder,
        method=case.method,  # type: ignore[arg-type]
    )
    loaded = load_base(model, Path, out / "cache")
    size = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    result = build_trainer(job.method).train(job, lambda: loaded, lambda *_: None)
    shutil.rmtree(folder)
    assert result.memory is not None
    return {**asdict(case), "seed": seed, "device": device, "base_mib": size / 2**20, **asdict(result.memory)}


def table(found: list[dict[str, object]]) -> str:
    """One line per case: means over seeds, the range of measured values, and their ratio."""
    lines = [f"{'case':44s}{'base':>7s}{'predicted':>11s}{'measured (least - most)':>26s}{'ratio':>7s}{'n':>4s}  MiB"]
    for case in CASES:
        rows = [f for f in found if f["name"] == case.name and f["measured_mib"] is not None]
        if not rows:
            continue
        measured = [float(str(f["measured_mib"])) for f in rows]
        predicted = float(str(rows[0]["predicted_mib"]))
        span = f"{mean(measured):,.0f} ({min(measured):,.0f} - {max(measured):,.0f})"
        base = float(str(rows[0]["base_mib"]))
        ratio = predicted / mean(measured)
        lines.append(f"{case.name:44s}{base:7,.0f}{predicted:11,.0f}{span:>26s}{ratio:7.2f}{len(rows):4d}")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-memory")
    parser.add_argument("--one", nargs=2, type=int, metavar=("CASE", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out: Path = arguments.out / arguments.device
    out.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        number, seed = arguments.one
        figures = run(CASES[number], seed, arguments.device, arguments.out)
        (out / f"{number}-{seed}.json").write_text(json.dumps(figures), encoding="utf-8")
        return
    first, _, last = arguments.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        for number, case in enumerate(CASES):
            if (out / f"{number}-{seed}.json").is_file():
                continue
            print(f"{case.name}, seed {seed}", file=sys.stderr, flush=True)
            again = ["--device", arguments.device, "--out", str(arguments.out), "--one", str(number), str(seed)]
            subprocess.run([sys.executable, __file__, *again], check=True, stdout=subprocess.DEVNULL)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*-*.json"))]
    print(table(found))


if __name__ == "__main__":
    main()
