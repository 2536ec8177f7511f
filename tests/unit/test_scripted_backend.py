"""The scripted backend keeps the backend contract without a model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.build import build_backend
from hybrid.backends.scripted import ScriptedBackend
from hybrid.capability.types import Message
from hybrid.config.schema import ModelConfig, ScriptedBackendConfig
from hybrid.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]


def script(folder: Path, **content: object) -> Path:
    path = folder / "script.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def texts(backend: ScriptedBackend, prompts: list[str], seed: int = 0, adapter: Adapter | None = None) -> list[str]:
    return [c.text for c in backend.generate([Request(p, seed) for p in prompts], Sampling(), adapter)]


def test_first_rule_that_fits_answers_in_request_order(tmp_path: Path) -> None:
    rules = [{"equals": "abc", "answers": ["exact"]}, {"contains": "b", "answers": ["part"]}]
    backend = ScriptedBackend(script(tmp_path, rules=rules, default="none of them"))
    assert texts(backend, ["xbx", "abc", "zzz"]) == ["part", "exact", "none of them"]


def test_answers_are_chosen_by_the_seed(tmp_path: Path) -> None:
    backend = ScriptedBackend(script(tmp_path, rules=[{"contains": "", "answers": ["zero", "one", "two"]}]))
    requests = [Request("p", seed) for seed in (0, 1, 2, 3, 302)]
    assert [c.text for c in backend.generate(requests, Sampling(), None)] == ["zero", "one", "two", "zero", "two"]


def test_rules_can_ask_for_an_adapter_or_for_none(tmp_path: Path) -> None:
    rules = [
        {"contains": "q", "answers": ["tuned"], "adapter": "ab12"},
        {"contains": "q", "answers": ["bare"], "adapter": "none"},
        {"contains": "q", "answers": ["other"]},
    ]
    backend = ScriptedBackend(script(tmp_path, rules=rules))
    tuned, foreign = (Adapter(tmp_path, sha) for sha in ("ab12" + "0" * 60, "cd" + "0" * 62))
    assert texts(backend, ["q"], adapter=tuned) == ["tuned"]
    assert texts(backend, ["q"]) == ["bare"]
    assert texts(backend, ["q"], adapter=foreign) == ["other"]


def test_chat_messages_are_matched_by_their_contents(tmp_path: Path) -> None:
    backend = ScriptedBackend(script(tmp_path, rules=[{"equals": "be brief\nhello", "answers": ["hi"]}]))
    prompt = (Message(role="system", content="be brief"), Message(role="user", content="hello"))
    assert backend.generate([Request(prompt, 0)], Sampling(), None)[0].text == "hi"


def test_a_prompt_without_rule_and_default_is_an_error(tmp_path: Path) -> None:
    backend = ScriptedBackend(script(tmp_path, rules=[{"equals": "a", "answers": ["b"]}]))
    with pytest.raises(BackendError, match="no rule fits the prompt 'unheard of'"):
        texts(backend, ["unheard of"])


@pytest.mark.parametrize(
    ("limit", "text", "tokens", "finish"),
    [(1, "one", 1, "length"), (2, "one two", 2, "length"), (3, "one two!", 3, "length"), (4, "one two!", 4, "stop")],
)
def test_long_answers_are_cut_as_a_model_would(tmp_path: Path, limit: int, text: str, tokens: int, finish: str) -> None:
    backend = ScriptedBackend(script(tmp_path, default="one two!"))
    (completion,) = backend.generate([Request("how many?", 0)], Sampling(max_new_tokens=limit), None)
    assert (completion.text, completion.tokens_out, completion.finish) == (text, tokens, finish)
    assert completion.tokens_in == backend.count_tokens("how many?") == 3


def test_identity_is_the_content_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    first = ScriptedBackend(script(tmp_path / "a", default="x", calls="calls.jsonl")).info()
    second = ScriptedBackend(script(tmp_path / "b", default="x")).info()
    other = ScriptedBackend(script(tmp_path, default="y")).info()
    assert first == second
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Invalid JSON"),
        ('{"rules": [{"answers": ["a"]}]}', "exactly one"),
        ('{"rules": [{"contains": "a", "equals": "b", "answers": ["a"]}]}', "exactly one"),
        ('{"rules": [{"contains": "a", "answers": []}]}', r"rules\.0\.answers"),
        ('{"defualt": "a"}', "defualt"),
        ('{"default": "a", "calls": "../calls.jsonl"}', "calls"),
        ('{"default": "a", "calls": "/tmp/calls.jsonl"}', "calls"),
    ],
)
def test_a_bad_script_is_named_with_its_place(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BackendError, match=reason) as caught:
        ScriptedBackend(path)
    assert str(path) in str(caught.value)


def test_a_missing_script_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cannot be read"):
        ScriptedBackend(tmp_path / "absent.json")


def test_calls_survive_a_kill_and_go_on_counting(tmp_path: Path) -> None:
    path = script(tmp_path, default="x", calls="calls.jsonl")
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from hybrid.backends.base import Request, Sampling\n"
        "from hybrid.backends.scripted import ScriptedBackend\n"
        "backend = ScriptedBackend(Path(sys.argv[1]))\n"
        "backend.generate([Request('a', 0), Request('b', 0), Request('a', 1)], Sampling(), None)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    ScriptedBackend(path).generate([Request("a", 0)], Sampling(), Adapter(tmp_path, "ff"))
    lines = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 0, 1, 0]
    assert len({line["key"] for line in lines}) == 4, "prompt, seed and adapter each tell requests apart"
    again = ScriptedBackend(path)
    again.generate([Request("a", 0)], Sampling(), None)
    last = json.loads((tmp_path / "calls.jsonl").read_text().splitlines()[-1])
    assert last["key"] == lines[0]["key"], "the same request has the same key in another process"


def test_building_and_asking_it_loads_no_heavy_library(tmp_path: Path) -> None:
    path = script(tmp_path, default="x")
    program = (
        "import sys; from pathlib import Path\n"
        "from hybrid.backends.build import build_backend\n"
        "from hybrid.backends.base import Request, Sampling\n"
        "from hybrid.config.schema import ModelConfig, ScriptedBackendConfig\n"
        "config = ScriptedBackendConfig(type='scripted', script='script.json')\n"
        "backend = build_backend(ModelConfig(path='reference'), config, Path(sys.argv[1]).joinpath, Path('unused'))\n"
        "assert backend.generate([Request('a', 0)], Sampling(), None)[0].text == 'x'\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy', 'scipy') if m in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path.parent)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_script_path_is_resolved_by_the_caller(tmp_path: Path) -> None:
    script(tmp_path, default="found")
    config = ScriptedBackendConfig(type="scripted", script="script.json")
    backend = build_backend(ModelConfig(path="reference"), config, lambda text: tmp_path / text, tmp_path / "cache")
    assert backend.generate([Request("a", 0)], Sampling(), None)[0].text == "found"
    assert not (tmp_path / "cache").exists()
