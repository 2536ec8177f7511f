"""Proxy-tuning in a run: strengths are chosen on `search`, offered to the gate, reported, and replayed for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backend_tiny import load_tiny, save_adapter, save_tiny
from fakes import FakeBackend

from hybrid.backends.adapters import check_adapter, inspect_adapter, read_tensors
from hybrid.backends.base import Adapter
from hybrid.backends.doctor import examine
from hybrid.config.loader import load_checked, load_config
from hybrid.config.schema import ProxyConfig
from hybrid.errors import AdapterError, BackendError, ConfigError, RunFolderError
from hybrid.pipeline import follow as follow_module
from hybrid.pipeline import training as training_module
from hybrid.pipeline.plan import plan
from hybrid.pipeline.run import run
from hybrid.report.argument import built
from hybrid.report.html import to_html
from hybrid.report.markdown import to_markdown
from hybrid.report.schema import Report, load_report
from hybrid.serve.export import card
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.proxy import scaled

SIZES = {"train": 8, "search": 16, "confirm": 24, "test": 24, "variant": 12}
Truth = Callable[[int, float], bool]
"""(number of the question, alpha; 0 without an adapter) -> whether the answer is right."""


def write_world(
    folder: Path, prompt: Callable[[str, int], str], reference: Callable[[int], str], extra: str, **sizes: int
) -> None:
    (folder / "marks").mkdir(parents=True)
    for split, size in (SIZES | sizes).items():
        rows = [{"id": f"{split}{i}", "prompt": prompt(split, i), "reference": reference(i)} for i in range(size)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "marks" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    (folder / "config.yaml").write_text(
        "name: steered\n"
        "capabilities:\n  - {name: marks, source: {type: jsonl, path: marks}, grader: {type: exact},"
        " decoding: {max_new_tokens: 4}}\n"
        "probe: {examples: 8, samples: 2}\n"
        "router: {force: {marks: weights}}\n"
        "gate: {search: {part: 8}, ship: {minimum_effect: 0.1}}\n" + extra,
        encoding="utf-8",
    )


class Fake:
    """A run over a backend that knows strengths, and a trainer that leaves two adapters of the small model."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, truth: Truth) -> None:
        self.folder, self.truth, self.jobs = folder, truth, []
        self.small = load_tiny(save_tiny(folder / "small", seed=5))
        self.finished: dict[str, TrainResult] = {}
        self.backend = FakeBackend(self._answer, seconds=0.5)
        write_world(
            folder,
            lambda split, i: f"{split} q{i}?",
            lambda i: f"a{i}",
            "model: {path: reference, device: cpu}\nweights: {method: proxy, proxy: {alphas: [0.5, 1, 2]}}\n",
        )
        monkeypatch.setattr(follow_module, "build_backend", lambda *args: self.backend)
        monkeypatch.setattr(training_module, "run_job", self._train)
        monkeypatch.setattr(training_module, "read_result", lambda job: self.finished.get(str(job.out)))

    def _answer(self, prompt: str, seed: int, adapter: Adapter | None) -> str:
        number = int(prompt.rpartition("q")[2].rstrip("?"))
        alpha = (
            0.0 if adapter is None else json.loads((adapter.path / "adapter_config.json").read_text()).get("alpha", 1.0)
        )
        if adapter is not None and "step-10" in str(adapter.path):
            alpha = 0.0
        return f"a{number}" if self.truth(number, alpha) else "no"

    def _train(self, loaded: Any, job: TrainJob, cache: Path, on_progress: Any) -> TrainResult:
        if str(job.out) not in self.finished:
            self.jobs.append(job)
            made = [(s, save_adapter(job.out / "adapters" / f"step-{s}", self.small, seed=s)) for s in (10, 20)]
            self.finished[str(job.out)] = TrainResult(tuple(made), 20, 3.0, 0, 100, 0, (), "")
        return self.finished[str(job.out)]

    def go(self, *overrides: str, out: str = "run", fork: str | None = None) -> Report:
        loaded = load_config(self.folder / "config.yaml", overrides)
        parent = None if fork is None else self.folder / fork
        return load_report(run(loaded, self.folder / out, fork=parent, on_event=lambda kind, data: None))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Truth], Fake]:
    return lambda truth: Fake(tmp_path, monkeypatch, truth)


def stronger(number: int, alpha: float) -> bool:
    """The base knows a quarter, strength 2 everything, strength 1 half."""
    return number % 4 == 0 or alpha >= 2 or (alpha >= 1 and number % 2 == 0)


def test_the_best_strength_at_the_best_checkpoint_ships(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    report = world.go()
    found = report.capabilities[0]
    assert (found.placement, found.artifacts.method) == ("weights", "proxy")
    assert found.proxy is not None
    assert found.training is not None
    assert [(t.alpha, t.step, t.search.mean) for t in found.proxy.trials] == [
        (1.0, 10, 0.25), (1.0, 20, 0.5), (0.5, 20, 0.25), (2.0, 20, 1.0),
    ]  # fmt: skip
    assert (found.proxy.alpha, found.training.selected_step, found.proxy.small_fingerprint) == (2.0, 20, None)
    assert found.proxy.trials[3].gain.delta == 0.75
    assert found.proxy.trials[3].tokens_per_second == found.proxy.base_tokens_per_second == 4.0
    (job,) = world.jobs
    assert (job.method, job.weights.method, job.model.path) == ("sft", "sft", "reference")
    placed = world.folder / "run" / "adapters" / "marks"
    assert json.loads((placed / "adapter_config.json").read_text())["alpha"] == 2.0
    assert check_adapter(placed, world.backend.info().fingerprint).adapter.sha256
    text = to_markdown(report)
    assert "Strengths of the proxy" in text
    assert "2 (offered)" in text
    assert "The base's weights are untouched" in text
    page = to_html(report)
    assert "Strengths of the proxy" in page
    assert "a small model steers the base" in page
    assert any("scores of the base move by alpha" in said for said in built(found))
    assert "The adapter of marks is a proxy and no PEFT folder: it holds a LoRA of the base itself" in card(report)


def test_of_equally_good_strengths_the_weakest_is_offered(make: Callable[[Truth], Fake]) -> None:
    found = make(lambda number, alpha: number % 4 == 0 or alpha > 0).go().capabilities[0]
    assert found.proxy is not None
    assert {t.search.mean for t in found.proxy.trials if t.step == 20} == {1.0}
    assert found.proxy.alpha == 0.5


def test_a_weaker_strength_stands_in_within_the_tolerance_and_only_where_it_beats_the_base(
    make: Callable[[Truth], Fake],
) -> None:
    """Of 16: the base 4, strength 0.5 12, strength 1 14, strength 2 all."""
    world = make(lambda n, alpha: n % 4 == 0 or (alpha >= 0.5 and n < 12) or (alpha >= 1 and n < 14) or alpha >= 2)
    shown = {}
    for tolerance in (0.0, 0.15, 0.3, 0.9):
        found = world.go(f"weights.proxy.tolerance={tolerance}", out=f"t{tolerance}").capabilities[0]
        assert found.proxy is not None
        shown[tolerance] = found.proxy.alpha
    assert shown == {0.0: 2.0, 0.15: 1.0, 0.3: 0.5, 0.9: 0.5}
    world.truth = lambda n, alpha: n % 4 == 0 or (alpha >= 1 and n == 1) or alpha >= 2
    found = world.go("weights.proxy.tolerance=0.9", out="alone").capabilities[0]
    assert found.proxy is not None
    assert found.proxy.alpha == 1.0, "0.5 is the base's equal, and within the tolerance of the best"


def test_a_capability_may_be_steered_beside_others_that_are_not(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    report = world.go("weights.method=grpo", "capabilities[0].method=proxy")
    found = report.capabilities[0]
    assert found.proxy is not None
    assert (found.artifacts.method, found.proxy.alpha) == ("proxy", 2.0)
    (job,) = world.jobs
    assert (job.method, job.weights.method) == ("sft", "sft")


def test_a_second_run_pays_for_nothing_and_writes_the_same_bytes(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    world.go()
    path = world.folder / "run" / "report" / "placement.json"
    before, asked = path.read_bytes(), len(world.backend.asked)
    world.go()
    assert path.read_bytes() == before
    assert len(world.backend.asked) == asked
    assert len(world.jobs) == 1


def test_a_run_that_was_cut_between_strengths_ends_as_an_uncut_one(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    world.go(out="whole")
    total = len(world.backend.asked)
    for cut in range(total - 130, total, 24):
        world.backend.asked.clear()
        world.backend.fail_at, world.backend.error = cut, BackendError("the machine went away")
        with pytest.raises(BackendError):
            world.go(out=f"cut-{cut}")
        world.go(out=f"cut-{cut}")
        assert len(world.backend.asked) == total, "what was answered before the cut is not asked again"
    whole, cut = (
        json.loads((world.folder / n / "report" / "placement.json").read_text()) for n in ("whole", f"cut-{cut}")
    )
    assert whole["capabilities"][0]["proxy"] == cut["capabilities"][0]["proxy"]


def test_a_proxy_that_does_not_beat_the_base_on_search_is_not_offered(make: Callable[[Truth], Fake]) -> None:
    found = make(lambda number, alpha: number % 4 == 0).go().capabilities[0]
    assert found.placement != "weights"
    assert found.proxy is not None
    assert found.proxy.alpha is None
    assert found.gate == ()


def test_a_fork_goes_on_from_a_training_of_the_same_model_alone(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    world.go("weights.method=sft", out="direct")
    world.go(out="same", fork="direct")
    assert world.jobs[-1].fork is not None, "the base steers itself: the same model was trained"
    world.backend.small = lambda: world.small  # type: ignore[attr-defined]
    world.go("weights.proxy.small=small", out="steered", fork="direct")
    assert world.jobs[-1].fork is None
    world.go("weights.proxy.small=small", "weights.proxy.alphas=[1]", out="again", fork="steered")
    assert world.jobs[-1].fork == world.folder / "steered" / "checkpoints" / "marks-weights"
    world.go("weights.method=sft", out="back", fork="steered")
    assert world.jobs[-1].fork is None


def test_the_plan_counts_every_strength_and_is_not_exceeded(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    planned = plan(load_config(world.folder / "config.yaml"))
    rows = {r.what: r for s in planned.capabilities[0].stages for r in s.rows}
    assert (rows["strengths on search"].typical, rows["strengths on search"].upper) == (32, 32)
    found = world.go().capabilities[0]
    weights = sum(c.calls for name, c in found.ledger.stages.items() if name in ("select", "watch"))
    allowed = next(s.calls.upper for s in planned.capabilities[0].stages if s.stage == "weights")
    assert 0 < weights <= allowed


def test_the_plan_holds_the_small_model_beside_the_base(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    alone, steered, mixed = (
        plan(load_config(world.folder / "config.yaml", settings)).memory
        for settings in (
            ["weights.method=sft"],
            ["weights.proxy.small=reference"],
            ["weights.proxy.small=reference", "weights.method=sft", "capabilities[0].method=proxy"],
        )
    )
    assert steered.generate_mib is not None
    assert alone.generate_mib is not None
    assert steered.train_mib is not None
    assert alone.train_mib is not None
    assert steered.generate_mib > 2 * alone.generate_mib
    assert steered.train_mib == mixed.train_mib == alone.train_mib + (alone.weights_mib or 0)
    assert "the small model in training" in steered.parts_mib
    assert "with the small model" in steered.note
    unread = plan(load_config(world.folder / "config.yaml", ["weights.proxy.small=some/hub-id"])).memory
    assert (unread.train_mib, "of the small model" in unread.note) == (None, True)


def test_an_adapter_that_is_given_is_not_trained(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    given = save_adapter(world.folder / "given", world.small, seed=1)
    manifest = given.path / "hybrid_manifest.json"
    told = json.loads(manifest.read_text()) | {"base_fingerprint": world.backend.info().fingerprint}
    manifest.write_text(json.dumps(told))
    report = world.go("weights.proxy.adapter=given")
    found = report.capabilities[0]
    assert world.jobs == []
    assert found.proxy is not None
    assert found.proxy.trained_by == "an earlier training"
    assert (found.placement, found.proxy.alpha, found.ledger.train_seconds) == ("weights", 2.0, 0.0)
    save_adapter(given.path, world.small, seed=2)
    manifest.write_text(manifest.read_text().replace(world.small.info.fingerprint, world.backend.info().fingerprint))
    with pytest.raises(RunFolderError, match=r"proxy\.adapter"):
        world.go("weights.proxy.adapter=given")


def test_an_adapter_of_another_model_stops_the_run_before_anything_is_paid(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    save_adapter(world.folder / "given", world.small, seed=1)
    with pytest.raises(AdapterError, match="was trained on another base"):
        world.go("weights.proxy.adapter=given")
    assert world.backend.asked == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("weights.proxy.alphas=[1.0, 1.0]", "every strength once"),
        ("weights.proxy.alphas=[0]", "more than 0"),
        ("weights.proxy.alphas=[]", "at least"),
        ("weights.proxy={small: small, apply: weights}", "needs small: base"),
        ("backend={type: vllm}", "no place for a second model"),
        ("weights.schedule.tasks=shared", "needs method grpo, sft or svf, not proxy"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(make: Callable[[Truth], Fake], setting: str, message: str) -> None:
    world = make(stronger)
    with pytest.raises(ConfigError, match=message):
        load_config(world.folder / "config.yaml", [setting])


def test_paths_of_the_proxy_are_checked_and_made_absolute(make: Callable[[Truth], Fake]) -> None:
    world = make(stronger)
    with pytest.raises(ConfigError, match="there is no small model at"):
        load_checked(world.folder / "config.yaml", ["weights.proxy.small=./smal"])
    with pytest.raises(ConfigError, match="there is no adapter at"):
        load_checked(world.folder / "config.yaml", ["weights.proxy.adapter=gone"])
    loaded = load_checked(world.folder / "config.yaml", ["weights.proxy.small=./small"])
    assert loaded.config.small is not None
    assert loaded.config.small.path == "./small"
    assert load_config(world.folder / "config.yaml").config.small is None
    assert ProxyConfig(alphas=(0.5, 1.5)).first == 0.5


def test_a_scaled_adapter_changes_the_weights_by_exactly_that_much(tmp_path: Path) -> None:
    base = load_tiny(save_tiny(tmp_path / "base"))
    lora = save_adapter(tmp_path / "lora", base, seed=2)
    half = scaled(lora, 0.5, tmp_path / "half", base.info.fingerprint, {"method": "proxy"})
    before, after = read_tensors(lora.path), read_tensors(half.path)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        factor = 0.5 if "lora_B" in name else 1.0
        assert (after[name] == factor * tensor).all()
    assert check_adapter(half.path, base.info.fingerprint).adapter == inspect_adapter(half.path)


def test_doctor_loads_the_small_model_and_refuses_another_vocabulary(tmp_path: Path) -> None:
    save_tiny(tmp_path / "base", seed=0)
    save_tiny(tmp_path / "small", seed=5)
    extra = "model: {path: base, device: cpu, threads: 1}\nweights: {method: proxy, proxy: {small: small}}\n"
    write_world(tmp_path, lambda split, i: f"{split[:2]}{i:02d} =", lambda i: "a", extra)
    loaded = load_config(tmp_path / "config.yaml")
    (found,) = [f for f in examine(loaded, tmp_path / "cache") if f.name == "model"]
    assert found.status == "ok"
    assert "steered by small" in found.detail
    tokenizer = json.loads((tmp_path / "small" / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (tmp_path / "small" / "tokenizer.json").write_text(json.dumps(tokenizer))
    (found,) = [f for f in examine(loaded, tmp_path / "cache") if f.name == "model"]
    assert (found.status, "cannot steer" in found.detail) == ("fail", True)


def test_a_tiny_run_tunes_a_small_model_and_steers_the_base(tmp_path: Path) -> None:
    tmp_path = tmp_path / "proxied"
    save_tiny(tmp_path / "base", seed=0)
    save_tiny(tmp_path / "small", seed=5)
    letters = "abcdefgh"
    write_world(
        tmp_path,
        lambda split, i: f"{split[:2]}{i:02d} {letters[i % 8]} =",
        lambda i: letters[i % 8],
        "model: {path: base, device: cpu, threads: 1}\n"
        "weights:\n  method: proxy\n  checkpoint_every: 40\n  lora: {rank: 8, alpha: 16}\n"
        "  sft: {steps: 80, batch: 8, learning_rate: 0.02}\n"
        "  proxy: {small: ../proxied/small/, alphas: [1, 3, 6]}\n",
        confirm=96,
    )
    report = load_report(run(load_config(tmp_path / "config.yaml"), tmp_path / "run", on_event=lambda kind, data: None))
    found = report.capabilities[0]
    small = load_tiny(tmp_path / "small").info.fingerprint
    assert found.proxy is not None
    assert found.proxy.small_fingerprint == small
    assert len(found.proxy.trials) == 4
    assert found.training is not None
    assert found.training.method == "proxy, small tuned by sft (weights)"
    assert str(tmp_path) not in found.proxy.small
    assert max(t.gain.delta for t in found.proxy.trials) > 0.3
    assert all((t.tokens_per_second or 0) > 0 for t in found.proxy.trials)
    fields = json.loads((tmp_path / "run" / "run.json").read_text())
    assert small in json.dumps(fields)
    assert found.artifacts.method == "proxy"
    facts = check_adapter(tmp_path / "run" / "adapters" / "marks", load_tiny(tmp_path / "base").info.fingerprint)
    assert facts.rank == 8
    before = (tmp_path / "run" / "report" / "placement.json").read_bytes()
    run(load_config(tmp_path / "config.yaml"), tmp_path / "run", on_event=lambda kind, data: None)
    assert (tmp_path / "run" / "report" / "placement.json").read_bytes() == before
