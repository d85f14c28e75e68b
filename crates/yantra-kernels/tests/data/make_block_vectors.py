"""Writes block_vectors.bin: reference values for every block format, from the `gguf` Python package.

Source of the values: https://pypi.org/project/gguf/ (`gguf.quants`, the maintainers' own implementation in numpy), run as
    pip install gguf numpy && python make_block_vectors.py block_vectors.bin
Version used: 0.19.0. The file is committed; the tests do not run this script.

Layout, little endian, one record per format:
    name length u32, name; number of values n u32, number of bytes b u32;
    b bytes of blocks; n f32 they dequantise to;
    m u32 (0 or n); m f32, which quantise to the b bytes above.
"""

import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

FORMATS = [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS, T.MXFP4]
CAN_QUANTIZE = {T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.MXFP4}
# Byte offsets of half-precision scales in a block: random bits there would be NaN now and then.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0],
}
VALUES = 512

rng = np.random.default_rng(20240607)
with open(sys.argv[1], "wb") as out:
    for kind in FORMATS:
        block, size = quants.GGML_QUANT_SIZES[kind]
        if kind in CAN_QUANTIZE:
            x = rng.standard_normal(VALUES).astype(np.float32)
            x[32:64] = 0
            x[64:96] = np.abs(x[64:96]) * 1e-3
            packed = quants.quantize(x.reshape(1, -1), kind)
        else:
            x = np.zeros(0, np.float32)
            packed = rng.integers(0, 256, (VALUES // block, size), dtype=np.uint8)
            for at in SCALES[kind]:
                scale = (rng.standard_normal(VALUES // block) * 0.01).astype(np.float16)
                packed[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
            packed = packed.reshape(1, -1)
        values = quants.dequantize(packed, kind).astype(np.float32).reshape(-1)
        data = np.ascontiguousarray(packed).view(np.uint8).tobytes()
        assert values.size == VALUES
        name = kind.name.lower().encode()
        out.write(struct.pack("<I", len(name)) + name + struct.pack("<II", VALUES, len(data)))
        out.write(data + values.astype("<f4").tobytes())
        out.write(struct.pack("<I", x.size) + x.astype("<f4").tobytes())
