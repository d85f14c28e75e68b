//! One page in one file: who it is, its bytes, a checksum over both.
//!
//! `magic, version, tokens, bytes, key, key of the page it continues, token ids, bytes of the page, CRC-32`, numbers
//! little-endian. A file is written under another name and then renamed, so that it is whole or not there; what a crash of
//! the machine makes of it the checksum finds.

use std::{
    fs::{self, File, OpenOptions},
    io::{Error, ErrorKind, Read, Result, Write},
    path::Path,
};

use super::PageIdentity;

const MAGIC: &[u8; 8] = b"YantraKV";
const VERSION: u32 = 1;

/// All that comes before the page's bytes.
fn head(page: &PageIdentity, num_bytes: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(88 + 4 * page.tokens.len());
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(page.tokens.len() as u32).to_le_bytes());
    head.extend_from_slice(&(num_bytes as u64).to_le_bytes());
    head.extend_from_slice(&page.key.0);
    head.extend_from_slice(&page.parent.0);
    page.tokens.iter().for_each(|token| head.extend_from_slice(&token.to_le_bytes()));
    head
}

/// Bytes of the file of a page of `num_tokens` tokens and `num_bytes` bytes.
pub(super) fn file_bytes(num_tokens: usize, num_bytes: usize) -> u64 {
    (88 + 4 * num_tokens + num_bytes + 4) as u64
}

fn checksum(head: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(bytes);
    hasher.finalize()
}

/// A new file that only its owner reads: it holds what people wrote.
fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes a page to `path` by way of `temporary`.
pub(super) fn write(path: &Path, temporary: &Path, page: &PageIdentity, bytes: &[u8]) -> Result<()> {
    let head = head(page, bytes.len());
    let written = create(temporary).and_then(|mut file| {
        file.write_all(&head)?;
        file.write_all(bytes)?;
        file.write_all(&checksum(&head, bytes).to_le_bytes())
    });
    let renamed = written.and_then(|()| fs::rename(temporary, path));
    if renamed.is_err() {
        // It may not be there at all.
        let _ = fs::remove_file(temporary);
    }
    renamed
}

/// Reads the `num_bytes` bytes of a page into `bytes`, replacing what was there.
///
/// # Errors
/// [`ErrorKind::InvalidData`] when the file is not what was asked for, or not whole.
pub(super) fn read(file: &mut File, page: &PageIdentity, num_bytes: usize, bytes: &mut Vec<u8>) -> Result<()> {
    let expected = head(page, num_bytes);
    let mut found = vec![0; expected.len()];
    file.read_exact(&mut found).map_err(|_| wrong("is too short"))?;
    if found != expected {
        return Err(wrong("holds another page than its name says, or is of another version"));
    }
    bytes.clear();
    bytes.reserve(num_bytes);
    (&*file).take(num_bytes as u64).read_to_end(bytes)?;
    let mut stored = [0; 4];
    file.read_exact(&mut stored).map_err(|_| wrong("is too short"))?;
    if u32::from_le_bytes(stored) != checksum(&expected, bytes) {
        return Err(wrong("does not agree with its checksum"));
    }
    Ok(())
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the file {what}"))
}
