"""A tiny random Llama with a character tokenizer, and LoRA adapters for it; made in the test, nothing is downloaded."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hybrid.backends.adapters import inspect_adapter, write_manifest
from hybrid.backends.base import Adapter
from hybrid.backends.loading import LoadedModel, load_base
from hybrid.config.schema import ModelConfig

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 =:\n"
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('system must come first') }}{% endif %}{{ m.role[0] + ':' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """One token per character, `<s>` in front of text, `;` ends an answer."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<unk>", "<s>", ";", *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token=";"
    )
    fast.chat_template = TEMPLATE
    return fast


def tiny_model(seed: int = 0, positions: int = 128) -> LlamaForCausalLM:
    """Two random layers, 32 wide; the wide initialisation makes answers depend on the whole prompt."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=4 + len(ALPHABET),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def save_tiny(folder: Path, seed: int = 0, positions: int = 128, dtype: torch.dtype = torch.float32) -> Path:
    """A transformers folder with the tiny model."""
    tiny_model(seed, positions).to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def load_tiny(folder: Path, **settings: object) -> LoadedModel:
    """`load_base` on the CPU with one thread."""
    config = ModelConfig(path=str(folder), device="cpu", threads=1, **settings)  # type: ignore[arg-type]
    return load_base(config, Path, folder.parent / "cache")


def in_float64(loaded: LoadedModel) -> LoadedModel:
    """A copy that computes in double precision, where batching changes no token."""
    return dataclasses.replace(loaded, model=copy.deepcopy(loaded.model).double())


def save_adapter(folder: Path, base: LoadedModel, seed: int = 1, scale: float = 0.2) -> Adapter:
    """A LoRA on every linear layer with a random B of the given size, and its manifest."""
    model = tiny_model()
    torch.manual_seed(seed)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    model.save_pretrained(folder)
    write_manifest(folder, base.info.fingerprint, {"method": "test"})
    return inspect_adapter(folder)


def save_gguf(folder: Path, seed: int = 0) -> LlamaForCausalLM:
    """The tiny model as a GGUF with blocks of 8-bit integers, and its tokenizer beside it; returns the rounded model.

    GGUF orders the rows of the query and key projections for interleaved rotary positions: pairs (i, i + half) of the
    transformers layout lie side by side there.
    """
    import gguf
    import numpy as np

    model = tiny_model(seed)
    config = model.config
    folder.mkdir(parents=True)
    tiny_tokenizer().save_pretrained(folder)
    writer = gguf.GGUFWriter(str(folder / "tiny.gguf"), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_eos_token_id(3)
    writer.add_bos_token_id(2)
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for i in range(config.num_hidden_layers):
        names |= {f"model.layers.{i}.{ours}.weight": f"blk.{i}.{theirs}.weight" for ours, theirs in parts.items()}
    with torch.no_grad():
        for ours, theirs in names.items():
            parameter = model.get_parameter(ours)
            value = parameter.numpy()
            if value.ndim == 1:
                writer.add_tensor(theirs, value)
                continue
            blocks = gguf.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            parameter.copy_(torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)))
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(
                theirs.split(".")[-2]
            )
            if heads:
                shape = (heads, 2, config.head_dim // 2, blocks.shape[-1])
                blocks = np.ascontiguousarray(blocks.reshape(shape).swapaxes(1, 2).reshape(blocks.shape))
            writer.add_tensor(theirs, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model
