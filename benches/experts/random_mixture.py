"""Writes a random mixture of experts as a Qwen3-MoE checkpoint in bfloat16: 12 layers of 64 experts, four for a token, 1.8
billion parameters, 3.7 GB.

Usage: python random_mixture.py FOLDER TOKENIZER     (numpy from PyPI; any tokenizer.json, which is not read for speed)

Routers prefer some experts, as trained ones do: the lengths of their rows differ by up to ten.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

HIDDEN, INNER, EXPERTS, TOP_K, LAYERS, VOCAB = 1024, 768, 64, 4, 12, 2048
HEADS, KV_HEADS, HEAD_DIM = 8, 2, 128
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "moe_intermediate_size": INNER,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCAB,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": True,
}


def shapes():
    yield "embed_tokens.weight", (VOCAB, HIDDEN)
    yield "norm.weight", (HIDDEN,)
    for layer in range(LAYERS):
        name = f"layers.{layer}."
        yield f"{name}input_layernorm.weight", (HIDDEN,)
        yield f"{name}post_attention_layernorm.weight", (HIDDEN,)
        yield f"{name}self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield f"{name}self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield f"{name}self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield f"{name}self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield f"{name}self_attn.q_norm.weight", (HEAD_DIM,)
        yield f"{name}self_attn.k_norm.weight", (HEAD_DIM,)
        yield f"{name}mlp.gate.weight", (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            of = f"{name}mlp.experts.{expert}."
            yield f"{of}gate_proj.weight", (INNER, HIDDEN)
            yield f"{of}up_proj.weight", (INNER, HIDDEN)
            yield f"{of}down_proj.weight", (HIDDEN, INNER)


def values(random, name, shape):
    """The upper halves of floats."""
    if name.endswith("norm.weight"):
        return np.full(shape, 0x3F80, np.uint16)
    if name.endswith("mlp.gate.weight"):
        rows = random.standard_normal(shape) * (0.02 + 0.18 * random.random((shape[0], 1)) ** 2)
        return (rows.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    # Any sign and mantissa, with one exponent.
    bits = np.frombuffer(random.bytes(2 * int(np.prod(shape))), np.uint16)
    return (bits & 0x80FF) | (0x3C80 if "experts" in name else 0x3D00)


def main(folder, tokenizer):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    shutil.copy(tokenizer, folder / "tokenizer.json")
    header, at = {}, 0
    for name, shape in shapes():
        end = at + 2 * int(np.prod(shape))
        header[f"model.{name}"] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes():
            file.write(values(random, name, shape).astype(np.uint16).tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
