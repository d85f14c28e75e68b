//! What Python's objects do and minijinja's do not: `str()`, `repr()` and the methods templates call.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Output, State, Value};

/// `repr(float)`: the shortest text that reads back the same, with an exponent outside `1e-4 ≤ |x| < 1e16`.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // Rust's `{:?}` switches to an exponent at the same magnitudes, but writes `1e-7` where Python writes `1e-07`.
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// Prints `{{ value }}` as Python does; only what holds a float differs from minijinja's own printing.
pub(super) fn format_output(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            let mut text = String::new();
            write_repr(&mut text, value, 0);
            out.write_str(&text).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// The `string` filter: Python's `str()`.
pub(super) fn string(value: &Value) -> Value {
    match value.kind() {
        ValueKind::String => value.clone(),
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            let mut text = String::new();
            write_repr(&mut text, value, 0);
            Value::from(text)
        }
        _ => Value::from(value.to_string()),
    }
}

/// Deeper values print as minijinja prints them, which has a limit of its own.
const MAX_REPR_DEPTH: usize = 100;

fn write_repr(out: &mut String, value: &Value, depth: usize) {
    match value.kind() {
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(float) => out.push_str(&float_repr(float)),
            Err(_) => out.push_str(&value.to_string()),
        },
        ValueKind::Seq if depth < MAX_REPR_DEPTH => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &item, depth + 1);
            }
            if value.is_tuple() && value.len() == Some(1) {
                out.push(',');
            }
            out.push(close);
        }
        // Macros, namespaces and the like are maps too, but print in a way of their own.
        ValueKind::Map if depth < MAX_REPR_DEPTH && format!("{value}").starts_with('{') => {
            out.push('{');
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &key, depth + 1);
                out.push_str(": ");
                write_repr(out, &value.get_item(&key).unwrap_or_default(), depth + 1);
            }
            out.push('}');
        }
        _ => out.push_str(&format!("{value:?}")),
    }
}

/// `is iterable`: unlike minijinja, Jinja2 does not count `none`.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// `is sequence`: whatever has a length and takes an index, so texts and mappings too.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
}

/// `is number`: in Python a bool is one.
pub(super) fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

/// Python's `str.isspace`: Unicode white space and the four information separators.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Methods of Python's `str`, `dict` and `list` that minijinja has not.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), name, args)?,
        ValueKind::Seq => list_method(value, name, args)?,
        ValueKind::Map if name == "copy" => Some(value.clone()),
        _ => None,
    };
    match own {
        Some(value) => Ok(value),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn list_method(value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => Ok(Some(value.clone())),
        "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            let position = value.try_iter()?.position(|item| item == wanted);
            position
                .map(|position| Some(Value::from(position)))
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in list")))
        }
        _ => Ok(None),
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<Value>,) = from_args(args)?;
            let chars = chars.filter(|chars| !chars.is_none()).map(|chars| chars.to_string());
            let drop = |character: char| match &chars {
                Some(chars) => chars.contains(character),
                None => is_space(character),
            };
            Value::from(match name {
                "strip" => text.trim_matches(drop),
                "lstrip" => text.trim_start_matches(drop),
                _ => text.trim_end_matches(drop),
            })
        }
        "split" | "rsplit" => split(text, args, name == "rsplit")?,
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(args)?;
            let rest = if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Value::from(rest.unwrap_or(text))
        }
        "casefold" => Value::from(text.to_lowercase()),
        "index" => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = text.find(wanted).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "ljust" | "rjust" | "zfill" => justify(text, name, args)?,
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// Pads to a width of at most this many characters.
const MAX_WIDTH: usize = 1 << 16;

fn justify(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    let missing = width.min(MAX_WIDTH).saturating_sub(text.chars().count());
    let padding = if name == "zfill" { "0" } else { fill.unwrap_or(" ") }.repeat(missing);
    Ok(Value::from(match name {
        "ljust" => format!("{text}{padding}"),
        "zfill" => match text.strip_prefix(['+', '-']) {
            Some(digits) => format!("{}{padding}{digits}", &text[..1]),
            None => format!("{padding}{text}"),
        },
        _ => format!("{padding}{text}"),
    }))
}

/// `str.split` and `str.rsplit`, with `sep` and `maxsplit` by position or name.
fn split(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, limit, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => Some(separator),
        None => kwargs.get::<Option<Value>>("sep")?,
    };
    let limit = match limit {
        Some(limit) => limit,
        None => kwargs.get::<Option<i64>>("maxsplit")?.unwrap_or(-1),
    };
    kwargs.assert_all_used()?;
    let max_parts = usize::try_from(limit).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let parts: Vec<&str> = match separator.filter(|separator| !separator.is_none()) {
        Some(separator) => {
            let separator = separator.as_str().ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, format!("must be str or None, not {}", separator.kind()))
            })?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            if from_right {
                let mut parts: Vec<&str> = text.rsplitn(max_parts, separator).collect();
                parts.reverse();
                parts
            } else {
                text.splitn(max_parts, separator).collect()
            }
        }
        None => split_on_space(text, max_parts, from_right),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn split_on_space(text: &str, max_parts: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match cut {
            Some(at) if parts.len() + 1 < max_parts => {
                if from_right {
                    parts.push(rest[at..].trim_start_matches(is_space));
                    rest = rest[..at].trim_end_matches(is_space);
                } else {
                    parts.push(&rest[..at]);
                    rest = rest[at..].trim_start_matches(is_space);
                }
            }
            // The last part allowed keeps its inner and far-side space, as in Python.
            _ => {
                parts.push(rest);
                break;
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use minijinja::Environment;

    fn check(expression: &str, expected: &str) {
        let mut env = Environment::new();
        env.set_unknown_method_callback(super::method);
        env.set_formatter(super::format_output);
        env.add_filter("string", super::string);
        let rendered = env.render_str(&format!("{{{{ {expression} }}}}"), ()).unwrap();
        assert_eq!(rendered, expected, "{expression}");
    }

    /// Expected values are what CPython prints.
    #[test]
    fn values_print_as_in_python() {
        for (expression, expected) in [
            ("1e22", "1e+22"),
            ("1e15", "1000000000000000.0"),
            ("0.00001", "1e-05"),
            ("1.5e-7", "1.5e-07"),
            ("2.0", "2.0"),
            ("[1.0, 1e-7, none, true, 'a\\'b', \"x\"]", "[1.0, 1e-07, None, True, \"a'b\", 'x']"),
            ("{'a': {'b': [0.1]}}", "{'a': {'b': [0.1]}}"),
            ("{'a': 1e-7}|string", "{'a': 1e-07}"),
            ("none", "None"),
            ("not true", "False"),
        ] {
            check(expression, expected);
        }
    }

    #[test]
    fn string_methods_work_as_in_python() {
        for (expression, expected) in [
            ("'a,b,c'.split(',', 1)", "['a', 'b,c']"),
            ("'a,b,c'.split(',', maxsplit=1)", "['a', 'b,c']"),
            ("'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"),
            ("'  a  b  c '.split()", "['a', 'b', 'c']"),
            ("'  a  b  c '.split(none, 1)", "['a', 'b  c ']"),
            ("'  a  b  c '.rsplit(none, 1)", "['  a  b', 'c']"),
            ("''.split()", "[]"),
            ("''.split(',')", "['']"),
            ("' xaax '.strip().strip('x')", "aa"),
            ("'a-b-c'.partition('-')[2]", "b-c"),
            ("'a-b-c'.rpartition('-')[0]", "a-b"),
            ("'prefix-x'.removeprefix('prefix-')", "x"),
            ("'-5'.zfill(4)", "-005"),
            ("'ab'.ljust(4) ~ '|'", "ab  |"),
            ("[3, 4].index(4)", "1"),
            ("'héllo'.index('l')", "2"),
        ] {
            check(expression, expected);
        }
    }
}
