//! The table at the head of a safetensors file, parsed from bytes that may be anything.

use super::{SafetensorsError, SkippedTensor, buffer_bytes, format_of};
use crate::TensorInfo;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use std::{collections::BTreeMap, collections::HashSet, fmt, ops::Range};

/// The length of the table stands before it in this many bytes.
pub(super) const LENGTH_BYTES: usize = 8;
/// The largest table read, as in the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Everything before the tensor data.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, String>,
    /// In the order of the data.
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) skipped: Vec<SkippedTensor>,
}

/// Parses the head of `bytes`, a whole file, and checks that the tensors fill the rest of it exactly.
pub(super) fn parse(bytes: &[u8], part: usize) -> Result<Header, SafetensorsError> {
    let json = table(bytes)?;
    let data_start = LENGTH_BYTES + json.len();
    let table: Table = serde_json::from_slice(json).map_err(|error| SafetensorsError::Header(error.to_string()))?;
    let mut entries = table.tensors;
    // Tensors without values share their offsets with a neighbour, so the end decides between equal starts.
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut header = Header { metadata: table.metadata, ..Header::default() };
    let mut names = HashSet::with_capacity(entries.len());
    let mut end = 0;
    for (name, entry) in entries {
        if !names.insert(name.clone()) {
            return Err(SafetensorsError::Duplicate { tensor: name });
        }
        let range = entry.check(&name, end)?;
        end = range.end;
        // Can not overflow: the end of the data is checked against the file below, before anyone uses the range.
        let range = range.start.saturating_add(data_start)..range.end.saturating_add(data_start);
        match format_of(&entry.dtype) {
            Some(format) => header.tensors.push(TensorInfo { name, format, shape: entry.shape, part, range }),
            None => header.skipped.push(SkippedTensor { name, dtype: entry.dtype, shape: entry.shape, range }),
        }
    }
    let data_bytes = bytes.len() - data_start;
    if end > data_bytes {
        let needed = (end as u64).saturating_add(data_start as u64);
        return Err(SafetensorsError::Truncated {
            what: "tensor data".to_owned(),
            needed,
            present: bytes.len() as u64,
        });
    }
    if end < data_bytes {
        return Err(SafetensorsError::TrailingBytes { extra: data_bytes - end });
    }
    Ok(header)
}

/// The JSON table: its length stands in the first 8 bytes.
fn table(bytes: &[u8]) -> Result<&[u8], SafetensorsError> {
    let present = bytes.len() as u64;
    let truncated = |what: &str, needed| SafetensorsError::Truncated { what: what.to_owned(), needed, present };
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| truncated("length field", 8))?;
    let length = u64::from_le_bytes(*length);
    if rest.first().is_some_and(|&first| first != b'{') {
        return Err(SafetensorsError::NotSafetensors("no JSON table follows the length field".to_owned()));
    }
    if length > MAX_HEADER_BYTES {
        return Err(SafetensorsError::HeaderTooLarge { bytes: length, limit: MAX_HEADER_BYTES });
    }
    let within = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    within.ok_or_else(|| truncated("table", length + LENGTH_BYTES as u64))
}

/// The table as it stands in the file.
#[derive(Debug, Default)]
struct Table {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, Entry)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Entry {
    /// Checks the entry against itself and against the end of the data before it.
    fn check(&self, name: &str, previous_end: usize) -> Result<Range<usize>, SafetensorsError> {
        let Self { dtype, shape, data_offsets: (start, end) } = self;
        let (start, end) = (*start, *end);
        let tensor = || name.to_owned();
        let value_bytes = format_of(dtype).map(|format| format.block_bytes()).or_else(|| buffer_bytes(dtype));
        let value_bytes =
            value_bytes.ok_or_else(|| SafetensorsError::UnsupportedType { tensor: tensor(), dtype: dtype.clone() })?;
        let expected = shape.iter().try_fold(value_bytes, |n, &d| n.checked_mul(d));
        let expected =
            expected.ok_or_else(|| SafetensorsError::ShapeOverflow { tensor: tensor(), shape: shape.clone() })?;
        if end.checked_sub(start) != Some(expected) {
            let (dtype, shape, found) = (dtype.clone(), shape.clone(), end.saturating_sub(start));
            return Err(SafetensorsError::Size { tensor: tensor(), dtype, shape, expected, found });
        }
        if start != previous_end {
            return Err(SafetensorsError::Gap { tensor: tensor(), found: start, expected: previous_end });
        }
        Ok(start..end)
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TableVisitor)
    }
}

/// Reads the entries one by one, because a map would silently keep the last of two tensors with one name.
struct TableVisitor;

impl<'de> Visitor<'de> for TableVisitor {
    type Value = Table;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table, A::Error> {
        let mut table = Table::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                table.metadata = map.next_value()?;
                continue;
            }
            let entry = map.next_value().map_err(|error| A::Error::custom(format!("tensor '{name}': {error}")))?;
            table.tensors.push((name, entry));
        }
        Ok(table)
    }
}
