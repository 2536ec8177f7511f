"""skillopt 0.2.0, driven through its own engine: `ReflACTTrainer` with an adapter whose rollouts ask the shared target.

The wheel ships neither its prompts nor its configuration. The configuration here holds its published defaults; the prompts
are ours (`replies.PROMPTS`), as short as a blind proposer needs. Everything between, the batches, the reflection in
minibatches, merging, ranking, applying, the gate, the slow update and the memory, is its code.
Does not: change any of its decisions.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from text_bench.pool import PASSES
from text_bench.replies import PROMPTS
from text_bench.run import Run, proposer
from text_bench.target import Spent

DEFAULTS: dict[str, dict[str, Any]] = {
    "train": {"num_epochs": 4, "batch_size": 40, "accumulation": 1},
    "gradient": {
        "minibatch_size": 8,
        "merge_batch_size": 8,
        "analyst_workers": 16,
        "failure_only": False,
        "max_analyst_rounds": 3,
    },
    "optimizer": {
        "learning_rate": 4,
        "min_learning_rate": 2,
        "lr_scheduler": "cosine",
        "lr_control_mode": "fixed",
        "skill_update_mode": "patch",
        "use_slow_update": True,
        "slow_update_samples": 20,
        "slow_update_gate_with_selection": False,
        "longitudinal_pair_policy": "mixed",
        "use_meta_skill": True,
        "use_skill_aware_reflection": False,
    },
    "evaluation": {"use_gate": True, "gate_metric": "hard", "sel_env_num": 0, "test_env_num": 0, "eval_test": True},
}
"""The published `configs/_base_/default.yaml` (see the peer's repository), as far as the engine reads it."""
SUITED: dict[str, dict[str, Any]] = {
    "optimizer": {"learning_rate": 1, "min_learning_rate": 1, "slow_update_gate_with_selection": True}
}
"""One edit a step, and the slow update gated, as for the published documents."""


def run_skillopt(run: Run, settings: dict[str, dict[str, Any]]) -> None:
    """Train until the epochs are over or the budget is spent."""
    from skillopt.config import flatten_config
    from skillopt.engine.trainer import ReflACTTrainer

    sections = {name: {**values, **settings.get(name, {})} for name, values in DEFAULTS.items()}
    steps = -(-len(run.world.splits["train"]) // sections["train"]["batch_size"])
    edits = (sections["optimizer"]["learning_rate"] + sections["optimizer"]["min_learning_rate"]) / 2
    sections["train"] |= {"num_epochs": epochs_for(len(run.proposals.edits), edits, steps), "seed": run.world.seed}
    with tempfile.TemporaryDirectory() as scratch, proposer(run), _prompts(Path(scratch) / "prompts"):
        start, out = Path(scratch) / "start.md", Path(scratch) / "out"
        start.write_text(run.world.start, encoding="utf-8")
        config = flatten_config(sections) | _places(run.url, start, out)
        best, ended = out / "best_skill.md", "all epochs done"
        run.hand(run.world.start)
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                ReflACTTrainer(config, _adapter(run, config, best)).train()
            except Spent:
                ended = "the budget is spent"
        run.close(_best(run, best), ended)


def epochs_for(pool: int, edits: float, steps: int) -> int:
    """Epochs in which a pool is gone through `PASSES` times, at so many edits a step on average and so many steps."""
    return max(1, round(PASSES * pool / edits / steps))


def _places(url: str, start: Path, out: Path) -> dict[str, Any]:
    """Where the engine finds the proposer and puts its files."""
    return {
        "env": "text_bench",
        "skill_init": str(start),
        "out_root": str(out),
        "optimizer_model": "pool",
        "target_model": "unused",
        "azure_openai_endpoint": url,
        "azure_openai_api_key": "loopback",
        "azure_openai_auth_mode": "openai_compatible",
        "reasoning_effort": "",
    }


@contextlib.contextmanager
def _prompts(folder: Path) -> Iterator[None]:
    """Our prompts where the package looks for the ones that it does not ship."""
    import skillopt.prompts as prompts

    folder.mkdir()
    for name, text in PROMPTS.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    before = prompts._PROMPTS_DIR
    prompts._PROMPTS_DIR = str(folder)
    try:
        yield
    finally:
        prompts._PROMPTS_DIR = before
        prompts.clear_cache()


def _best(run: Run, best: Path) -> str:
    """The document that the engine would hand over: its best so far."""
    return best.read_text(encoding="utf-8") if best.exists() else run.world.start


def _adapter(run: Run, config: dict[str, Any], best: Path) -> Any:
    """The environment: rows of the world, rollouts by the shared target."""
    from skillopt.datasets.base import SplitDataLoader
    from skillopt.envs.base import EnvAdapter

    rows = {example.id: example for split in ("train", "search") for example in run.world.splits[split]}

    class Loader(SplitDataLoader):
        def setup(self, cfg: dict[str, Any]) -> None:
            """The rows are at hand; the sealed test is not among them, so the engine's own test is empty."""
            splits = {"train": "train", "val": "search"}
            self._splits = {
                theirs: [{"id": e.id, "task_description": e.prompt_text} for e in run.world.splits[ours]]
                for theirs, ours in splits.items()
            } | {"test": []}

    class Adapter(EnvAdapter):
        analyst_workers = config["analyst_workers"]
        failure_only = config["failure_only"]
        minibatch_size = config["minibatch_size"]
        edit_budget = config["edit_budget"]
        loader = Loader()

        def setup(self, cfg: dict[str, Any]) -> None:
            super().setup(cfg)
            self.loader.setup(cfg)

        def get_dataloader(self) -> SplitDataLoader:
            return self.loader

        def build_env_from_batch(self, batch: Any, **kwargs: Any) -> list[dict[str, Any]]:
            return list(batch.payload or [])

        def build_train_env(self, batch_size: int, seed: int, **kwargs: Any) -> list[dict[str, Any]]:
            return self.build_env_from_batch(self.loader.build_train_batch(batch_size, seed))

        def build_eval_env(self, env_num: int, split: str, seed: int, **kwargs: Any) -> list[dict[str, Any]]:
            return self.build_env_from_batch(self.loader.build_eval_batch(env_num, split, seed))

        def rollout(
            self, env_manager: list[dict[str, Any]], skill_content: str, out_dir: str, **kwargs: Any
        ) -> list[dict[str, Any]]:
            run.hand(_best(run, best))
            examples = [rows[item["id"]] for item in env_manager]
            if not examples:
                return []
            run.count.pay(len(examples), "train" if examples[0].id.startswith("train") else "search")
            asked = run.target.ask(skill_content, examples)
            results = [
                {
                    "id": e.id,
                    "hard": int(score.passed),
                    "soft": score.value,
                    "task_description": e.prompt_text,
                    "predicted_answer": text,
                    "fail_reason": score.feedback,
                }
                for e, (text, score) in zip(examples, asked, strict=True)
            ]
            if kwargs.get("use_eval_feedback"):
                _conversations(Path(out_dir), results)
            return results

        def reflect(self, results: list[dict], skill_content: str, out_dir: str, **kwargs: Any) -> list[dict | None]:
            run.proposals.begin()
            return super().reflect(results, skill_content, out_dir, **kwargs)

        def get_task_types(self) -> list[str]:
            return []

    return Adapter()


def _conversations(out_dir: Path, results: list[dict[str, Any]]) -> None:
    """The transcripts that the analysts are shown."""
    for row in results:
        place = out_dir / "predictions" / row["id"]
        place.mkdir(parents=True, exist_ok=True)
        turns = [
            {"role": "user", "content": row["task_description"]},
            {"role": "assistant", "content": row["predicted_answer"]},
            {"role": "system", "content": row["fail_reason"]},
        ]
        (place / "conversation.json").write_text(json.dumps(turns), encoding="utf-8")
