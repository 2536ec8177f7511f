"""The commit protocol without a model: what is whole is found, what is damaged never is."""

import json
import shutil

import pytest

from hybrid.errors import RunFolderError
from hybrid.weights.checkpoints import (
    MANIFEST,
    Checkpoint,
    Skipped,
    commit,
    find_newest,
    read_checkpoint,
    required_files,
    seal,
)

BASE = {"fingerprint": "f" * 64, "device": "cpu"}
IDENTITY = {"seed": 0, "weights.grpo.learning_rate": 1e-4}


def write_checkpoint(root, step, log=(), identity=IDENTITY, base=BASE):
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in required_files(1):
        (folder / name).write_bytes(f"{name} of step {step}".encode())
    config = {"peft_type": "LORA", "r": step, "target_modules": ["v", "q"], "base_model_name_or_path": "/home/me/model"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": list(log)}))
    commit(folder, step=step, identity=identity, base=base)
    return folder


@pytest.fixture
def root(tmp_path):
    for step in (2, 4):
        write_checkpoint(tmp_path, step)
    return tmp_path


def newest(root, processes=1):
    found, skipped = find_newest(root, IDENTITY, processes)
    return (found.step if found else None), [str(s) for s in skipped]


def test_the_newest_whole_checkpoint_is_found(root):
    assert newest(root) == (4, [])
    found = read_checkpoint(root / "checkpoint-4", IDENTITY, 1)
    assert found == Checkpoint(4, root / "checkpoint-4", BASE)
    assert newest(root / "nowhere") == (None, [])


def flip(path, bit=0):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1 << bit
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", [*required_files(1), MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete", "folder", "link", "older"])
def test_any_damage_to_any_file_falls_back_to_the_older_checkpoint(root, name, damage):
    path = root / "checkpoint-4" / name
    whole = path.read_bytes()
    if damage == "flip":
        flip(path, bit=3)
    elif damage == "truncate":
        path.write_bytes(whole[:-2])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "link":
        (root / "elsewhere").write_bytes(whole)  # the same bytes, but outside the checkpoint
        path.symlink_to(root / "elsewhere")
    elif damage == "older":
        shutil.copy(root / "checkpoint-2" / name, path)
    step, skipped = newest(root)
    assert step == 2
    assert len(skipped) == 1
    assert skipped[0].startswith("checkpoint-4: ")


def test_every_flipped_bit_of_the_manifest_is_seen(root):
    path = root / "checkpoint-4" / MANIFEST
    whole = path.read_bytes()
    for place in range(0, len(whole) * 8, 101):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(data))
        found = read_checkpoint(root / "checkpoint-4", IDENTITY, 1)
        # White space between tokens may change without changing what the manifest says.
        assert isinstance(found, Skipped) or json.loads(data) == json.loads(whole)


def test_a_manifest_cannot_point_outside_its_folder(root):
    path = root / "checkpoint-4" / MANIFEST
    body = json.loads(path.read_text())
    del body["seal"]
    body["files"]["../checkpoint-2/optimizer.pt"] = body["files"]["optimizer.pt"]
    path.write_text(json.dumps(seal(body)))
    assert newest(root)[0] == 2


def test_an_unfinished_save_and_other_folders_do_not_exist(root):
    (root / "checkpoint-6").mkdir()
    (root / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    (root / "checkpoint-six").mkdir()
    (root / "checkpoint-08").mkdir()
    (root / "checkpoint-9").symlink_to(root / "checkpoint-4")
    shutil.copytree(root / "checkpoint-4", root / "checkpoint-7")
    step, skipped = newest(root)
    assert step == 4
    assert skipped == [
        "checkpoint-9: is no folder",
        "checkpoint-7: its manifest is that of step 4",
        "checkpoint-6: MANIFEST.json is missing",
    ]


def test_a_missing_random_state_of_any_process_is_seen(root):
    assert newest(root, processes=2)[0] is None


def test_another_job_is_refused_by_field(root):
    other = {**IDENTITY, "weights.grpo.learning_rate": 0.5, "seed": 1}
    with pytest.raises(RunFolderError, match=r"seed: 0 -> 1; weights\.grpo\.learning_rate: 0\.0001 -> 0\.5\)"):
        find_newest(root, other, 1)
