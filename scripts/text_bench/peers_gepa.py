"""gepa 0.1.4, driven through `gepa.optimize` with an adapter whose evaluations ask the shared target.

Its published reflection prompt goes to the loopback server as it is. Does not: change any of its decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybrid.capability.types import Example
from text_bench.run import Run, proposer

SUITED: dict[str, Any] = {"reflection_minibatch_size": 40, "candidate_selection_strategy": "current_best"}
"""A minibatch that tells noise from gain, and the best candidate as the parent."""
PART = "document"


class _Silent:
    def log(self, message: str) -> None:
        """Say nothing."""


def run_gepa(run: Run, settings: dict[str, Any]) -> None:
    """Optimise until the budget is spent or nothing is proposed any more."""
    import gepa
    import httpx

    client = httpx.Client(trust_env=False)

    def reflect(prompt: str | list[dict[str, Any]]) -> str:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        reply = client.post(f"{run.url}/chat/completions", json={"model": "pool", "messages": messages}, timeout=60.0)
        return str(reply.raise_for_status().json()["choices"][0]["message"]["content"])

    class Watch:
        def on_valset_evaluated(self, event: Any) -> None:
            """Whenever a candidate becomes the best, it is what would be handed over."""
            if event["is_best_program"]:
                run.hand(event["candidate"][PART])

    run.hand(run.world.start)
    with client, proposer(run):
        result = gepa.optimize(
            seed_candidate={PART: run.world.start.strip()},
            trainset=list(run.world.splits["train"]),
            valset=list(run.world.splits["search"]),
            adapter=_adapter(run),
            reflection_lm=reflect,
            stop_callbacks=lambda state: run.count.spent >= run.count.most or run.proposals.exhausted,
            callbacks=[Watch()],
            logger=_Silent(),
            seed=run.world.seed,
            **settings,
        )
    best = result.candidates[result.best_idx][PART]
    run.close(best, "nothing is proposed any more" if run.proposals.exhausted else "the budget is spent")


def _adapter(run: Run) -> Any:
    from gepa.core.adapter import EvaluationBatch, GEPAAdapter

    class Adapter(GEPAAdapter):
        def evaluate(self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False) -> Any:
            run.count.note(len(batch), "train" if batch[0].id.startswith("train") else "search")
            asked = run.target.ask(candidate[PART], batch)
            outputs = [text for text, _ in asked]
            return EvaluationBatch(
                outputs=outputs,
                scores=[score.value for _, score in asked],
                trajectories=list(zip(batch, asked, strict=True)) if capture_traces else None,
            )

        def make_reflective_dataset(
            self, candidate: dict[str, str], eval_batch: Any, components_to_update: Sequence[str]
        ) -> dict[str, list[dict[str, str]]]:
            return {
                PART: [
                    {"Inputs": e.prompt_text, "Generated Outputs": text, "Feedback": score.feedback or "right"}
                    for e, (text, score) in eval_batch.trajectories
                ]
            }

    return Adapter()
