//! What llguidance says of JSON Schemas made clearer, and what it allows made stricter.

use serde_json::{Map, Value, json};

/// Keywords whose value is a schema.
const SCHEMAS: [&str; 6] = ["items", "additionalItems", "additionalProperties", "not", "contains", "propertyNames"];
/// Keywords whose value is a list of schemas.
const LISTS: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
/// Keywords whose value is an object of schemas.
const OBJECTS: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// What llguidance says without quoting the keyword that it is about.
const WORDINGS: [(&str, &str); 7] = [
    ("oneOf constraints", "oneOf"),
    ("patternProperty regexes", "patternProperties"),
    ("Unknown format", "format"),
    ("anyOf is empty", "enum"),
    ("Resource '", "$ref"),
    ("Resource '", "$dynamicRef"),
    ("Resource '", "$schema"),
];

/// The message of llguidance, with the place of the keyword it is about, as a JSON Pointer (RFC 6901).
pub(super) fn explain(schema: &Value, message: &str) -> String {
    let message = message.trim();
    let is_quoted =
        |keyword: &str| message.contains(&format!("\"{keyword}\"")) || message.contains(&format!("'{keyword}'"));
    let is_told = |keyword: &str| WORDINGS.iter().any(|(part, meant)| keyword == *meant && message.contains(part));
    let found = find(schema, &|keyword| is_quoted(keyword) || is_told(keyword));
    // What another schema says that this one refers to.
    match found.or_else(|| find(schema, &|keyword| keyword == "$ref")) {
        Some((path, keyword)) => format!("'{keyword}' at {path} can not be followed: {message}"),
        None => message.to_owned(),
    }
}

/// The first keyword that `is_meant`, and where it stands.
fn find(schema: &Value, is_meant: &dyn Fn(&str) -> bool) -> Option<(String, String)> {
    let mut found = None;
    visit(schema, String::new(), &mut |path, schema| {
        if found.is_none() {
            found =
                schema.keys().find(|keyword| is_meant(keyword)).map(|keyword| (join(path, keyword), keyword.clone()));
        }
    });
    found
}

/// Shows every schema in a schema, and where it stands, those further out first.
fn visit(schema: &Value, path: String, see: &mut dyn FnMut(&str, &Map<String, Value>)) {
    let Some(schema) = schema.as_object() else { return };
    see(&path, schema);
    for (keyword, value) in schema {
        let inner = join(&path, keyword);
        let keyword = keyword.as_str();
        match value {
            Value::Array(list) if LISTS.contains(&keyword) || keyword == "items" => {
                list.iter().enumerate().for_each(|(index, value)| visit(value, format!("{inner}/{index}"), see));
            }
            Value::Object(object) if OBJECTS.contains(&keyword) => {
                object.iter().for_each(|(name, value)| visit(value, join(&inner, name), see));
            }
            value if SCHEMAS.contains(&keyword) => visit(value, inner, see),
            _ => {}
        }
    }
}

/// The schema with stricter words for formats of which llguidance allows too much: 29 February in any year, and the
/// sixtieth second of any minute.
fn strengthened(schema: &Value) -> Value {
    let mut places = Vec::new();
    visit(schema, String::new(), &mut |path, schema| {
        let format = schema.get("format").and_then(Value::as_str);
        places.extend(format.and_then(pattern_of).map(|pattern| (path.to_owned(), pattern)));
    });
    let mut schema = schema.clone();
    for (path, pattern) in places {
        let Some(place) = schema.pointer_mut(&path).and_then(Value::as_object_mut) else { continue };
        let stricter = json!({"pattern": format!("^(?:{pattern})$")});
        // Where it is something else, there is no schema, and llguidance says so.
        if let Value::Array(all) = place.entry("allOf").or_insert_with(|| json!([])) {
            all.push(stricter);
        }
    }
    schema
}

/// White space between the parts of JSON: a space, or a new line and its indentation. All that JSON allows would let a
/// model that is at a loss write blanks until its tokens are used up.
const WHITE_SPACE: &str = r"\x20|\n[\x20\x09]{0,20}";

/// The schema as it is compiled: strengthened, and with little white space unless it asks for more itself.
pub(super) fn compiled(schema: &Value) -> Value {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        schema => strengthened(schema),
    };
    if let Some(object) = schema.as_object_mut() {
        object.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": WHITE_SPACE}));
    }
    schema
}

/// RFC 3339, section 5.6, without leap seconds.
fn pattern_of(format: &str) -> Option<String> {
    let date = "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)\
                |02-(?:0[1-9]|1[0-9]|2[0-8]))\
                |(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29";
    let time = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
    match format {
        "date" => Some(date.to_owned()),
        "time" => Some(time.to_owned()),
        "date-time" => Some(format!("(?:{date})[tT]{time}")),
        _ => None,
    }
}

fn join(path: &str, name: &str) -> String {
    format!("{path}/{}", escaped(name))
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &Value, message: &str, expected: &str) {
        let text = explain(schema, message);
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn the_keyword_is_found_where_it_stands() {
        let schema = json!({"properties": {"a/b": {"anyOf": [{"type": "null"}, {"uniqueItems": true}]}}});
        check(
            &schema,
            "Unimplemented keys: [\"uniqueItems\"]",
            "'uniqueItems' at /properties/a~1b/anyOf/1/uniqueItems",
        );
        check(&json!({"oneOf": [true, true]}), "oneOf constraints are not supported", "'oneOf' at /oneOf");
        check(&json!({"$ref": "http://x"}), "Unresolvable $ref: http://x", "'$ref' at /$ref");
        check(&json!({"type": 7}), "something else", "something else");
    }
}
