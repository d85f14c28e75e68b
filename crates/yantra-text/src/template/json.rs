//! `tojson` exactly as Hugging Face defines it: Python's `json.dumps` with `ensure_ascii=False`, no HTML escaping.
//!
//! minijinja's own filter escapes `<`, `>`, `&` and `'`, as Flask does; models were not trained on that.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python::float_repr;

/// Nesting beyond this is refused, as Python does with its recursion limit.
const MAX_DEPTH: usize = 200;

/// Formatting options of `json.dumps`.
struct Style {
    ensure_ascii: bool,
    /// Indentation of one level, or `None` for one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// A JSON value as the template engine holds it; objects keep their order.
pub(super) fn from_json(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(entries) => Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), from_json(value)))),
    }
}

/// The `tojson` filter: `tojson(value, ensure_ascii=False, indent=None, separators=None, *, sort_keys=False)`.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    separators: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let argument = |positional: Option<Value>, name: &str| -> Result<Option<Value>, Error> {
        let value = match positional {
            Some(value) => Some(value),
            None => kwargs.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let ensure_ascii = argument(ensure_ascii, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = argument(indent, "indent")?.map(indent_text).transpose()?;
    let (item_separator, key_separator) = match argument(separators, "separators")? {
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let sort_keys = argument(None, "sort_keys")?.is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;
    let style = Style { ensure_ascii, indent, item_separator, key_separator, sort_keys };
    let mut out = String::new();
    write_value(&mut out, value, &style, 0)?;
    Ok(Value::from_safe_string(out))
}

/// Python takes a number of spaces or the text itself.
fn indent_text(value: Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let width = i64::try_from(value)?;
    Ok(" ".repeat(usize::try_from(width).unwrap_or(0).min(64)))
}

fn refuse(value: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a value of kind {} is not JSON serializable", value.kind()))
}

fn write_value(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("JSON nested deeper than {MAX_DEPTH} levels")));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => write_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_container(out, style, depth, ('[', ']'), items, |out, item| {
                write_value(out, &item, style, depth + 1)
            })?;
        }
        ValueKind::Map => write_map(out, value, style, depth)?,
        _ => return Err(refuse(value)),
    }
    Ok(())
}

fn write_map(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    let mut entries = Vec::new();
    for key in value.try_iter()? {
        let name = match key.kind() {
            ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
            ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
            ValueKind::None => "null".to_owned(),
            ValueKind::Number => number(&key),
            _ => return Err(refuse(&key)),
        };
        entries.push((name, value.get_item(&key)?));
    }
    if style.sort_keys {
        entries.sort_by(|a, b| a.0.cmp(&b.0));
    }
    write_container(out, style, depth, ('{', '}'), entries, |out, (name, item)| {
        write_string(out, &name, style.ensure_ascii);
        out.push_str(&style.key_separator);
        write_value(out, &item, style, depth + 1)
    })
}

fn write_container<T>(
    out: &mut String,
    style: &Style,
    depth: usize,
    brackets: (char, char),
    items: Vec<T>,
    mut write_item: impl FnMut(&mut String, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let is_empty = items.is_empty();
    let new_line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    };
    out.push(brackets.0);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(out, depth + 1);
        write_item(out, item)?;
    }
    if !is_empty {
        new_line(out, depth);
    }
    out.push(brackets.1);
    Ok(())
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) if float.is_nan() => "NaN".to_owned(),
        Ok(float) if float.is_infinite() => if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Ok(float) => float_repr(float),
        Err(_) => value.to_string(),
    }
}

fn write_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            character
                if character < ' '
                    || (ensure_ascii && !character.is_ascii())
                    || (ensure_ascii && character == '\u{7f}') =>
            {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            character => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use minijinja::{Environment, context};
    use serde_json::json;

    fn check(expression: &str, expected: &str) {
        let mut env = Environment::new();
        env.add_filter("tojson", super::tojson);
        let value = json!({"b": [1, 2.0, 1e-7, 1e22, null], "a": {"é<": true, "e": {}, "l": []}});
        let rendered =
            env.render_str(&format!("{{{{ {expression} }}}}"), context! { v => super::from_json(&value) }).unwrap();
        assert_eq!(rendered, expected, "{expression}");
    }

    /// Expected values are what CPython's `json.dumps` prints.
    #[test]
    fn formats_as_json_dumps() {
        check("v|tojson", r#"{"b": [1, 2.0, 1e-07, 1e+22, null], "a": {"é<": true, "e": {}, "l": []}}"#);
        check(
            "v|tojson(sort_keys=true, separators=(',',':'))",
            r#"{"a":{"e":{},"l":[],"é<":true},"b":[1,2.0,1e-07,1e+22,null]}"#,
        );
        check("v.a|tojson(ensure_ascii=True)", r#"{"\u00e9<": true, "e": {}, "l": []}"#);
        check("'\u{7f}😀\u{1}'|tojson(ensure_ascii=True)", r#""\u007f\ud83d\ude00\u0001""#);
        check("v.a|tojson(indent=2)", "{\n  \"é<\": true,\n  \"e\": {},\n  \"l\": []\n}");
        check("v.b|tojson(false, 1)", "[\n 1,\n 2.0,\n 1e-07,\n 1e+22,\n null\n]");
    }
}
