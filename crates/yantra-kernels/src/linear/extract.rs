//! Takes GGUF blocks apart into integers and scales, the form that tiles are packed from.
//!
//! A weight is `d * scale * (quant - offset) - dmin * min`, where `offset` belongs to the packed layout. Layouts follow
//! ggml's `ggml-common.h`; floats stay the half-precision bits they are in the file.

use crate::{WeightFormat, block::mxfp4};

/// One block: 32 values, or 256 of a K format.
pub(super) struct Block {
    /// Unsigned codes (bits of a signed byte for Q8_0), in order along k.
    pub(super) quants: [u8; 256],
    /// Half-precision scale of the block; bfloat16 of MXFP4.
    pub(super) d: u16,
    /// Half-precision minimum: added (Q4_1, Q5_1) or scaled by `mins` and subtracted (K formats).
    pub(super) dmin: u16,
    /// Integer scales of groups of 32 or 16; the bits of signed bytes for Q3_K, Q6_K and IQ4_XS.
    pub(super) scales: [u8; 16],
    /// Integer minima of groups.
    pub(super) mins: [u8; 16],
}

impl Block {
    pub(super) const fn new() -> Self {
        Self { quants: [0; 256], d: 0, dmin: 0, scales: [0; 16], mins: [0; 16] }
    }

    /// Reads one block of a quantised format; `bytes` holds exactly one.
    #[inline]
    pub(super) fn read(&mut self, format: WeightFormat, bytes: &[u8]) {
        use WeightFormat as W;
        match format {
            W::Q4_0 | W::IQ4_NL => self.read_q4(bytes, 2),
            W::Q4_1 => self.read_q4(bytes, 4),
            W::Q5_0 => self.read_q5(bytes, 2),
            W::Q5_1 => self.read_q5(bytes, 4),
            W::Q8_0 => {
                self.d = half_at(bytes, 0);
                self.quants[..32].copy_from_slice(&bytes[2..34]);
            }
            W::Q2_K => self.read_q2_k(bytes),
            W::Q3_K => self.read_q3_k(bytes),
            W::Q4_K => {
                self.read_k_header(bytes);
                nibbles_64(&bytes[16..144], &mut self.quants);
            }
            W::Q5_K => self.read_q5_k(bytes),
            W::Q6_K => self.read_q6_k(bytes),
            W::IQ4_XS => self.read_iq4_xs(bytes),
            W::MXFP4 => {
                self.d = mxfp4::scale_bits(bytes[0]);
                nibbles_32(&bytes[1..17], &mut self.quants[..32]);
            }
            W::F32 | W::F16 | W::BF16 => {}
        }
    }

    fn read_q4(&mut self, bytes: &[u8], header: usize) {
        self.d = half_at(bytes, 0);
        self.dmin = half_at(bytes, 2);
        nibbles_32(&bytes[header..header + 16], &mut self.quants[..32]);
    }

    fn read_q5(&mut self, bytes: &[u8], header: usize) {
        self.read_q4(bytes, header + 4);
        let high = u32::from_le_bytes([bytes[header], bytes[header + 1], bytes[header + 2], bytes[header + 3]]);
        for (k, quant) in self.quants[..32].iter_mut().enumerate() {
            *quant |= ((high >> k) as u8 & 1) << 4;
        }
    }

    /// The header of Q4_K and Q5_K: d, dmin and eight pairs of six-bit scale and minimum in twelve bytes.
    fn read_k_header(&mut self, bytes: &[u8]) {
        self.d = half_at(bytes, 0);
        self.dmin = half_at(bytes, 2);
        let packed = &bytes[4..16];
        for group in 0..4 {
            self.scales[group] = packed[group] & 63;
            self.mins[group] = packed[group + 4] & 63;
            self.scales[group + 4] = (packed[group + 8] & 15) | ((packed[group] >> 6) << 4);
            self.mins[group + 4] = (packed[group + 8] >> 4) | ((packed[group + 4] >> 6) << 4);
        }
    }

    fn read_q5_k(&mut self, bytes: &[u8]) {
        self.read_k_header(bytes);
        nibbles_64(&bytes[48..176], &mut self.quants);
        let high = &bytes[16..48];
        for (group, quants) in self.quants.chunks_exact_mut(32).enumerate() {
            for (quant, high) in quants.iter_mut().zip(high) {
                *quant |= ((high >> group) & 1) << 4;
            }
        }
    }

    fn read_q2_k(&mut self, bytes: &[u8]) {
        for (group, byte) in bytes[..16].iter().enumerate() {
            self.scales[group] = byte & 15;
            self.mins[group] = byte >> 4;
        }
        two_bits(&bytes[16..80], &mut self.quants);
        self.d = half_at(bytes, 80);
        self.dmin = half_at(bytes, 82);
    }

    /// Codes are biased by four more than the format's own offset of four, to share the offset of Q4_0.
    fn read_q3_k(&mut self, bytes: &[u8]) {
        two_bits(&bytes[32..96], &mut self.quants);
        for (group, quants) in self.quants.chunks_exact_mut(32).enumerate() {
            for (quant, high) in quants.iter_mut().zip(&bytes[..32]) {
                *quant += 4 + (((high >> group) & 1) << 2);
            }
        }
        let packed = &bytes[96..108];
        for group in 0..16 {
            let low = (packed[group % 8] >> (4 * (group / 8))) & 15;
            let high = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
            self.scales[group] = (low | (high << 4)).wrapping_sub(32);
        }
        self.d = half_at(bytes, 108);
    }

    fn read_q6_k(&mut self, bytes: &[u8]) {
        for (half, quants) in self.quants.chunks_exact_mut(128).enumerate() {
            let low = &bytes[64 * half..64 * half + 64];
            let high = &bytes[128 + 32 * half..160 + 32 * half];
            let (first, second) = quants.split_at_mut(64);
            for k in 0..32 {
                first[k] = (low[k] & 15) | ((high[k] & 3) << 4);
                first[k + 32] = (low[k + 32] & 15) | (((high[k] >> 2) & 3) << 4);
                second[k] = (low[k] >> 4) | (((high[k] >> 4) & 3) << 4);
                second[k + 32] = (low[k + 32] >> 4) | ((high[k] >> 6) << 4);
            }
        }
        self.scales.copy_from_slice(&bytes[192..208]);
        self.d = half_at(bytes, 208);
    }

    fn read_iq4_xs(&mut self, bytes: &[u8]) {
        self.d = half_at(bytes, 0);
        let high = half_at(bytes, 2);
        for group in 0..8 {
            let low = (bytes[4 + group / 2] >> (4 * (group % 2))) & 15;
            self.scales[group] = (low | ((((high >> (2 * group)) & 3) as u8) << 4)).wrapping_sub(32);
            nibbles_32(&bytes[8 + 16 * group..24 + 16 * group], &mut self.quants[32 * group..32 * group + 32]);
        }
    }
}

fn half_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Sixteen bytes hold 32 values: low nibbles first.
fn nibbles_32(packed: &[u8], out: &mut [u8]) {
    let (low, high) = out.split_at_mut(16);
    for ((byte, low), high) in packed.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

/// Each 32 bytes hold 64 values: low nibbles first.
fn nibbles_64(packed: &[u8], out: &mut [u8; 256]) {
    for (packed, out) in packed.chunks_exact(32).zip(out.chunks_exact_mut(64)) {
        let (low, high) = out.split_at_mut(32);
        for ((byte, low), high) in packed.iter().zip(low).zip(high) {
            *low = byte & 15;
            *high = byte >> 4;
        }
    }
}

/// Each 32 bytes hold 128 values: lowest bit pairs first.
fn two_bits(packed: &[u8], out: &mut [u8; 256]) {
    for (packed, out) in packed.chunks_exact(32).zip(out.chunks_exact_mut(128)) {
        for (pair, out) in out.chunks_exact_mut(32).enumerate() {
            for (byte, out) in packed.iter().zip(out) {
                *out = (byte >> (2 * pair)) & 3;
            }
        }
    }
}
