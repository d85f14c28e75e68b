"""Writes tiny PEFT adapters of the models in hf_tiny, and what peft computes with them.

Usage: python lora_tiny.py FOLDER [NAME…]     (peft from PyPI besides what hf_tiny.py needs; the numbers were written with peft
0.21.2, torch 2.15 and transformers 5.24 on a CPU, in float32 with eager attention)

FOLDER gets a directory for each adapter, as `save_pretrained` writes it, and `expected.json` in it: the model, a prompt, and
the logits of some of its positions with the adapter. Where there is an `adapter.gguf` too, llama.cpp's converter wrote it (of
the sources in llama_cpp_python 0.3.36): convert_lora_to_gguf.py --base HF_TINY/MODEL --outtype f32 --outfile adapter.gguf
DIRECTORY. It has no DoRA, one alpha for all matrices, and takes GPT-2's adapters the wrong way round.
"""

import json
import sys
from pathlib import Path

import peft
import torch
import transformers

BASE = Path(__file__).parent / "hf_tiny"
PROMPT, ROWS = 40, (0, 9, 20, 31, 39)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ADAPTERS = {
    "plain": ("llama", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "attention": ("llama", dict(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"], layers_to_transform=[1])),
    "stabilised": ("llama", dict(r=6, lora_alpha=4, use_rslora=True, target_modules=ATTENTION)),
    "patterns": (
        "llama",
        dict(
            r=3,
            lora_alpha=6,
            target_modules=r".*\.(q_proj|down_proj|up_proj)",
            rank_pattern={"down_proj": 5, r"layers\.1\.self_attn\.q_proj": 1},
            alpha_pattern={"up_proj": 2},
        ),
    ),
    "dora": ("llama", dict(r=4, lora_alpha=6, use_dora=True, target_modules="all-linear")),
    "dora_biases": ("llama_biases", dict(r=2, lora_alpha=4, use_dora=True, target_modules="all-linear")),
    "fused": ("phi3", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "fused_dora": ("phi3", dict(r=2, lora_alpha=2, use_dora=True, target_modules="all-linear")),
    "fused_by_head": ("gpt_neox", dict(r=3, lora_alpha=4, target_modules="all-linear")),
    "columns": ("gpt2", dict(r=4, lora_alpha=8, fan_in_fan_out=True, target_modules=["c_attn", "c_proj", "c_fc"])),
    "norms_behind": ("gemma2", dict(r=4, lora_alpha=4, target_modules="all-linear")),
}


def randomise(model, seed):
    """Adapters as if trained: `lora_B` far enough from zero, magnitudes off the lengths of rows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.2 * noise)
            elif "lora_" in name:
                parameter.copy_(0.2 * noise)


def write(folder, name, seed):
    base, settings = ADAPTERS[name]
    model = transformers.AutoModelForCausalLM.from_pretrained(BASE / base, dtype=torch.float32, attn_implementation="eager")
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    randomise(model, seed)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder / name, save_embedding_layers=False)
    (folder / name / "README.md").unlink(missing_ok=True)
    vocab = model.get_base_model().config.vocab_size
    prompt = torch.randint(3, vocab, (1, PROMPT), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model(prompt).logits[0]
    expected = {
        "model": base,
        "tokens": prompt[0].tolist(),
        "rows": list(ROWS),
        "logits": [[round(value, 6) for value in logits[row].tolist()] for row in ROWS],
    }
    (folder / name / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    for seed, name in enumerate(ADAPTERS):
        if name in (sys.argv[2:] or ADAPTERS):
            write(Path(sys.argv[1]), name, 100 + seed)
