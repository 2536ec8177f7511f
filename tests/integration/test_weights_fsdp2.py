"""A base that two processes hold half of each (FSDP2, gloo on a CPU): the training of one process, whole files, real halves."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from two_processes import launch
from weights_tiny import load, make_job, save_tiny, train, without_seconds

from hybrid.backends.doctor import _processes
from hybrid.config.loader import load_config
from hybrid.errors import UsageError
from hybrid.weights import shard

METHODS = ("grpo", "sft", "distill")
SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
import torch
from accelerate import PartialState
from torch.distributed.tensor import DTensor
from hybrid.errors import RunFolderError, TrainingError
from hybrid.weights import shard, untouched
from test_weights_fsdp2 import METHODS, job
from weights_tiny import hashes, train, without_seconds
rank, folder, out = int(os.environ["RANK"]), Path(sys.argv[2]), Path(sys.argv[3])
shard.take_over(os.environ)
PartialState(cpu=True)
held, answers = [], {}
seen = untouched.FrozenBase.__init__
def count(self, model):
    seen(self, model)
    if shard.ASKED not in os.environ:
        return
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert all(isinstance(p, DTensor) for p in frozen)
    assert not any(isinstance(p, DTensor) for p in model.parameters() if p.requires_grad)
    held.append([sum(p.to_local().numel() for p in frozen), sum(p.numel() for p in frozen)])
untouched.FrozenBase.__init__ = count
for method in METHODS:
    whole = train(job(method, folder, out / method))
    answers[method] = {"hashes": hashes(whole), "history": without_seconds(whole)}
if rank == 0:
    shutil.copytree(out / "grpo" / "checkpoint-2", out / "grpo-again" / "checkpoint-2")
PartialState().wait_for_everyone()
answers["again"] = hashes(train(job("grpo", folder, out / "grpo-again")))
del os.environ[shard.ASKED]
try:  # a half-trained state of a split base belongs to a split base
    if rank == 0:
        shutil.copytree(out / "sft" / "checkpoint-2", out / "sft-other" / "checkpoint-2")
    PartialState().wait_for_everyone()
    train(job("sft", folder, out / "sft-other"))
except RunFolderError as error:
    answers["other"] = str(error)
os.environ[shard.ASKED] = "reshard"
original, moved = untouched.FrozenBase._now, []
def touched(self):
    moved.append(1)
    found = original(self)
    return {k: v + (rank == 1 and len(moved) > 1) for k, v in found.items()}  # one process's part of the base moves
untouched.FrozenBase._now = touched
try:
    train(job("sft", folder, out / "moved"))
except TrainingError as error:
    answers["moved"] = str(error)
answers["held"] = held
(out / f"rank-{rank}.json").write_text(json.dumps(answers))
"""


def job(method: str, folder: Path, out: Path):
    sections = {"grpo": {"steps": 4}, "sft": {"steps": 4}, "distill": {"steps": 4, "targets": "logits"}}
    return make_job(folder, out, method, teacher="bcd: ", **sections)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict]]:
    out = tmp_path_factory.mktemp("fsdp2")
    folder = save_tiny(out / "tiny")
    announced = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    return folder, out, launch(SCRIPT, folder, out, extra=announced)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_adapter_is_that_of_one_process_up_to_rounding(launched, tmp_path, method):
    folder, out, (first, second) = launched
    alone = train(job(method, folder, tmp_path / method))
    assert first[method] == second[method]
    for ours, theirs in zip(without_seconds(alone), first[method]["history"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3, abs=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-2)
    mine, split = (
        load_file(f / "checkpoint-4" / "adapter_model.safetensors") for f in (tmp_path / method, out / method)
    )
    assert mine.keys() == split.keys()
    moved = max(float(t.abs().max()) for name, t in mine.items() if "lora_B" in name)
    assert moved > 1e-3, "the adapter has learned something"
    assert max(float((mine[name] - split[name]).abs().max()) for name in mine) < 0.02 * moved


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_bytes(launched):
    answer = launched[2][0]
    assert answer["again"] == answer["grpo"]["hashes"]
    assert [step for step, _ in answer["again"]] == [2, 4]


@pytest.mark.slow
def test_each_process_holds_about_half_of_the_base_and_all_of_the_adapter(launched):
    for answers in launched[2]:
        for local, everything in answers["held"]:
            assert local <= 0.55 * everything
    halves = [sum(a["held"][0][0] for a in launched[2]), launched[2][0]["held"][0][1]]
    assert halves[0] >= halves[1]


@pytest.mark.slow
def test_a_checkpoint_is_whole_and_loads_by_peft_on_the_plain_base(launched):
    folder, out, _ = launched
    names = {p.name for p in (out / "grpo" / "checkpoint-4").iterdir()}
    assert {"adapter_model.safetensors", "optimizer.pt", "MANIFEST.json", "rng_state_1.pth"} <= names
    assert not any((out / "grpo" / "checkpoint-4" / name).is_dir() for name in names)
    base = load(make_job(folder, out / "any")).model
    ids = torch.tensor([[5, 6, 7]])
    before = base(input_ids=ids).logits
    adapted = PeftModel.from_pretrained(base, str(out / "grpo" / "checkpoint-4"))
    assert not torch.equal(adapted(input_ids=ids).logits, before)


@pytest.mark.slow
def test_a_split_training_is_resumed_split_and_a_touched_part_stops_all(launched):
    for answers in launched[2]:
        assert "base" in answers["other"]
        assert "step 2: the base changed" in answers["moved"]
    assert "parts that another process holds" in launched[2][0]["moved"]
    assert "tensors, first" in launched[2][1]["moved"]


@pytest.mark.parametrize(
    ("announced", "word"),
    [
        ({"FSDP_VERSION": "1"}, "fsdp_version: 2"),
        ({}, "fsdp_version: 2"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
    ],
)
def test_what_is_not_offered_is_refused_by_its_key(announced, word):
    with pytest.raises(UsageError, match=word):
        shard.take_over({"ACCELERATE_USE_FSDP": "true", **announced})


def test_the_launchers_wish_is_taken_out_of_its_hands():
    environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "false"}
    shard.take_over(environment)
    assert "ACCELERATE_USE_FSDP" not in environment and environment[shard.ASKED] == "keep"
    assert shard.asked(environment, 2) and not shard.asked(environment, 1)
    launched = {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}
    assert "the base of a training is split" in _processes(launched).detail
    untouched = {"ACCELERATE_USE_FSDP": "false", "OTHER": "1"}
    shard.take_over(untouched)
    assert not shard.asked(untouched, 2) and len(untouched) == 2


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ("weights: {method: tree}", "method tree"),
        ("weights: {method: svf}", "method svf"),
        ("    method: svf", "method svf"),
        ("", None),
    ],
)
def test_a_configuration_that_cannot_be_split_is_refused(tmp_path, lines, word):
    text = "name: a\nmodel: {path: reference}\ncapabilities:\n  - name: b\n    source: {type: jsonl, path: b}\n"
    text += "    grader: {type: exact}\n"
    (tmp_path / "c.yaml").write_text(text + lines + "\n")
    config = load_config(tmp_path / "c.yaml").config
    if word is None:
        shard.refuse(config)
        with pytest.raises(UsageError, match="packed weights"):
            shard.refuse(load_config(tmp_path / "c.yaml", ["model.quantization.type=nf4"]).config)
        return
    with pytest.raises(UsageError, match=word):
        shard.refuse(config)
