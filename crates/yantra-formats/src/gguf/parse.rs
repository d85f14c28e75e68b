//! The head of a GGUF file, parsed from bytes that may be anything.
//!
//! Nothing is believed: counts are held against limits and lengths against the bytes left before memory is taken for
//! them, so that the memory used stays within a small multiple of the file's size.

use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufError, MAGIC, align_up, limits, types};
use crate::{Array, Metadata, TensorInfo, Value, ValueType};
use std::collections::HashSet;

/// Everything before the tensor data.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) alignment: usize,
}

/// Parses the head of `bytes`, a whole file, and checks that the tensors lie within it without overlap.
pub(super) fn parse(bytes: &[u8], part: usize) -> Result<Head, GgufError> {
    let mut cursor = Cursor { bytes, offset: 0 };
    let version = parse_version(&mut cursor)?;
    let num_tensors = cursor.count("the tensor count", limits::TENSORS)?;
    let num_pairs = cursor.count("the metadata count", limits::METADATA_PAIRS)?;
    let metadata = parse_metadata(&mut cursor, num_pairs)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = parse_tensor_table(&mut cursor, num_tensors, alignment, part)?;
    place_tensors(&mut tensors, cursor.offset, alignment, bytes.len())?;
    Ok(Head { version, metadata, tensors, alignment })
}

fn parse_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let magic = cursor.take(MAGIC.len(), || "the magic number".to_owned())?;
    if magic != MAGIC {
        return Err(GgufError::Magic { found: format!("\"{}\"", magic.escape_ascii()) });
    }
    let version = cursor.u32(|| "the version".to_owned())?;
    match version {
        1 => Err(GgufError::VersionOne),
        2 | 3 => Ok(version),
        // A version below 65536 in the other byte order.
        _ if version != 0 && version & 0xffff == 0 => Err(GgufError::BigEndian { version: version.swap_bytes() }),
        _ => Err(GgufError::Version { found: version }),
    }
}

fn parse_metadata(cursor: &mut Cursor<'_>, num_pairs: usize) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::new();
    for index in 0..num_pairs {
        let key = cursor.string(limits::KEY_BYTES, || format!("metadata key {index} of {num_pairs}"))?;
        if metadata.contains(&key) {
            return Err(GgufError::DuplicateKey { key });
        }
        let value = parse_value(cursor, &key)?;
        metadata.set(key, value);
    }
    Ok(metadata)
}

fn parse_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let what = || format!("the value of metadata key '{key}'");
    Ok(match cursor.value_type(what)? {
        ValueType::U8 => Value::U8(cursor.array::<1>(what)?[0]),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        ValueType::Bool => Value::Bool(bool_of(cursor.array::<1>(what)?[0], what)?),
        ValueType::String => Value::String(cursor.string(limits::STRING_BYTES, what)?),
        ValueType::Array => Value::Array(parse_array(cursor, key)?),
        ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
    })
}

fn parse_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, GgufError> {
    let what = || format!("the array of metadata key '{key}'");
    let element_type = cursor.value_type(what)?;
    let len = cursor.count(&what(), limits::ARRAY_LEN)?;
    // Every element takes at least this much, so a length that lies is caught before memory is taken for it.
    cursor.require(len.saturating_mul(element_type.min_bytes()), what)?;
    Ok(match element_type {
        ValueType::U8 => Array::U8(cursor.take(len, what)?.to_vec()),
        ValueType::I8 => Array::I8(cursor.numbers(len, what, i8::from_le_bytes)?),
        ValueType::U16 => Array::U16(cursor.numbers(len, what, u16::from_le_bytes)?),
        ValueType::I16 => Array::I16(cursor.numbers(len, what, i16::from_le_bytes)?),
        ValueType::U32 => Array::U32(cursor.numbers(len, what, u32::from_le_bytes)?),
        ValueType::I32 => Array::I32(cursor.numbers(len, what, i32::from_le_bytes)?),
        ValueType::F32 => Array::F32(cursor.numbers(len, what, f32::from_le_bytes)?),
        ValueType::Bool => {
            let flags = cursor.take(len, what)?.iter().map(|&byte| bool_of(byte, what));
            Array::Bool(flags.collect::<Result<_, _>>()?)
        }
        ValueType::String => {
            let element = |index| move || format!("string {index} of metadata key '{key}'");
            let strings = (0..len).map(|index| cursor.string(limits::STRING_BYTES, element(index)));
            Array::Strings(strings.collect::<Result<_, _>>()?)
        }
        ValueType::Array => return Err(GgufError::NestedArray { what: format!("metadata key '{key}'") }),
        ValueType::U64 => Array::U64(cursor.numbers(len, what, u64::from_le_bytes)?),
        ValueType::I64 => Array::I64(cursor.numbers(len, what, i64::from_le_bytes)?),
        ValueType::F64 => Array::F64(cursor.numbers(len, what, f64::from_le_bytes)?),
    })
}

fn bool_of(byte: u8, what: impl Fn() -> String) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(GgufError::Bool { what: what(), value }),
    }
}

fn alignment(metadata: &Metadata) -> Result<usize, GgufError> {
    let found = metadata.find::<u32>(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !found.is_power_of_two() || found > limits::ALIGNMENT {
        return Err(GgufError::Alignment { found, limit: limits::ALIGNMENT });
    }
    Ok(found as usize)
}

/// Reads the tensor table. The ranges are still relative to the start of the data.
fn parse_tensor_table(
    cursor: &mut Cursor<'_>,
    num_tensors: usize,
    alignment: usize,
    part: usize,
) -> Result<Vec<TensorInfo>, GgufError> {
    /// Bytes of the smallest entry: name length, dimension count, type, offset.
    const MIN_ENTRY_BYTES: usize = 24;
    cursor.require(num_tensors.saturating_mul(MIN_ENTRY_BYTES), || format!("the table of {num_tensors} tensors"))?;
    let mut tensors = Vec::with_capacity(num_tensors);
    let mut names = HashSet::with_capacity(num_tensors);
    for index in 0..num_tensors {
        let tensor = parse_tensor(cursor, index, alignment, part)?;
        if !names.insert(tensor.name.clone()) {
            return Err(GgufError::DuplicateTensor { tensor: tensor.name });
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn parse_tensor(cursor: &mut Cursor<'_>, index: usize, alignment: usize, part: usize) -> Result<TensorInfo, GgufError> {
    let name = cursor.string(limits::TENSOR_NAME_BYTES, || format!("the name of tensor {index}"))?;
    let what = || format!("the table entry of tensor '{name}'");
    let num_dimensions = cursor.u32(what)?;
    if num_dimensions > limits::DIMENSIONS {
        return Err(GgufError::Dimensions { tensor: name, found: num_dimensions, limit: limits::DIMENSIONS });
    }
    let mut dimensions = Vec::with_capacity(num_dimensions as usize);
    for _ in 0..num_dimensions {
        dimensions.push(cursor.u64(what)?);
    }
    let number = cursor.u32(what)?;
    let offset = cursor.u64(what)?;
    let format = types::format_from_number(number).map_err(|known| match known {
        Some(type_name) => GgufError::UnsupportedType { tensor: name.clone(), name: type_name, number },
        None => GgufError::UnknownType { tensor: name.clone(), number },
    })?;
    let overflow = || GgufError::ShapeOverflow { tensor: name.clone(), dimensions: dimensions.clone() };
    let shape: Vec<usize> =
        dimensions.iter().rev().map(|&d| usize::try_from(d)).collect::<Result<_, _>>().map_err(|_| overflow())?;
    let cols = shape.last().copied().unwrap_or(1);
    if cols % format.block_len() != 0 {
        return Err(GgufError::Block { tensor: name, cols, format, block: format.block_len() });
    }
    // The element count is checked as well as the bytes: formats below 8 bits have more elements than bytes.
    let _ = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
    let rows = shape.iter().rev().skip(1).try_fold(1_usize, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
    let num_bytes = format.row_bytes(cols).and_then(|row| row.checked_mul(rows)).ok_or_else(overflow)?;
    let start = usize::try_from(offset).map_err(|_| overflow())?;
    if start % alignment != 0 {
        return Err(GgufError::Misaligned { tensor: name, offset, alignment });
    }
    let end = start.checked_add(num_bytes).ok_or_else(overflow)?;
    Ok(TensorInfo { name, format, shape, part, range: start..end })
}

/// Turns data offsets into file offsets; checks that the data is all there and that no two tensors share bytes.
fn place_tensors(
    tensors: &mut [TensorInfo],
    head_bytes: usize,
    alignment: usize,
    file_bytes: usize,
) -> Result<(), GgufError> {
    let too_large =
        |tensor: &TensorInfo| GgufError::ShapeOverflow { tensor: tensor.name.clone(), dimensions: Vec::new() };
    for tensor in tensors.iter_mut() {
        let data_start = align_up(head_bytes, alignment).ok_or_else(|| too_large(tensor))?;
        let start = tensor.range.start.checked_add(data_start).ok_or_else(|| too_large(tensor))?;
        let end = tensor.range.end.checked_add(data_start).ok_or_else(|| too_large(tensor))?;
        tensor.range = start..end;
    }
    let last = tensors.iter().max_by_key(|tensor| tensor.range.end);
    if let Some(last) = last.filter(|tensor| tensor.range.end > file_bytes) {
        let needed = last.range.end;
        return Err(GgufError::TruncatedData { tensor: last.name.clone(), needed, present: file_bytes });
    }
    let mut in_order: Vec<&TensorInfo> = tensors.iter().filter(|tensor| !tensor.range.is_empty()).collect();
    in_order.sort_by_key(|tensor| tensor.range.start);
    for pair in in_order.windows(2) {
        if let [first, second] = pair
            && second.range.start < first.range.end
        {
            return Err(GgufError::Overlap { first: first.name.clone(), second: second.name.clone() });
        }
    }
    Ok(())
}

/// A place in the file. What is being read is given as a closure, so that its name is made only for an error.
struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// Fails unless `needed` more bytes are there.
    fn require(&self, needed: usize, what: impl Fn() -> String) -> Result<(), GgufError> {
        let present = self.bytes.len() - self.offset;
        if needed > present {
            return Err(GgufError::TruncatedHeader { what: what(), offset: self.offset, needed, present });
        }
        Ok(())
    }

    fn take(&mut self, len: usize, what: impl Fn() -> String) -> Result<&'a [u8], GgufError> {
        self.require(len, what)?;
        let taken = &self.bytes[self.offset..self.offset + len];
        self.offset += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: impl Fn() -> String) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: impl Fn() -> String) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: impl Fn() -> String) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of 64 bits, which must not exceed `limit`.
    fn count(&mut self, what: &str, limit: u64) -> Result<usize, GgufError> {
        let count = self.u64(|| what.to_owned())?;
        let within = usize::try_from(count).ok().filter(|_| count <= limit);
        within.ok_or_else(|| GgufError::TooMany { what: what.to_owned(), count, limit })
    }

    fn value_type(&mut self, what: impl Fn() -> String) -> Result<ValueType, GgufError> {
        let number = self.u32(&what)?;
        ValueType::from_number(number).ok_or_else(|| GgufError::UnknownValueType { what: what(), number })
    }

    /// A string with its length before it, at most `limit` bytes.
    fn string(&mut self, limit: u64, what: impl Fn() -> String) -> Result<String, GgufError> {
        let offset = self.offset;
        let count = self.u64(&what)?;
        let len = usize::try_from(count).ok().filter(|_| count <= limit);
        let len = len.ok_or_else(|| GgufError::TooMany { what: format!("the bytes of {}", what()), count, limit })?;
        let bytes = self.take(len, &what)?;
        let text = std::str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 { what: what(), offset })?;
        Ok(text.to_owned())
    }

    /// `len` numbers of `N` bytes each.
    fn numbers<T, const N: usize>(
        &mut self,
        len: usize,
        what: impl Fn() -> String,
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        let bytes = self.take(len.saturating_mul(N), what)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|chunk| decode(*chunk)).collect())
    }
}
