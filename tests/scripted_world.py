"""A run without a model whose right answers are known: three capabilities over the scripted backend.

`greetings` is answered by the base (keep); `codes` only under a document line per code word (skill); `secrets` never
(neither). Everything is greedy and single-answered, so no rule ever asks for training and no test needs torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.config.loader import LoadedConfig, load_config

SIZES = {"train": 12, "search": 16, "confirm": 16, "test": 16, "variant": 8}
WORDS = ("alpha", "beta")
TRUTH = {"greetings": "keep", "codes": "skill", "secrets": "neither"}
CALLS = "calls.jsonl"


@dataclass(frozen=True)
class World:
    """Where a scripted world lies. `calls` grows by one line per completion that the backend was asked for."""

    folder: Path

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "config.yaml"

    @property
    def calls(self) -> Path:
        """The scripted backend's call log."""
        return self.folder / CALLS

    def load(self, *overrides: str) -> LoadedConfig:
        """The configuration, with `--set` style overrides."""
        return load_config(self.config, overrides)

    def paid(self) -> int:
        """Completions asked for so far, over all processes."""
        return len(self.calls.read_text(encoding="utf-8").splitlines()) if self.calls.exists() else 0


def line_for(word: str) -> str:
    """The document line that makes the backend answer about `word`."""
    return f"code {word} doubles."


def _prompt(name: str, split: str, number: int) -> tuple[str, str, str]:
    """(prompt, reference, code word or "")."""
    tag = f"{split[:2]}{number:02d}"
    if name == "greetings":
        return f"greet {tag}", f"hello {tag}", ""
    if name == "secrets":
        return f"guess {tag}", f"unknown-{tag}", ""
    word = WORDS[number % len(WORDS)]
    return f"ask {tag} {word}", f"{tag}{tag}", word


def _rules(prompt: str, reference: str, word: str) -> list[dict[str, Any]]:
    """Rules for one row. A code word's line helps wherever it stands in a document of such lines."""
    if not word:
        return [{"equals": prompt, "answers": [reference]}, {"contains": f"\n{prompt}", "answers": [reference]}]
    other = next(w for w in WORDS if w != word)
    last = f"{line_for(word)}\n{prompt}"
    before = f"{line_for(word)}\n{line_for(other)}\n{prompt}"
    return [{"contains": text, "answers": [reference]} for text in (last, before)]


def make_world(folder: Path) -> World:
    """Write configuration, data, vocabulary and script."""
    rules: list[dict[str, Any]] = []
    for name in TRUTH:
        (folder / name).mkdir(parents=True)
        for split, size in SIZES.items():
            rows = []
            for number in range(size):
                prompt, reference, word = _prompt(name, split, number)
                rows.append({"id": f"{split}-{number:03d}", "prompt": prompt, "reference": reference})
                if name != "secrets":
                    rules += _rules(prompt, reference, word)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / f"{split}.jsonl").write_text(text, encoding="utf-8")
    script = {"rules": rules, "default": "no idea", "calls": CALLS}
    (folder / "script.json").write_text(json.dumps(script), encoding="utf-8")
    (folder / "vocabulary.yaml").write_text(
        f'slots: ["(?P<word>{"|".join(WORDS)})$"]\nrules: ["code {{word}} doubles.", "code {{word}} halves.", "Think."]\n',
        encoding="utf-8",
    )
    (folder / "config.yaml").write_text(_config(), encoding="utf-8")
    return World(folder)


def _config() -> str:
    capabilities = "".join(
        f"  - name: {name}\n    source: {{type: jsonl, path: {name}}}\n    grader: {{type: exact}}\n" for name in TRUTH
    )
    return (
        "name: scripted\n"
        "model: {path: reference, device: cpu}\n"
        "backend: {type: scripted, script: script.json}\n"
        f"capabilities:\n{capabilities}"
        "probe: {examples: 16, samples: 2, variants: 8, worked_examples: 2}\n"
        "skill: {epochs: 1, batch: 12, minibatch: 12, proposer: {type: offline, vocabulary: vocabulary.yaml}}\n"
        "gate: {search: {part: 8}, ship: {minimum_effect: 0.1}}\n"
        "report: {collateral_examples: 8}\n"
    )
