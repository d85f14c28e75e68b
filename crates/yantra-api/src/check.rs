//! Range checks that all say the same three things: the field, what was given, what is allowed.

use std::ops::RangeInclusive;

use crate::ApiError;

fn refuse<T>(field: &str, given: impl std::fmt::Display, expected: impl std::fmt::Display) -> Result<T, ApiError> {
    Err(ApiError::invalid_param(field, format_args!("{given} given, {expected} expected")))
}

/// A number within a range, or `default`.
pub(crate) fn number(
    field: &str,
    given: Option<f64>,
    range: RangeInclusive<f64>,
    default: f32,
) -> Result<f32, ApiError> {
    match given {
        None => Ok(default),
        Some(value) if range.contains(&value) => Ok(value as f32),
        Some(value) => refuse(field, value, format_args!("{} to {}", range.start(), range.end())),
    }
}

/// As [`number`], with the lower end left out.
pub(crate) fn positive(field: &str, given: Option<f64>, most: f64, default: f32) -> Result<f32, ApiError> {
    match given {
        None => Ok(default),
        Some(value) if value as f32 > 0.0 && value <= most => Ok(value as f32),
        Some(value) => refuse(field, value, format_args!("more than 0 and at most {most}")),
    }
}

/// An integer within a range, or `None`.
pub(crate) fn integer(field: &str, given: Option<i64>, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
    match given {
        Some(value) if !range.contains(&value) => {
            refuse(field, value, format_args!("{} to {}", range.start(), range.end()))
        }
        given => Ok(given),
    }
}

/// As [`integer`], as a count. The range must not reach below zero.
pub(crate) fn count(field: &str, given: Option<i64>, range: RangeInclusive<i64>) -> Result<Option<usize>, ApiError> {
    Ok(integer(field, given, range)?.and_then(|value| usize::try_from(value).ok()))
}

/// The number of entries of a list.
pub(crate) fn length(field: &str, given: usize, range: RangeInclusive<usize>) -> Result<(), ApiError> {
    if range.contains(&given) {
        return Ok(());
    }
    refuse(field, format_args!("{given} entries"), format_args!("{} to {}", range.start(), range.end()))
}
