//! The typed key-value pairs at the head of a GGUF file.
//!
//! Getters are generic over what the caller wants (`metadata.get::<u32>(key)`) and convert between the integer widths
//! and between f32 and f64, because writers disagree about them; they never round, wrap or truncate. A value of the wrong
//! kind is an error that names the key, what was found and what was expected.

use std::{collections::HashMap, fmt};

/// The type of a value, with the number GGUF gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs, reason = "the format's own names")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with GGUF's number `number`.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// GGUF's number of the type.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// Bytes of one value; of a string, at least its length field.
    pub(crate) fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        })
    }
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are their types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of values of one type. Arrays of arrays are not supported (no known model has any).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are their types")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Strings(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Runs `$body` with `$values` bound to the vector inside an [`Array`], whatever its type.
macro_rules! with_values {
    ($array:expr, $values:ident => $body:expr) => {
        match $array {
            Array::U8($values) => $body,
            Array::I8($values) => $body,
            Array::U16($values) => $body,
            Array::I16($values) => $body,
            Array::U32($values) => $body,
            Array::I32($values) => $body,
            Array::F32($values) => $body,
            Array::Bool($values) => $body,
            Array::Strings($values) => $body,
            Array::U64($values) => $body,
            Array::I64($values) => $body,
            Array::F64($values) => $body,
        }
    };
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        with_values!(self, values => values.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Strings(_) => ValueType::String,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The element at `index` as a value of its own.
    pub fn value(&self, index: usize) -> Option<Value> {
        Some(match self {
            Self::U8(values) => Value::U8(*values.get(index)?),
            Self::I8(values) => Value::I8(*values.get(index)?),
            Self::U16(values) => Value::U16(*values.get(index)?),
            Self::I16(values) => Value::I16(*values.get(index)?),
            Self::U32(values) => Value::U32(*values.get(index)?),
            Self::I32(values) => Value::I32(*values.get(index)?),
            Self::F32(values) => Value::F32(*values.get(index)?),
            Self::Bool(values) => Value::Bool(*values.get(index)?),
            Self::Strings(values) => Value::String(values.get(index)?.clone()),
            Self::U64(values) => Value::U64(*values.get(index)?),
            Self::I64(values) => Value::I64(*values.get(index)?),
            Self::F64(values) => Value::F64(*values.get(index)?),
        })
    }
}

impl Value {
    /// The type of the value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The type in words: "u32", "array of string".
    pub fn type_name(&self) -> String {
        match self {
            Self::Array(array) => format!("array of {}", array.element_type()),
            other => other.value_type().to_string(),
        }
    }

    /// The value as an integer, if it is one of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }
}

impl fmt::Display for Value {
    /// The value for people: long arrays are cut, strings are quoted as they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => value.fmt(f),
            Self::I8(value) => value.fmt(f),
            Self::U16(value) => value.fmt(f),
            Self::I16(value) => value.fmt(f),
            Self::U32(value) => value.fmt(f),
            Self::I32(value) => value.fmt(f),
            Self::F32(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::String(value) => f.write_str(value),
            Self::Array(array) => write!(f, "[{} × {}]", array.len(), array.element_type()),
            Self::U64(value) => value.fmt(f),
            Self::I64(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
        }
    }
}

/// An error in asking for a metadata value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetadataError {
    /// The key is not there.
    #[error("metadata key '{key}' is missing: expected {expected}")]
    Missing {
        /// The key asked for.
        key: String,
        /// The type expected.
        expected: &'static str,
    },
    /// The value has another type.
    #[error("metadata key '{key}' has type {found}: expected {expected}")]
    Type {
        /// The key asked for.
        key: String,
        /// The type found.
        found: String,
        /// The type expected.
        expected: &'static str,
    },
    /// The value does not fit the type asked for.
    #[error("metadata key '{key}' is {found}: expected {expected}")]
    Range {
        /// The key asked for.
        key: String,
        /// The value found.
        found: String,
        /// The type expected.
        expected: &'static str,
    },
}

/// Why a value could not be converted; the key is added by [`Metadata`].
#[derive(Clone, Debug, PartialEq)]
pub enum Mismatch {
    /// Another type.
    Type,
    /// The right kind, but out of range; the value.
    Range(String),
}

/// What a metadata value can be asked for as.
pub trait FromValue<'a>: Sized {
    /// The type in words, for errors.
    const EXPECTED: &'static str;

    /// Converts without loss, or says why not.
    fn from_value(value: &'a Value) -> Result<Self, Mismatch>;
}

macro_rules! integers {
    ($($type:ty => $expected:literal),*) => {$(
        impl<'a> FromValue<'a> for $type {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
                let integer = value.as_integer().ok_or(Mismatch::Type)?;
                integer.try_into().map_err(|_| Mismatch::Range(integer.to_string()))
            }
        }
        impl<'a> FromValue<'a> for Vec<$type> {
            const EXPECTED: &'static str = concat!("an array of integers, each ", $expected);
            fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
                let Value::Array(array) = value else { return Err(Mismatch::Type) };
                let convert = |index| <$type>::from_value_owned(array.value(index).as_ref());
                (0..array.len()).map(convert).collect()
            }
        }
        impl FromElement for $type {}
    )*};
}

/// Conversion of an array's element, which is built on the spot and so can not be borrowed from.
trait FromElement: for<'b> FromValue<'b> {
    fn from_value_owned(value: Option<&Value>) -> Result<Self, Mismatch> {
        value.map_or(Err(Mismatch::Type), Self::from_value)
    }
}

integers!(
    u8 => "an integer of 0 to 255",
    u32 => "an unsigned integer of 32 bits",
    i32 => "an integer of 32 bits",
    u64 => "an unsigned integer",
    i64 => "an integer of 64 bits",
    usize => "an unsigned integer"
);

impl<'a> FromValue<'a> for f64 {
    const EXPECTED: &'static str = "a number";

    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        match *value {
            Value::F32(number) => Ok(number.into()),
            Value::F64(number) => Ok(number),
            // Some writers store round figures (a rope base of 10000) as integers.
            _ => match value.as_integer() {
                Some(integer) if integer.unsigned_abs() <= 1 << 53 => Ok(integer as f64),
                Some(integer) => Err(Mismatch::Range(integer.to_string())),
                None => Err(Mismatch::Type),
            },
        }
    }
}

impl<'a> FromValue<'a> for f32 {
    const EXPECTED: &'static str = "a number";

    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        let number = f64::from_value(value)?;
        let narrow = number as f32;
        if number.is_finite() && narrow.is_infinite() {
            return Err(Mismatch::Range(number.to_string()));
        }
        Ok(narrow)
    }
}

impl FromElement for f32 {}

impl<'a> FromValue<'a> for Vec<f32> {
    const EXPECTED: &'static str = "an array of numbers";

    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        match value {
            Value::Array(Array::F32(values)) => Ok(values.clone()),
            Value::Array(array) => (0..array.len()).map(|i| f32::from_value_owned(array.value(i).as_ref())).collect(),
            _ => Err(Mismatch::Type),
        }
    }
}

impl<'a> FromValue<'a> for bool {
    const EXPECTED: &'static str = "a bool";

    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        if let Value::Bool(flag) = *value { Ok(flag) } else { Err(Mismatch::Type) }
    }
}

impl<'a> FromValue<'a> for Vec<bool> {
    const EXPECTED: &'static str = "an array of bool";

    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        if let Value::Array(Array::Bool(flags)) = value { Ok(flags.clone()) } else { Err(Mismatch::Type) }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        if let Value::String(text) = value { Ok(text) } else { Err(Mismatch::Type) }
    }
}

impl<'a> FromValue<'a> for &'a [String] {
    const EXPECTED: &'static str = "an array of strings";

    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        match value {
            Value::Array(Array::Strings(texts)) => Ok(texts),
            // An empty array may carry any element type.
            Value::Array(array) if array.is_empty() => Ok(&[]),
            _ => Err(Mismatch::Type),
        }
    }
}

impl<'a> FromValue<'a> for &'a Value {
    const EXPECTED: &'static str = "a value";

    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        Ok(value)
    }
}

/// The key-value pairs of a file, in the file's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// No pairs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every pair, in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether `key` is there.
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// The value of `key`, of whatever type.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.index.get(key).and_then(|&at| self.entries.get(at)).map(|(_, value)| value)
    }

    /// Sets `key`, in place if it is there, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.index.get(&key).and_then(|&at| self.entries.get_mut(at)) {
            Some(entry) => entry.1 = value,
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// The value of `key` as a `T`, which must be there.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, MetadataError> {
        let missing = || MetadataError::Missing { key: key.to_owned(), expected: T::EXPECTED };
        self.find(key)?.ok_or_else(missing)
    }

    /// The value of `key` as a `T`, or `None` if the key is not there. A value of another type is still an error.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let converted = T::from_value(value).map_err(|mismatch| match mismatch {
            Mismatch::Type => {
                MetadataError::Type { key: key.to_owned(), found: value.type_name(), expected: T::EXPECTED }
            }
            Mismatch::Range(found) => MetadataError::Range { key: key.to_owned(), found, expected: T::EXPECTED },
        });
        converted.map(Some)
    }

    /// The value of `key`, which must be there, as a string.
    pub fn get_str(&self, key: &str) -> Result<&str, MetadataError> {
        self.get(key)
    }

    /// The value of `key`, which must be there, as an unsigned integer; any integer type that fits will do.
    pub fn get_u32(&self, key: &str) -> Result<u32, MetadataError> {
        self.get(key)
    }

    /// The value of `key`, which must be there, as a number.
    pub fn get_f32(&self, key: &str) -> Result<f32, MetadataError> {
        self.get(key)
    }

    /// The value of `key`, which must be there, as a bool.
    pub fn get_bool(&self, key: &str) -> Result<bool, MetadataError> {
        self.get(key)
    }

    /// The value of `key`, which must be there, as strings.
    pub fn get_strings(&self, key: &str) -> Result<&[String], MetadataError> {
        self.get(key)
    }

    /// The value of `key` for each of `count` layers: GGUF stores one integer when all layers agree, else an array with one
    /// for each layer. `None` if the key is not there.
    pub fn find_per_layer(&self, key: &str, count: usize) -> Result<Option<Vec<u32>>, MetadataError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        if !matches!(value, Value::Array(_)) {
            return Ok(self.find::<u32>(key)?.map(|value| vec![value; count]));
        }
        let values = self.get::<Vec<u32>>(key)?;
        if values.len() != count {
            let found = format!("an array of {} for {count} layers", values.len());
            return Err(MetadataError::Range { key: key.to_owned(), found, expected: "one integer for each layer" });
        }
        Ok(Some(values))
    }
}

impl FromIterator<(String, Value)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Self {
        let mut metadata = Self::new();
        for (key, value) in pairs {
            metadata.set(key, value);
        }
        metadata
    }
}

macro_rules! values_from {
    ($($type:ty => $variant:ident),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        }
    )*};
}

values_from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
             String => String, Array => Array, u64 => U64, i64 => I64, f64 => F64);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

macro_rules! arrays_from {
    ($($type:ty => $variant:ident),*) => {$(
        impl From<Vec<$type>> for Value {
            fn from(values: Vec<$type>) -> Self {
                Self::Array(Array::$variant(values))
            }
        }
    )*};
}

arrays_from!(u32 => U32, i32 => I32, f32 => F32, bool => Bool, String => Strings, u64 => U64, i64 => I64);
