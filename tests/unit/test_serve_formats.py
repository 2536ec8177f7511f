"""Exports for other engines: what is written says the placement, and what cannot be said is listed."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from scripted_world import make_world

from hybrid.backends.adapters import write_manifest
from hybrid.backends.base import Sampling
from hybrid.cli.text import table
from hybrid.config.schema import ModelConfig
from hybrid.errors import UsageError
from hybrid.evidence.compose import compose
from hybrid.pipeline.run import run
from hybrid.report.schema import load_report
from hybrid.serve.export import CARD, export, launch_of
from hybrid.serve.facts import CapabilityFacts, ServingFacts
from hybrid.serve.formats import Lora, Pack, base_of, front_matter, lora_of, write_format
from hybrid.serve.formats_ollama import modelfile
from hybrid.serve.formats_vllm import launch_line
from hybrid.serve.placement import read_placement


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scripted run whose `codes` also has a rank-stabilised LoRA of rank 2."""
    world = make_world(tmp_path_factory.mktemp("formats") / "world")
    out = world.folder / "run"
    run(world.load(), out, on_event=lambda kind, data: None)
    report = load_report(out / "report" / "placement.json")
    save_lora(out / "adapters" / "codes", report.model.fingerprint)
    data = json.loads((out / "report" / "placement.json").read_text(encoding="utf-8"))
    for c in data["capabilities"]:
        if c["name"] == "codes":
            c["placement"] = "both"
            c["artifacts"] |= {"adapter": "adapters/codes", "method": "sft"}
    (out / "report" / "placement.json").write_text(json.dumps(data), encoding="utf-8")
    return out


def save_lora(folder: Path, fingerprint: str, kind: str = "LORA") -> None:
    folder.mkdir(parents=True)
    save_file(
        {"base_model.model.q.lora_A.weight": np.full((2, 4), 0.5, np.float32)}, folder / "adapter_model.safetensors"
    )
    config = {"peft_type": kind, "r": 2, "lora_alpha": 4, "use_rslora": True, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    write_manifest(folder, fingerprint)


def facts(**model: Any) -> ServingFacts:
    settings = {"path": "org/model", **model}
    row = CapabilityFacts(name="codes", sampling=Sampling(max_new_tokens=7, temperature=0.5))
    return ServingFacts(model=ModelConfig(**settings), capabilities=(row,))


def no_conversion(folder: Path, out: Path) -> dict[str, Any]:
    raise AssertionError("nothing is to be converted")


@pytest.mark.parametrize("fmt", ["hub", "vllm", "ollama"])
def test_an_export_for_an_engine_is_an_export_and_says_what_is_missing(
    finished: Path, tmp_path: Path, fmt: Any
) -> None:
    out = tmp_path / "out"
    manifest = export(finished, out, fmt=fmt).manifest
    assert manifest["format"]["name"] == fmt and manifest["format"]["not_expressed"]
    card = (out / CARD).read_text(encoding="utf-8")
    assert "What this cannot express" in card and manifest["format"]["launch"].split()[0] in card
    assert any("routing" in text for text in manifest["format"]["not_expressed"])
    assert launch_of(manifest)[0] == manifest["format"]["launch"] and launch_of({}) == []
    assert read_placement(out).parts.keys() == read_placement(finished).parts.keys()
    again = export(finished, tmp_path / "again", fmt=fmt).manifest
    assert again == manifest, "the same run gives the same files"
    assert table([{"a": "b"}])


def test_vllm_gets_the_text_before_the_prompt_to_the_byte(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(finished, out, fmt="vllm")
    requests = json.loads((out / "requests.json").read_text(encoding="utf-8"))
    skill = read_placement(finished).parts["codes"].skill
    codes = requests["codes"]
    assert (codes["model"], codes["temperature"], codes["role"]) == ("codes", 0.0, "prompt")
    assert (out / codes["before"]).read_text(encoding="utf-8") + "ask x" == compose("ask x", skill, "\n")
    assert requests["greetings"]["model"] == "base" and "before" not in requests["greetings"]
    script = (out / "serve-vllm.sh").read_text(encoding="utf-8")
    assert "--lora-modules codes=adapters/codes" in script and "--max-lora-rank 8" in script


def test_vllm_takes_a_rank_of_its_list(tmp_path: Path) -> None:
    line = launch_line("org/model", {"a": Lora("adapters/a", 24, 1.0)}, facts(dtype="bfloat16", revision="abc"))
    assert "--max-lora-rank 32" in line and "--dtype bfloat16" in line and "--revision abc" in line
    assert "--enable-lora" not in launch_line("org/model", {}, facts())
    with pytest.raises(UsageError, match="up to rank 512"):
        launch_line("org/model", {"a": Lora("adapters/a", 600, 1.0)}, facts())


def test_ollama_gets_the_factor_that_was_trained(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(finished, out, fmt="ollama")
    plain = json.loads((out / "ollama/loras/codes/adapter_config.json").read_text(encoding="utf-8"))
    assert plain["use_rslora"] is False
    assert plain["lora_alpha"] / plain["r"] == pytest.approx(4 / math.sqrt(2))
    assert lora_of(out / "adapters/codes", "x").scaling == pytest.approx(4 / math.sqrt(2))
    script = (out / "build-ollama.sh").read_text(encoding="utf-8")
    assert script.index("convert_lora_to_gguf.py") < script.index("llama-export-lora") < script.index("create codes")
    text = (out / "ollama/codes.Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./codes.gguf") and "code alpha doubles." in text
    assert "FROM ./base.gguf" in (out / "ollama/greetings.Modelfile").read_text(encoding="utf-8")


def test_a_modelfile_joins_as_the_measurement_did_or_is_refused() -> None:
    pack = Pack("codes", "skill", "Rule.\n\n", None, Sampling(max_new_tokens=7, temperature=0.5), False)
    text = modelfile(pack, False, facts(skill_separator="\n--\n", end_of_answer=";"))
    assert 'SYSTEM """Rule."""' in text
    assert 'TEMPLATE """{{ if .System }}{{ .System }}\n--\n{{ end }}{{ .Prompt }}"""' in text
    assert "PARAMETER num_predict 7" in text and 'PARAMETER stop """;"""' in text
    assert "TEMPLATE" not in modelfile(pack, False, facts(chat=True))
    with pytest.raises(UsageError, match="Modelfile"):
        modelfile(Pack("codes", "skill", 'say """', None, pack.sampling, False), False, facts())


def test_what_an_engine_cannot_load_is_converted_or_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = [Pack("codes", "weights", "", "adapters/codes", Sampling(), False)]
    save_lora(tmp_path / "adapters/codes", "f")
    kinds = {"adapters/codes": "PROXY"}
    monkeypatch.setattr("hybrid.serve.formats.kind_of", lambda folder: kinds["adapters/codes"])
    left_out = write_format("vllm", tmp_path, packs, facts(), no_conversion)
    assert "PROXY" in left_out.not_expressed[0] and "--enable-lora" not in left_out.launch
    kinds["adapters/codes"] = "SVF"

    def convert(folder: Path, out: Path) -> dict[str, Any]:
        shutil.copytree(folder, out)
        return {"rank": 2, "error": 0.25, "exact": False}

    written = write_format("vllm", tmp_path, packs, facts(), convert)
    assert "codes=converted/codes" in written.launch and written.converted["codes"]["rank"] == 2
    assert "relative 0.25" in written.not_expressed[0]


def test_the_card_of_the_hub_names_a_base_that_the_hub_knows(finished: Path) -> None:
    packs = [Pack("codes", "both", "x", "adapters/codes", Sampling(), False)]
    head = yaml.safe_load(front_matter(facts(), packs).split("---")[1])
    assert head == {
        "base_model": "org/model",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["hybrid", "lora", "agent-skills"],
    }
    for path in ("reference", "/data/model", "../model", "model"):
        assert base_of(facts(path=path)) is None
        assert "base_model" not in front_matter(facts(path=path), packs)
