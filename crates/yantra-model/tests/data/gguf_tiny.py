"""Writes the tiny models of `hf_tiny.py` as GGUF files, as llama.cpp's own converter makes them.

Usage: python gguf_tiny.py LLAMA_CPP HF_TINY FOLDER [NAME ...]

LLAMA_CPP is a copy of llama.cpp's sources (the files were written with those in llama_cpp_python 0.3.36), HF_TINY what
hf_tiny.py wrote. FOLDER gets a NAME.gguf of each model, in float32. Tiny models have no tokeniser, so the converter's are
replaced by one of as many tokens as the model has.

A GGUF file records less than a `config.json`: what it leaves out is what the family's published models have. Where a tiny
model is unlike them, the file means another model (`MEANS`), or the converter refuses it and one of other sizes is made
(`MADE`). Then NAME.json beside it holds what transformers computes of the model that the file means.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
import transformers

import hf_tiny

FULL = "full_attention"

# What files mean other than their `config.json`.
MEANS = {
    # The activation is not recorded.
    "llama_biases": {"hidden_act": "silu"},
    # Nor are windows.
    "mistral": {"sliding_window": None},
    "mixtral": {"sliding_window": None},
    "starcoder2": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "sliding_window": None, "layer_types": [FULL, FULL]},
    # Scores are scaled by the width of a head.
    "gemma2": {"query_pre_attn_scalar": 16},
    # All published models have this setting, which is not recorded.
    "gpt_oss": {"rope_parameters": {**hf_tiny.YARN, "truncate": False}},
}

# Settings that the converter reads and that transformers 5 calls otherwise or leaves out, and those of published models.
READS = {
    "gpt2": {"n_ctx": 128},
    "gpt_neox": {"rotary_pct": 0.25},
    "gpt_neox_sequential": {"rotary_pct": 0.5},
    "mpt": {"architectures": ["MPTForCausalLM"]},
    "falcon_multi_query": {"num_kv_heads": 1},
    "deepseek_v3": {"scoring_func": "sigmoid"},
}

# The converter takes the feed-forward network to be four times as wide as the residual stream.
FEED_FORWARD = {"gpt2": 64, "falcon_multi_query": 64, "falcon_grouped": 64}

COPIED = """llama llama_biases llama_yarn mistral qwen2 qwen3 smollm3 gemma gemma2 phi3 gpt2 bloom mpt
    falcon_multi_query starcoder2 olmo2 granite mixtral deepseek_v2 deepseek_v3 gpt_oss command_r""".split()


def made():
    """Models in place of those that files can not describe, and smaller ones of variants, of which there are many."""
    small = dict(hidden_size=16, intermediate_size=32)
    sliding = ["sliding_attention"] * 5 + [FULL]
    gemma3 = {**hf_tiny.GEMMA, **small, "num_hidden_layers": 6, "layer_types": sliding, "query_pre_attn_scalar": 16}
    moe = dict(num_experts_per_tok=3, moe_intermediate_size=16)
    half = dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)
    lite = dict(q_lora_rank=None, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=12,
                n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1, num_key_value_heads=4, n_group=1,
                topk_group=1, topk_method="greedy")
    return [
        # Every sixth layer is global.
        hf_tiny.decoder("gemma3", "Gemma3", 61, **gemma3),
        # The converter can not reorder biases.
        hf_tiny.decoder("falcon_grouped", "Falcon", 62, tied=False, without=("intermediate_size", "num_key_value_heads"),
                        new_decoder_architecture=True, num_kv_heads=2, max_position_embeddings=128, ffn_hidden_size=64),
        # All layers have experts.
        hf_tiny.decoder("qwen2_moe", "Qwen2Moe", 63, tied=False, num_experts=6, shared_expert_intermediate_size=24, **moe),
        hf_tiny.decoder("qwen3_moe", "Qwen3Moe", 64, head_dim=16, num_experts=6, norm_topk_prob=True, **moe),
        hf_tiny.decoder("phi3_partial", "Phi3", 65, rope_parameters=half),
        hf_tiny.decoder("gpt_neox", "GPTNeoX", 68, tied=False, without=("num_key_value_heads",),
                        rope_parameters={**half, "partial_rotary_factor": 0.25}),
        hf_tiny.decoder("gpt_neox_sequential", "GPTNeoX", 66, tied=False, without=("num_key_value_heads",),
                        use_parallel_residual=False, attention_bias=False, rope_parameters=half),
        hf_tiny.decoder("deepseek_v2_lite", "DeepseekV2", 67, tied=False, **lite, **moe),
    ]


def convert(llama_cpp, directory, name, target):
    """Runs the converter on a model's directory."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import gguf
    from conversion import get_model_class
    from conversion.base import ModelBase

    load = ModelBase.load_hparams
    hparams = {**load(directory, False), **READS.get(name, {})}
    ModelBase.load_hparams = staticmethod(lambda *_, **__: dict(hparams))
    parent = get_model_class(hparams["architectures"][0])
    vocab = hparams["vocab_size"]

    class Tiny(parent):
        model_arch = parent.model_arch

        def set_vocab(self):
            self.gguf_writer.add_tokenizer_model("llama")
            self.gguf_writer.add_token_list([f"<{token}>".encode() for token in range(vocab)])
            self.gguf_writer.add_token_scores([0.0] * vocab)
            self.gguf_writer.add_token_types([gguf.TokenType.NORMAL] * vocab)

        def set_gguf_parameters(self):
            super().set_gguf_parameters()
            if name in FEED_FORWARD:
                self.gguf_writer.add_feed_forward_length(FEED_FORWARD[name])

    with torch.inference_mode():
        Tiny(directory, gguf.LlamaFileType.ALL_F32, target, model_name=name).write()
    ModelBase.load_hparams = staticmethod(load)


def expect(directory, name, target, tokens):
    """What transformers computes of the model that a file means."""
    model_class = getattr(transformers, json.loads((directory / "config.json").read_text())["architectures"][0])
    config = model_class.config_class.from_pretrained(directory)
    for key, value in MEANS.get(name, {}).items():
        setattr(config, key, value)
    model = model_class.from_pretrained(directory, config=config, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    logits = [hf_tiny.rounded(logits[row]) for row in hf_tiny.ROWS]
    target.write_text(json.dumps({"tokens": tokens, "rows": hf_tiny.ROWS, "logits": logits}) + "\n")


def main():
    llama_cpp, hf, folder = (Path(argument).resolve() for argument in sys.argv[1:4])
    only = set(sys.argv[4:])
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for seed, (name, model) in enumerate(made(), 61):
            hf_tiny.save(scratch, name, model, seed)
            shutil.copy(scratch / name / "expected.json", folder / f"{name}.json")
        for source in [*(hf / name for name in COPIED), *sorted(scratch.iterdir())]:
            name = source.name
            if only and name not in only:
                continue
            if name == "gemma3":
                # The converter counts the tokens of this file.
                vocab = {f"<{token}>": token for token in range(hf_tiny.VOCAB)}
                tokenizer = {"model": {"vocab": vocab}, "added_tokens": []}
                (source / "tokenizer.json").write_text(json.dumps(tokenizer))
            convert(llama_cpp, source, name, folder / f"{name}.gguf")
            if name in MEANS:
                tokens = json.loads((source / "expected.json").read_text())["tokens"]
                expect(source, name, folder / f"{name}.json", tokens)


if __name__ == "__main__":
    main()
