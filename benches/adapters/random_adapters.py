"""Writes random LoRA adapters of SmolLM2-135M as PEFT saves them: rank 16 on all linear layers, in bfloat16.

Usage: python random_adapters.py FOLDER COUNT     (numpy from PyPI)

The matrices are large enough to change what the model says, and small enough for it to go on in words.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

LAYERS, HIDDEN, INNER, KV, RANK = 30, 576, 1536, 192, 16
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "r": RANK,
    "lora_alpha": 32,
    "bias": "none",
    "target_modules": sorted(name.split(".")[1] for name in SHAPES),
}


def write(directory, seed):
    random = np.random.default_rng(seed)
    header, parts, at = {}, [], 0
    for layer in range(LAYERS):
        for name, (rows, cols) in SHAPES.items():
            for part, shape, scale in (("A", (RANK, cols), cols**-0.5), ("B", (rows, RANK), 0.01)):
                values = (random.standard_normal(shape) * scale).astype(np.float32)
                data = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
                key = f"base_model.model.model.layers.{layer}.{name}.lora_{part}.weight"
                header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + len(data)]}
                parts.append(data)
                at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (directory / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


if __name__ == "__main__":
    for index in range(int(sys.argv[2])):
        write(Path(sys.argv[1]) / f"adapter-{index:02}", index)
