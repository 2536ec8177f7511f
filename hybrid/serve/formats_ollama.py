"""A placement under Ollama: a model per capability, and the commands that build them with llama.cpp.

Facts that this rests on: llama.cpp's `convert_lora_to_gguf.py` keeps `lora_alpha` alone and llama.cpp scales by alpha / rank,
so that a rank-stabilised adapter is written anew with alpha * sqrt(rank); Ollama from 0.34.1 on refuses `ADAPTER` in a Modelfile
(ollama/ollama#14969), so that adapters are merged by `llama-export-lora` into a GGUF of their own. Ollama's own sampling defaults
(top_k 40, top_p 0.9, temperature 0.8) are set to those of the measurement. Does not: run llama.cpp or Ollama.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid.backends.adapters import CONFIG, MANIFEST, read_config
from hybrid.errors import UsageError
from hybrid.serve.facts import ServingFacts
from hybrid.serve.formats import Lora, Pack, Written
from hybrid.store.atomic import write_json, write_text

FOLDER, SCRIPT = "ollama", "build-ollama.sh"


def write_ollama(staging: Path, packs: Sequence[Pack], loras: Mapping[str, Lora], facts: ServingFacts) -> Written:
    """Modelfiles, plain LoRAs, and the script that converts, merges and creates."""
    home = staging / FOLDER
    lines = [
        "#!/bin/sh",
        "# Builds an Ollama model per capability. LLAMA_CPP is a checkout of llama.cpp with its tools built in build/bin;",
        "# BASE is the folder of the very base that was measured. float32 keeps the numbers of the measurement.",
        "set -eu",
        'cd "$(dirname "$0")"',
        ': "${LLAMA_CPP:?set it to a checkout of llama.cpp}"',
        "BASE=${1:?give the folder of the base model}",
        f'python "$LLAMA_CPP/convert_hf_to_gguf.py" "$BASE" --outtype f32 --outfile {FOLDER}/base.gguf',
    ]
    for pack in packs:
        lora = loras.get(pack.name)
        if lora is not None:
            _plain(staging / lora.folder, home / "loras" / pack.name, lora)
            lines += [
                f'python "$LLAMA_CPP/convert_lora_to_gguf.py" --base "$BASE" --outtype f32 '
                f"--outfile {FOLDER}/{pack.name}-lora.gguf {FOLDER}/loras/{pack.name}",
                f'"$LLAMA_CPP/build/bin/llama-export-lora" -m {FOLDER}/base.gguf --lora {FOLDER}/{pack.name}-lora.gguf '
                f"-o {FOLDER}/{pack.name}.gguf",
            ]
        write_text(home / f"{pack.name}.Modelfile", modelfile(pack, lora is not None, facts))
        lines.append(f"ollama create {pack.name} -f {FOLDER}/{pack.name}.Modelfile")
    write_text(staging / SCRIPT, "\n".join(lines) + "\n")
    not_expressed = [
        "several adapters on one base in memory: each capability with an adapter is a merged model of the base's size",
        "the random streams of sampled answers: Ollama draws its own",
    ]
    if facts.model.chat:
        not_expressed.append(
            "the base's chat template, where llama.cpp cannot carry it over: compare `ollama show --template`"
        )
    return Written(f"sh {SCRIPT} BASE", not_expressed)


def modelfile(pack: Pack, adapted: bool, facts: ServingFacts) -> str:
    """The Modelfile of one capability. For plain prompts a template joins document and prompt as the measurement did."""
    lines = [f"FROM ./{pack.name}.gguf" if adapted else "FROM ./base.gguf"]
    if adapted:
        lines += [
            "# Ollama before 0.34.1 can also take the adapter beside the base instead of the merged model:",
            "#   FROM ./base.gguf",
            f"#   ADAPTER ./{pack.name}-lora.gguf",
        ]
    skill = pack.skill.rstrip()
    if skill:
        lines.append(f"SYSTEM {_quoted(skill)}")
    if not facts.model.chat:
        lines.append(
            f"TEMPLATE {_quoted('{{ if .System }}{{ .System }}' + facts.model.skill_separator + '{{ end }}{{ .Prompt }}')}"
        )
    s = pack.sampling
    lines += [
        f"PARAMETER temperature {s.temperature:g}",
        f"PARAMETER top_p {s.top_p:g}",
        "PARAMETER top_k 0",
        "PARAMETER min_p 0",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_predict {s.max_new_tokens}",
    ]
    if facts.model.end_of_answer is not None:
        lines.append(f"PARAMETER stop {_quoted(facts.model.end_of_answer)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A value of a Modelfile; it ends at the first three quotes and knows no escape."""
    if '"""' in text or text.endswith('"'):
        raise UsageError('a text with """ in it, or a quote at its end, cannot be written into a Modelfile')
    return f'"""{text}"""'


def _plain(source: Path, target: Path, lora: Lora) -> None:
    """The LoRA with its factor as alpha / rank, which is what llama.cpp computes."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(MANIFEST, ".tmp-*"))
    config = {**read_config(source), "use_rslora": False, "lora_alpha": lora.scaling * lora.rank}
    write_json(target / CONFIG, config)
