"""What launches hybrid on several processes: accelerate's own reading of the shipped files, and the SLURM script run
against stand-ins for `srun` and `scontrol`."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hybrid.weights import shard

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
SCRIPT = ROOT / "scripts" / "slurm" / "hybrid.sbatch"


def test_every_way_to_launch_has_a_file():
    assert {f.stem for f in FILES} == {"cpu-2", "one-gpu", "multi-gpu-ddp", "multi-node", "fsdp2"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_accelerate_reads_the_file_and_starts_what_it_says(path):
    pytest.importorskip("accelerate")
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    config = load_config_from_file(str(path))
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "-m", "hybrid", "run", "c.yaml"])
    arguments, _, _ = _validate_launch_command(arguments)
    several = path.stem != "one-gpu"
    started = bool(arguments.multi_gpu or arguments.use_fsdp)
    assert started == several, "accelerate starts one process alone unless this is set"
    assert (config.num_processes > 1) == several
    assert config.num_processes % config.num_machines == 0
    assert (config.num_machines > 1) == (path.stem == "multi-node")
    assert bool(arguments.use_fsdp) == (path.stem == "fsdp2") and not arguments.use_deepspeed
    if arguments.use_fsdp:
        announced = {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": str(arguments.fsdp_version),
            "FSDP_OFFLOAD_PARAMS": str(arguments.fsdp_offload_params).lower(),
            "FSDP_RESHARD_AFTER_FORWARD": str(arguments.fsdp_reshard_after_forward).lower(),
        }
        shard.take_over(announced)
        assert announced == {
            shard.ASKED: "reshard",
            **{k: v for k, v in announced.items() if k.startswith("FSDP_")},
        }
    assert config.mixed_precision == "no"
    assert config.use_cpu == path.stem.startswith("cpu")


def fake(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text("#!/bin/bash\n" + body)
    path.chmod(0o755)


def submit(folder: Path, srun: str) -> subprocess.Popen:
    """The script as SLURM would start it, with `srun` and `scontrol` that write down how they were called."""
    fake(folder, "srun", f'printf "%s\\n" "$@" > {folder}/srun.args\n{srun}\n')
    hosts = 'if [[ $1 == show ]]; then printf "node7\\nnode8\\n"; else echo "$@"'
    fake(folder, "scontrol", f"{hosts} > {folder}/scontrol.args; fi\n")
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "CONFIG": "my config.yaml",
        "OUT": "/shared/run",
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_RESTART_COUNT": "1",
    }
    command = ["bash", str(SCRIPT), "--set", "seed=1"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("code", [0, 1, 3])
def test_slurm_launches_one_launcher_per_node_and_keeps_the_exit_code(tmp_path, code):
    assert submit(tmp_path, f"exit {code}").wait(20) == code
    found = (tmp_path / "srun.args").read_text().splitlines()
    assert found[found.index("--nnodes") + 1] == "2"
    assert found[found.index("--nproc_per_node") + 1] == "4"
    assert found[found.index("--rdzv_endpoint") + 1] == f"node7:{20000 + 123456 % 20000}"
    assert found[found.index("--rdzv_id") + 1] == "hybrid-123456-1"
    assert found[-8:] == ["-m", "hybrid", "run", "my config.yaml", "--out", "/shared/run", "--set", "seed=1"]
    assert not (tmp_path / "scontrol.args").exists()


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_ends_the_step_and_requeues_on_a_signal(tmp_path, sent):
    process = submit(tmp_path, f"trap 'echo ended > {tmp_path}/ended; exit 143' TERM; while :; do sleep 0.05; done")
    deadline = time.monotonic() + 60
    while not (tmp_path / "srun.args").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(sent)
    assert process.wait(60) == 0
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "scontrol.args").read_text().strip() == "requeue 123456"


def test_slurm_says_what_is_missing():
    done = subprocess.run(["bash", str(SCRIPT)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode != 0 and "set CONFIG" in done.stderr


def test_slurm_header_gives_time_to_resume_and_one_launcher_per_node():
    lines = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--open-mode=append", "--ntasks-per-node=1", "--signal=B:USR1@600"} <= set(lines)
