//! Which kinds of JSON a schema allows, and values that are written as plain text read by that.

use serde_json::Value;

/// Deepest chain of references and alternatives that is followed.
const MAX_DEPTH: usize = 8;

/// A set of kinds of JSON values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    const NONE: Self = Self(0);
    const STRING: Self = Self(1);
    const INTEGER: Self = Self(2);
    /// With or without a fraction.
    const NUMBER: Self = Self(2 | 4);
    const BOOLEAN: Self = Self(8);
    const NULL: Self = Self(16);
    const ARRAY: Self = Self(32);
    const OBJECT: Self = Self(64);
    pub(super) const ANY: Self = Self(127);

    /// What `schema` allows, a part of `root`.
    pub(super) fn of_schema(schema: &Value, root: &Value) -> Self {
        Self::at_depth(schema, root, 0)
    }

    fn at_depth(schema: &Value, root: &Value, depth: usize) -> Self {
        let Some(object) = schema.as_object().filter(|_| depth < MAX_DEPTH) else { return Self::ANY };
        let mut kinds = match object.get("type") {
            Some(Value::String(name)) => Self::named(name),
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).map(Self::named).fold(Self::NONE, Self::or)
            }
            _ => Self::ANY,
        };
        if let Some(Value::Array(values)) = object.get("enum") {
            kinds = kinds.and(values.iter().map(Self::of_value).fold(Self::NONE, Self::or));
        }
        if let Some(value) = object.get("const") {
            kinds = kinds.and(Self::of_value(value));
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(Value::Array(ways)) = object.get(keyword) {
                let of_ways = ways.iter().map(|way| Self::at_depth(way, root, depth + 1));
                kinds = kinds.and(of_ways.fold(Self::NONE, Self::or));
            }
        }
        let referred = object.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix('#'));
        if let Some(meant) = referred.and_then(|pointer| root.pointer(pointer)) {
            kinds = kinds.and(Self::at_depth(meant, root, depth + 1));
        }
        // A schema that allows nothing tells nothing.
        if kinds == Self::NONE { Self::ANY } else { kinds }
    }

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "integer" => Self::INTEGER,
            "number" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            "null" => Self::NULL,
            "array" => Self::ARRAY,
            "object" => Self::OBJECT,
            _ => Self::ANY,
        }
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::String(_) => Self::STRING,
            Value::Number(number) if number.is_f64() => Self::NUMBER,
            Value::Number(_) => Self::INTEGER,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Null => Self::NULL,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn has(self, other: Self) -> bool {
        self.and(other) == other
    }

    /// Whether values are texts, whatever they look like.
    pub(super) fn is_text(self) -> bool {
        self == Self::STRING
    }

    /// Whether a value may be a text.
    pub(super) fn has_text(self) -> bool {
        self.has(Self::STRING)
    }

    /// Whether only some words are not texts.
    pub(super) fn is_text_or_word(self) -> bool {
        self.has_text() && self.and(Self::STRING.or(Self::BOOLEAN).or(Self::NULL)) == self
    }

    /// A value that is written as plain text, as JSON: what the schema allows if the text is that, else a string.
    pub(super) fn read(self, text: &str) -> String {
        let trimmed = text.trim();
        let parsed: Option<Value> = serde_json::from_str(trimmed).ok();
        if parsed.as_ref().is_some_and(|value| self.has(Self::of_value(value))) {
            return trimmed.to_owned();
        }
        // Templates write arguments as Python does.
        match trimmed {
            "True" if self.has(Self::BOOLEAN) => return "true".to_owned(),
            "False" if self.has(Self::BOOLEAN) => return "false".to_owned(),
            "None" if self.has(Self::NULL) => return "null".to_owned(),
            _ => {}
        }
        match parsed {
            Some(_) if !self.has_text() => trimmed.to_owned(),
            _ => Value::from(text).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &Value, cases: &[(&str, &str)]) {
        let kinds = Kinds::of_schema(schema, schema);
        for (text, expected) in cases {
            assert_eq!(kinds.read(text), *expected, "{text:?} by {schema}");
        }
    }

    #[test]
    fn texts_are_read_by_the_schema() {
        check(&json!({"type": "string"}), &[("7", "\"7\""), ("a\n", "\"a\\n\""), ("null", "\"null\"")]);
        check(&json!({"type": "integer"}), &[(" 7\n", "7"), ("7.5", "7.5"), ("seven", "\"seven\"")]);
        check(&json!({"type": ["string", "null"]}), &[("7", "\"7\""), ("null", "null"), ("None", "null")]);
        check(&json!({"type": "boolean"}), &[("True", "true"), ("false", "false")]);
        check(&json!({"type": "object"}), &[("{\"a\": [1]}", "{\"a\": [1]}"), ("{'a'}", "\"{'a'}\"")]);
        check(&json!({}), &[("7", "7"), ("x y", "\"x y\""), ("[1, 2]", "[1, 2]")]);
        check(&json!({"enum": ["1", "2"]}), &[("1", "\"1\"")]);
        check(
            &json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "number"}, {"const": "all"}]}}}),
            &[("7", "7"), ("all", "\"all\""), ("true", "\"true\"")],
        );
        check(&json!({"$ref": "#"}), &[("7", "7")]);
    }
}
