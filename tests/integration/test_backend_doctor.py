"""The doctor and the choice of device: what is missing is said with its fix, and nothing falls back in silence."""

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from backend_tiny import save_tiny

from hybrid.backends import device, doctor
from hybrid.backends.build import build_backend
from hybrid.backends.device import choose_device, physical_cores, pick_device
from hybrid.backends.doctor import PYTHON_WINDOW, WINDOWS, Finding, examine
from hybrid.config.schema import (
    ModelConfig,
    ScriptedBackendConfig,
    TransformersBackendConfig,
    VllmBackendConfig,
    WeightsConfig,
)
from hybrid.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]
NO_CUDA = torch.version.cuda is None or not torch.cuda.is_available()


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What the doctor reads of a loaded configuration."""

    config: SimpleNamespace
    root: Path

    def resolve(self, text: str) -> Path:
        return self.root / text


def configured(root: Path, backend: object = None, **model: object) -> Loaded:
    settings = {"path": "tiny", "device": "cpu", "threads": 1, **model}
    config = SimpleNamespace(
        small=None,
        model=ModelConfig(**settings),
        backend=backend or TransformersBackendConfig(),
        weights=WeightsConfig(),
    )
    return Loaded(config, root)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({f.name for f in findings}) == len(findings)
    assert all((f.fix == "") == (f.status == "ok") for f in findings), [f for f in findings if f.status != "ok"]
    return {f.name: f for f in findings}


def test_the_windows_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {}
    for requirement in project["optional-dependencies"]["train"]:
        name, _, low = requirement.partition(">=")
        low, _, high = low.partition(",<")
        wanted[name] = (low, high or None)
    assert wanted == WINDOWS
    assert project["requires-python"] == f">={PYTHON_WINDOW[0]},<{PYTHON_WINDOW[1]}"


def test_this_machine_is_described() -> None:
    found = by_name(examine(None))
    assert found["python"].status == "ok"
    assert found["torch"].detail == torch.__version__.split("+")[0] or found["torch"].detail == torch.__version__
    assert {"torch build", "device", "bfloat16", "threads", "memory"} <= set(found)
    assert "model" not in found


def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {name: low for name, (low, _) in WINDOWS.items()}
    versions |= {"torch": "2.9.1", "transformers": "5.100.0rc1", "peft": "0.22.0", "trl": "1.16.0+local"}
    monkeypatch.setattr(doctor, "version", versions.__getitem__)
    found = {f.name: f.status for f in examine(None)}
    assert {n for n in WINDOWS if found[n] != "ok"} == {"torch", "peft"}
    assert {found[n] for n in WINDOWS} == {"ok", "warn"}


def test_a_package_that_only_a_setting_needs_is_asked_for_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", absent)
    plain = configured(tmp_path)
    assert list(doctor._extras(plain)) == []  # type: ignore[arg-type]
    packed = configured(tmp_path, quantization={"type": "nf4"})
    (found,) = doctor._extras(packed)  # type: ignore[arg-type]
    assert (found.name, found.status) == ("bitsandbytes", "fail") and "bitsandbytes>=0.50" in found.fix
    (found,) = doctor._extras(configured(tmp_path, VllmBackendConfig(type="vllm")))  # type: ignore[arg-type]
    assert (found.name, found.status) == ("vllm", "fail") and "vllm>=0.22" in found.fix


def test_a_missing_package_stops_only_what_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    assert {f.status for f in examine(None) if f.name in WINDOWS} == {"warn"}
    (tmp_path / "s.json").write_text('{"default": "x"}')
    scripted = configured(tmp_path, ScriptedBackendConfig(type="scripted", script="s.json"))
    assert {f.status for f in examine(scripted) if f.name in WINDOWS} == {"warn"}
    save_tiny(tmp_path / "tiny")
    assert {f.status for f in examine(configured(tmp_path)) if f.name in WINDOWS} == {"fail"}


@pytest.mark.parametrize("chat", [False, True])
def test_the_configured_model_is_asked(tmp_path: Path, chat: bool) -> None:
    save_tiny(tmp_path / "tiny")
    found = by_name(examine(configured(tmp_path, chat=chat)))
    assert found["model"].status == "ok"
    assert "20,000 parameters, float32 on cpu" in found["model"].detail


@pytest.mark.parametrize(
    ("change", "detail", "fix"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing", "saved by transformers"),
        (lambda f: f.rename(f.parent / "moved"), "hub", "local folder"),
    ],
)
def test_a_model_that_cannot_be_used_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], detail: str, fix: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    change(save_tiny(tmp_path / "tiny"))
    found = by_name(examine(configured(tmp_path)))["model"]
    assert found.status == "fail"
    assert detail in found.detail
    assert fix in found.fix


def test_a_script_is_read_and_no_model_loaded(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"default": "x"}')
    backend = ScriptedBackendConfig(type="scripted", script="s.json")
    assert by_name(examine(configured(tmp_path, backend)))["model"].status == "ok"
    (tmp_path / "s.json").write_text("{")
    assert by_name(examine(configured(tmp_path, backend)))["model"].status == "fail"


def test_more_threads_than_cores_are_a_warning(tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    assert by_name(examine(configured(tmp_path, threads=physical_cores() + 1)))["threads"].status == "warn"


@pytest.mark.skipif(not NO_CUDA, reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_an_error_and_auto_says_why(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"model\.device is cuda, but .+; .+"):
        pick_device("cuda")
    choice = choose_device("auto")
    assert choice.device == pick_device("auto") == "cpu"
    assert "CUDA" in choice.reason or "driver" in choice.reason
    save_tiny(tmp_path / "tiny")
    found = by_name(examine(configured(tmp_path, device="cuda")))
    assert found["device"].status == found["model"].status == "fail"
    with pytest.raises(BackendError):
        build_backend(
            ModelConfig(path="tiny", device="cuda"), TransformersBackendConfig(), lambda t: tmp_path / t, tmp_path
        )


@pytest.mark.parametrize(
    ("available", "driver", "visible", "reason"),
    [
        (False, False, None, "no NVIDIA driver is loaded"),
        (False, True, "", r"no CUDA device is visible"),
        (False, True, None, "driver does not work"),
        (True, True, None, "does not compute: no kernel image"),
    ],
)
def test_what_keeps_cuda_from_working_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, available: bool, driver: bool, visible: str | None, reason: str
) -> None:
    def fail(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available\nmore")

    real = Path.exists
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch, "ones", fail)
    monkeypatch.setattr(Path, "exists", lambda p: driver if "nvidia" in str(p) else real(p))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(BackendError, match=reason):
        pick_device("cuda")
    assert pick_device("auto") == "cpu"


def test_a_working_cuda_is_taken_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert (choose_device("auto").device, choose_device("auto").reason) == ("cuda", "Some GPU works")
    assert pick_device("cuda") == "cuda"
    assert pick_device("cpu") == "cpu"


def test_cores_follow_the_affinity_and_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(device, "_cgroup_quota", lambda: None)
    monkeypatch.setattr(device, "_core_of", lambda cpu: ("0", str(cpu // 2)))
    assert physical_cores() == 2, "two hyper-threads are one core"
    monkeypatch.setattr(device, "_core_of", lambda cpu: ("logical", str(cpu)))
    assert physical_cores() == 4
    monkeypatch.setattr(device, "_cgroup_quota", lambda: 3)
    assert physical_cores() == 3


def test_the_doctor_counts_the_processes_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_name([doctor._processes({})])["processes"].detail.startswith("1,")
    launched = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "0"}
    assert doctor._processes(launched).detail == "8, 4 on this machine; rank 0 leads"
    for key, value in launched.items():
        monkeypatch.setenv(key, value)
    found = next(f for f in examine(None) if f.name == "processes")
    assert found == doctor._processes(launched)
