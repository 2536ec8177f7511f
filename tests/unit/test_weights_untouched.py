"""The base's checksum, and the proof that what was loaded is what lies on disk."""

import pytest
import torch
from safetensors.torch import save_file

from hybrid.errors import TrainingError
from hybrid.weights.untouched import FrozenBase, check_adapter_loaded, checksum

SHAPES = [(0,), (1,), (3, 5), (4096,), (2, 4097), (100, 100)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.uint8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_single_bit_counts(shape, dtype):
    torch.manual_seed(0)
    tensor = (torch.randn(shape) * 40).to(dtype)
    before = checksum(tensor)
    assert checksum(tensor.clone()) == before
    raw = tensor.flatten().view(torch.uint8)
    for place in range(0, len(raw), max(len(raw) // 17, 1)):
        for bit in (0, 7):
            raw[place] ^= 1 << bit
            assert checksum(tensor) != before
            raw[place] ^= 1 << bit
    assert checksum(tensor) == before


def test_rows_that_change_places_count():
    tensor = torch.arange(3 * 4096, dtype=torch.float32)
    assert checksum(tensor) != checksum(tensor.view(3, 4096)[[1, 0, 2]].flatten())


def test_a_view_is_read_by_its_values():
    tensor = torch.randn(6, 7)
    assert checksum(tensor.T) == checksum(tensor.T.contiguous())
    assert checksum(tensor.flatten()[1:]) == checksum(tensor.flatten()[1:].clone())


def test_what_may_train_may_move_and_the_rest_may_not():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[0].requires_grad_(False)
    guard = FrozenBase(model)
    model[1].weight.data += 1
    guard.check(1)
    # A merge and its undoing: the values are near, and are not the same.
    delta = torch.full((3, 3), 1 / 3)
    model[0].weight.data += 1e3 * delta
    model[0].weight.data -= 1e3 * delta
    with pytest.raises(TrainingError, match=r"step 7: the base changed .* \(1 tensors, first 0\.weight\)"):
        guard.check(7)


def test_a_frozen_tensor_that_was_replaced_or_freed_is_found():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3))
    model.requires_grad_(False)
    guard = FrozenBase(model)
    model[0].bias.requires_grad_(True)
    with pytest.raises(TrainingError, match=r"first 0\.bias"):
        guard.check(1)


def test_an_adapter_is_matched_whole(tmp_path):
    saved = {"a": torch.ones(2), "b": torch.zeros(3)}
    save_file(saved, tmp_path / "adapter_model.safetensors")
    check_adapter_loaded(tmp_path, saved)
    with pytest.raises(TrainingError, match="1 of the adapter's tensors were not matched, b first"):
        check_adapter_loaded(tmp_path, {"a": saved["a"]})
    with pytest.raises(TrainingError, match="1 of the adapter's tensors were not matched, c first"):
        check_adapter_loaded(tmp_path, {**saved, "c": torch.ones(1)})
    with pytest.raises(TrainingError, match="a was not loaded as it is in the file"):
        check_adapter_loaded(tmp_path, {**saved, "a": torch.ones(2) + 1e-6})
    save_file({"a": torch.tensor([1.0, float("inf")])}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(TrainingError, match="not finite"):
        check_adapter_loaded(tmp_path, {"a": torch.tensor([1.0, float("inf")])})
