//! Grammars of values: what a JSON Schema allows, in Lark.
//!
//! llguidance's `%json` follows a schema, but lets numbers have any number of digits, and a model that is at a loss can
//! write zeros until its tokens are used up. So integers get bounds that 64 bits hold, and where a schema says `number`
//! the objects and arrays around it are written out in Lark, down to a number whose digits are counted.

use serde_json::{Map, Value, json};

/// A number that a double holds, in as many digits as it takes to tell it from the next one.
const NUMBER: &str = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/";
/// The largest power of ten that 64 bits hold and a double, by which llguidance compares, has exactly.
const MAX_INTEGER: i64 = 1_000_000_000_000_000_000;
/// Keywords that say nothing of what is allowed.
pub(super) const ANNOTATIONS: [&str; 7] =
    ["description", "title", "default", "examples", "$schema", "$comment", "deprecated"];

/// Rules of a grammar, named as they come.
#[derive(Debug, Default)]
pub(super) struct Rules {
    text: String,
    count: usize,
}

impl Rules {
    /// The name of a new rule.
    pub(super) fn add(&mut self, body: &str) -> String {
        let name = format!("r{}", self.count);
        self.count += 1;
        self.text += &format!("{name}: {body}\n");
        name
    }

    /// The name of a new rule of one terminal that ends as soon as it can.
    pub(super) fn add_lazy(&mut self, terminal: &str) -> String {
        let (token, name) = (format!("T{}", self.count), format!("r{}", self.count));
        self.count += 1;
        self.text += &format!("{token}: {terminal}\n{name}[lazy]: {token}\n");
        name
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What a schema allows, with a space where people write one and no other white space.
    pub(super) fn value(&mut self, schema: &Value) -> String {
        match schema.as_object() {
            Some(object) if has_open_number(schema) => self.written_out(object),
            _ => None,
        }
        .unwrap_or_else(|| format!("%json {}", with_white_space(bounded(schema))))
    }

    /// A schema of which all keywords are understood here, in Lark.
    fn written_out(&mut self, schema: &Map<String, Value>) -> Option<String> {
        let only = |known: &[&str]| {
            schema.keys().all(|keyword| known.contains(&keyword.as_str()) || ANNOTATIONS.contains(&keyword.as_str()))
        };
        match schema.get("type")? {
            Value::String(kind) if kind == "number" && only(&["type", "format"]) => Some(NUMBER.to_owned()),
            Value::String(kind) if kind == "array" && only(&["type", "items", "minItems", "maxItems"]) => {
                let count = |keyword: &str| schema.get(keyword).map_or(Some(None), |count| count.as_u64().map(Some));
                let (least, most) = (count("minItems")?.unwrap_or(0), count("maxItems")?);
                let item = self.value(schema.get("items")?);
                let item = self.add(&item);
                array(&item, least, most)
            }
            Value::String(kind)
                if kind == "object"
                    && schema.get("additionalProperties") == Some(&Value::Bool(false))
                    && only(&["type", "properties", "required", "additionalProperties"]) =>
            {
                let parts = self.properties(schema, |name, value| {
                    let key = quoted(&format!("{}: ", Value::from(name)));
                    format!("{key} {value}")
                });
                let listed = self.listed(&parts);
                Some(format!("\"{{\" {listed} \"}}\""))
            }
            _ => None,
        }
    }

    /// Each property of an object's schema, and whether it must be there, as a rule that `write` makes of its name and
    /// its value.
    pub(super) fn properties(
        &mut self,
        schema: &Map<String, Value>,
        write: impl Fn(&str, String) -> String,
    ) -> Vec<(bool, String)> {
        let property = |(name, property): (&String, &Value)| {
            let value = self.value(&with_definitions(property, schema));
            (is_required(schema, name), self.add(&write(name, value)))
        };
        schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(property).collect()
    }

    /// Parts in their order with commas between those that are there.
    pub(super) fn listed(&mut self, parts: &[(bool, String)]) -> String {
        let after = |parts: &[(bool, String)]| -> String {
            let one = |(is_required, name): &(bool, String)| match is_required {
                true => format!(" \", \" {name}"),
                false => format!(" (\", \" {name})?"),
            };
            parts.iter().map(one).collect()
        };
        if let Some(first) = parts.iter().position(|(is_required, _)| *is_required) {
            let before: String = parts[..first].iter().map(|(_, name)| format!("({name} \", \")? ")).collect();
            return format!("{before}{}{}", parts[first].1, after(&parts[first + 1..]));
        }
        // The first that is there has no comma before it. What may follow one is a rule, so that all have it in common.
        let mut ways = Vec::new();
        let mut rest: Option<String> = None;
        for (_, name) in parts.iter().rev() {
            ways.push(format!("{name} {}", rest.as_deref().unwrap_or_default()));
            let more = format!("(\", \" {name})? {}", rest.as_deref().unwrap_or_default());
            rest = Some(self.add(&more));
        }
        ways.reverse();
        if ways.is_empty() { "\"\"".to_owned() } else { format!("({})?", ways.join(" | ")) }
    }
}

fn array(item: &str, least: u64, most: Option<u64>) -> Option<String> {
    let more = match (least.saturating_sub(1), most) {
        (_, Some(0)) => return (least == 0).then(|| "\"[]\"".to_owned()),
        (_, Some(most)) if most < least => return None,
        (_, Some(1)) => String::new(),
        (0, None) => format!("(\", \" {item})*"),
        (least, None) => format!("(\", \" {item}){{{least},}}"),
        (least, Some(most)) => format!("(\", \" {item}){{{least},{}}}", most - 1),
    };
    let filled = format!("{item} {more}");
    Some(if least == 0 { format!("\"[\" ({filled})? \"]\"") } else { format!("\"[\" {filled} \"]\"") })
}

/// A text in Lark.
pub(super) fn quoted(text: &str) -> String {
    // Lark takes no control character as it is, and JSON lets DEL be.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

pub(super) fn is_required(schema: &Map<String, Value>, name: &str) -> bool {
    schema.get("required").and_then(Value::as_array).is_some_and(|names| names.iter().any(|given| given == name))
}

/// A property's schema by itself: with the definitions that it may refer to.
pub(super) fn with_definitions(property: &Value, schema: &Map<String, Value>) -> Value {
    let mut property = property.clone();
    if let Value::Object(property) = &mut property {
        for keyword in ["$defs", "definitions"] {
            if let Some(definitions) = schema.get(keyword) {
                property.entry(keyword).or_insert_with(|| definitions.clone());
            }
        }
    }
    property
}

/// Whether a schema allows a number without bounds somewhere.
fn has_open_number(schema: &Value) -> bool {
    let Some(schema) = schema.as_object() else { return false };
    let is_open = schema.get("type").is_some_and(|kind| kind == "number")
        && ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const"]
            .iter()
            .all(|keyword| !schema.contains_key(*keyword));
    let of_properties = schema.get("properties").and_then(Value::as_object);
    is_open || of_properties.into_iter().flat_map(Map::values).chain(schema.get("items")).any(has_open_number)
}

/// A schema whose integers have at most 19 digits, unless it says more itself.
pub(super) fn bounded(schema: &Value) -> Value {
    let mut schema = schema.clone();
    bound(&mut schema);
    schema
}

fn bound(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for (keyword, value) in object.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties" | "$defs" | "definitions" | "patternProperties", Value::Object(inner)) => {
                inner.values_mut().for_each(bound);
            }
            ("items" | "additionalProperties", value) => bound(value),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(list)) => list.iter_mut().for_each(bound),
            _ => {}
        }
    }
    let has = |keyword: &str| object.contains_key(keyword);
    let is_fixed = ["enum", "const", "multipleOf"].into_iter().any(has);
    if object.get("type").is_some_and(|kind| kind == "integer") && !is_fixed {
        let limit = |object: &Map<String, Value>, keywords: [&str; 2]| {
            let of = |keyword: &str| object.get(keyword).and_then(Value::as_f64);
            keywords.into_iter().find_map(of)
        };
        let (least, most) =
            (limit(object, ["minimum", "exclusiveMinimum"]), limit(object, ["maximum", "exclusiveMaximum"]));
        if least.is_none() && most.is_none_or(|most| most > -(MAX_INTEGER as f64)) {
            object.insert("minimum".to_owned(), json!(-MAX_INTEGER));
        }
        if most.is_none() && least.is_none_or(|least| least < MAX_INTEGER as f64) {
            object.insert("maximum".to_owned(), json!(MAX_INTEGER));
        }
    }
}

/// A schema with a space where people write one, and no other white space.
fn with_white_space(schema: Value) -> Value {
    // A schema may also be true.
    let mut schema = if schema == true { json!({}) } else { schema };
    if let Some(object) = schema.as_object_mut() {
        let guidance = json!({"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false});
        object.insert("x-guidance".to_owned(), guidance);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: &Value, expected: &str) {
        let mut rules = Rules::default();
        let value = rules.value(schema);
        assert_eq!(format!("{value}\n{}", rules.text()).trim_end(), expected);
    }

    #[test]
    fn digits_are_counted() {
        check(&json!({"type": "number", "description": "x"}), NUMBER);
        let bounds = json!({"type": "integer", "minimum": 0, "maximum": MAX_INTEGER});
        assert_eq!(bounded(&json!({"type": "integer", "minimum": 0})), bounds);
        assert_eq!(bounded(&json!({"items": {"type": "integer"}}))["items"]["minimum"], -MAX_INTEGER);
        let huge = json!({"type": "integer", "minimum": 1e30});
        assert_eq!(bounded(&huge), huge);
        let object = json!({"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "array", "items": {"type": "number"}, "maxItems": 3}},
            "required": ["b"], "additionalProperties": false});
        check(
            &object,
            &format!(
                "\"{{\" (r0 \", \")? r2 \"}}\"\nr0: \"\\\"a\\\": \" {NUMBER}\nr1: {NUMBER}\nr2: \"\\\"b\\\": \" \"[\" (r1 (\", \" r1){{0,2}})? \"]\""
            ),
        );
    }

    #[test]
    fn what_is_not_understood_is_left_to_llguidance() {
        for schema in [
            json!({"type": "number", "minimum": 0}),
            json!({"type": "object", "properties": {"a": {"type": "number"}}, "minProperties": 1}),
            json!({"type": "string"}),
            json!(true),
        ] {
            let value = Rules::default().value(&schema);
            assert!(value.starts_with("%json {"), "{schema}: {value}");
        }
    }
}
