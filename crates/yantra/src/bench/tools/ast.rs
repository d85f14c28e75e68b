//! Whether calls are the right ones, by the rules of the Berkeley Function Calling Leaderboard's AST checker
//! (<https://gorilla.cs.berkeley.edu/blogs/8_berkeley_function_calling_leaderboard.html>): the function's name, all
//! required arguments, none that the function does not have, each of its type and with a value that the benchmark lists;
//! an argument whose list holds `""` may be left out. Texts are compared without case, spaces and punctuation.

use serde_json::{Map, Value};

/// A call as a model made it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Map<String, Value>,
}

/// Compares calls with the expected ones, in any order; what is wrong.
pub(crate) fn check(calls: &[Call], functions: &[Value], expected: &[Value]) -> Result<(), String> {
    if calls.len() != expected.len() {
        return Err(format!("{} calls, {} expected", calls.len(), expected.len()));
    }
    let mut left: Vec<&Call> = calls.iter().collect();
    for wanted in expected {
        let checks: Vec<Result<(), String>> = left.iter().map(|call| check_call(call, functions, wanted)).collect();
        match checks.iter().position(Result::is_ok) {
            Some(at) => {
                left.remove(at);
            }
            None => return checks.into_iter().next().unwrap_or_else(|| Err("no call".to_owned())),
        }
    }
    Ok(())
}

fn check_call(call: &Call, functions: &[Value], wanted: &Value) -> Result<(), String> {
    let Some((name, possible)) = wanted.as_object().and_then(|wanted| wanted.iter().next()) else {
        return Err("the benchmark expects nothing".to_owned());
    };
    if call.name != *name {
        return Err("wrong function".to_owned());
    }
    let function = functions.iter().find(|function| function["name"] == name.as_str());
    let Some(parameters) = function.map(|function| &function["parameters"]) else {
        return Err("unknown function".to_owned());
    };
    for required in parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !call.arguments.contains_key(required) {
            return Err("a required argument is missing".to_owned());
        }
    }
    let possible_values = |name: &str| possible[name].as_array().map(Vec::as_slice).unwrap_or_default();
    for (name, value) in &call.arguments {
        let schema = &parameters["properties"][name];
        if schema.is_null() || possible[name].is_null() {
            return Err("an argument that the function does not have".to_owned());
        }
        if !has_type(value, schema["type"].as_str().unwrap_or("any")) {
            return Err("an argument of the wrong type".to_owned());
        }
        if !possible_values(name).iter().any(|possible| equal(value, possible)) {
            return Err("a wrong value".to_owned());
        }
    }
    let names = possible.as_object().into_iter().flat_map(Map::keys);
    let is_needed =
        |name: &&String| !call.arguments.contains_key(*name) && !possible_values(name).contains(&Value::from(""));
    match names.into_iter().find(is_needed) {
        Some(_) => Err("an argument is missing".to_owned()),
        None => Ok(()),
    }
}

fn has_type(value: &Value, kind: &str) -> bool {
    match kind {
        "integer" => value.is_i64() || value.is_u64(),
        "float" | "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" | "tuple" => value.is_array(),
        "dict" | "object" => value.is_object(),
        _ => true,
    }
}

/// Whether a value is one that the benchmark lists. In dictionaries it lists possible values for each key.
fn equal(value: &Value, possible: &Value) -> bool {
    match (value, possible) {
        (Value::String(value), Value::String(possible)) => standard(value) == standard(possible),
        (Value::Number(value), Value::Number(possible)) => value.as_f64() == possible.as_f64(),
        (Value::Array(values), Value::Array(possible)) => {
            values.len() == possible.len()
                && values.iter().zip(possible).all(|(value, possible)| equal(value, possible))
        }
        (Value::Object(values), Value::Object(possible)) => {
            let is_listed = |(key, value): (&String, &Value)| match &possible[key] {
                Value::Array(list) => list.iter().any(|possible| equal(value, possible)),
                other => equal(value, other),
            };
            let may_lack = |key: &String| {
                values.contains_key(key) || possible[key].as_array().is_some_and(|list| list.contains(&Value::from("")))
            };
            values.keys().all(|key| possible.contains_key(key))
                && values.iter().all(is_listed)
                && possible.keys().all(may_lack)
        }
        (value, possible) => value == possible,
    }
}

fn standard(text: &str) -> String {
    let kept = text.chars().filter(|c| !matches!(c, ' ' | ',' | '.' | '/' | '-' | '_' | '*' | '^'));
    kept.map(|c| if c == '\'' { '"' } else { c }).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn verdict(calls: &Value, expected: &Value) -> Result<(), String> {
        let functions = [json!({"name": "play", "parameters": {"type": "dict", "properties": {
            "artist": {"type": "string"}, "minutes": {"type": "integer"}, "rate": {"type": "float"}, "options": {"type": "dict"}},
            "required": ["artist"]}})];
        let call = |call: &Value| Call {
            name: call["name"].as_str().unwrap().to_owned(),
            arguments: call["arguments"].as_object().unwrap().clone(),
        };
        let calls: Vec<Call> = calls.as_array().unwrap().iter().map(call).collect();
        check(&calls, &functions, expected.as_array().unwrap())
    }

    #[test]
    fn calls_are_judged_as_the_benchmark_does() {
        let expected = json!([{"play": {"artist": ["Taylor Swift"], "minutes": [20, ""], "rate": [1.5, ""], "options": [{"k": ["v"]}, ""]}}]);
        let one = |arguments: Value| json!([{"name": "play", "arguments": arguments}]);
        assert_eq!(verdict(&one(json!({"artist": "taylor-swift"})), &expected), Ok(()));
        assert_eq!(
            verdict(
                &one(json!({"artist": "Taylor Swift", "minutes": 20, "rate": 1.5, "options": {"k": "V"}})),
                &expected
            ),
            Ok(())
        );
        let wrong = |arguments: Value| verdict(&one(arguments), &expected).unwrap_err();
        assert_eq!(wrong(json!({"artist": "Queen"})), "a wrong value");
        assert_eq!(wrong(json!({"minutes": 20})), "a required argument is missing");
        assert_eq!(wrong(json!({"artist": "Taylor Swift", "minutes": 20.5})), "an argument of the wrong type");
        assert_eq!(
            wrong(json!({"artist": "Taylor Swift", "volume": 3})),
            "an argument that the function does not have"
        );
        assert_eq!(verdict(&json!([]), &expected).unwrap_err(), "0 calls, 1 expected");
        let strict = json!([{"play": {"artist": ["A"], "minutes": [20]}}]);
        assert_eq!(verdict(&one(json!({"artist": "A"})), &strict).unwrap_err(), "an argument is missing");
    }

    #[test]
    fn parallel_calls_match_in_any_order() {
        let expected = json!([{"play": {"artist": ["A"]}}, {"play": {"artist": ["B"]}}]);
        let calls = |first: &str, second: &str| json!([{"name": "play", "arguments": {"artist": first}}, {"name": "play", "arguments": {"artist": second}}]);
        assert_eq!(verdict(&calls("B", "A"), &expected), Ok(()));
        assert!(verdict(&calls("A", "A"), &expected).is_err());
    }
}
