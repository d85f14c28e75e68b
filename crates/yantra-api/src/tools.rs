//! Tool calls: what a request offers, how each family of models writes a call, and the way back from the text.
//!
//! A [`ToolPlan`] is made once per request from its `tools`, its `tool_choice` and the [`Dialect`] of the model. It knows
//! the grammar that an answer must follow ([`ToolPlan::grammar`]) and makes the [`AnswerParser`]s that take answers apart
//! again. There is one parser for streamed and whole answers, which takes characters one at a time: how a text is cut
//! into pieces can not make a difference.

mod dialect;
mod grammar;
mod harmony;
mod json_call;
mod kinds;
mod named_call;
mod parser;
mod python_call;
mod react;
mod reader;
#[cfg(test)]
mod tests;
mod values;
mod xml_call;
mod xml_grammar;

use grammar::Wanted;

pub use dialect::Dialect;
pub use parser::{AnswerParser, Reasoning};

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{ApiError, ChatMessage, Constrained, Constraint, ContentPart, MessageContent, check};

/// Most tools.
const MAX_TOOLS: usize = 1024;
/// Longest name of a tool.
const MAX_NAME: usize = 64;

/// A call as it stands in a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToolCall {
    /// Names the call, so that its result can refer to it.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What to call.
    pub function: FunctionCall,
}

/// The function of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// Its arguments, as JSON text.
    pub arguments: String,
}

/// A piece of a call in a streamed answer: the first one of each `index` has `id`, `type` and the name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToolCallDelta {
    /// Which call of the answer, from 0.
    pub index: usize,
    /// Names the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// More of the function.
    pub function: FunctionDelta,
}

/// A piece of a function call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionDelta {
    /// The function's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments' JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Reasoning before the answer.
    Reasoning(String),
    /// What is said.
    Content(String),
    /// A call begins; calls are numbered from 0.
    Call {
        /// The tool.
        name: String,
    },
    /// More of the last call's arguments: JSON text.
    Arguments(String),
}

/// A tool that a request offers.
#[derive(Debug, Clone, PartialEq)]
struct Tool {
    name: String,
    description: String,
    /// A JSON Schema.
    parameters: Value,
    /// Whether arguments must follow it.
    strict: bool,
}

/// Which tools are to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ToolChoice {
    Auto,
    None,
    Required,
    Named(String),
}

/// What a request's answers do with tools.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolPlan {
    dialect: Dialect,
    tools: Vec<Tool>,
    choice: ToolChoice,
    parallel: bool,
}

/// The tools of a request, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OfferedTools {
    tools: Vec<Tool>,
    choice: ToolChoice,
    parallel: bool,
}

impl OfferedTools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    pub(crate) fn read(
        tools: Option<&[Value]>,
        choice: Option<&Value>,
        parallel: Option<bool>,
    ) -> Result<Self, ApiError> {
        let given = tools.unwrap_or_default();
        check::length("tools", given.len(), 0..=MAX_TOOLS)?;
        let tools =
            given.iter().enumerate().map(|(index, tool)| Tool::read(index, tool)).collect::<Result<Vec<_>, _>>()?;
        let mut names = BTreeSet::new();
        if let Some((index, tool)) = tools.iter().enumerate().find(|(_, tool)| !names.insert(tool.name.as_str())) {
            let message = format!("'{}' given twice", tool.name);
            return Err(ApiError::invalid_param(format!("tools[{index}].function.name"), message));
        }
        let choice = ToolChoice::read(choice, &tools)?;
        Ok(Self { tools, choice, parallel: parallel.unwrap_or(true) })
    }

    /// What answers of a model that writes calls in `dialect` do with them; `None` when there are none to be called.
    pub(crate) fn plan(self, dialect: Dialect) -> Option<ToolPlan> {
        let Self { mut tools, choice, parallel } = self;
        if tools.is_empty() || choice == ToolChoice::None {
            return None;
        }
        if let ToolChoice::Named(name) = &choice {
            tools.retain(|tool| tool.name == *name);
        }
        Some(ToolPlan { dialect, tools, choice, parallel })
    }
}

impl Tool {
    fn read(index: usize, tool: &Value) -> Result<Self, ApiError> {
        let at = |field: &str| format!("tools[{index}]{field}");
        if tool["type"] != "function" {
            let message = format!("{} given, \"function\" expected", tool["type"]);
            return Err(ApiError::invalid_param(at(".type"), message));
        }
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default();
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_allowed) {
            let message =
                format!("{} given, 1 to {MAX_NAME} letters, digits, '_', '-' and '.' expected", function["name"]);
            return Err(ApiError::invalid_param(at(".function.name"), message));
        }
        let parameters = match &function["parameters"] {
            Value::Null => json!({"type": "object", "properties": {}}),
            Value::Object(schema) => json_schema(schema),
            other => {
                let message = format!("{other} given, a JSON Schema of an object expected");
                return Err(ApiError::invalid_param(at(".function.parameters"), message));
            }
        };
        let description = function["description"].as_str().unwrap_or_default().to_owned();
        let strict = function["strict"] == true;
        Ok(Self { name: name.to_owned(), description, parameters, strict })
    }
}

/// A JSON Schema in which the names of types that people use for Python are JSON's, and objects hold what they declare.
fn json_schema(schema: &Map<String, Value>) -> Value {
    let mut schema = schema.clone();
    for (keyword, value) in &mut schema {
        match (keyword.as_str(), &mut *value) {
            ("type", Value::String(kind)) => *value = type_name(kind),
            ("properties" | "$defs" | "definitions" | "patternProperties", Value::Object(inner)) => {
                for value in inner.values_mut() {
                    if let Value::Object(inner) = value {
                        *value = json_schema(inner);
                    }
                }
            }
            ("items" | "additionalProperties", Value::Object(inner)) => *value = json_schema(inner),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(list)) => {
                for value in list {
                    if let Value::Object(inner) = value {
                        *value = json_schema(inner);
                    }
                }
            }
            _ => {}
        }
    }
    if schema.get("type").is_some_and(Value::is_null) {
        schema.remove("type");
    }
    if schema.contains_key("properties") && !schema.contains_key("additionalProperties") {
        schema.insert("additionalProperties".to_owned(), json!(false));
    }
    Value::Object(schema)
}

/// JSON Schema's name of a type; null: any.
fn type_name(kind: &str) -> Value {
    match kind {
        "dict" | "map" | "HashMap" | "Hashtable" => json!("object"),
        "list" | "tuple" | "Array" | "ArrayList" | "set" => json!("array"),
        "float" | "double" | "Double" => json!("number"),
        "int" | "long" | "Integer" => json!("integer"),
        "str" | "String" | "char" => json!("string"),
        "bool" | "Boolean" => json!("boolean"),
        "any" => Value::Null,
        other => json!(other),
    }
}

impl ToolChoice {
    fn read(choice: Option<&Value>, tools: &[Tool]) -> Result<Self, ApiError> {
        let named = |choice: &Value| {
            let name = choice["function"]["name"].as_str().or_else(|| choice["name"].as_str());
            name.filter(|_| choice["type"] == "function").map(str::to_owned)
        };
        let read = match choice {
            None | Some(Value::Null) => return Ok(Self::Auto),
            Some(Value::String(word)) => match word.as_str() {
                "auto" => Some(Self::Auto),
                "none" => Some(Self::None),
                "required" | "any" => Some(Self::Required),
                _ => None,
            },
            Some(choice) => named(choice).map(Self::Named),
        };
        let Some(read) = read else {
            let given = choice.map(Value::to_string).unwrap_or_default();
            let expected = "\"auto\", \"none\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": …}}";
            return Err(ApiError::invalid_param("tool_choice", format_args!("{given} given, {expected} expected")));
        };
        let is_known = |name: &String| tools.iter().any(|tool| tool.name == *name);
        match &read {
            Self::Named(name) if !is_known(name) => {
                Err(ApiError::invalid_param("tool_choice", format_args!("'{name}' is none of the tools")))
            }
            Self::Required if tools.is_empty() => {
                Err(ApiError::invalid_param("tool_choice", "\"required\" given without tools"))
            }
            _ => Ok(read),
        }
    }
}

impl ToolPlan {
    /// A parser for one answer.
    #[must_use]
    pub fn parser(&self, reasoning: Option<Reasoning>) -> AnswerParser {
        AnswerParser::with_calls(Some(self.dialect), self.tools.clone().into(), reasoning)
    }

    /// Whether the chat template shows the tools; else [`ToolPlan::told`] does.
    #[must_use]
    pub fn is_native(&self) -> bool {
        !matches!(self.dialect, Dialect::Json | Dialect::React)
    }

    /// What answers must be: free text, unless a call is demanded or begun, which is then one of a tool that there is,
    /// with arguments of its schema. The reasoning before it is free. `is_control` knows the control tokens of the model.
    ///
    /// # Errors
    /// 400 when a strict tool's schema can not be followed in the model's dialect.
    pub fn grammar(
        &self,
        reasoning: Option<Reasoning>,
        is_control: impl Fn(&str) -> bool,
    ) -> Result<Constrained, ApiError> {
        let wanted = Wanted {
            tools: &self.tools,
            is_free: self.choice == ToolChoice::Auto,
            parallel: self.parallel,
            is_control: &is_control,
            is_thinking: reasoning.is_some_and(|reasoning| reasoning.is_begun),
        };
        let grammar = self.dialect.grammar(wanted).map_err(|message| ApiError::invalid_param("tools", message))?;
        // Harmony's grammar knows what its reasoning looks like.
        let after = reasoning.filter(|_| self.dialect != Dialect::Harmony);
        Ok(Constrained { constraint: Constraint::Lark(grammar), param: "tools".to_owned(), after })
    }

    /// Whether a marker of calls is a control token, which must then be a part of the text.
    #[must_use]
    pub fn has_control_tokens(&self, is_control: impl Fn(&str) -> bool) -> bool {
        let form = self.dialect.form();
        form.is_some_and(|form| form.opens.iter().chain(form.leads).chain(form.nexts).any(|marker| is_control(marker)))
    }

    /// What ends an answer besides its end: what a tool says is not the model's to write.
    #[must_use]
    pub fn stop(&self) -> Option<&'static str> {
        (self.dialect == Dialect::React).then_some("Observation:")
    }

    /// Takes any object for the arguments of tools whose schema can not be followed, unless they are strict.
    #[must_use]
    pub fn loosened(mut self, can_follow: impl Fn(&Value) -> bool) -> Self {
        for tool in self.tools.iter_mut().filter(|tool| !tool.strict) {
            if !can_follow(&tool.parameters) {
                tool.parameters = json!({"type": "object"});
            }
        }
        self
    }

    /// The conversation for a model whose template knows nothing of tools: told of them by its system message, with calls
    /// and results as text.
    #[must_use]
    pub fn told(&self, messages: &[ChatMessage]) -> Vec<ChatMessage> {
        let mut told = calls_as_text(messages, self.dialect);
        let instructions = self.instructions();
        let system = told.first_mut().filter(|first| matches!(first.role.as_str(), "system" | "developer"));
        match system.and_then(|system| system.content.as_mut()) {
            Some(MessageContent::Text(text)) => *text = format!("{text}\n\n{instructions}"),
            Some(MessageContent::Parts(parts)) => {
                let text = Some(format!("\n{instructions}"));
                parts.push(ContentPart { kind: "text".to_owned(), text, other: Map::new() });
            }
            None => told.insert(0, said("system", instructions)),
        }
        told
    }

    /// What tells a model of the tools whose template does not.
    fn instructions(&self) -> String {
        let tools: Vec<String> = self
            .tools
            .iter()
            .map(|tool| {
                json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters}).to_string()
            })
            .collect();
        let must = if self.choice == ToolChoice::Auto { "You may" } else { "You must" };
        let how = match self.dialect {
            Dialect::React => {
                "Answer in this form:\nThought: what to do and why\nAction: the name of a tool\nAction Input: its arguments \
                 as a JSON object\nYou are then told the Observation, and go on. When you know the answer:\nThought: why \
                 you know it\nFinal Answer: the answer"
            }
            _ => {
                "Answer with one JSON object: {\"tool_calls\": [{\"name\": \"…\", \"arguments\": {…}}]} to call tools, or \
                 {\"content\": \"…\"} to say something."
            }
        };
        format!("{must} call these tools:\n{}\n\n{how}", tools.join("\n"))
    }
}

/// A message in which calls and their results are text, as answers of the dialect are.
fn as_text(message: &ChatMessage, dialect: Dialect) -> ChatMessage {
    let is_react = dialect == Dialect::React;
    let calls = message.other.get("tool_calls").and_then(Value::as_array).filter(|calls| !calls.is_empty());
    if message.role == "assistant"
        && let Some(calls) = calls
    {
        let function = |call: &Value| {
            let arguments = match &call["function"]["arguments"] {
                Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
                value => value.clone(),
            };
            json!({"name": call["function"]["name"], "arguments": arguments})
        };
        let calls: Vec<Value> = calls.iter().map(function).collect();
        let text = match calls.first() {
            Some(call) if is_react => {
                let name = call["name"].as_str().unwrap_or_default();
                format!("Thought: I call {name}.\nAction: {name}\nAction Input: {}", call["arguments"])
            }
            _ => json!({"tool_calls": calls}).to_string(),
        };
        return said("assistant", text);
    }
    if message.role == "tool" {
        let result = message.content.as_ref().and_then(|content| content.text("").ok()).unwrap_or_default();
        let name = if is_react { "Observation" } else { "Result of the tool" };
        return said("user", format!("{name}: {result}"));
    }
    message.clone()
}

/// A conversation for a model whose template knows nothing of tools, in which calls and their results are text.
#[must_use]
pub fn calls_as_text(messages: &[ChatMessage], dialect: Dialect) -> Vec<ChatMessage> {
    messages.iter().map(|message| as_text(message, dialect)).collect()
}

/// Names calls as Kimi-K2 does, which knows a call's function by its id alone: `functions.name:0`, counted through the
/// conversation.
pub fn name_calls_by_position(messages: &mut [ChatMessage]) {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut count = 0;
    for message in messages {
        for call in message.other.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            let id = format!("functions.{}:{count}", call["function"]["name"].as_str().unwrap_or_default());
            count += 1;
            if let Some(call) = call.as_object_mut()
                && let Some(Value::String(given)) = call.insert("id".to_owned(), json!(id))
            {
                names.insert(given, id);
            }
        }
        if let Some(id) = message.other.get_mut("tool_call_id")
            && let Some(name) = id.as_str().and_then(|given| names.get(given))
        {
            *id = json!(name);
        }
    }
}

fn said(role: &str, text: String) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content: Some(MessageContent::Text(text)), other: Map::new() }
}

/// Names the calls of an answer: nine letters and digits, which is the only form that every chat template takes.
#[must_use]
pub fn call_id(answer: &str, choice: usize, index: usize) -> String {
    // FNV-1a, mixed (https://datatracker.ietf.org/doc/html/draft-eastlake-fnv).
    let bytes = answer.bytes().chain(choice.to_le_bytes()).chain(index.to_le_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut rest = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let letter = |_| {
        let digit = (rest % 36) as u32;
        rest /= 36;
        char::from_digit(digit, 36).unwrap_or('0')
    };
    (0..9).map(letter).collect()
}
