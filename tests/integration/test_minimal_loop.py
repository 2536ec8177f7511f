"""The smallest version of the idea, without the framework: it says what the quickstart says.

The quickstart itself is held to the same truth in `test_quickstart`; the truth is read by these tests alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRUTH = json.loads((ROOT / "data" / "reference" / "truth.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_loop_without_the_framework_says_the_same() -> None:
    loop = ROOT / "examples" / "minimal_loop.py"
    text = loop.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert "import hybrid" not in text and "from hybrid" not in text
    done = subprocess.run([sys.executable, str(loop), "--json"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == TRUTH
