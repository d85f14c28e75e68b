"""Writes tiny seeded Hugging Face checkpoints of every family, and what transformers computes with them.

Usage: python hf_tiny.py FOLDER [NAME…]     (torch and transformers 5 from PyPI; the numbers were written with torch 2.15 and
transformers 5.24 on a CPU, in float32 with eager attention)

FOLDER gets a directory for each model, as `save_pretrained` writes it, and `expected.json` in it: a prompt, and the
logits of some of its positions (decoders) or the normalised embeddings of two texts (encoder). Some directories hold only
a `config.json` in the form that another version of transformers writes, and name the model whose weights it describes;
what they mean is the same, so the expected numbers are, too.
"""

import json
import shutil
import sys
import types
from pathlib import Path

import safetensors.torch
import tokenizers
import torch
import transformers

VOCAB, PROMPT, ROWS = 96, 40, (0, 9, 20, 31, 39)
COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=96,
)
GEMMA = dict(
    {**COMMON, "num_hidden_layers": 3},
    head_dim=16,
    query_pre_attn_scalar=24,
    sliding_window=12,
    layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 3000.0},
    },
)


# Where the names of the classes do not follow from the architecture's.
CONFIGS = {"Gemma3": "Gemma3TextConfig", "Llama4": "Llama4TextConfig"}
MODELS = {"GPT2": "GPT2LMHeadModel"}


def decoder(name, architecture, seed, tied=True, without=(), **changes):
    """A model of the architecture; `without` are the common settings that its class does not know."""
    config = getattr(transformers, CONFIGS.get(architecture, f"{architecture}Config"))
    settings = {**COMMON, "tie_word_embeddings": tied, "attn_implementation": "eager", **changes}
    settings = {key: value for key, value in settings.items() if key not in without}
    torch.manual_seed(seed)
    return name, getattr(transformers, MODELS.get(architecture, f"{architecture}ForCausalLM"))(config(**settings))


def randomise(model, seed):
    """Weights far enough from zero, norms far enough from one, that every part moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * (0.7 if "embed" in name else 0.25))
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.3)
            else:
                parameter.add_(noise * 0.2)
    model.eval()


def prompt(seed, first=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(first, VOCAB, (PROMPT,), generator=generator).tolist()


def rounded(tensor):
    return [round(float(value), 6) for value in tensor]


def save(folder, name, model, seed, **options):
    directory = folder / name
    shutil.rmtree(directory, ignore_errors=True)
    randomise(model, seed)
    if options.pop("bf16", False):
        # What is compared is arithmetic in float32 on weights that were rounded, so they are read back.
        model.to(torch.bfloat16).save_pretrained(directory, **options)
        model = type(model).from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    else:
        model.save_pretrained(directory, **options)
    tokens = prompt(seed)
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    expected = {"tokens": tokens, "rows": ROWS, "logits": [rounded(logits[row]) for row in ROWS]}
    if (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") == "dynamic":
        expected["context_is_prompt"] = True
    (directory / "expected.json").write_text(json.dumps(expected) + "\n")
    (directory / "generation_config.json").unlink(missing_ok=True)
    return directory


def variant(folder, source, name, edit):
    """The same model with its `config.json` rewritten."""
    directory = folder / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    config = json.loads((folder / source / "config.json").read_text())
    edit(config)
    config["weights_of"] = source
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def older_gemma(config):
    """transformers 4: the rope in three flat keys, the layers as a pattern."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["full_attention"].pop("rope_theta")
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    config["rope_scaling"] = rope["full_attention"]
    del config["layer_types"]
    config["sliding_window_pattern"] = 3


def older_llama(config):
    """transformers 4: the rope in two keys."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope


def conditional_generation(folder):
    """The model that also sees: the text model's settings nested, those equal to the class's defaults left out."""
    text = dict(GEMMA, head_dim=32, num_attention_heads=8, num_key_value_heads=4, query_pre_attn_scalar=256)
    text |= dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, layer_types=GEMMA["layer_types"][1:])
    vision = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    vision |= dict(image_size=8, patch_size=4)
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, attn_implementation="eager",
        image_token_index=VOCAB - 1, boi_token_index=VOCAB - 2, eoi_token_index=VOCAB - 3,
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    tokens = prompt(8)
    assert max(tokens) < VOCAB - 3 or not {VOCAB - 1, VOCAB - 2, VOCAB - 3} & set(tokens), tokens
    directory = save(folder, "gemma3_conditional", model, 8, bf16=True)
    config = json.loads((directory / "config.json").read_text())
    defaults = transformers.Gemma3TextConfig()
    for key in (
        "num_attention_heads",
        "num_key_value_heads",
        "query_pre_attn_scalar",
        "rms_norm_eps",
        "hidden_activation",
    ):
        assert config["text_config"].pop(key) == getattr(defaults, key), key
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def encoder(folder):
    settings = dict(COMMON, type_vocab_size=2, hidden_act="gelu", attn_implementation="eager")
    del settings["num_key_value_heads"]
    model = transformers.BertModel(transformers.BertConfig(**settings), add_pooling_layer=False)
    directory = folder / "bert_cls"
    shutil.rmtree(directory, ignore_errors=True)
    randomise(model, 9)
    model.save_pretrained(directory)
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling) + "\n")
    texts = [prompt(9), prompt(10)[:7]]
    with torch.no_grad():
        first = [model(torch.tensor([tokens])).last_hidden_state[0, 0] for tokens in texts]
    vectors = [rounded(torch.nn.functional.normalize(vector, dim=0)) for vector in first]
    (directory / "expected.json").write_text(json.dumps({"texts": texts, "embeddings": vectors}) + "\n")


# Positions of RoBERTa begin after padding's, which is token 1; ModernBERT sees 6 tokens on each side in local layers.
ROBERTA = dict(type_vocab_size=1, pad_token_id=1, bos_token_id=0, max_position_embeddings=130)
MODERN = dict(num_hidden_layers=3, local_attention=12, global_attn_every_n_layers=2, max_position_embeddings=128,
              pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
ENCODERS = [
    # Name, class, settings, what becomes of its token vectors.
    ("roberta", "RobertaModel", ROBERTA, "mean"),
    ("xlm_roberta", "XLMRobertaModel", dict(ROBERTA, layer_norm_eps=1e-5), "cls"),
    ("modern_bert", "ModernBertModel", MODERN, "mean"),
    ("modern_bert_biases", "ModernBertModel",
     dict(MODERN, attention_bias=True, mlp_bias=True, norm_bias=True, hidden_activation="gelu_pytorch_tanh"), "cls"),
    ("bert_rerank", "BertForSequenceClassification", dict(type_vocab_size=2), "sigmoid"),
    ("xlm_roberta_rerank", "XLMRobertaForSequenceClassification", ROBERTA, "identity"),
    ("modern_bert_rerank", "ModernBertForSequenceClassification", dict(MODERN, classifier_pooling="mean"), "sigmoid"),
    ("modern_bert_rerank_cls", "ModernBertForSequenceClassification",
     dict(MODERN, classifier_bias=True, norm_bias=True), "identity"),
]
QUERY = "where do cats sleep"
DOCUMENTS = ["cats sleep in the sun", "a car is parked", "the sun " * 80 + "cats sleep"]


def tiny_tokenizer(kind):
    """A tokeniser of the words above and of letters, which puts pairs together as the family's do."""
    words = sorted(set(" ".join([QUERY, *DOCUMENTS]).split()))
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    if kind == "Bert":
        texts = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *words, *(f"##{letter}" for letter in letters), *letters]
        vocab = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    else:
        vocab = {text: index for index, text in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
        tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([text for text in list(vocab)[:4]])
    return tokenizer


def text_pairs(directory, kind, model, activation):
    """Writes `tokenizer.json`, and returns pairs of texts with their tokens, cut to the context, and scores."""
    tokenizer = tiny_tokenizer(kind)
    tokenizer.save(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(128, strategy="longest_first")
    pairs = []
    for document in DOCUMENTS:
        encoding = tokenizer.encode(QUERY, document)
        extra = dict(token_type_ids=torch.tensor([encoding.type_ids])) if kind == "Bert" else {}
        with torch.no_grad():
            logit = model(torch.tensor([encoding.ids]), **extra).logits[0, 0]
        score = rounded([activation(logit)])[0]
        pairs.append({"query": QUERY, "document": document, "tokens": encoding.ids, "score": score})
    return pairs


IDENTITY = "torch.nn.modules.linear.Identity"


def encoders(folder):
    """Encoders beyond `bert_cls`: embeddings of two texts, or the scores of two pairs (token ids and types)."""
    for seed, (name, architecture, changes, output) in enumerate(ENCODERS, 81):
        scores = architecture.endswith("ForSequenceClassification")
        kind = architecture.removesuffix("ForSequenceClassification").removesuffix("Model")
        common = {key: value for key, value in COMMON.items() if key != "num_key_value_heads"}
        labels = dict(num_labels=1) if scores else {}
        config = getattr(transformers, f"{kind}Config")(**{**common, "attn_implementation": "eager", **labels, **changes})
        pooler = {} if scores or kind == "ModernBert" else dict(add_pooling_layer=False)
        model = getattr(transformers, architecture)(config, **pooler)
        randomise(model, seed)
        directory = folder / name
        shutil.rmtree(directory, ignore_errors=True)
        model.save_pretrained(directory)
        texts = [prompt(seed), prompt(seed + 100)[:7]]
        # The second text of a pair begins after two thirds; only BERT tells the two apart.
        seconds = [len(tokens) * 2 // 3 if kind == "Bert" else len(tokens) for tokens in texts]
        types = [[int(place >= second) for place in range(len(tokens))] for tokens, second in zip(texts, seconds)]
        found = []
        with torch.no_grad():
            for tokens, of_token in zip(texts, types):
                extra = dict(token_type_ids=torch.tensor([of_token])) if kind == "Bert" else {}
                found.append(model(torch.tensor([tokens]), **extra))
        if scores:
            logits = [result.logits[0, 0] for result in found]
            numbers = rounded(torch.sigmoid(logit) if output == "sigmoid" else logit for logit in logits)
            expected = {"texts": texts, "types": types, "scores": numbers}
            if kind != "ModernBert":
                activation = torch.sigmoid if output == "sigmoid" else lambda logit: logit
                expected["pairs"] = text_pairs(directory, kind, model, activation)
            if output == "identity":
                settings = json.loads((directory / "config.json").read_text())
                settings["sentence_transformers"] = {"activation_fn": IDENTITY, "version": "5.0.0"}
                (directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        else:
            hidden = [result.last_hidden_state[0] for result in found]
            pooled = [rows[0] if output == "cls" else rows.mean(0) for rows in hidden]
            vectors = [rounded(torch.nn.functional.normalize(vector, dim=0)) for vector in pooled]
            expected = {"texts": texts, "embeddings": vectors}
            (directory / "1_Pooling").mkdir()
            modes = {"pooling_mode_cls_token": output == "cls", "pooling_mode_mean_tokens": output == "mean"}
            pooling = {"word_embedding_dimension": 32, **modes}
            (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling) + "\n")
        (directory / "expected.json").write_text(json.dumps(expected) + "\n")


YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32, beta_fast=16.0)
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    short_factor=[1.0, 1.1, 1.25, 1.5],
    long_factor=[1.0, 1.5, 2.5, 4.0],
    original_max_position_embeddings=32,
)


def dense():
    """Families without experts, newest form of `config.json`."""
    old = ("intermediate_size", "num_key_value_heads")
    mpt = dict(d_model=32, n_heads=4, n_layers=2, max_seq_len=128, expansion_ratio=2)
    not_mpt = (*old, "hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings")
    falcon = dict(max_position_embeddings=128, ffn_hidden_size=64)
    gpt2 = dict(n_positions=128, n_embd=32, n_layer=2, n_head=4, n_inner=64)
    return [
        decoder("llama_yarn", "Llama", 21, rope_parameters=YARN),
        decoder("llama_dynamic", "Llama", 22, max_position_embeddings=32,
                rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0)),
        decoder("gemma", "Gemma", 23, head_dim=16, num_key_value_heads=1),
        decoder("gemma2", "Gemma2", 24, head_dim=16, query_pre_attn_scalar=24, sliding_window=12,
                attn_logit_softcapping=5.0, final_logit_softcapping=3.0),
        decoder("phi3", "Phi3", 25, tied=False, sliding_window=13, rope_parameters=LONGROPE, original_max_position_embeddings=32),
        decoder("phi3_partial", "Phi3", 26, hidden_size=64, rope_parameters=dict(
            rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)),
        decoder("gpt2", "GPT2", 27, without=(*not_mpt,), **gpt2),
        decoder("gpt_neox", "GPTNeoX", 28, tied=False, without=("num_key_value_heads",), rope_parameters=dict(
            rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25), hidden_size=64),
        decoder("gpt_neox_sequential", "GPTNeoX", 29, tied=False, without=("num_key_value_heads",), hidden_size=64,
                use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new"),
        decoder("bloom", "Bloom", 30, without=(*old, "num_attention_heads", "num_hidden_layers"), n_head=6, n_layer=2,
                hidden_size=48),
        decoder("mpt", "Mpt", 31, without=not_mpt, **mpt, attn_config=dict(
            attn_type="multihead_attention", alibi=True, alibi_bias_max=8, clip_qkv=1.0)),
        decoder("falcon_multi_query", "Falcon", 32, without=old, **falcon),
        decoder("falcon_grouped", "Falcon", 33, tied=False, without=old, new_decoder_architecture=True, num_kv_heads=2,
                bias=True, **falcon),
        # Eager attention of transformers 5.24 adds the biases twice, once in the mask.
        decoder("falcon_alibi", "Falcon", 34, without=old, alibi=True, multi_query=False, parallel_attn=False, bias=True,
                attn_implementation="sdpa", **falcon),
        decoder("starcoder2", "Starcoder2", 35, sliding_window=13),
        decoder("olmo2", "Olmo2", 36, tied=False),
        decoder("granite", "Granite", 37, embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.5,
                logits_scaling=2.0),
    ]


def sparse():
    """Families of experts."""
    deepseek = dict(q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=12,
                    moe_intermediate_size=16, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2,
                    first_k_dense_replace=1, num_key_value_heads=4, num_hidden_layers=3, n_group=4, topk_group=2)
    return [
        decoder("mixtral", "Mixtral", 41, tied=False, num_local_experts=4, num_experts_per_tok=2, sliding_window=13),
        decoder("qwen2_moe", "Qwen2Moe", 42, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=16,
                shared_expert_intermediate_size=24, decoder_sparse_step=2, num_hidden_layers=3),
        decoder("qwen3_moe", "Qwen3Moe", 43, head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=16,
                norm_topk_prob=True, mlp_only_layers=[1]),
        decoder("deepseek_v2", "DeepseekV2", 44, tied=False, topk_method="group_limited_greedy",
                routed_scaling_factor=1.5, **deepseek),
        decoder("deepseek_v2_lite", "DeepseekV2", 45, tied=False, topk_method="greedy",
                **{**deepseek, "q_lora_rank": None}),
        decoder("deepseek_v3", "DeepseekV3", 46, tied=False, routed_scaling_factor=2.5,
                rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, **deepseek),
        decoder("gpt_oss", "GptOss", 47, tied=False, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
                sliding_window=13, layer_types=["sliding_attention", "full_attention"], rope_parameters=YARN),
        decoder("llama4", "Llama4", 48, tied=False, head_dim=8, intermediate_size_mlp=48, num_local_experts=4,
                num_experts_per_tok=1, interleave_moe_layer_step=2, num_hidden_layers=4, attention_chunk_size=16,
                no_rope_layers=[1, 1, 1, 0], attn_temperature_tuning=True, floor_scale=8, attn_scale=0.5),
    ]


class Grok(torch.nn.Module):
    """Grok-1 by the published code (github.com/xai-org/grok-1, model.py, Apache-2.0), which transformers does not have: the
    same arithmetic in the names of the checkpoint at hpcai-tech/grok-1."""

    def __init__(self):
        super().__init__()
        sizes = dict(COMMON, num_experts=4, num_experts_per_tok=2, rms_norm_eps=1e-5, max_attn_value=2.0)
        sizes |= dict(attn_output_multiplier=0.5, embedding_multiplier_scale=3.0, output_multiplier_scale=0.6)
        self.config = dict(sizes, architectures=["Grok1ModelForCausalLM"], model_type="grok-1", rope_theta=10000.0)
        width, inner, head = sizes["hidden_size"], sizes["intermediate_size"], 8
        shapes = {"model.embed_tokens.weight": (VOCAB, width), "lm_head.weight": (VOCAB, width)}
        for layer in range(sizes["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            shapes |= {f"{name}{norm}.scale": (width,) for norm in (
                "pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm")}
            shapes |= {f"{name}attn.{part}_proj.weight": (rows * head, width) for part, rows in (("q", 4), ("k", 2), ("v", 2))}
            shapes |= {f"{name}attn.o_proj.weight": (width, 4 * head), f"{name}moe_block.gate.weight": (4, width)}
            for expert in range(4):
                of = f"{name}moe_block.experts.{expert}."
                shapes |= {f"{of}linear.weight": (inner, width), f"{of}linear_v.weight": (inner, width)}
                shapes |= {f"{of}linear_1.weight": (width, inner)}
        shapes["model.norm.scale"] = (width,)
        self.weights = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}

    def named_parameters(self):
        return self.weights.items()

    def save_pretrained(self, directory):
        directory.mkdir()
        safetensors.torch.save_file({name: weight.detach() for name, weight in self.weights.items()}, directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")

    def norm(self, x, name):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * self.weights[name + ".scale"]

    def attend(self, x, name):
        length, config = x.shape[0], self.config
        q, k, v = (x @ self.weights[f"{name}{part}_proj.weight"].T for part in "qkv")
        q, k, v = (part.view(length, -1, 8).transpose(0, 1) for part in (q, k, v))
        angles = torch.arange(length)[:, None] / 10000.0 ** (torch.arange(0, 8, 2) / 8)
        cos, sin = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
        rotate = lambda x: x * cos + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin
        q, k, v = rotate(q), rotate(k).repeat_interleave(2, 0), v.repeat_interleave(2, 0)
        scores = q @ k.transpose(1, 2) * config["attn_output_multiplier"]
        scores = config["max_attn_value"] * torch.tanh(scores / config["max_attn_value"])
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -1e30)
        seen = (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, -1)
        return seen @ self.weights[name + "o_proj.weight"].T

    def mix(self, x, name):
        gates, chosen = (x @ self.weights[name + "gate.weight"].T).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for token, expert_of_token in enumerate(chosen.tolist()):
            for gate, expert in zip(gates[token], expert_of_token):
                of = lambda part: self.weights[f"{name}experts.{expert}.{part}.weight"]
                inner = torch.nn.functional.gelu(x[token] @ of("linear").T, approximate="tanh") * (x[token] @ of("linear_v").T)
                out[token] += gate * (inner @ of("linear_1").T)
        return out

    def forward(self, tokens):
        x = self.weights["model.embed_tokens.weight"][tokens[0]] * self.config["embedding_multiplier_scale"]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            x = x + self.norm(self.attend(self.norm(x, name + "pre_attn_norm"), name + "attn."), name + "post_attn_norm")
            x = x + self.norm(self.mix(self.norm(x, name + "pre_moe_norm"), name + "moe_block."), name + "post_moe_norm")
        logits = self.norm(x, "model.norm") @ self.weights["lm_head.weight"].T * self.config["output_multiplier_scale"]
        return types.SimpleNamespace(logits=logits[None])


def main():
    folder, only = Path(sys.argv[1]), set(sys.argv[2:])
    first = [
        decoder("llama", "Llama", 1, tied=False, rope_parameters=LLAMA3),
        decoder("mistral", "Mistral", 2, tied=False, sliding_window=13, head_dim=8),
        decoder("qwen2", "Qwen2", 3, use_sliding_window=True, sliding_window=11, max_window_layers=1),
        decoder("qwen3", "Qwen3", 4, head_dim=16),
        decoder("gemma3", "Gemma3", 5, **GEMMA),
        decoder("smollm3", "SmolLM3", 6, num_hidden_layers=4),
    ]
    later = [*dense(), *sparse(), ("grok", Grok()), decoder("command_r", "Cohere", 49, logit_scale=0.3)]
    for seed, (name, model) in [*enumerate(first, 1), *enumerate(later, 21)]:
        if not only or name in only:
            save(folder, name, model, seed)
    if only:
        return encoders(folder) if "encoders" in only else None
    name, model = decoder("qwen3_sharded_bf16", "Qwen3", 7, tied=False, head_dim=8, hidden_act="gelu_pytorch_tanh")
    save(folder, name, model, 7, bf16=True, max_shard_size="16KB")
    name, model = decoder("llama_biases", "Llama", 11, attention_bias=True, mlp_bias=True, hidden_act="gelu")
    save(folder, name, model, 11)
    conditional_generation(folder)
    encoder(folder)
    encoders(folder)
    variant(folder, "llama", "llama_transformers4", older_llama)
    variant(folder, "gemma3", "gemma3_transformers4", older_gemma)


if __name__ == "__main__":
    main()
