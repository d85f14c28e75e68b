//! Says where in a JSON Schema that stands what can not be followed.

use serde_json::Value;

/// Keywords whose value is a schema.
const SCHEMAS: [&str; 6] = ["items", "additionalItems", "additionalProperties", "not", "contains", "propertyNames"];
/// Keywords whose value is a list of schemas.
const LISTS: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
/// Keywords whose value is an object of schemas.
const OBJECTS: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// The message of llguidance, with the place of the keyword it is about, as a JSON Pointer (RFC 6901).
pub(super) fn explain(schema: &Value, message: &str) -> String {
    let message = message.trim();
    // Quoted where it names keywords that it does not know, plain elsewhere.
    let is_meant = |keyword: &str| {
        message.contains(&format!("\"{keyword}\"")) || message.split(|c: char| !c.is_alphanumeric() && c != '$').any(|word| word == keyword)
    };
    match find(schema, &is_meant, String::new()) {
        Some((path, keyword)) => format!("'{keyword}' at {path} can not be followed: {message}"),
        None => message.to_owned(),
    }
}

/// The first keyword that `is_meant`, and where it stands.
fn find(schema: &Value, is_meant: &dyn Fn(&str) -> bool, path: String) -> Option<(String, String)> {
    let schema = schema.as_object()?;
    if let Some(keyword) = schema.keys().find(|keyword| is_meant(keyword)) {
        return Some((format!("{path}/{}", escaped(keyword)), keyword.clone()));
    }
    for (keyword, value) in schema {
        let inner = format!("{path}/{}", escaped(keyword));
        let keyword = keyword.as_str();
        let found = match value {
            Value::Array(list) if LISTS.contains(&keyword) || keyword == "items" => {
                list.iter().enumerate().find_map(|(index, value)| find(value, is_meant, format!("{inner}/{index}")))
            }
            Value::Object(object) if OBJECTS.contains(&keyword) => object
                .iter()
                .find_map(|(name, value)| find(value, is_meant, format!("{inner}/{}", escaped(name)))),
            value if SCHEMAS.contains(&keyword) => find(value, is_meant, inner),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
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
        check(&schema, "Unimplemented keys: [\"uniqueItems\"]", "'uniqueItems' at /properties/a~1b/anyOf/1/uniqueItems");
        check(&json!({"oneOf": [true, true]}), "oneOf constraints are not supported", "'oneOf' at /oneOf");
        check(&json!({"$ref": "http://x"}), "Unresolvable $ref: http://x", "'$ref' at /$ref");
        check(&json!({"type": 7}), "something else", "something else");
    }
}
