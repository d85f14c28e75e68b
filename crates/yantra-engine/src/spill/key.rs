//! What a page is known by outside of memory.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::kv::CacheScope;

/// SHA-256 of a model, a scope and all tokens up to the end of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageKey(pub [u8; 32]);

impl PageKey {
    /// What the first pages of a scope continue.
    #[must_use]
    pub fn of_scope(self, scope: &CacheScope) -> Self {
        let mut hash = Sha256::new().chain_update(self.0);
        if let Some(salt) = &scope.salt {
            hash.update(b"salt");
            hash.update(salt);
        }
        if let Some(adapter) = &scope.adapter {
            hash.update(b"adapter");
            hash.update(adapter);
        }
        Self(hash.finalize().into())
    }

    /// The page that holds `tokens` after the page of this key.
    #[must_use]
    pub fn of_next(self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new().chain_update(self.0);
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        Self(hash.finalize().into())
    }

    /// The key that [`fmt::Display`] wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit)) {
            return None;
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(key))
    }
}

impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A page and what it must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageIdentity {
    /// Its key: [`PageKey::of_next`] of the two below.
    pub key: PageKey,
    /// The key of the page it continues.
    pub parent: PageKey,
    /// Its own tokens.
    pub tokens: Box<[u32]>,
}

impl PageIdentity {
    /// The page that holds `tokens` after the page of key `parent`.
    pub fn after(parent: PageKey, tokens: &[u32]) -> Self {
        Self { key: parent.of_next(tokens), parent, tokens: tokens.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_models_scopes_and_prefixes_apart() {
        let (model, other) = (PageKey([1; 32]), PageKey([2; 32]));
        let scope = |salt: Option<&str>| CacheScope { salt: salt.map(str::to_owned), adapter: None };
        let adapted = |byte| CacheScope { salt: None, adapter: Some([byte; 32]) };
        let plain = model.of_scope(&scope(None));
        let keys = [
            plain.of_next(&[1, 2]),
            plain.of_next(&[2, 1]),
            plain.of_next(&[1]).of_next(&[2]),
            plain.of_next(&[1, 2]).of_next(&[1, 2]),
            model.of_scope(&scope(Some(""))).of_next(&[1, 2]),
            model.of_scope(&scope(Some("a"))).of_next(&[1, 2]),
            other.of_scope(&scope(None)).of_next(&[1, 2]),
            model.of_scope(&adapted(1)).of_next(&[1, 2]),
            model.of_scope(&adapted(2)).of_next(&[1, 2]),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let key = PageKey([0; 32]).of_next(&[7]);
        assert_eq!(PageKey::parse(&key.to_string()), Some(key));
        for wrong in ["", "00", &"g".repeat(64), &"AB".repeat(32), &"0".repeat(63)] {
            assert_eq!(PageKey::parse(wrong), None, "{wrong}");
        }
    }
}
