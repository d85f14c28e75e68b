//! A JSON object with typed access, for `config.json` and its relatives.
//!
//! Keys may be dotted to reach into objects (`rope_scaling.factor`). A key that is absent and a key whose value is null
//! are the same thing, because writers of these files treat them so.

use super::read_optional;
use crate::FormatError;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A JSON object read from a file.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    value: Value,
}

impl Config {
    /// Reads the file at `path`; `None` if there is none.
    pub(super) fn read_optional(path: &Path) -> Result<Option<Self>, FormatError> {
        read_optional(path)?.map(|bytes| Self::parse(path, &bytes)).transpose()
    }

    /// Reads bytes that are from no file of their own; `path` appears in errors.
    ///
    /// # Errors
    /// If they are not JSON.
    pub fn parse(path: impl Into<PathBuf>, bytes: &[u8]) -> Result<Self, FormatError> {
        let path = path.into();
        match serde_json::from_slice(bytes) {
            Ok(value) => Ok(Self { path, value }),
            Err(error) => {
                let problem = match crate::checkpoint::recognise(bytes) {
                    Some(found) => format!("it is {found}, not JSON"),
                    None => format!("it is not JSON: {error}"),
                };
                Err(FormatError::Json { path, problem })
            }
        }
    }

    /// Reads the file at `path`, which must hold an object; `None` if there is no file.
    pub(crate) fn read_optional_object(path: &Path) -> Result<Option<Self>, FormatError> {
        let Some(config) = Self::read_optional(path)? else { return Ok(None) };
        if !config.value.is_object() {
            return Err(config.invalid(format!("expected an object, found {}", kind(&config.value))));
        }
        Ok(Some(config))
    }

    /// A configuration that is in no file; `path` appears in errors.
    pub fn from_value(path: impl Into<PathBuf>, value: Value) -> Self {
        Self { path: path.into(), value }
    }

    /// The file read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The object at `key` as a configuration of its own, or `None` if it is not there.
    pub fn section(&self, key: &str) -> Option<Self> {
        let value = self.lookup(key)?.clone();
        Some(Self { path: self.path.clone(), value })
    }

    /// The value of `key` as a `T`, which must be there.
    ///
    /// # Errors
    /// If it is not, or is something else; the message names file, key, what was found and what was expected.
    pub fn get<'a, T: FromJson<'a>>(&'a self, key: &str) -> Result<T, FormatError> {
        let missing = || self.invalid(format!("key '{key}' is missing: expected {}", T::EXPECTED));
        self.find(key)?.ok_or_else(missing)
    }

    /// The value of `key` as a `T`, or `None` if it is absent or null. A value of another type is still an error.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn find<'a, T: FromJson<'a>>(&'a self, key: &str) -> Result<Option<T>, FormatError> {
        let Some(value) = self.lookup(key) else { return Ok(None) };
        let mismatch = || self.invalid(format!("key '{key}' is {}: expected {}", kind(value), T::EXPECTED));
        T::from_json(value).ok_or_else(mismatch).map(Some)
    }

    fn lookup(&self, key: &str) -> Option<&Value> {
        // A plain key wins over a dotted path, should a file really have a key with a dot in it.
        let plain = self.value.get(key);
        let dotted = || key.split('.').try_fold(&self.value, |value, part| value.get(part));
        plain.or_else(dotted).filter(|value| !value.is_null())
    }

    pub(crate) fn invalid(&self, problem: String) -> FormatError {
        FormatError::Json { path: self.path.clone(), problem }
    }
}

/// What a JSON value is, in words, with the value where it is short.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) if text.chars().count() <= 40 => format!("the string '{text}'"),
        Value::String(_) => "a long string".to_owned(),
        Value::Array(values) => format!("an array of {}", values.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// What a JSON value can be asked for as.
pub trait FromJson<'a>: Sized {
    /// The type in words, for errors.
    const EXPECTED: &'static str;

    /// Converts without loss, or not at all.
    fn from_json(value: &'a Value) -> Option<Self>;
}

impl<'a> FromJson<'a> for u64 {
    const EXPECTED: &'static str = "an unsigned integer";

    fn from_json(value: &'a Value) -> Option<Self> {
        // Some writers store whole numbers as 8192.0.
        let whole = || value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=2_f64.powi(53)).contains(number));
        value.as_u64().or_else(|| whole().map(|number| number as u64))
    }
}

impl<'a> FromJson<'a> for u32 {
    const EXPECTED: &'static str = "an unsigned integer of 32 bits";

    fn from_json(value: &'a Value) -> Option<Self> {
        u64::from_json(value)?.try_into().ok()
    }
}

impl<'a> FromJson<'a> for usize {
    const EXPECTED: &'static str = "an unsigned integer";

    fn from_json(value: &'a Value) -> Option<Self> {
        u64::from_json(value)?.try_into().ok()
    }
}

impl<'a> FromJson<'a> for f64 {
    const EXPECTED: &'static str = "a number";

    fn from_json(value: &'a Value) -> Option<Self> {
        value.as_f64()
    }
}

impl<'a> FromJson<'a> for f32 {
    const EXPECTED: &'static str = "a number";

    fn from_json(value: &'a Value) -> Option<Self> {
        value.as_f64().map(|number| number as f32).filter(|number| number.is_finite())
    }
}

impl<'a> FromJson<'a> for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_json(value: &'a Value) -> Option<Self> {
        value.as_bool()
    }
}

impl<'a> FromJson<'a> for &'a str {
    const EXPECTED: &'static str = "a string";

    fn from_json(value: &'a Value) -> Option<Self> {
        value.as_str()
    }
}

impl<'a> FromJson<'a> for &'a Value {
    const EXPECTED: &'static str = "a value";

    fn from_json(value: &'a Value) -> Option<Self> {
        Some(value)
    }
}

impl<'a, T: FromJson<'a>> FromJson<'a> for Vec<T> {
    const EXPECTED: &'static str = "an array with one type of element";

    fn from_json(value: &'a Value) -> Option<Self> {
        value.as_array()?.iter().map(T::from_json).collect()
    }
}
