"""Break a good configuration in every way a person does; each break must name file, line, key and what to do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hybrid.config.loader import inspect_config, load_checked, load_config
from hybrid.config.schema import Config
from hybrid.config.shape import Shape, keys, strip
from hybrid.errors import ConfigError, Problem

GOOD = """\
name: mutants
model:
  path: reference
  dtype: float32
  device: auto
  chat: false
  threads: 2
backend:
  type: transformers
  batch_size: 64
capabilities:
  - name: units
    source: {type: jsonl, path: data/units}
    grader: {type: numeric, absolute: 1e-5, which: last}
    skill: skills/units.md
    kind: procedural
    limit: {train: 10, search: 20}
  - name: capitals
    source:
      type: jsonl
      path: data/capitals
    grader:
      type: choice
      choices: [Paris, Rome]
    oracle: oracle.txt
    vocabulary: words.yaml
    decoding: {temperature: 0.5, max_new_tokens: 32}
probe:
  examples: 16
  samples: 4
router:
  keep_above: 0.9
  counterfactual: true
  force: {units: skill}
skill:
  epochs: 3
  edits: {maximum: 4, minimum: 1, schedule: cosine}
  proposer: {type: offline, trials: 2}
weights:
  method: grpo
  lora: {rank: 8, alpha: 16, target_modules: all-linear}
  rewards: {accuracy_weight: 1.0, brier_weight: 0.5}
  grpo:
    steps: 20
    learning_rate: 2e-5
    loss: dapo
  sft: {batch: 4}
gate:
  search: {part: 8}
  ship: {alpha: 0.05, power: 0.8, multiplicity: holm}
budget:
  calls: 1000
  train_seconds: 60.5
report:
  formats: [json, md]
seed: 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("units", "capitals"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "skills").mkdir()
    for name in ("skills/units.md", "oracle.txt", "words.yaml"):
        (tmp_path / name).write_text("x\n", encoding="utf-8")
    (tmp_path / "run.yaml").write_text(GOOD, encoding="utf-8")
    return tmp_path


def found(folder: Path, text: str) -> list[Problem]:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return list(inspect_config(path).problems)


# (what stands in the file, what it becomes, the key that must be named, part of the message, part of the fix)
MUTATIONS = [
    # misspelt keys
    ("  dtype: float32", "  dtpye: float32", "model.dtpye", "unknown key", "'dtype'"),
    ("  device: auto", "  devise: auto", "model.devise", "unknown key", "'device'"),
    ("  batch_size: 64", "  batchsize: 64", "backend.batchsize", "unknown key", "'batch_size'"),
    ("    kind: procedural", "    knd: procedural", "capabilities[0].knd", "unknown key", "'kind'"),
    ("    oracle: oracle.txt", "    orcale: oracle.txt", "capabilities[1].orcale", "unknown key", "'oracle'"),
    ("      choices: [", "      choises: [", "capabilities[1].grader.choises", "unknown key", "'choices'"),
    ("absolute: 1e-5", "absolut: 1e-5", "capabilities[0].grader.absolut", "unknown key", "'absolute'"),
    ("      path: data/capitals", "      pth: data/capitals", "capabilities[1].source.pth", "unknown key", "'path'"),
    ("limit: {train: 10", "limit: {trian: 10", "capabilities[0].limit.trian", "unknown key", "'train'"),
    ("  samples: 4", "  sample: 4", "probe.sample", "unknown key", "'samples'"),
    ("  keep_above: 0.9", "  keep-abve: 0.9", "router.keep-abve", "unknown key", "'keep_above'"),
    ("force: {units: skill}", "force: {unit: skill}", "router.force.unit", "not a capability", "'units'"),
    ("{maximum: 4,", "{maximun: 4,", "skill.edits.maximun", "unknown key", "'maximum'"),
    ("lora: {rank: 8", "lora: {rnk: 8", "weights.lora.rnk", "unknown key", "'rank'"),
    (
        "    learning_rate: 2e-5",
        "    learnig_rate: 2e-5",
        "weights.grpo.learnig_rate",
        "unknown key",
        "'learning_rate'",
    ),
    ("  sft: {batch: 4}", "  sft: {batsh: 4}", "weights.sft.batsh", "unknown key", "'batch'"),
    ("weights:\n", "wieghts:\n", "wieghts", "unknown key", "'weights'"),
    ("gate:\n", "gates:\n", "gates", "unknown key", "'gate'"),
    ("  calls: 1000", "  cals: 1000", "budget.cals", "unknown key", "'calls'"),
    ("seed: 7", "sead: 7", "sead", "unknown key", "'seed'"),
    ("seed: 7", "qqqq: 7", "qqqq", "unknown key", "the keys here are: name, model"),
    ("  epochs: 3", "  rank: 3", "skill.rank", "unknown key", "belongs in weights.lora"),
    # wrong types
    ("  threads: 2", "  threads: two", "model.threads", "expected a whole number", "a whole number"),
    ("  threads: 2", "  threads: 2.5", "model.threads", "expected a whole number", "a whole number"),
    ("  chat: false", "  chat: no", "model.chat", "expected true or false", "write false"),
    ("  chat: false", "  chat: 0", "model.chat", "expected true or false", "true or false"),
    ("  chat: false", "  chat: 'false'", "model.chat", "expected true or false", "remove the quotes: write false"),
    ("  path: reference", "  path: 3", "model.path", "expected text", 'in quotes: "3"'),
    ("  - name: capitals", "  - name: 7", "capabilities[1].name", "expected text", 'in quotes: "7"'),
    ("choices: [Paris, Rome]", "choices: [Paris, 3]", "capabilities[1].grader.choices[1]", "expected text", '"3"'),
    ("choices: [Paris, Rome]", "choices: Paris", "capabilities[1].grader.choices", "expected a list", "[Paris]"),
    ("  formats: [json, md]", "  formats: json", "report.formats", "expected a list", "brackets: [json]"),
    (
        "target_modules: all-linear",
        "target_modules: 3",
        "weights.lora.target_modules",
        "text or a list of texts",
        '"3"',
    ),
    ("  examples: 16", "  examples: [16]", "probe.examples", "found a list", "a whole number"),
    ("  examples: 16", "  examples: {n: 16}", "probe.examples", "found a section", "a whole number"),
    ("  examples: 16", "  examples: true", "probe.examples", "found true", "a whole number"),
    ("  examples: 16", "  examples:", "probe.examples", "has no value", "remove the line"),
    ("  examples: 16", "  examples: 1_6", "probe.examples", "expected a whole number", "digits alone: 16"),
    ("  sft: {batch: 4}", "  sft: 4", "weights.sft", "expected a section of keys", "a section of keys"),
    ("  sft: {batch: 4}", "  sft: [batch]", "weights.sft", "found a list", "a section of keys"),
    ("limit: {train: 10, search: 20}", "limit: 10", "capabilities[0].limit", "expected a section", "train"),
    ("  train_seconds: 60.5", "  train_seconds: 1:00", "budget.train_seconds", "expected a number", "number"),
    # quoted numbers
    (
        "absolute: 1e-5",
        'absolute: "1e-5"',
        "capabilities[0].grader.absolute",
        "'1e-5'",
        "remove the quotes: write 1e-5",
    ),
    (
        "learning_rate: 2e-5",
        "learning_rate: '2e-5'",
        "weights.grpo.learning_rate",
        "'2e-5'",
        "remove the quotes: write 2e-5",
    ),
    ("  calls: 1000", '  calls: "1000"', "budget.calls", "'1000'", "remove the quotes: write 1000"),
    ("seed: 7", 'seed: "7"', "seed", "'7'", "remove the quotes: write 7"),
    ("    steps: 20", '    steps: "20.5"', "weights.grpo.steps", "'20.5'", "a whole number: 20"),
    # union tags and words from a list
    (
        "  type: transformers",
        "  type: grpc",
        "backend.type",
        "unknown type 'grpc'",
        "transformers, vllm, openai, scripted",
    ),
    ("  type: transformers", "  type: transformer", "backend.type", "unknown type", "'transformers'"),
    ("grader: {type: numeric,", "grader: {type: numerik,", "capabilities[0].grader.type", "unknown type", "'numeric'"),
    ("      type: jsonl", "      type: json", "capabilities[1].source.type", "unknown type", "'jsonl'"),
    ("      type: choice\n", "", "capabilities[1].grader.type", "'type' is missing", "add `type: exact`"),
    ("  device: auto", "  device: gpu", "model.device", "not one of auto, cpu, cuda", "'cpu'"),
    ("  dtype: float32", "  dtype: fp32", "model.dtype", "not one of", "float32, bfloat16, float16"),
    ("    kind: procedural", "    kind: proceduraal", "capabilities[0].kind", "not one of", "'procedural'"),
    ("units: skill}", "units: wieghts}", "router.force.units", "not one of", "'weights'"),
    ("    loss: dapo", "    loss: dpao", "weights.grpo.loss", "not one of", "'dapo'"),
    ("formats: [json, md]", "formats: [json, pdf]", "report.formats[1]", "not one of", "json, md, html"),
    # missing keys
    ("name: mutants\n", "", "name", "'name' is missing", "add `name: "),
    ("  path: reference\n", "", "model.path", "'path' is missing", "add `path: "),
    ("  - name: units\n    source", "  - source", "capabilities[0].name", "'name' is missing", "add `name: "),
    ("      path: data/capitals\n", "", "capabilities[1].source.path", "'path' is missing", "add `path: "),
    ("      choices: [Paris, Rome]\n", "", "capabilities[1].grader.choices", "is missing", "add `choices: "),
    # ranges, patterns, lengths, rules
    ("  threads: 2", "  threads: 0", "model.threads", "0 is out of range", "at least 1"),
    ("  examples: 16", "  examples: 3", "probe.examples", "3 is out of range", "at least 8 (the default is 64)"),
    ("  keep_above: 0.9", "  keep_above: 90", "router.keep_above", "out of range", "at least 0 and at most 1"),
    ("alpha: 0.05", "alpha: 0.5", "gate.ship.alpha", "out of range", "more than 0 and less than 0.5"),
    ("    learning_rate: 2e-5", "    learning_rate: -1", "weights.grpo.learning_rate", "out of range", "more than 0"),
    ("temperature: 0.5", "temperature: 9", "capabilities[1].decoding.temperature", "out of range", "at most 5"),
    ("train: 10", "train: 0", "capabilities[0].limit.train", "out of range", "at least 1"),
    ("seed: 7", "seed: -1", "seed", "out of range", "at least 0"),
    ("name: mutants", "name: My Run", "name", "not a legal name", "'my-run'"),
    ("choices: [Paris, Rome]", "choices: [Paris]", "capabilities[1].grader.choices", "1 of at least 2", "add one"),
    ("{maximum: 4, minimum: 1,", "{maximum: 4, minimum: 5,", "skill.edits", "must not exceed", "minimum is 5"),
    ("brier_weight: 0.5", "brier_weight: 1.5", "weights.rewards", "must not exceed", "brier_weight is 1.5"),
    (
        "    loss: dapo",
        "    loss: dapo\n    scale_rewards: group",
        "weights.grpo.scale_rewards",
        "overconfidence",
        'use "none"',
    ),
    (
        "brier_weight: 0.5",
        "brier_weight: 0.5, confidence_pattern: '~(c)'",
        "weights.rewards.confidence_pattern",
        "no group called confidence",
        "digit, percent, tag",
    ),
    ("  - name: capitals", "  - name: units", "capabilities[1].name", "used twice", "a name of its own"),
    # dangling paths
    ("path: data/units}", "path: data/unit}", "capabilities[0].source.path", "no data at", "'data/units'"),
    (
        "      path: data/capitals",
        "      path: dta/capitals",
        "capabilities[1].source.path",
        "no data",
        "'data/capitals'",
    ),
    ("path: data/units}", "path: oracle.txt}", "capabilities[0].source.path", "expected a folder", "train.jsonl"),
    (
        "skill: skills/units.md",
        "skill: skills/unit.md",
        "capabilities[0].skill",
        "no skill document",
        "'skills/units.md'",
    ),
    ("skill: skills/units.md", "skill: skills", "capabilities[0].skill", "is a folder", "skill document file"),
    ("oracle: oracle.txt", "oracle: oracle.text", "capabilities[1].oracle", "no oracle text", "'oracle.txt'"),
    ("vocabulary: words.yaml", "vocabulary: word.yaml", "capabilities[1].vocabulary", "no vocabulary", "'words.yaml'"),
    (
        "type: offline,",
        "type: offline, vocabulary: wrds.yaml,",
        "skill.proposer.vocabulary",
        "no vocabulary",
        "'words.yaml'",
    ),
    ("  path: reference", "  path: ./weights", "model.path", "no model folder", "look in"),
    # duplicate keys, and YAML itself
    ("seed: 7", "seed: 7\nmodel: {path: x}", "model", "already on line 2", "keep one"),
    ("  epochs: 3", "  epochs: 3\n  epochs: 4", "skill.epochs", "already on line", "keep one"),
    ("{rank: 8,", "{rank: 8, rank: 9,", "weights.lora.rank", "already on line", "keep one"),
    ("seed: 7", "seed: &s 7", "seed", "anchor", "remove it"),
    ("seed: 7", "seed: !!int 7", "seed", "tag", "remove it"),
    ("seed: 7", "seed: *s", "seed", "alias", "write the value out"),
]


def line_of_change(old: str, new: str) -> int:
    """The 1-based line, in the broken text, of the last line that the change touches."""
    return GOOD[: GOOD.index(old)].count("\n") + 1 + max(new.rstrip("\n").count("\n"), 0)


def test_the_unbroken_configuration_is_good(folder: Path) -> None:
    loaded = load_checked(folder / "run.yaml")
    assert loaded.config.weights.grpo.learning_rate == 2e-5
    assert len(MUTATIONS) >= 60


@pytest.mark.parametrize(("old", "new", "key", "message", "fix"), MUTATIONS, ids=lambda v: str(v).strip()[:24])
def test_each_mistake_is_one_problem_with_its_place_and_fix(
    folder: Path, old: str, new: str, key: str, message: str, fix: str
) -> None:
    assert GOOD.count(old) >= 1
    got = found(folder, GOOD.replace(old, new, 1))
    assert len(got) == 1, [str(p) for p in got]
    problem = got[0]
    assert problem.file == str(folder / "run.yaml")
    assert problem.key == key
    assert message in problem.message
    assert fix in problem.fix
    if "is missing" not in problem.message and "must not exceed" not in problem.message:
        assert problem.line == line_of_change(old, new)
    else:
        assert problem.line > 0


def test_missing_keys_and_rules_point_at_their_section(folder: Path) -> None:
    text = GOOD.replace("  path: reference\n", "").replace("brier_weight: 0.5", "brier_weight: 2")
    rewards = text[: text.index("  rewards:")].count("\n") + 1
    assert [(p.key, p.line) for p in found(folder, text)] == [("model.path", 2), ("weights.rewards", rewards)]


def test_mistakes_hidden_behind_other_mistakes_are_found_in_the_same_pass(folder: Path) -> None:
    text = GOOD
    for old, new in (
        ("weights:\n", "weigths:\n"),
        ("{rank: 8,", "{rnk: 8,"),
        ("brier_weight: 0.5", "brier_weight: 1.5"),
        ("steps: 20", "steps: many"),
        ("  - name: capitals", "  - name: units"),
        ("force: {units: skill}", "force: {unts: skil}"),
        ("    source:\n", "    sorce:\n"),
        ("path: data/capitals", "path: data/capital"),
        ("seed: 7", "seed: 7\nseed: 8"),
    ):
        text = text.replace(old, new, 1)
    assert [p.key for p in found(folder, text)] == [
        "capabilities[1].name",
        "capabilities[1].sorce",
        "capabilities[1].sorce.path",
        "router.force.unts",
        "router.force.unts",
        "weigths",
        "weigths.lora.rnk",
        "weigths.rewards",
        "weigths.grpo.steps",
        "seed",
    ]


def test_a_repair_never_causes_a_second_problem(folder: Path) -> None:
    """A bad value is read as its default; that the default clashes with its neighbour is not the user's mistake."""
    text = GOOD.replace("{maximum: 4, minimum: 1,", "{maximum: many, minimum: 60,")
    assert [p.key for p in found(folder, text)] == ["skill.edits.maximum"]
    text = GOOD.replace("  - name: units", "  - name: Units!")
    assert [p.key for p in found(folder, text)] == ["capabilities[0].name"]


def test_key_paths_never_hold_names_of_the_schema(folder: Path) -> None:
    text = GOOD.replace("      type: choice", "      type: choice\n      numeric: 1\n      choice: 2")
    text = text.replace("target_modules: all-linear", "target_modules: [1, 2]")
    assert [p.key for p in found(folder, text)] == [
        "capabilities[1].grader.numeric",
        "capabilities[1].grader.choice",
        "weights.lora.target_modules[0]",
        "weights.lora.target_modules[1]",
    ]


def test_load_config_raises_all_of_them_at_once(folder: Path) -> None:
    (folder / "run.yaml").write_text(GOOD.replace("dtype", "dtpe").replace("seed: 7", "seed: x"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "run.yaml")
    assert [p.key for p in caught.value.problems] == ["model.dtpe", "seed"]
    assert str(caught.value).startswith(
        f"{folder / 'run.yaml'}:4: model.dtpe: unknown key 'dtpe'; did you mean 'dtype'?"
    )


def _slip(word: str, rng: random.Random) -> str:
    """One edit: a letter dropped, doubled, replaced, inserted, or swapped with its neighbour."""
    at, letter = rng.randrange(len(word)), rng.choice("abcdefghijklmnopqrstuvwxyz_")
    swap = word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]
    drop, double = word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]
    return rng.choice([drop, double, word[:at] + letter + word[at + 1 :], word[:at] + letter + word[at:], swap])


def _sections(model: type, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    out = [(path, keys(Shape(model)))]
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        shape = strip(field.annotation, field)
        if len(shape.members) == 1 and hasattr(shape.annotation, "model_fields"):
            out += _sections(shape.annotation, (*path, name))
    return out


def test_at_least_95_percent_of_single_slips_get_the_right_suggestion(folder: Path) -> None:
    rng = random.Random(20)
    places = [
        (path, key)
        for path, names in _sections(Config, ())
        for key in names
        if key not in ("name", "model", "capabilities")
    ]
    right = total = 0
    for path, key in places:
        slip = _slip(key, rng)
        if slip in [k for p, k in places if p == path]:
            continue
        section = ".".join(path)
        text = "name: a\nmodel: {path: reference}\n"
        text += "capabilities: [{name: c, source: {type: jsonl, path: data/units}, grader: {type: exact}}]\n"
        dotted = f"{section}.{slip}" if section else slip
        if path == ("model",):
            text = text.replace("path: reference", f"path: reference, {slip}: 1")
        elif path:
            text += "".join(f"{'  ' * i}{name}:\n" for i, name in enumerate(path)) + f"{'  ' * len(path)}{slip}: 1\n"
        else:
            text += f"{slip}: 1\n"
        total += 1
        right += any(p.key == dotted and f"did you mean {key!r}?" == p.fix for p in found(folder, text))
    assert total >= 80
    assert right / total >= 0.95, (right, total)
