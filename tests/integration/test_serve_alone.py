"""An export is used without hybrid: by PEFT, by the validator of Agent Skills, in processes that cannot import hybrid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from serve_tiny import PLACED, asked, backend_over, save_export

import hybrid
from hybrid.errors import UsageError

ALONE = """
import sys
sys.path[:] = [p for p in sys.path if "site-packages" in p or "python3" in p or p.endswith(".zip")]
try:
    import hybrid
except ModuleNotFoundError:
    pass
else:
    raise SystemExit(f"hybrid can be imported: {hybrid.__file__}")
"""

PEFT = (
    ALONE
    + """
import json
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

export, model_folder, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(model_folder)
for name, prompt in prompts.items():
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, f"{export}/adapters/{name}").eval()
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=3, pad_token_id=0
    )
    print(json.dumps(tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)))
"""
)

VALIDATE = (
    ALONE
    + """
from skills_ref.cli import main
for skill in sys.argv[1:]:
    sys.argv = ["agentskills", "validate", skill]
    try:
        code = main()
    except SystemExit as leaving:
        code = leaving.code
    if code:
        raise SystemExit(f"{skill}: {code}")
"""
)


def run_alone(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`-I`: no PYTHONPATH, no user site, not even the working folder on the path."""
    command = [sys.executable, "-I", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_peft_and_the_validator_need_no_hybrid(tmp_path: Path) -> None:
    loaded = save_export(tmp_path)
    out = tmp_path / "export"
    model = hybrid.load(out, backend=backend_over(loaded))
    adapted = [name for name, placement in PLACED.items() if placement in ("weights", "both")]
    prompts = {name: str(model.prepare(asked(name, 3), capability=name).request.prompt) for name in adapted}
    found = run_alone(PEFT, str(out), str(tmp_path / "model"), json.dumps(prompts), cwd=tmp_path)
    assert found.returncode == 0, found.stderr[-2000:]
    texts = dict(zip(adapted, map(json.loads, found.stdout.splitlines()), strict=True))
    greedy = {name: model.generate(asked(name, 3), capability=name, temperature=0.0)[0].text for name in adapted}
    assert texts == greedy and len(set(texts.values())) == len(adapted)
    skills = sorted((out / "skills").iterdir())
    assert [s.name for s in skills] == ["plums", "stones"]
    checked = run_alone(VALIDATE, *map(str, skills), cwd=tmp_path)
    assert checked.returncode == 0 and checked.stdout.count("Valid") == 2, checked.stdout + checked.stderr
    (skills[0] / "SKILL.md").write_text("no front matter\n", encoding="utf-8")
    assert run_alone(VALIDATE, *map(str, skills), cwd=tmp_path).returncode == 1, "and it does look"


def test_a_base_that_was_moved_is_asked_for_and_found(tmp_path: Path) -> None:
    loaded = save_export(tmp_path)
    expected = hybrid.load(tmp_path / "export", backend=backend_over(loaded)).generate(asked("rivers", 1))
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="say where it lies with --model PATH"):
        hybrid.load(tmp_path / "export")
    moved = hybrid.load(tmp_path / "export", model=str(tmp_path / "elsewhere"))
    assert moved.generate(asked("rivers", 1)) == expected
