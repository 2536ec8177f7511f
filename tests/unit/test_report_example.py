"""A made-up but realistic report for the tests of the report room, and the tests of its schema."""

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hybrid.errors import RunFolderError
from hybrid.report.schema import Report, load_report, schema_json

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "placement.schema.json"


def estimate(mean, n, level=0.95):
    half = 1.96 * math.sqrt(max(mean * (1 - mean), 0.01) / n)
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half), "n": n, "level": level}


def arm(test, variant=None, tokens_in=18.4, n=200):
    shifted = None if variant is None else estimate(variant, n // 2)
    return {"test": estimate(test, n), "variant": shifted, "tokens_in": tokens_in, "tokens_out": 6.2}


def delta(mean, improved, regressed, p, n=200):
    half = 1.96 * math.sqrt(max(improved + regressed, 1)) / n
    counts = {"n": n, "improved": improved, "regressed": regressed}
    return {"mean": mean, "low": mean - half, "high": mean + half, "p": p, **counts, "level": 0.95}


def probe(value, n=64, note="", **more):
    half = 0.11
    return {"value": value, "low": value - half, "high": value + half, "n": n, "note": note, **more}


def verdict(name, decision, change, reason, adjusted=None):
    kept = {k: change[k] for k in ("low", "high", "p", "n", "improved", "regressed")}
    return {
        "arm": name,
        "decision": decision,
        "delta": change["mean"],
        "p_adjusted": adjusted,
        "reason": reason,
        **kept,
    }


def ledger(calls, train=0.0, wall=41.2):
    stages = {
        "probe": {"calls": calls // 3, "tokens_in": calls * 9, "tokens_out": calls * 2, "seconds": 9.1},
        "improve": {"calls": calls - calls // 3, "tokens_in": calls * 20, "tokens_out": calls * 4, "seconds": 22.0},
    }
    stages["improve"]["train_seconds"] = train
    totals = {"calls": calls, "tokens_in": calls * 29, "tokens_out": calls * 6, "train_seconds": train}
    return {**totals, "wall_seconds": wall, "stages": stages}


def flip(number, prompt, reference, before, after):
    return {"id": f"test-{number:04d}", "prompt": prompt, "reference": reference, "before": before, "after": after}


def edit(step, op, target, content, decision, change, why):
    low, high = (None, None) if change is None else (change - 0.06, change + 0.06)
    numbers = {"delta": change, "low": low, "high": high, "n": 0 if change is None else 96}
    return {"step": step, "op": op, "target": target, "content": content, "decision": decision, **numbers, "why": why}


SEED_SKILL = "# Unit conversion\n\nConvert the quantity to the unit asked for.\nAnswer with a number and the unit.\n"
FINAL_SKILL = (
    "# Unit conversion\n\nConvert the quantity to the unit asked for.\n"
    "1 mile = 1.609344 km; 1 inch = 2.54 cm; 1 lb = 0.45359237 kg.\n"
    "Multiply first, then round once, to two decimals.\nAnswer with the number, one space and the unit. Nothing else.\n"
)


def skill_capability():
    change = delta(0.295, 65, 6, 3.1e-13)
    trail = [
        "base score 0.41 [0.29, 0.53], n=64 is below 0.90",
        "context gain 0.31 [0.20, 0.42], n=64 is at least 0.10",
        "score with the best text 0.71 [0.60, 0.82], n=64 is below 0.90",
        "signal rate under the best text 0.12 [0.04, 0.20], n=64 is below 0.20",
        "ship gate: skill accepted on 160 confirm examples, weights undecided",
    ]
    edits = [
        edit(1, "append", "", "Think step by step.", "reject", -0.021, "fell behind the incumbent after part 2 of 6"),
        edit(
            1,
            "insert_after",
            "Convert the quantity to the unit asked for.",
            "1 mile = 1.609344 km; 1 inch = 2.54 cm; 1 lb = 0.45359237 kg.",
            "accept",
            0.156,
            "ahead after every part of the race",
        ),
        edit(
            2,
            "replace",
            "Answer with a number and the unit.",
            "Answer with the number, one space and the unit. Nothing else.",
            "accept",
            0.083,
            "strictly better on 96 search examples",
        ),
        edit(3, "append", "", "12 miles = 19.31 km", "reject", None, "copies the reference of training row train-0112"),
    ]
    return {
        "name": "unit-conversion",
        "placement": "skill",
        "confidence": 0.94,
        "reason": "A text that states the factors lifts the score by 0.295 on sealed examples; an adapter was not "
        "shown to be better than that text, and text is cheaper to change.",
        "decision_trail": trail,
        "kind": {"measured": "factual", "declared": "procedural", "confidence": 0.88},
        "profile": {
            "base": probe(0.41),
            "context_gain": probe(0.31, note="best text (seed) over the better of no text and an irrelevant text"),
            "sampling_gain": probe(0.14, details={"pass_at_8": 0.55, "pass_at_1": 0.41}),
            "signal_rate": probe(0.22, calls=512),
            "unknown": probe(0.52),
            "variant_gap": {"value": None, "n": 0, "note": "not measurable at this size: no variants in the first 8"},
        },
        "arms": {
            "base": arm(0.405, 0.38),
            "skill": arm(0.70, 0.66, tokens_in=96.0),
            "weights": arm(0.52, 0.41),
            "both": None,
        },
        "delta": change,
        "gate": [
            verdict("skill", "accept", delta(0.281, 49, 4, 2e-10, 160), "better at alpha 0.05 over 160 pairs", 8e-10),
            verdict("weights", "undecided", delta(0.044, 31, 24, 0.21, 160), "the interval holds zero and 0.05"),
        ],
        "calibration": {"brier": 0.182, "ece": 0.064, "auroc": 0.77, "n": 200},
        "formats": {
            "shares": {"number unit": 0.91, "sentence": 0.06, "other": 0.03},
            "effective": 1.42,
            "excess_collapse": 0.11,
            "n": 200,
        },
        "collateral": {"date-arithmetic": {"delta": 0.0, "low": -0.04, "high": 0.04, "n": 48}},
        "rejected": [
            {
                "substrate": "weights",
                "what": "LoRA by GRPO, checkpoint 150",
                "delta": 0.044,
                "low": -0.047,
                "high": 0.135,
                "n": 160,
                "why": "the ship gate says undecided; most of its gain does not carry over to variants",
            }
        ],
        "counterfactual": {
            "placement": "weights",
            "regret": delta(-0.18, 12, 48, 1.0),
            "note": "The adapter alone would have given 0.520 on the sealed test.",
        },
        "skill_edits": edits,
        "skill_text": FINAL_SKILL,
        "seed_skill_text": SEED_SKILL,
        "training": None,
        "flips": {
            "improved": [
                flip(
                    i,
                    f"Convert {i + 3} miles to km.",
                    f"{(i + 3) * 1.609344:.2f} km",
                    f"{i + 3} km",
                    f"{(i + 3) * 1.609344:.2f} km",
                )
                for i in range(12)
            ],
            "regressed": [
                flip(90, "Convert 2 kg to kg.", "2.00 kg", "2.00 kg", "0.91 kg"),
                flip(91, "Convert 0 cm to inch.", "0.00 inch", "0.00 inch", "0 inch"),
            ],
        },
        "ledger": ledger(6120, 0.0, 184.0),
        "artifacts": {"skill": "skills/unit-conversion/SKILL.md", "adapter": None, "method": "skillopt"},
    }


def weights_capability():
    random_ = random.Random(7)
    rewards = [0.22 + 0.5 * (1 - math.exp(-step / 60)) + random_.gauss(0, 0.045) for step in range(200)]
    history = [{"step": s + 1, "reward": r, "kl": 0.001 * s, "entropy": 2.1 - 0.004 * s} for s, r in enumerate(rewards)]
    both = skill_capability()
    return {
        **both,
        "name": "date-arithmetic",
        "placement": "weights",
        "confidence": 0.81,
        "reason": "No text helps beyond an irrelevant text, but samples succeed often enough for gradients: GRPO lifts "
        "the sealed score by 0.240, and two thirds of the gain carries over to variants.",
        "kind": {"measured": "procedural", "declared": "procedural", "confidence": 0.97},
        "arms": {
            "base": arm(0.235, 0.21),
            "skill": arm(0.25, 0.22, 71.0),
            "weights": arm(0.475, 0.37),
            "both": arm(0.48, 0.36, 71.0),
        },
        "delta": delta(0.24, 57, 9, 1.2e-9),
        "gate": [
            verdict("skill", "reject", delta(0.006, 9, 8, 0.5, 160), "the gain is below the minimum effect 0.05"),
            verdict("weights", "accept", delta(0.231, 44, 7, 9e-8, 160), "better at alpha 0.05 over 160 pairs", 2.7e-7),
        ],
        "calibration": None,
        "formats": None,
        "collateral": {
            "unit-conversion": {"delta": -0.021, "low": -0.083, "high": 0.041, "n": 48},
            "tone": {"delta": -0.01, "low": -0.05, "high": 0.03, "n": 48},
        },
        "counterfactual": None,
        "rejected": [],
        "skill_edits": [],
        "skill_text": None,
        "seed_skill_text": None,
        "training": {"method": "grpo", "steps": 200, "history": history, "selected_step": 150} | MEMORY,
        "ledger": ledger(25_600, 742.0, 803.5),
        "artifacts": {"skill": None, "adapter": "adapters/date-arithmetic", "method": "grpo"},
    }


MEMORY = {"memory": {"rows_per_device": 12, "predicted_mib": 2345, "measured_mib": 1987}}


def bare_capability(name="tone", placement="undecided"):
    """Everything optional is null or empty, and n is small."""
    return {
        "name": name,
        "placement": placement,
        "confidence": None,
        "reason": "Only 12 examples in `search`: not measurable at this size.",
        "kind": {"measured": None, "declared": None, "confidence": None},
        "profile": {},
        "arms": {"base": None, "skill": None, "weights": None, "both": None},
        "delta": None,
        "calibration": None,
        "formats": None,
        "collateral": {},
        "rejected": [],
        "ledger": {"calls": 0, "tokens_in": 0, "tokens_out": 0, "train_seconds": 0, "wall_seconds": None},
        "artifacts": {"skill": None, "adapter": None, "method": None},
    }


def keep_capability():
    kept = bare_capability("greeting", "keep")
    arms = {**kept["arms"], "base": arm(0.965, 0.94)}
    reason = "The base already does it: 0.965 on sealed examples."
    return {
        **kept,
        "confidence": 0.99,
        "reason": reason,
        "arms": arms,
        "profile": {"base": probe(0.88)},
        "ledger": ledger(900),
    }


def both_capability():
    changed = weights_capability()
    arms = {
        "base": arm(0.31, 0.3),
        "skill": arm(0.49, 0.47, 120.0),
        "weights": arm(0.44, 0.36),
        "both": arm(0.69, 0.6, 120.0),
    }
    text = {k: skill_capability()[k] for k in ("skill_edits", "skill_text", "seed_skill_text")}
    shown = {"name": "order-triage", "placement": "both", "arms": arms, "delta": delta(0.38, 82, 6, 1e-18)}
    reason = "A text helps, samples under that text vary in success, and training on top of it beats the text alone."
    return {**changed, **text, **shown, "reason": reason, "confidence": 0.77}


def example_data():
    return {
        "schema_version": 1,
        "run_id": "quickstart-7c1f2a9b",
        "created": "2026-11-23T13:09:00Z",
        "seed": 0,
        "model": {
            "path": "reference",
            "fingerprint": "9f2c" * 16,
            "parameters": 3_412_992,
            "dtype": "float32",
            "device": "cpu (2 cores)",
        },
        "ledger": ledger(58_220, 1484.0, 2011.0),
        "capabilities": [
            skill_capability(),
            weights_capability(),
            both_capability(),
            keep_capability(),
            bare_capability(),
        ],
        "router": {
            "policy": "rules-1",
            "thresholds": {"keep_above": 0.9, "context_gain": 0.1, "signal_rate": 0.2, "sampling_gain": 0.1},
            "regret": estimate(0.012, 4),
            "baselines": {
                "always skill": estimate(0.60, 4),
                "always weights": estimate(0.60, 4),
                "keep": estimate(0.47, 4),
            },
        },
        "schedule": {
            "order": ["order-triage", "date-arithmetic"],
            "backward_transfer": {
                "order-triage": {"date-arithmetic": {"delta": 0.02, "low": -0.04, "high": 0.08, "n": 48}}
            },
            "predicted": estimate(0.62, 96),
            "actual": estimate(0.58, 96),
            "arm": "weights",
            "by": "transfer",
            "why": "by backward transfer: order-triage bears date-arithmetic after it",
            "steps": 80,
            "pair_steps": 40,
            "replay": 0.2,
            "points": [
                {
                    "after": after,
                    "step": step,
                    "entropy": {"order-triage": estimate(0.9 - step / 100, 32), "date-arithmetic": estimate(0.5, 32)},
                    "accuracy": {"order-triage": estimate(0.4, 48), "date-arithmetic": estimate(0.3 + step / 200, 48)},
                }
                for after, step in ((None, 0), ("order-triage", 40), ("date-arithmetic", 80))
            ],
            "joint": {"after": "date-arithmetic", "step": 80, "entropy": {}, "accuracy": {}},
            "tasks": {
                "order-triage": {"predicted": estimate(0.6, 48), "actual": estimate(0.5, 48), "joint": None},
                "date-arithmetic": {"predicted": None, "actual": estimate(0.66, 48), "joint": estimate(0.6, 48)},
            },
            "helped": {"mean": -0.02, "low": -0.1, "high": 0.06, "p": 0.7, "n": 96, "improved": 4, "regressed": 6},
            "chosen": "joint",
            "reason": "ordered (step 80) against mixed (step 60) -0.020 on search, not above the margin 0",
        },
        "warnings": [
            "device auto: no CUDA was found, the run used the CPU.",
            "tone: 12 examples in search, 16 are needed.",
        ],
        "provenance": {
            "versions": {"hybrid": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
            "seeds": {"run": 0, "training": 0},
            "hashes": {"config": "ab12" * 16, "data": "cd34" * 16, "code": "ef56" * 16},
        },
    }


def example():
    return Report.model_validate(example_data())


def bare():
    data = {**example_data(), "capabilities": [bare_capability()], "schedule": None, "warnings": []}
    data["router"] = {"policy": "rules-1", "regret": None, "baselines": None}
    return Report.model_validate(data)


def saved(folder, report):
    path = folder / "report" / "placement.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.to_json(), encoding="utf-8")
    return path


# ---- schema ---------------------------------------------------------------------------------------------------------


def test_committed_schema_is_current():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_json(), (
        "python -m hybrid.report.schema > docs/placement.schema.json"
    )


def test_contract_keys_are_all_there():
    data = json.loads(example().to_json())
    top = "schema_version run_id created seed model ledger capabilities router schedule warnings provenance"
    inner = "name placement confidence reason kind profile arms delta calibration formats collateral"
    inner += " rejected ledger artifacts"
    assert set(top.split()) <= set(data)
    for capability in data["capabilities"]:
        assert set(inner.split()) <= set(capability)
        assert set(capability["arms"]) == {"base", "skill", "weights", "both"}
    assert set(data["capabilities"][0]["delta"]) >= {"mean", "low", "high", "p", "n", "improved", "regressed"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_no_number_is_nan_or_infinite(bad):
    for where in (("delta", "mean"), ("delta", "p"), ("calibration", "brier")):
        data = example_data()
        data["capabilities"][0][where[0]][where[1]] = bad
        with pytest.raises(ValidationError):
            Report.model_validate(data)
    for extra in (bad, [bad], {"deep": [{"er": bad}]}):
        data = example_data()
        data["capabilities"][0]["profile"]["base"]["extra"] = extra
        with pytest.raises(ValidationError):
            Report.model_validate(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("delta", "n"), -1),
        (("delta", "p"), 1.01),
        (("placement",), "maybe"),
        (("surprise",), 1),
        (("flips",), {"improved": [flip(i, "p", "r", "b", "a") for i in range(21)]}),
        (("delta", "low"), 0.9),
    ],
)
def test_impossible_values_are_refused(path, value):
    data = example_data()
    inside = data["capabilities"][0]
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    with pytest.raises(ValidationError):
        Report.model_validate(data)


def test_a_capability_is_reported_once():
    data = example_data()
    data["capabilities"].append(data["capabilities"][0])
    with pytest.raises(ValidationError, match="reported twice"):
        Report.model_validate(data)


def test_floats_keep_six_digits_and_small_p_values_survive():
    data = example_data()
    data["capabilities"][0]["delta"]["mean"] = 0.29512345678
    data["capabilities"][0]["delta"]["p"] = 3.123456789e-13
    report = Report.model_validate(data)
    written = json.loads(report.to_json())["capabilities"][0]["delta"]
    assert (written["mean"], written["p"]) == (0.295123, 3.12346e-13)
    assert report.capabilities[0].delta.mean == 0.295123, "what is in memory is what is written"


def test_json_is_canonical():
    text = example().to_json()
    data = json.loads(text)
    assert text == json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def test_lone_surrogates_do_not_stop_the_report(tmp_path):
    data = example_data()
    data["capabilities"][0]["flips"]["improved"][0]["after"] = "a\ud800b"
    data["capabilities"][0]["profile"]["base"]["extra"] = {"\udfff": "\udc00"}
    report = Report.model_validate(data)
    assert load_report(saved(tmp_path, report)) == report
    assert report.capabilities[0].flips.improved[0].after == "a\ufffdb"


def damage_cases():
    whole = example().to_json()
    yield "cut in half", whole[: len(whole) // 2], "damaged"
    yield "empty", "", "damaged"
    yield "a list", "[]", "schema_version None"
    yield "another version", whole.replace('"schema_version": 1', '"schema_version": 2'), "schema_version 2"
    yield "version as text", whole.replace('"schema_version": 1', '"schema_version": "1"'), "schema_version '1'"
    yield "version true", whole.replace('"schema_version": 1', '"schema_version": true'), "schema_version True"
    yield "NaN", whole.replace('"seed": 0', '"seed": NaN', 1), "damaged"
    yield "unknown key", whole.replace('"seed": 0', '"seed": 0, "sead": 0', 1), "damaged at"
    yield "number as text", whole.replace('"calls": 58220', '"calls": "58220"'), "damaged at ledger.calls"
    yield "deep", "[" * 100_000, "damaged"
    yield "lone surrogate", whole.replace('"reference"', '"\\ud800"', 1), "damaged"


@pytest.mark.parametrize(("text", "said"), [pytest.param(t, s, id=i) for i, t, s in damage_cases()])
def test_damaged_files_get_a_sentence(tmp_path, text, said):
    path = tmp_path / "placement.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match=said) as caught:
        load_report(path)
    assert str(path) in str(caught.value)


def test_absent_directory_and_bytes_get_a_sentence(tmp_path):
    with pytest.raises(RunFolderError, match="does not exist"):
        load_report(tmp_path / "placement.json")
    with pytest.raises(RunFolderError, match="damaged"):
        load_report(tmp_path)
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunFolderError, match="damaged"):
        load_report(tmp_path / "b.json")


# ---- round trip -----------------------------------------------------------------------------------------------------

floats = st.floats(-1e6, 1e6)
shares = st.floats(0, 1)
counts = st.integers(0, 10**9)
texts = st.text(st.characters(), max_size=30)
names_ = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
free = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | floats | texts,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(texts, x, max_size=3),
    max_leaves=6,
)


def ranged(**fields):
    return st.tuples(st.lists(floats, min_size=2, max_size=2).map(sorted), st.fixed_dictionaries(fields)).map(
        lambda pair: {"low": pair[0][0], "high": pair[0][1], **pair[1]}
    )


estimates = ranged(mean=floats, n=counts, level=shares)
deltas = ranged(mean=floats, p=shares, n=counts, improved=counts, regressed=counts, level=shares)
arm_results = st.fixed_dictionaries({"test": st.none() | estimates, "variant": st.none() | estimates})
flips = st.lists(
    st.fixed_dictionaries(dict.fromkeys(("id", "prompt", "reference", "before", "after"), texts)), max_size=2
)
extra_keys = st.dictionaries(names_.filter(lambda k: k not in {"value", "low", "high", "n", "note"}), free, max_size=2)
probes = st.tuples(ranged(value=st.none() | floats, n=counts, note=texts), extra_keys).map(lambda p: {**p[1], **p[0]})
rejections = st.none() | ranged(delta=floats)


@st.composite
def capabilities(draw, name):
    numbers = draw(rejections) or {"delta": None, "low": None, "high": None}
    kept = {"substrate": draw(texts), "what": draw(texts), "why": draw(texts), "n": draw(counts), **numbers}
    return {
        **bare_capability(name),
        "placement": draw(st.sampled_from(["keep", "skill", "weights", "both", "neither", "undecided"])),
        "confidence": draw(st.none() | shares),
        "reason": draw(texts),
        "profile": draw(st.dictionaries(texts, probes, max_size=2)),
        "arms": {k: draw(st.none() | arm_results) for k in ("base", "skill", "weights", "both")},
        "delta": draw(st.none() | deltas),
        "rejected": [kept],
        "flips": {"improved": draw(flips), "regressed": draw(flips)},
        "training": draw(
            st.none()
            | st.builds(
                lambda h: {"method": "grpo", "steps": 3, "history": h, "selected_step": None},
                st.lists(st.fixed_dictionaries({"step": counts, "reward": st.none() | floats}), max_size=3),
            )
        ),
        "skill_text": draw(st.none() | texts),
    }


@st.composite
def reports(draw):
    names = draw(st.lists(texts.filter(bool), unique_by=lambda t: t.encode("utf-8", "replace"), max_size=2))
    data = {**example_data(), "capabilities": [draw(capabilities(f"{i}{n}")) for i, n in enumerate(names)]}
    return Report.model_validate({**data, "warnings": draw(st.lists(texts, max_size=2))})


@settings(max_examples=60, deadline=None)
@given(reports())
def test_report_to_json_and_back(tmp_path_factory, report):
    path = tmp_path_factory.mktemp("round") / "placement.json"
    path.write_text(report.to_json(), encoding="utf-8", newline="")
    again = load_report(path)
    assert again == report
    assert again.to_json() == report.to_json()
