"""A packed row gives what padded rows give: log-probabilities, entropies and the adapter's gradient."""

import contextlib
import random

import pytest
import torch
from backend_tiny import TARGETS, tiny_model
from peft import LoraConfig, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from trl.trainer.utils import add_fused_lm_head

from hybrid.weights import head
from hybrid.weights.head import score_tokens
from hybrid.weights.packed import Layout, answer_packed, pack, score_packed

DOCUMENT = tuple(range(4, 40)) * 2  # 72 tokens


def gemma() -> Gemma3ForCausalLM:
    """Two sliding layers of 12 positions and a full one, four query heads to one key head."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=44,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=12,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    return Gemma3ForCausalLM(config).eval()


def adapted(base: torch.nn.Module, dtype: torch.dtype):
    """The model under a LoRA that is not zero, as the trainer has it."""
    base.to(dtype).requires_grad_(False)
    add_fused_lm_head(base, temperature=0.7, outputs=("log_probs", "entropy"))
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn_like(parameter.data.to(torch.float32)).to(dtype) * 0.1
    answer_packed(model.get_base_model())
    return model


def rows(seed: int = 0) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Four prompts, three of them over one document; ragged completions, one of them of one token, rows mixed."""
    rng = random.Random(seed)

    def some(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(4, 44) for _ in range(n))

    prompts = [(*DOCUMENT, *some(n)) for n in (9, 3, 14)] + [some(5)]
    found = [(p, some(rng.randrange(1, 12))) for p in prompts for _ in range(3)]
    found.append((prompts[0], some(1)))
    rng.shuffle(found)
    return [p for p, _ in found], [c for _, c in found]


def padded(model, prompts, completions):
    """(log-probabilities, entropies) of completions: prompts padded on the left, completions on the right, as TRL does."""
    width, keep = max(map(len, prompts)), max(map(len, completions))
    both = list(zip(prompts, completions, strict=True))
    ids = torch.tensor([[0] * (width - len(p)) + [*p, *c] + [0] * (keep - len(c)) for p, c in both])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * (len(p) + len(c)) + [0] * (keep - len(c)) for p, c in both])
    logits = model(input_ids=ids, attention_mask=mask).logits[:, width - 1 : -1]
    table = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / 0.7, dim=-1)
    return table.gather(2, ids[:, width:, None])[..., 0], -(table.exp() * table).sum(-1)


def slope(model, logps: torch.Tensor) -> torch.Tensor:
    parameters = [p for n, p in model.named_parameters() if p.requires_grad]
    weights = torch.sin(torch.arange(logps.numel()) + 1.0).to(logps.dtype)
    return torch.cat([g.flatten() for g in torch.autograd.grad((logps * weights).sum(), parameters)])


def at(table: torch.Tensor, layout: Layout) -> torch.Tensor:
    return table[torch.tensor(layout.rows), torch.tensor(layout.columns)]


def test_every_distinct_prompt_token_is_there_once():
    layout = pack([(1, 2, 3), (1, 2, 3), (9,)], [(4, 5), (6, 7, 8), (4,)])
    assert layout.tokens == (1, 2, 3, 4, 3, 6, 7, 9)
    assert layout.positions == (0, 1, 2, 3, 2, 3, 4, 0)
    scored = [(layout.tokens[s], label) for s, label in zip(layout.scored, layout.labels, strict=True)]
    assert scored == [(3, 4), (4, 5), (3, 6), (6, 7), (7, 8), (9, 4)]
    assert list(zip(layout.rows, layout.columns, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert layout.ratio == 3 * 6 / 8


def test_a_document_that_prompts_share_is_there_once():
    prompts, completions = rows()
    layout = pack(prompts, completions)
    distinct = set(prompts)
    shared = 64  # whole blocks of 16 of the document's 72 tokens
    assert len(layout.tokens) <= shared + sum(
        len(p) - (shared if p[:64] == DOCUMENT[:64] else 0) for p in distinct
    ) + sum(map(len, completions))
    assert sorted(layout.labels) == sorted(token for c in completions for token in c)


def test_rows_without_a_completion_cost_nothing():
    assert pack([(1, 2), (3, 4)], [(5,), ()]).tokens == (1, 2, 3)


@pytest.mark.parametrize("base", [tiny_model, gemma], ids=["llama", "gemma3"])
@pytest.mark.parametrize("piece", [512, 8], ids=["one piece", "many pieces"])
def test_it_equals_padded_rows(base, piece, monkeypatch):
    monkeypatch.setattr("hybrid.weights.packed._PIECE", piece)
    model = adapted(base(), torch.float64)
    prompts, completions = rows()
    layout = pack(prompts, completions)
    logps, entropies = score_packed(model, layout, 0.7, contextlib.nullcontext())
    expected, expected_entropies = padded(model, prompts, completions)
    assert torch.allclose(logps, at(expected, layout), atol=1e-9)
    assert torch.allclose(entropies, at(expected_entropies, layout), atol=1e-9)
    found, wanted = slope(model, logps), slope(model, at(expected, layout))
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5  # norms of the model are in float32
    assert model.config._attn_implementation == "sdpa"


def test_with_trl_s_head_it_is_the_same():
    """As on CUDA; on a CPU that head sums in float32."""
    model = adapted(tiny_model(), torch.float64)
    prompts, completions = rows()
    layout = pack(prompts, completions)
    logps, entropies = score_packed(model, layout, 0.7, contextlib.nullcontext())
    others, other_entropies = score_packed(model, layout, 0.7, contextlib.nullcontext(), own_head=False)
    assert torch.allclose(logps.float(), others.float(), atol=1e-5)
    assert torch.allclose(entropies.float(), other_entropies.float(), atol=1e-5)
    found, wanted = slope(model, logps), slope(model, others.double())
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4


def test_in_half_precision_it_is_as_far_from_the_truth_as_padded_rows():
    exact = adapted(tiny_model(), torch.float64)
    model = adapted(tiny_model(), torch.bfloat16)
    prompts, completions = rows()
    layout = pack(prompts, completions)
    truth = slope(exact, at(padded(exact, prompts, completions)[0], layout))
    packed = slope(model, score_packed(model, layout, 0.7, contextlib.nullcontext())[0]).double()
    plain = slope(model, at(padded(model, prompts, completions)[0], layout)).double()
    errors = [float((found - truth).norm() / truth.norm()) for found in (packed, plain)]
    assert errors[0] < 1.5 * errors[1] < 0.3


def test_a_row_sees_no_other_row():
    model = adapted(tiny_model(), torch.float64)
    prompts, completions = rows()
    layout = pack(prompts, completions)
    before, _ = score_packed(model, layout, 1.0, contextlib.nullcontext())
    changed = [tuple(5 for _ in c) if i == 2 else c for i, c in enumerate(completions)]
    after, _ = score_packed(model, pack(prompts, changed), 1.0, contextlib.nullcontext())
    others = torch.tensor(layout.rows) != 2
    assert torch.allclose(before[others], after[others], atol=1e-12)
    assert not torch.allclose(before[~others], after[~others], atol=1e-3)


@pytest.mark.parametrize("held", [1 << 20, 1], ids=["one chunk", "chunks"])
def test_the_head_equals_log_softmax(held, monkeypatch):
    monkeypatch.setattr(head, "_HELD", held)
    torch.manual_seed(0)
    hidden = torch.randn(7, 16, dtype=torch.float64, requires_grad=True)
    weight, labels = torch.randn(700, 16, dtype=torch.float64), torch.tensor([0, 255, 256, 511, 699, 3, 3])
    logps, entropies = score_tokens(hidden, weight, labels, 0.7)
    table = torch.log_softmax(hidden @ weight.T / 0.7, dim=-1)
    expected = table.gather(1, labels[:, None])[:, 0]
    assert torch.allclose(logps, expected, atol=1e-12)
    assert torch.allclose(entropies, -(table.exp() * table).sum(-1), atol=1e-12)
    pull = torch.randn(7, dtype=torch.float64)
    (found,) = torch.autograd.grad((logps * pull).sum(), hidden)
    (wanted,) = torch.autograd.grad((expected * pull).sum(), hidden)
    assert torch.allclose(found, wanted, atol=1e-12)
    assert not entropies.requires_grad


def test_the_gradient_of_a_near_certain_token_keeps_its_digits_in_half_precision():
    torch.manual_seed(0)
    weight = torch.randn(300, 16).bfloat16()
    hidden = (weight[5].float() * 2.0).bfloat16().requires_grad_()
    logps, _ = score_tokens(hidden[None], weight, torch.tensor([5]), 1.0)
    (found,) = torch.autograd.grad(logps.sum(), hidden)
    exact = hidden.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(torch.log_softmax(exact @ weight.double().T, -1)[5], exact)
    assert float(logps.detach().exp()) > 0.99
    assert float((found.double() - wanted).norm() / wanted.norm()) < 0.05
