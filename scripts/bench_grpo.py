"""One GRPO step, hybrid against TRL's own trainer: seconds by phase, tokens per second, memory, use of the processor.

    python scripts/bench_grpo.py --threads 2                                     # the reference model
    python scripts/bench_grpo.py --threads 2 --model data/gemma-model --prompts 1 --steps 3

Both train the same LoRA on the same base (dtype, seed, learning rate, rows, order) on this machine, one after the other, each
in a process of its own so that its peak memory is its own. Prompts carry one skill document and have 512 tokens, completions
have exactly 64 (no token ends one), a group has 8. "Stock" is `trl.GRPOTrainer` untouched, with gradient checkpointing and
dropout off. It samples completions (timed), and then goes on with those that hybrid drew in the same step, so that losses,
entropies and gradients of every step, and the adapters at the end, can be compared. The first step warms up (it also pays for
hybrid's self-checks) and is left out of the medians.

Utilisation is the arithmetic that a step needs at least (every distinct prompt token once; two operations per weight and token
forwards, two backwards through the frozen base; the output layer for completion tokens alone; attention left out), the same
for both, over seconds times the speed of a plain matrix product measured in the same process.

The reference model has 512 positions; a copy gets as many as the rows need, with the same weights (as in bench_prefix.py).

Does not: measure whether anything is learnt.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bench_prefix import CLOCKS, english_prompts, reference_prompts, with_positions
from datasets import Dataset
from peft import LoraConfig as PeftLora
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import GRPOConfig as TrlConfig
from trl import GRPOTrainer

from hybrid.backends.loading import LoadedModel, fold_lm_head, load_base
from hybrid.backends.transformers_files import find_model
from hybrid.capability.types import Example, Score
from hybrid.config.schema import GrpoConfig, LoraConfig, ModelConfig, WeightsConfig
from hybrid.weights.base import TrainJob
from hybrid.weights.batches import plan_batches
from hybrid.weights.driver import Session
from hybrid.weights.encoding import prompt_rows
from hybrid.weights.rollouts import roll_out, row_seeds
from hybrid.weights.schedule import Order, plain
from hybrid.weights.trl_common import quiet, start
from hybrid.weights.trl_grpo import HybridGrpo

LORA = {"rank": 16, "alpha": 32}
RATE = 1e-4
PHASES = ("rollout", "reward and rest", "update")


class Spread:
    """A reward that differs within every group and means nothing: a digest of the text."""

    def grade(self, completion: str, example: Example) -> Score:
        """The digest."""
        value = sum(completion.encode()) % 101 / 100
        return Score(value, value > 0.5)

    def fingerprint(self) -> str:
        """Its name."""
        return "spread"


class Clock(TrainerCallback):
    """Seconds of every optimiser step, by phase."""

    def __init__(self, device: str, clock: str) -> None:
        self.cuda = device.startswith("cuda")
        self.read = CLOCKS[clock]
        self.steps: list[dict[str, float]] = []
        self.spent: dict[str, float] = defaultdict(float)
        self.began = 0.0

    def now(self) -> float:
        """Seconds by the chosen clock; what a GPU was asked to do is done."""
        if self.cuda:
            torch.cuda.synchronize()
        return self.read()

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Add the seconds inside to a phase."""
        begun = self.now()
        try:
            yield
        finally:
            self.spent[name] += self.now() - begun

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start over."""
        self.began, self.spent = self.now(), defaultdict(float)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Keep what the step took."""
        total, spent = self.now() - self.began, self.spent
        rollout, inputs = spent["rollout"], spent["inputs"]
        self.steps.append(
            {"step": total, "rollout": rollout, "reward and rest": inputs - rollout, "update": total - inputs}
        )


class Clocked:
    """Mixed in before a trainer: phases are timed, completions recorded, or replaced by recorded ones."""

    clock: Clock
    recorded: list[list[list[int]]]
    given: list[list[list[int]]] | None = None

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        with self.clock.during("rollout"):
            ids, logps = super()._generate_single_turn(*arguments, **options)  # type: ignore[misc]
        self.recorded.append([list(map(int, row)) for row in ids])
        if self.given is not None:
            ids = self.given[len(self.recorded) - 1]
        return ids, logps

    def _prepare_inputs(self, batch: Any) -> Any:
        with self.clock.during("inputs"):
            return super()._prepare_inputs(batch)  # type: ignore[misc]


class FastTrainer(Clocked, HybridGrpo):  # type: ignore[misc]
    """hybrid's trainer, whose completions do not end before their length."""

    def _roll_out(self, prompts: Sequence[Sequence[int]]) -> Any:
        job = self.session.job
        seeds = row_seeds(job.seed, self.state.global_step, 0, len(prompts))
        limits = {"max_new_tokens": job.max_new_tokens, "stop_ids": (), "temperature": self.temperature}
        return roll_out(self._policy(), prompts, seeds, **limits)


class StockTrainer(Clocked, GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer as it is."""

    def _send_telemetry(self) -> None:
        """The benchmark reports to nobody."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nor does it write cards."""


def job_of(options: argparse.Namespace, loaded: LoadedModel, out: Path) -> TrainJob:
    """Rows of about `options.prompt` tokens: one document, one query each."""
    prompts_of = reference_prompts if options.model == "reference" else english_prompts
    count = options.prompts * (options.steps + 1)

    def rows(document: int) -> list[str]:
        text, queries = prompts_of(loaded, document, count)
        return [text + query for query in queries]

    def longest(texts: Sequence[str]) -> int:
        return max(len(loaded.tokenizer(text)["input_ids"]) for text in texts)

    size = options.prompt
    while longest(rows(size)) > options.prompt and size > 16:
        size -= 4
    grpo = GrpoConfig(
        steps=options.steps + 1,
        prompts_per_step=options.prompts,
        generations=options.group,
        learning_rate=RATE,
        engine=options.engine,
    )
    return TrainJob(
        capability="bench",
        examples=tuple(Example(id=str(i), prompt=text, reference="") for i, text in enumerate(rows(size))),
        skill="",
        stages=plain(count),
        grader=Spread(),
        model=model_config(options),
        weights=WeightsConfig(grpo=grpo, lora=LoraConfig(**LORA), checkpoint_every=options.steps + 1),
        max_new_tokens=options.completion,
        seed=0,
        out=out,
        method="grpo",
    )


def model_config(options: argparse.Namespace) -> ModelConfig:
    """The base of both ways."""
    threads = {"threads": options.threads} if options.threads else {}
    return ModelConfig(path=options.model, dtype=options.dtype, device=options.device, **threads)


def run_hybrid(options: argparse.Namespace, job: TrainJob, loaded: LoadedModel) -> Any:
    """Train by hybrid's trainer; returns it."""
    plan = plan_batches(job.rows_per_step, 1, None)
    session = Session(job, loaded, None, plan, {"bench": "grpo"}, lambda *_: None)
    fold_lm_head(loaded.model)
    torch.manual_seed(0)
    with quiet():
        trainer = FastTrainer(session, prompt_rows(job, loaded.tokenizer))
        prepare(trainer, options, loaded.info.device)
        save_file(adapter_of(trainer), Path(options.work) / "begin.safetensors")
        start(trainer, session)
    return trainer


def run_stock(options: argparse.Namespace, job: TrainJob, loaded: LoadedModel, given: Any) -> Any:
    """Train by TRL's trainer on the same rows in the same order; returns it."""
    device = loaded.info.device
    folder = find_model(job.model, Path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options.dtype), local_files_only=True)
    model.config.max_position_embeddings = loaded.model.config.max_position_embeddings
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    tokenizer.pad_token, tokenizer.eos_token = loaded.tokenizer.pad_token, loaded.tokenizer.eos_token
    tokenizer.model_max_length = 1 << 30
    order = Order(job.stages, job.steps, options.prompts, job.seed)
    texts = [job.examples[row].prompt for step in range(job.steps) for row in order.rows(step)]

    def accuracy(completion_ids: list[list[int]], **_: Any) -> list[float]:
        # hybrid grades what comes before an end token, which here ends no completion.
        ends = set(loaded.stop_ids)
        cut = [ids[: next((i for i, token in enumerate(ids) if token in ends), None)] for ids in completion_ids]
        texts = [
            loaded.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in cut
        ]
        return [job.grader.grade(text, job.examples[0]).value for text in texts]

    torch.manual_seed(0)
    with quiet():
        trainer = StockTrainer(
            model=model,
            reward_funcs=[accuracy],
            args=TrlConfig(
                output_dir=str(job.out),
                use_cpu=not device.startswith("cuda"),
                bf16=device.startswith("cuda") and options.dtype == "bfloat16",
                max_steps=job.steps,
                per_device_train_batch_size=job.rows_per_step,
                gradient_accumulation_steps=1,
                gradient_checkpointing=False,
                learning_rate=RATE,
                lr_scheduler_type="constant",
                num_generations=options.group,
                max_completion_length=options.completion,
                generation_kwargs={"min_new_tokens": options.completion},
                scale_rewards="none",
                shuffle_dataset=False,
                save_strategy="no",
                logging_steps=1,
                report_to="none",
                disable_tqdm=True,
                seed=job.seed,
                optim="adamw_torch",
                disable_dropout=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer,
            peft_config=PeftLora(
                r=LORA["rank"],
                lora_alpha=LORA["alpha"],
                use_rslora=True,
                lora_dropout=0.0,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )
        trainer.remove_callback(PrinterCallback)
        prepare(trainer, options, device)
        trainer.given = given
        for name, tensor in load_file(Path(options.work) / "begin.safetensors").items():
            trainer.model.get_parameter(name).data.copy_(tensor)
        trainer.train()
    return trainer


def adapter_of(trainer: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors."""
    trained = (pair for pair in trainer.model.named_parameters() if pair[1].requires_grad)
    return {name: p.detach().float().cpu().clone().contiguous() for name, p in trained}


def prepare(trainer: Any, options: argparse.Namespace, device: str) -> None:
    """Give a trainer its clock."""
    trainer.clock, trainer.recorded = Clock(device, options.clock), []
    trainer.add_callback(trainer.clock)


def child(options: argparse.Namespace) -> None:
    """Train one way in this process and write what was measured."""
    work = Path(options.work)
    loaded = load_base(model_config(options), Path, work / "cache")
    loaded.tokenizer.model_max_length = 1 << 30
    loaded, changed = with_positions(loaded, options.prompt + options.completion)
    job = job_of(options, loaded, work / options.way)
    if options.way == "hybrid":
        trainer = run_hybrid(options, job, loaded)
    else:
        kept = loaded
        kept.model.to("meta")  # the stock way loads its own
        trainer = run_stock(options, job, kept, json.loads((work / "hybrid.json").read_text())["completions"])
    cuda = loaded.info.device.startswith("cuda")
    save_file(adapter_of(trainer), work / f"{options.way}.safetensors")
    lines = [line for line in trainer.state.log_history if "loss" in line]
    found = {
        "positions": changed,
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "prompt_tokens": [len(row.ids) for row in prompt_rows(job, loaded.tokenizer)],
        "useful": useful_operations(loaded.model, job, loaded) if options.way == "hybrid" else None,
        "steps": trainer.clock.steps,
        "completions": trainer.recorded,
        "peak_mib": (
            torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        / 2**20,
        "speed": matmul_speed(Clock(loaded.info.device, options.clock), getattr(torch, options.dtype)),
        "log": [{k: line[k] for k in ("loss", "entropy", "grad_norm")} for line in lines],
        "notes": sorted({f"{way}: {why}" for line in lines for way, why in line.get("engine_note", {}).items()}),
    }
    (work / f"{options.way}.json").write_text(json.dumps(found))


def useful_operations(model: Any, job: TrainJob, loaded: LoadedModel) -> float:
    """Operations that one step needs at least; see the module."""
    head = model.get_output_embeddings().weight.numel()
    embedding = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is embedding or model.config.get_text_config().tie_word_embeddings
    body = (
        sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)
        - head
        - (0 if tied else embedding.numel())
    )
    order = Order(job.stages, job.steps, job.weights.grpo.prompts_per_step, job.seed)
    rows = prompt_rows(job, loaded.tokenizer)
    prompts = {rows[row].ids for row in order.rows(1)}
    shared = 0
    while len(prompts) > 1 and len({ids[: shared + 1] for ids in prompts}) == 1:
        shared += 1
    distinct = shared + sum(len(ids) - shared for ids in prompts)
    new = job.rows_per_step * job.max_new_tokens
    return 2.0 * body * (distinct + new) + 2.0 * head * new + 4.0 * body * (distinct + new) + 4.0 * head * new


def matmul_speed(clock: Clock, dtype: torch.dtype) -> float:
    """Operations per second of a square matrix product: the best of five."""
    size, device = (8192, "cuda") if clock.cuda else (1536, "cpu")
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        begun = clock.now()
        a @ b
        best = min(best, clock.now() - begun)
    return 2.0 * size**3 / best


def report(options: argparse.Namespace, work: Path) -> None:
    """Print the tables."""
    found = {way: json.loads((work / f"{way}.json").read_text()) for way in ("stock", "hybrid")}
    first = found["hybrid"]
    lengths = first["prompt_tokens"]
    print(f"{options.model}, {options.dtype}, {first['device']}; positions: {first['positions']}")
    print(
        f"{options.prompts} prompts of {min(lengths)} to {max(lengths)} tokens x {options.group} completions of "
        f"{options.completion}; medians (range) of {options.steps} steps after one"
    )
    print(
        f"matrix product: {found['stock']['speed'] / 1e9:.0f} / {first['speed'] / 1e9:.0f} GFLOP/s (stock / hybrid process)"
    )
    for note in first["notes"]:
        print(f"note: {note}")
    print("\n| seconds | stock | hybrid | times |\n|---|---|---|---|")
    middle: dict[tuple[str, str], float] = {}
    for phase in (*PHASES, "step"):
        cells = []
        for way in ("stock", "hybrid"):
            values = [step[phase] for step in found[way]["steps"][1:]]
            middle[way, phase] = statistics.median(values)
            cells.append(f"{middle[way, phase]:.2f} ({min(values):.2f} to {max(values):.2f})")
        print(
            f"| {phase} | {cells[0]} | {cells[1]} | {middle['stock', phase] / max(middle['hybrid', phase], 1e-9):.1f} |"
        )
    warm = [found[way]["steps"][0]["step"] for way in ("stock", "hybrid")]
    print(f"| first step | {warm[0]:.2f} | {warm[1]:.2f} | {warm[0] / warm[1]:.1f} |")
    new = options.prompts * options.group * options.completion
    print("\n| | stock | hybrid |\n|---|---|---|")
    rates = [new / middle[way, "step"] for way in ("stock", "hybrid")]
    print(f"| trained completion tokens per second | {rates[0]:.1f} | {rates[1]:.1f} |")
    print(f"| peak memory, MiB | {found['stock']['peak_mib']:.0f} | {first['peak_mib']:.0f} |")
    # Both ways owe the same operations, counted where the model is whole: moving it away unties its embeddings.
    used = [first["useful"] / middle[way, "step"] / found[way]["speed"] for way in ("stock", "hybrid")]
    print(f"| utilisation | {used[0]:.1%} | {used[1]:.1%} |")
    print("\n| step, same completions | loss | entropy | gradient norm |\n|---|---|---|---|")
    for i, (a, b) in enumerate(zip(found["stock"]["log"], first["log"], strict=True)):
        print(f"| {i + 1} | " + " | ".join(f"{a[k]:.6g} / {b[k]:.6g}" for k in ("loss", "entropy", "grad_norm")) + " |")
    one, two = (load_file(work / f"{way}.safetensors") for way in ("stock", "hybrid"))
    moved = sum(float(t.norm()) ** 2 for n, t in one.items() if ".lora_B." in n) ** 0.5
    apart = sum(float((t - two[n]).norm()) ** 2 for n, t in one.items() if ".lora_B." in n) ** 0.5
    print(f"\nadapters after {options.steps + 1} steps: B apart by {apart / moved:.2g} of its length")


def main() -> None:
    """Measure both ways and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference", help="a model folder, or `reference`")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="cpu: for one thread on a busy machine")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--prompts", type=int, default=4, help="prompts per step")
    parser.add_argument("--group", type=int, default=8, help="completions per prompt")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt, at most")
    parser.add_argument("--completion", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after one that is not")
    parser.add_argument("--engine", default="auto", choices=["auto", "plain"], help="of hybrid: weights.grpo.engine")
    parser.add_argument("--way", choices=["stock", "hybrid"], help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        child(options)
        return
    with tempfile.TemporaryDirectory() as work:
        for way in ("hybrid", "stock"):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--way", way, "--work", work], check=True)
        report(options, Path(work))


if __name__ == "__main__":
    main()
