"""SVF as a PEFT method: one vector d per weight matrix, z = 1 + d scales its singular values (2501.06252, section 3.1).

    register()                                              # once; done on import of this module
    model = get_peft_model(base, SvfSettings(target_modules=["q_proj"], task_type="CAUSAL_LM"))

W' = U diag(S (1 + d)) V', computed without W': for in <= out as W(x + V(d * V'x)), else as y + U(d * U'y) with y = Wx. The base
is called and never written, so a packed (4-bit) base works as a plain one, and d = 0 is the base exactly. The paper's code
has a sigmoid for z and rescales to keep the sum of the singular values; here neither: z is free and starts at 1, so that
adapters add up (`mixing`).

Several active adapters add their d. Merging replaces the weight by W' and keeps the tensor that was there, which unmerging
puts back: the same bytes. Does not: merge into a packed base, adapt anything but linear layers, or train a bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import PeftConfig, PeftType
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils.peft_types import register_peft_method
from torch import nn

from hybrid.backends.quantization import is_packed
from hybrid.backends.svf.basis import Bases, bases_of
from hybrid.backends.svf.directions import Keep, chosen

_KIND = "SVF"


def register() -> None:
    """Make PEFT know the kind `SVF`. Its table of kinds is an enumeration, which is closed unless a member is put in."""
    if _KIND in PeftType._member_map_:
        return
    member = str.__new__(PeftType, _KIND)
    member._name_ = member._value_ = _KIND
    PeftType._member_names_.append(_KIND)
    PeftType._member_map_[_KIND] = member
    PeftType._value2member_map_[_KIND] = member
    register_peft_method(name=_KIND.lower(), config_cls=SvfSettings, model_cls=SvfModel, prefix=SvfModel.prefix)


@dataclass
class SvfSettings(PeftConfig):  # type: ignore[misc]
    """PEFT's configuration of an SVF adapter: which modules, and which of their singular directions (`directions.chosen`)."""

    target_modules: list[str] | set[str] | str | None = None
    keep: Keep = "all"
    count: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(_KIND)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)


class _Branch(nn.Module):  # type: ignore[misc]
    """B diag(d) B'h for h (..., n), a basis B (n, k) and d (k). A module, so that what it adds can be watched."""

    def forward(self, h: torch.Tensor, basis: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """In the dtype of `basis`; d is multiplied at its own precision."""
        along = h.to(basis.dtype) @ basis
        return (along * d).to(basis.dtype) @ basis.T


class SvfLinear(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A linear layer with SVF adapters. `svf_d` holds a vector per adapter, `svf_basis` its directions, which are not saved."""

    adapter_layer_names = ("svf_d",)
    other_param_names = ("svf_basis",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = int(base_layer.in_features), int(base_layer.out_features)
        self.svf_d = nn.ParameterDict({})
        self.svf_basis = BufferDict({}, persistent=False)
        self.svf_branch = _Branch()
        self._chosen: dict[str, tuple[int, ...]] = {}
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        self._kept: torch.Tensor | None = None

    @property
    def inside(self) -> bool:
        """Whether the directions are those of the input."""
        return self.in_features <= self.out_features

    def update_layer(self, name: str, key: str, settings: SvfSettings, bases: Bases) -> None:
        """Add an adapter that changes nothing yet. `key` is the module's name in the base."""
        total = min(self.in_features, self.out_features)
        picked = chosen(total, settings.keep, settings.count)
        weight = self.base_layer.weight
        same = next((other for other, rows in self._chosen.items() if rows == picked and other in self.svf_basis), None)
        if same is not None:
            basis = self.svf_basis[same]
        else:
            whole = bases.get(key, self.base_layer)
            basis = whole if len(picked) == total else whole[:, list(picked)].contiguous()
        dtype = weight.dtype if weight.dtype.is_floating_point else getattr(self.base_layer, "compute_dtype", None)
        self.svf_basis[name] = basis.to(weight.device, dtype or torch.float32)
        self.svf_d[name] = nn.Parameter(torch.zeros(len(picked), dtype=torch.float32, device=weight.device))
        self._chosen[name] = picked

    def delete_adapter(self, adapter_name: str) -> None:
        """PEFT's, with what is known of the adapter."""
        super().delete_adapter(adapter_name)
        self._chosen.pop(adapter_name, None)

    def forward(self, x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """The layer's output (..., out) for x (..., in)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = [name for name in self.active_adapters if name in self.svf_d]
        if self.disable_adapters or self.merged or not active:
            plain: torch.Tensor = self.base_layer(x, *arguments, **options)
            return plain
        if self.inside:
            inner: torch.Tensor = self.base_layer(x + self._change(x, active), *arguments, **options)
            return inner
        y: torch.Tensor = self.base_layer(x, *arguments, **options)
        bias = self.base_layer.bias
        return y + self._change(y if bias is None else y - bias.to(y.dtype), active)

    def _change(self, h: torch.Tensor, active: list[str]) -> torch.Tensor:
        changes = [self.svf_branch(h, self.svf_basis[name], self.svf_d[name]) for name in active]
        total: torch.Tensor = sum(changes[1:], start=changes[0])
        return total.to(h.dtype)

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        """W' - W (out, in) of one adapter, in float32 or wider."""
        weight = self._plain()
        basis, d = self.svf_basis[adapter_name].to(weight.dtype), self.svf_d[adapter_name].detach().to(weight.dtype)
        return (weight @ basis * d) @ basis.T if self.inside else (basis * d) @ (basis.T @ weight)

    def _plain(self) -> torch.Tensor:
        weight: torch.Tensor = self.base_layer.weight.data if self._kept is None else self._kept
        return weight if weight.dtype == torch.float64 else weight.float()

    def whole_weight(self) -> torch.Tensor:
        """W' of the active adapters in the base's dtype. For a plain base alone."""
        active = [name for name in self.active_adapters if name in self.svf_d]
        return self._merged(active)

    def _merged(self, names: list[str]) -> torch.Tensor:
        whole = self._plain()
        for name in names:
            whole = whole + self.get_delta_weight(name)
        return whole.to(self.base_layer.weight.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put W' of the adapters (default: the active ones) in the base layer's place. ValueError for a packed base, and
        with `safe_merge` for a weight that is not finite."""
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.svf_d]
        if not names:
            return
        if is_packed(self.base_layer):
            raise ValueError("a quantised weight cannot take an SVF adapter in; keep the adapter beside the base")
        merged = self._merged([*self.merged_adapters, *names])
        if safe_merge and not bool(merged.isfinite().all()):
            raise ValueError(f"NaNs detected in the merged weights. The adapter {names[0]} seems to be broken")
        if self._kept is None:
            self._kept = self.base_layer.weight.data
        self.base_layer.weight.data = merged
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put back the tensor that was there before merging."""
        if self._kept is not None:
            self.base_layer.weight.data = self._kept
        self._kept = None
        self.merged_adapters.clear()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Yes: it is additive."""
        return True


class SvfModel(BaseTuner):  # type: ignore[misc]
    """The base with SVF layers in place of its linear ones."""

    prefix = "svf_"
    tuner_layer_cls = SvfLinear
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _create_and_replace(
        self,
        peft_config: SvfSettings,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        bases = bases_of(self.model)
        if isinstance(target, SvfLinear):
            target.update_layer(adapter_name, current_key, peft_config, bases)
            return
        if not (isinstance(target, nn.Linear) or is_packed(target)):
            raise ValueError(f"{current_key} is a {type(target).__name__}; SVF adapts linear layers")
        layer = SvfLinear(target)
        layer.train(target.training)
        layer.update_layer(adapter_name, current_key, peft_config, bases)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


register()
