//! Numbers of a few bits, one after another in words of 32, the lowest bits first; they may lie across two words.

/// Number `index` of the numbers of `bits` bits in the words that `word` gives.
pub(super) fn unpack(word: impl Fn(usize) -> u32, bits: usize, index: usize) -> i16 {
    let (first, shift) = (index * bits / 32, index * bits % 32);
    let low = word(first) >> shift;
    let all = if shift + bits > 32 { low | word(first + 1) << (32 - shift) } else { low };
    (all & ((1 << bits) - 1)) as i16
}

/// Word `index` of little-endian bytes; 0 past their end.
pub(super) fn word(bytes: &[u8], index: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(index).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
