"""Documents of the reference model on itself, and on a sibling of random weights that reads the same tokens.

One small run serves every test here. It is made in this process, on one thread.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from hybrid.config.loader import load_config
from hybrid.errors import BackendError
from hybrid.pipeline.run import run
from hybrid.pipeline.transfer import transfer_to
from hybrid.report.transfer_text import TransferReport

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "hybrid" / "assets" / "reference-model"
NAMES = ("fact-table", "named-rules")
TEST = 80
"""Examples: enough to rule out a gain of 0.05 where nothing changes (the interval ends at 0.046)."""


def quiet(kind: str, data: dict[str, object]) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which both capabilities ship a document; everything not asked about here is kept small."""
    folder = tmp_path_factory.mktemp("transfer")
    capabilities = [
        {
            "name": name,
            "source": {"type": "jsonl", "path": str(ROOT / "data" / "reference" / name)},
            "grader": {"type": "exact"},
            "decoding": {"max_new_tokens": 14},
            "limit": {"train": 48, "search": 24, "confirm": 24, "test": TEST, "variant": 16},
        }
        for name in NAMES
    ]
    vocabulary = str(ROOT / "data" / "reference" / "vocabulary.yaml")
    config = {
        "name": "transfer",
        "model": {"path": "reference", "device": "cpu", "threads": 1},
        "capabilities": capabilities,
        "probe": {"examples": 8, "samples": 2, "variants": 8, "worked_examples": 1},
        "router": {"force": dict.fromkeys(NAMES, "skill")},
        "skill": {"epochs": 1, "proposer": {"type": "offline", "vocabulary": vocabulary, "trials": 4}},
        "report": {"collateral_examples": 0},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run(load_config(folder / "config.json"), folder / "run", on_event=quiet)
    for name in NAMES:
        assert (folder / "run" / "skills" / name / "SKILL.md").is_file()
    return folder / "run"


def sibling(folder: Path, positions: int | None = None) -> Path:
    """The reference model's shape and tokenizer with random weights."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(REFERENCE)
    if positions is not None:
        config.max_position_embeddings = positions
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(REFERENCE / name, folder / name)
    return folder


def to(run_dir: Path, model: Path | str) -> tuple[TransferReport, Path]:
    return transfer_to(run_dir, str(model), {}, everything=False, overrides=(), on_event=quiet)


def of_the_run(run_dir: Path) -> dict[str, str]:
    files = [p for p in sorted(run_dir.rglob("*")) if p.is_file() and "transfers" not in p.parts]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_on_the_runs_own_model_every_gain_comes_back(run_dir: Path) -> None:
    before = of_the_run(run_dir)
    report, where = to(run_dir, "reference")
    assert report.same_model
    assert [e.name for e in report.capabilities] == list(NAMES)
    for entry in report.capabilities:
        assert entry.verdict == "carries over", entry.reason
        assert entry.test is not None
        assert entry.test.source is not None
        assert (entry.test.base, entry.test.document) == (entry.test.source.base, entry.test.source.document)
        assert entry.test.delta == entry.test.source.delta
        assert entry.test.delta.low > 0.5
        assert entry.test.control is not None
        assert entry.test.control.mean < 0.2, "another document of the same length does nothing"
        assert entry.test.ratio is not None
        assert entry.test.ratio.low < 1.0 <= entry.test.ratio.value <= entry.test.ratio.high
        assert entry.document.tokens is not None
        assert entry.document.control_tokens is not None
        assert 0 <= entry.document.tokens - entry.document.control_tokens <= 4
    assert report.ledger.calls == 2 * 3 * (TEST + 16)
    assert of_the_run(run_dir) == before
    again, _ = to(run_dir, "reference")
    assert again == report
    assert (where / "transfer.json").read_text(encoding="utf-8") == report.to_json()


def test_on_random_weights_nothing_carries_over(run_dir: Path, tmp_path: Path) -> None:
    report, _ = to(run_dir, sibling(tmp_path / "random"))
    assert not report.same_model
    for entry in report.capabilities:
        assert entry.verdict == "does not carry over", entry.reason
        assert entry.test is not None
        assert entry.test.source is not None
        assert entry.test.source.delta is not None
        assert entry.test.source.delta.low > 0.5, "the run's own gain stands beside it"
        assert entry.test.ratio is not None
        assert entry.test.ratio.high < 0.2


def test_a_document_too_long_for_the_model_does_not_stop_the_other(run_dir: Path, tmp_path: Path) -> None:
    sizes = {e.name: e.document.tokens for e in to(run_dir, "reference")[0].capabilities}
    assert sizes["fact-table"] is not None
    assert sizes["named-rules"] is not None
    assert sizes["fact-table"] > sizes["named-rules"] + 4
    longest = 12  # of the prompts of both, without a document
    report, _ = to(run_dir, sibling(tmp_path / "short", positions=sizes["named-rules"] + longest + 14))
    facts, rules = report.capabilities
    assert (facts.status, facts.verdict, facts.ledger.calls) == ("unfit", "not measurable", 0)
    assert "too long for the model's" in facts.reason
    assert rules.status == "measured", rules.reason


def test_a_tokenizer_without_the_words_is_refused_before_anything_is_paid(run_dir: Path, tmp_path: Path) -> None:
    folder = sibling(tmp_path / "deaf")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    kept = {token: i for token, i in vocabulary.items() if len(token) == 1 or token.startswith("<")}
    gone = [i for token, i in vocabulary.items() if token not in kept]
    tokenizer["model"]["vocab"] = {**kept, **{f"<gone{i}>": i for i in gone}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(BackendError, match=r"can read none of the documents; .*does not know"):
        to(run_dir, folder)
