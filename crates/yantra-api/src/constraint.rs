//! What an answer must be: `response_format` as OpenAI has it, with the forms that users of llama.cpp and Fireworks send,
//! and vLLM's `structured_outputs`, for what OpenAI has no words for.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{ApiError, Reasoning};

/// Most choices of which an answer is one.
const MAX_CHOICES: usize = 65_536;

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// JSON that the schema allows.
    JsonSchema(Value),
    /// A text that the regular expression matches as a whole.
    Regex(String),
    /// A text of the grammar, in llguidance's variant of Lark.
    Lark(String),
    /// A text of the grammar, in llama.cpp's GBNF.
    Gbnf(String),
    /// A text of the grammar, in one of the two.
    Grammar(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// A constraint and where in the request it stands, for messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Constrained {
    /// What the answer must be.
    pub constraint: Constraint,
    /// Where that was said.
    pub param: String,
    /// Reasoning that may come before it, free.
    pub after: Option<Reasoning>,
}

/// The form of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ResponseFormat {
    /// Any text.
    Text {},
    /// A JSON object, of the schema if there is one.
    JsonObject {
        /// A JSON Schema.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schema: Option<Value>,
    },
    /// JSON of a schema.
    JsonSchema {
        /// The schema and its name.
        json_schema: NamedSchema,
    },
    /// A text that a regular expression matches as a whole.
    Regex {
        /// The expression.
        pattern: String,
    },
    /// A text of a grammar.
    Grammar {
        /// The grammar, in llguidance's variant of Lark or in llama.cpp's GBNF.
        grammar: String,
        /// Which of them; absent: what it looks like.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        syntax: Option<GrammarSyntax>,
    },
}

/// What a grammar is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrammarSyntax {
    /// llguidance's variant of Lark.
    Lark,
    /// llama.cpp's GBNF.
    Gbnf,
}

/// A JSON Schema with a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedSchema {
    /// Letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// What it is for. Not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON Schema; absent: any object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Answers follow the schema whether this is set or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// What an answer must be; exactly one of these.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// A JSON Schema, as an object or as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// Any JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_object: Option<bool>,
    /// A regular expression that matches the whole answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Texts of which the answer is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Vec<String>>,
    /// A grammar, in llguidance's variant of Lark or in llama.cpp's GBNF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar: Option<String>,
}

/// What the parameters together ask for; `gbnf` is llama.cpp's `grammar`.
///
/// # Errors
/// 400 when several constrain the answer, or one contradicts itself.
pub(crate) fn constraint(
    format: Option<&ResponseFormat>,
    structured: Option<&StructuredOutputs>,
    gbnf: Option<&String>,
) -> Result<Option<Constrained>, ApiError> {
    let of_format = format.map(ResponseFormat::constraint).transpose()?.flatten();
    let of_structured = structured.map(StructuredOutputs::constraint).transpose()?;
    // llama.cpp takes an empty one for none.
    let gbnf = gbnf.filter(|grammar| !grammar.is_empty());
    let of_gbnf = gbnf.map(|grammar| at("grammar", Constraint::Gbnf(grammar.clone())));
    let mut all = [(of_format, "response_format"), (of_structured, "structured_outputs"), (of_gbnf, "grammar")]
        .into_iter()
        .filter_map(|(constrained, name)| Some((constrained?, name)));
    match (all.next(), all.next()) {
        (Some((_, first)), Some((_, second))) => {
            Err(ApiError::invalid_param(second, format_args!("given, but '{first}' constrains the answer already")))
        }
        (only, _) => Ok(only.map(|(constrained, _)| constrained)),
    }
}

fn any_object() -> Value {
    json!({"type": "object"})
}

fn at(param: &str, constraint: Constraint) -> Constrained {
    Constrained { constraint, param: param.to_owned(), after: None }
}

fn check_schema(param: &str, schema: &Value) -> Result<(), ApiError> {
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(()),
        _ => Err(ApiError::invalid_param(param, "a JSON Schema expected: an object, true or false")),
    }
}

impl ResponseFormat {
    fn constraint(&self) -> Result<Option<Constrained>, ApiError> {
        Ok(Some(match self {
            Self::Text {} => return Ok(None),
            Self::JsonObject { schema } => {
                let param = "response_format.schema";
                let schema = schema.clone().unwrap_or_else(any_object);
                check_schema(param, &schema)?;
                at(param, Constraint::JsonSchema(schema))
            }
            Self::JsonSchema { json_schema } => {
                let param = "response_format.json_schema.schema";
                json_schema.check_name()?;
                let schema = json_schema.schema.clone().unwrap_or_else(any_object);
                check_schema(param, &schema)?;
                at(param, Constraint::JsonSchema(schema))
            }
            Self::Regex { pattern } => at("response_format.pattern", Constraint::Regex(pattern.clone())),
            Self::Grammar { grammar, syntax } => {
                let grammar = grammar.clone();
                let constraint = match syntax {
                    None => Constraint::Grammar(grammar),
                    Some(GrammarSyntax::Lark) => Constraint::Lark(grammar),
                    Some(GrammarSyntax::Gbnf) => Constraint::Gbnf(grammar),
                };
                at("response_format.grammar", constraint)
            }
        }))
    }
}

impl NamedSchema {
    fn check_name(&self) -> Result<(), ApiError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if (1..=64).contains(&self.name.len()) && self.name.bytes().all(is_allowed) {
            return Ok(());
        }
        let message = format!("'{}' given, 1 to 64 letters, digits, '_' and '-' expected", self.name);
        Err(ApiError::invalid_param("response_format.json_schema.name", message))
    }
}

impl StructuredOutputs {
    fn constraint(&self) -> Result<Constrained, ApiError> {
        let Self { json, json_object, regex, choice, grammar } = self;
        let mut given = Vec::new();
        if let Some(schema) = json {
            given.push(at("structured_outputs.json", Constraint::JsonSchema(read_schema(schema)?)));
        }
        if *json_object == Some(true) {
            given.push(at("structured_outputs.json_object", Constraint::JsonSchema(any_object())));
        }
        if let Some(regex) = regex {
            given.push(at("structured_outputs.regex", Constraint::Regex(regex.clone())));
        }
        if let Some(choices) = choice {
            if choices.is_empty() || choices.len() > MAX_CHOICES {
                let message = format!("{} choices given, 1 to {MAX_CHOICES} expected", choices.len());
                return Err(ApiError::invalid_param("structured_outputs.choice", message));
            }
            given.push(at("structured_outputs.choice", Constraint::Choice(choices.clone())));
        }
        if let Some(grammar) = grammar {
            given.push(at("structured_outputs.grammar", Constraint::Grammar(grammar.clone())));
        }
        let count = given.len();
        match given.pop() {
            Some(constrained) if count == 1 => Ok(constrained),
            _ => {
                let message =
                    format!("{count} constraints given, one of json, json_object, regex, choice, grammar expected");
                Err(ApiError::invalid_param("structured_outputs", message))
            }
        }
    }
}

/// A schema that may be written as text, as vLLM has it.
fn read_schema(schema: &Value) -> Result<Value, ApiError> {
    let param = "structured_outputs.json";
    let schema = match schema {
        Value::String(text) => serde_json::from_str(text)
            .map_err(|error| ApiError::invalid_param(param, format_args!("the text is not JSON: {error}")))?,
        schema => schema.clone(),
    };
    check_schema(param, &schema)?;
    Ok(schema)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{ChatRequest, parse};

    fn read(extra: &str) -> Result<Option<Constrained>, ApiError> {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"x"}}],{extra}}}"#);
        let request: ChatRequest = parse::from_slice(body.as_bytes())?;
        request.constraint()
    }

    fn check(extra: &str, param: &str, expected: Constraint) {
        let found = read(extra).unwrap().unwrap();
        assert_eq!((found.param.as_str(), found.constraint), (param, expected), "{extra}");
    }

    #[test]
    fn every_form_is_read() {
        let object = || Constraint::JsonSchema(any_object());
        let text = || Constraint::JsonSchema(json!({"type": "string"}));
        assert_eq!(read(r#""response_format":{"type":"text"}"#).unwrap(), None);
        check(r#""response_format":{"type":"json_object"}"#, "response_format.schema", object());
        check(
            r#""response_format":{"type":"json_object","schema":{"type":"string"}}"#,
            "response_format.schema",
            text(),
        );
        let schema = "response_format.json_schema.schema";
        check(
            r#""response_format":{"type":"json_schema","json_schema":{"name":"a","strict":true,"schema":{"type":"string"}}}"#,
            schema,
            text(),
        );
        check(r#""response_format":{"type":"json_schema","json_schema":{"name":"a"}}"#, schema, object());
        check(
            r#""response_format":{"type":"regex","pattern":"a+"}"#,
            "response_format.pattern",
            Constraint::Regex("a+".to_owned()),
        );
        check(
            r#""structured_outputs":{"choice":["a","b"]}"#,
            "structured_outputs.choice",
            Constraint::Choice(vec!["a".to_owned(), "b".to_owned()]),
        );
        check(r#""structured_outputs":{"json":"{\"type\":\"string\"}"}"#, "structured_outputs.json", text());
        check(r#""structured_outputs":{"json_object":true}"#, "structured_outputs.json_object", object());
        check(
            r#""structured_outputs":{"grammar":"start: /a/"}"#,
            "structured_outputs.grammar",
            Constraint::Grammar("start: /a/".to_owned()),
        );
        let root = || "root ::= \"a\"".to_owned();
        check(r#""grammar":"root ::= \"a\"""#, "grammar", Constraint::Gbnf(root()));
        let grammar = "response_format.grammar";
        check(
            r#""response_format":{"type":"grammar","grammar":"root ::= \"a\"","syntax":"gbnf"}"#,
            grammar,
            Constraint::Gbnf(root()),
        );
        check(
            r#""response_format":{"type":"grammar","grammar":"root ::= \"a\""}"#,
            grammar,
            Constraint::Grammar(root()),
        );
    }

    fn refused(extra: &str, param: &str, part: &str) {
        let error = read(extra).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        assert!(error.message.contains(part), "{}", error.message);
    }

    #[test]
    fn contradictions_are_refused() {
        refused(r#""structured_outputs":{}"#, "structured_outputs", "0 constraints given");
        refused(r#""structured_outputs":{"regex":"a","choice":["b"]}"#, "structured_outputs", "2 constraints given");
        refused(
            r#""response_format":{"type":"json_object"},"structured_outputs":{"regex":"a"}"#,
            "structured_outputs",
            "'response_format' constrains",
        );
        refused(
            r#""grammar":"root ::= \"a\"","structured_outputs":{"regex":"a"}"#,
            "grammar",
            "'structured_outputs' constrains",
        );
        refused(r#""structured_outputs":{"choice":[]}"#, "structured_outputs.choice", "0 choices given");
        refused(
            r#""response_format":{"type":"json_schema","json_schema":{"name":"a b"}}"#,
            "response_format.json_schema.name",
            "'a b' given",
        );
        refused(
            r#""response_format":{"type":"json_object","schema":7}"#,
            "response_format.schema",
            "a JSON Schema expected",
        );
        refused(r#""response_format":{"type":"xml"}"#, "response_format.type", "xml");
    }
}
