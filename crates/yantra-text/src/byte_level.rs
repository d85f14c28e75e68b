//! GPT-2's printable alphabet for bytes: vocabularies of byte-level BPE write each byte as one character.
//!
//! Printable Latin-1 bytes stand for themselves; the other 68 are numbered from U+0100 (so a space is `Ġ`).

use std::sync::LazyLock;

static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100u32;
    std::array::from_fn(|byte| {
        let byte = byte as u32;
        let code = if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            byte
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
});

/// The highest code point of the alphabet is U+0143.
static BYTES: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut bytes = [None; 0x144];
    for (byte, character) in (0u8..=255).zip(CHARS.iter()) {
        if let Some(slot) = bytes.get_mut(*character as usize) {
            *slot = Some(byte);
        }
    }
    bytes
});

/// The character for a byte.
pub(crate) fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// The byte a character stands for.
pub(crate) fn byte_of(character: char) -> Option<u8> {
    BYTES.get(character as usize).copied().flatten()
}

/// Appends `bytes` in the printable alphabet.
pub(crate) fn encode(bytes: &[u8], out: &mut String) {
    out.extend(bytes.iter().map(|&byte| char_of(byte)));
}

/// Appends what `text` stands for; a text with a character outside the alphabet stands for itself, as added tokens do.
pub(crate) fn decode(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(text.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(b'a'), char_of(0xff)), ('Ġ', 'Ċ', 'a', 'ÿ'));
    }

    #[test]
    fn texts_outside_the_alphabet_stand_for_themselves() {
        let mut out = b"x".to_vec();
        decode("ĠaÃ©", &mut out);
        assert_eq!(out, "x aé".as_bytes());
        decode("a▁Ġ", &mut out);
        assert_eq!(out, "x aéa▁Ġ".as_bytes());
    }
}
