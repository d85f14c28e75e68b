"""Writes tiny seeded Llama checkpoints as the programs that quantise models write them, and what their weights mean.

Usage: python quantized_tiny.py FOLDER [NAME …]

From PyPI: torch 2.15, transformers 5.24, compressed-tensors 0.20.1, gptqmodel 7.7.0, bitsandbytes 0.50.2, autoawq 0.2.9
(with --no-deps). The codes are packed, and read back, by those programs' own functions; what is written here is the choice
of scales (round to nearest; none of the calibration matters for how a file is read) and `config.json`.

FOLDER gets a directory for each model with `expected.json` in it: a prompt; the logits of some of its positions, computed
by transformers in float32 on the weights as those functions dequantise them, with the activations before matrices that
Yantra maps onto its own block formats (INT8_ACTIVATIONS) rounded as it rounds them; and sums over each matrix (of its values,
of its values times a weight that depends on the place, and of their magnitudes), to hold the dequantised weights
themselves against.
"""

import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import transformers
from safetensors.torch import save_file

VOCAB, PROMPT, ROWS = 96, 24, (0, 9, 23)
SIZES = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    tie_word_embeddings=True, attn_implementation="eager",
)
# What becomes Q4_0, Q5_0, Q8_0 or MXFP4, whose kernels read signed bytes with a scale for each 32.
INT8_ACTIVATIONS = {
    "gptq_4bit", "gptq_4bit_without_g_idx", "gptq_4bit_asymmetric", "gptq_4bit_asymmetric_v2", "gptq_2bit", "gptq_3bit",
    "gptq_8bit_rows", "awq", "compressed_int4", "compressed_int4_asymmetric", "compressed_int8_rows", "compressed_int3",
    "compressed_w8a8", "compressed_mxfp4", "mxfp4",
}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def llama(seed, **changes):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.7 if "embed" in name else 0.15
            value = noise * scale if parameter.ndim > 1 else parameter + noise * 0.2
            # What is not quantised is stored in half precision.
            parameter.copy_(value.half())
    return model.eval()


def linears(model):
    return [(name, module) for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in LINEARS]


JITTER = 0.0


def round_activations(module, inputs):
    """The largest of 32 values becomes 127."""
    groups = inputs[0].unflatten(-1, (-1, 32))
    groups = groups * (1 + JITTER * torch.randn_like(groups))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return (torch.where(scale > 0, (groups / scale).round() * scale, groups).flatten(-2),)


def save(folder, name, model, quantise, config, seed, keep=()):
    """Quantises all linears but those that `keep` ends, each into its tensors and its dequantised weight."""
    directory = folder / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tensors = {key: value.half() for key, value in model.state_dict().items() if key != "lm_head.weight"}
    checks = {}
    for layer, module in linears(model):
        if layer.endswith(tuple(keep)) and keep:
            continue
        del tensors[f"{layer}.weight"]
        parts, weight = quantise(module)
        tensors.update({f"{layer}.{key}" if key[0] != "_" else layer + key: value for key, value in parts.items()})
        with torch.no_grad():
            module.weight.copy_(weight.float())
        if name in INT8_ACTIVATIONS:
            module.register_forward_pre_hook(round_activations)
        values = weight.double().flatten()
        places = (torch.arange(len(values)) * 31 % 97).double()
        checks[layer] = [float(values.sum()), float((values * places).sum()), float(values.abs().sum())]
    save_file({key: value.contiguous() for key, value in tensors.items()}, directory / "model.safetensors",
              metadata={"format": "pt"})
    return write(directory, model, config, checks, seed)


def write(directory, model, config, checks, seed):
    settings = {**model.config.to_dict(), "quantization_config": config, "architectures": ["LlamaForCausalLM"]}
    settings["dtype"] = "float16"
    (directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCAB, (PROMPT,), generator=generator).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    if directory.name in INT8_ACTIVATIONS and not steady(model, tokens, logits):
        return False
    rounded = [[round(float(value), 6) for value in logits[row]] for row in ROWS]
    expected = {"tokens": tokens, "rows": ROWS, "logits": rounded, "checks": checks}
    (directory / "expected.json").write_text(json.dumps(expected) + "\n")
    return True


def steady(model, tokens, logits):
    """Whether no activation is so near to the middle of two bytes that the order of a sum decides between them: one that
    goes the other way moves some logits by 0.2, so such a model says nothing."""
    global JITTER
    torch.manual_seed(1)
    JITTER = 5e-7
    with torch.no_grad():
        moved = [(model(torch.tensor([tokens])).logits[0] - logits).abs().max() for _ in range(20)]
    JITTER = 0.0
    return max(moved) < 2e-3


def affine(weight, bits, group, symmetric):
    """Scales in half precision, zero points and the group of each column, for codes from 0; all `[rows, groups]`."""
    rows, cols = weight.shape
    group = cols if group == -1 else group
    most = 2**bits - 1
    grouped = weight.reshape(rows, -1, group)
    low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scales = ((high - low) / most).half().float()
    zeros = torch.full_like(scales, 2 ** (bits - 1)) if symmetric else (-low / scales).round().clamp(0, most)
    return scales, zeros, torch.arange(cols) // group


def gptq(bits, group, symmetric=True, version=1, shuffled=False, index=True):
    """GPTQModel's TorchLinear packs, and gives the weights back."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
    from gptqmodel import QuantizeConfig

    def quantise(linear):
        rows, cols = linear.weight.shape
        generator = torch.Generator().manual_seed(cols)
        scales, zeros, groups = affine(linear.weight.data, bits, group, symmetric)
        if shuffled:
            groups = groups[torch.randperm(cols, generator=generator)]
        module = TorchLinear(bits=bits, group_size=group, sym=symmetric, desc_act=shuffled, in_features=cols,
                             out_features=rows, bias=False, pack_dtype=torch.int32, register_buffers=True)
        module.pack_original(linear, scales, zeros, g_idx=groups.to(torch.int32))
        module.post_init()
        half = module.scales.clone()
        # In single precision nothing is rounded.
        module.scales = half.float()
        weight = module.dequantize_weight().float().T
        if version == 1:
            convert_gptq_v2_to_v1_format_module(module, QuantizeConfig(bits=bits, group_size=group))
        parts = dict(qweight=module.qweight, qzeros=module.qzeros, scales=half)
        if index:
            parts["g_idx"] = module.g_idx
        return parts, weight

    config = dict(quant_method="gptq", bits=bits, group_size=group, sym=symmetric, desc_act=shuffled,
                  checkpoint_format="gptq" if version == 1 else "gptq_v2")
    return quantise, config


def awq(group):
    """The layout is AutoAWQ's WQLinear_GEMM.from_linear (which wants more packages than its reader); its own
    dequantize_gemm reads it back."""
    from awq.utils.packing_utils import dequantize_gemm

    def pack(codes):
        order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
        words = codes.reshape(codes.shape[0], -1, 8)[:, :, order].long()
        packed = (words << (4 * torch.arange(8))).sum(-1)
        return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)

    def quantise(linear):
        scales, zeros, groups = affine(linear.weight.data, 4, group, False)
        codes = (linear.weight.data / scales[:, groups] + zeros[:, groups]).round().clamp(0, 15)
        parts = dict(qweight=pack(codes.T), qzeros=pack(zeros.T), scales=scales.T.half())
        weight = dequantize_gemm(parts["qweight"], parts["qzeros"], scales.T.contiguous(), 4, group)
        return parts, weight.T

    return quantise, dict(quant_method="awq", bits=4, group_size=group, version="gemm", zero_point=True)


def compressed(format, weights, inputs=None, scale_dtype=torch.bfloat16):
    """compressed-tensors compresses, and decompresses."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    args = scheme.weights
    compressor = BaseCompressor.get_value_from_registry(format)

    def quantise(linear):
        weight = linear.weight.data
        rows, cols = weight.shape
        if args.strategy == "block":
            down, across = args.block_structure
            blocks = weight.reshape(rows // down, down, cols // across, across)
            low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
        elif args.strategy == "tensor":
            low, high = weight.min().reshape(1), weight.max().reshape(1)
        else:
            size = args.group_size if args.strategy in ("group", "tensor_group") else cols
            blocks = weight.reshape(rows, -1, size)
            low, high = blocks.amin(2), blocks.amax(2)
        state = {}
        if format == "nvfp4-pack-quantized":
            state["weight_global_scale"] = (448 * 6 / weight.abs().max()).reshape(1).float()
        scale, zero = calculate_qparams(low, high, args, **(
            {"global_scale": state["weight_global_scale"]} if state else {}))
        scale = scale if format.startswith(("nvfp4", "mxfp4")) else scale.to(scale_dtype).float()
        state.update(weight=weight, weight_scale=scale, weight_zero_point=zero)
        parts = compressor.compress(dict(state), scheme)
        # In single precision nothing is rounded.
        full = compressor.decompress(dict(parts), scheme)["weight"].float()
        if "weight_global_scale" in parts:
            # Its `decompress` rounds to bfloat16.
            codes = unpack_fp4_from_uint8(parts["weight_packed"], rows, cols, torch.float32)
            full = dequantize(codes, parts["weight_scale"].float(), args=args, dtype=torch.float32,
                              global_scale=parts["weight_global_scale"])
        if parts["weight_scale"].dtype == torch.float32:
            parts["weight_scale"] = parts["weight_scale"].to(scale_dtype)
        return parts, full

    group = json.loads(scheme.model_dump_json())
    return quantise, dict(quant_method="compressed-tensors", format=format, quantization_status="compressed",
                          config_groups=dict(group_0=group), ignore=["lm_head"])


def fp8(block):
    """A scale for each block, or for all, as DeepSeek-V3's `inference/fp8_cast_bf16.py` multiplies it back."""

    def quantise(linear):
        weight = linear.weight.data
        rows, cols = weight.shape
        down, across = block or (rows, cols)
        padded = torch.nn.functional.pad(weight, (0, -cols % across, 0, -rows % down))
        blocks = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across)
        scale = blocks.abs().amax((1, 3)) / 448
        if block is None:
            # A power of two.
            scale = 2 ** scale.log2().ceil()
        full = scale.repeat_interleave(down, 0).repeat_interleave(across, 1)[:rows, :cols]
        codes = (weight / full).to(torch.float8_e4m3fn)
        if block is None:
            return dict(weight=codes, weight_scale=scale.reshape(())), codes.float() * full
        return dict(weight=codes, weight_scale_inv=scale), codes.float() * full

    return quantise, dict(quant_method="fp8", activation_scheme="dynamic", fmt="e4m3",
                          weight_block_size=list(block) if block else None, modules_to_not_convert=["down_proj"])


def bitsandbytes4(kind, nested):
    import bitsandbytes.functional as bnb

    def quantise(linear):
        packed, state = bnb.quantize_4bit(linear.weight.data, blocksize=64, compress_statistics=nested, quant_type=kind)
        parts = {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
        return {"weight": packed, **parts}, bnb.dequantize_4bit(packed, state)

    return quantise, dict(quant_method="bitsandbytes", load_in_4bit=True, load_in_8bit=False, bnb_4bit_quant_type=kind,
                          bnb_4bit_use_double_quant=nested)


def bitsandbytes8():
    import bitsandbytes.functional as bnb

    def quantise(linear):
        codes, scale, _ = bnb.int8_vectorwise_quant(linear.weight.data.half())
        parts = dict(weight=codes, SCB=scale, weight_format=torch.tensor(0, dtype=torch.uint8))
        return parts, bnb.int8_vectorwise_dequant(codes, scale)

    return quantise, dict(quant_method="bitsandbytes", load_in_4bit=False, load_in_8bit=True)


def mxfp4():
    """The blocks of gpt-oss, here for plain matrices; transformers reads them back."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    def quantise(linear):
        rows, cols = linear.weight.shape
        blocks = linear.weight.data.reshape(rows, cols // 32, 32)
        exponents = (blocks.abs().amax(2).log2().floor() - 2 + 127).to(torch.uint8)
        levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
        scaled = blocks / 2.0 ** (exponents.float() - 127)[:, :, None]
        codes = (scaled[..., None] - levels).abs().argmin(-1).to(torch.uint8)
        packed = codes[..., 0::2] | codes[..., 1::2] << 4
        full = convert_moe_packed_tensors(packed[None], exponents[None], dtype=torch.float32)
        return dict(_blocks=packed, _scales=exponents), full[0].T

    return quantise, dict(quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn"])


def fp8_of_transformers(folder, seed):
    """Quantised and read back by transformers alone."""
    from transformers.integrations.finegrained_fp8 import Fp8Quantize

    name = "fp8_blocks_of_transformers"
    model = llama(seed, hidden_size=128, intermediate_size=256, head_dim=32)
    config = transformers.FineGrainedFP8Config(weight_block_size=(128, 128))

    class Quantizer:
        quantization_config = config

    def quantise(linear):
        weight = linear.weight.data
        rows, cols = weight.shape
        if rows % 128:
            config.weight_block_size = (rows, 128)
        made = Fp8Quantize(Quantizer()).convert({"weight": weight})
        config.weight_block_size = (128, 128)
        scale = made["weight_scale_inv"].float()
        full = made["weight"].float() * scale.repeat_interleave(min(rows, 128), 0).repeat_interleave(128, 1)
        return dict(weight=made["weight"], weight_scale_inv=scale), full

    settings = dict(quant_method="fp8", activation_scheme="dynamic", weight_block_size=[128, 128])
    save(folder, name, model, quantise, settings, seed)
    directory = folder / name
    read = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager",
        quantization_config=transformers.FineGrainedFP8Config(dequantize=True)).eval()
    expected = json.loads((directory / "expected.json").read_text())
    with torch.no_grad():
        logits = read(torch.tensor([expected["tokens"]])).logits[0]
    difference = max((logits[row] - torch.tensor(values)).abs().max() for row, values in zip(ROWS, expected["logits"]))
    assert difference < 1e-5, difference


def models():
    int4 = dict(num_bits=4, type="int", strategy="group", group_size=32)
    token = dict(num_bits=8, type="int", strategy="token", dynamic=True, symmetric=True)
    float8 = dict(num_bits=8, type="float", symmetric=True)
    return {
        "gptq_4bit": lambda: gptq(4, 32),
        "gptq_4bit_without_g_idx": lambda: gptq(4, 64, index=False),
        "gptq_4bit_asymmetric_v2": lambda: gptq(4, 64, symmetric=False, version=2),
        "gptq_4bit_asymmetric": lambda: gptq(4, 32, symmetric=False),
        "gptq_4bit_act_order": lambda: gptq(4, 32, shuffled=True),
        "gptq_2bit": lambda: gptq(2, 32, symmetric=False, version=2),
        "gptq_3bit": lambda: gptq(3, 32, symmetric=False),
        "gptq_8bit_rows": lambda: gptq(8, -1),
        "awq": lambda: awq(32),
        "compressed_int4": lambda: compressed("pack-quantized", int4),
        "compressed_int4_asymmetric": lambda: compressed("pack-quantized", dict(int4, symmetric=False)),
        "compressed_int8_rows": lambda: compressed(
            "pack-quantized", dict(num_bits=8, type="int", strategy="channel"), scale_dtype=torch.float16),
        "compressed_int3": lambda: compressed("pack-quantized", dict(int4, num_bits=3)),
        "compressed_w8a8": lambda: compressed(
            "int-quantized", dict(num_bits=8, type="int", strategy="channel"), inputs=token),
        "compressed_fp8_rows": lambda: compressed("float-quantized", dict(float8, strategy="channel")),
        "compressed_fp8_blocks": lambda: compressed(
            "float-quantized", dict(float8, strategy="block", block_structure=[32, 32])),
        "compressed_mxfp4": lambda: compressed(
            "mxfp4-pack-quantized", dict(num_bits=4, type="float", strategy="group", group_size=32,
                                         scale_dtype="torch.uint8")),
        "compressed_nvfp4": lambda: compressed(
            "nvfp4-pack-quantized", dict(num_bits=4, type="float", strategy="tensor_group", group_size=16,
                                         scale_dtype="torch.float8_e4m3fn")),
        "fp8_blocks": lambda: fp8((48, 40)),
        "fp8_tensor": lambda: fp8(None),
        "nf4": lambda: bitsandbytes4("nf4", False),
        "nf4_nested": lambda: bitsandbytes4("nf4", True),
        "fp4": lambda: bitsandbytes4("fp4", False),
        "bitsandbytes_int8": lambda: bitsandbytes8(),
        "mxfp4": lambda: mxfp4(),
    }


def main():
    folder, only = Path(sys.argv[1]), set(sys.argv[2:])
    for seed, (name, make) in enumerate(models().items(), 101):
        if not only or name in only:
            quantise, config = make()
            keep = {"fp8_tensor": ["down_proj"], "mxfp4": ["q_proj", "k_proj", "v_proj", "o_proj"]}.get(name, ())
            while not save(folder, name, llama(seed), quantise, config, seed, keep):
                seed += 100
            print(name, sum(file.stat().st_size for file in (folder / name).iterdir()))
    if not only or "fp8_blocks_of_transformers" in only:
        fp8_of_transformers(folder, 200)


if __name__ == "__main__":
    main()
