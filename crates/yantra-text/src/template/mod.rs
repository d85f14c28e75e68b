//! Chat templates: the Jinja program a model ships to turn a conversation into its prompt.
//!
//! The yardstick is Hugging Face's `apply_chat_template`, that is, Python's Jinja2 in an immutable sandbox with
//! `trim_blocks` and `lstrip_blocks`. Every difference from it is a prompt the model was not trained on, so the tests
//! compare whole renderings with Python's, and a template that Python refuses is an error here too.

mod clock;
mod json;
mod protect;
mod python;
mod rewrite;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value as JinjaValue};
use serde_json::{Map, Value, json};
use yantra_formats::Checkpoint;

pub use clock::{Clock, parse_rfc3339, strftime};
pub(crate) use protect::Aliases;

use crate::{EncodeOptions, TextError, Tokenizer};

/// Steps a template may take: far above any real conversation, and a few seconds of work.
const FUEL: u64 = 50_000_000;

/// Longest template accepted, in bytes.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// Name of the template inside its environment; without a file extension, so that nothing is HTML-escaped.
const NAME: &str = "chat_template";

/// What a template renders.
#[derive(Debug, Clone, Copy)]
pub struct ChatInput<'a> {
    /// The conversation: an array of `{"role", "content", …}` objects.
    pub messages: &'a Value,
    /// Tool definitions (an array, in OpenAI's form), or `None`.
    pub tools: Option<&'a Value>,
    /// Whether to end with the header of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables (`enable_thinking`, `date_string`, `documents`, …); they win over the built-in ones.
    pub extra: &'a Map<String, Value>,
}

/// A parsed chat template. Cheap to clone; rendering takes `&self` and is thread-safe.
#[derive(Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

struct Inner {
    source: String,
    default: Environment<'static>,
    /// A variant to be used when tools are given, where the model ships one.
    tool_use: Option<Environment<'static>>,
    /// `bos_token`, `eos_token` and the other named special tokens.
    special_tokens: Map<String, Value>,
    supports_tools: bool,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.inner.source).finish_non_exhaustive()
    }
}

/// A rendered conversation that remembers which of its text must not make a control token.
pub struct Prompt {
    text: String,
    aliases: Option<Aliases>,
}

impl Prompt {
    /// As [`Tokenizer::min_tokens`].
    #[must_use]
    pub fn min_tokens(&self, tokenizer: &Tokenizer) -> usize {
        tokenizer.min_tokens(&self.text)
    }

    /// The token ids.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer, add_special: bool) -> Result<Vec<u32>, TextError> {
        match &self.aliases {
            None => tokenizer.encode(&self.text, EncodeOptions { add_special, parse_special: true }),
            Some(aliases) => tokenizer.encode_protected(&self.text, aliases, add_special),
        }
    }
}

impl ChatTemplate {
    /// Parses `source`; `bos_text` and `eos_text` are what the template knows as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line, when the source is not valid Jinja.
    pub fn new(source: &str, bos_text: &str, eos_text: &str) -> Result<Self, TextError> {
        let sources = TemplateSources { default: source.to_owned(), tool_use: None };
        Self::build(sources, special_tokens(bos_text, eos_text), system_clock())
    }

    /// As [`ChatTemplate::new`], with `strftime_now` reading `clock` instead of the system's.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn with_clock(source: &str, bos_text: &str, eos_text: &str, clock: Clock) -> Result<Self, TextError> {
        let sources = TemplateSources { default: source.to_owned(), tool_use: None };
        Self::build(sources, special_tokens(bos_text, eos_text), clock)
    }

    /// The template a checkpoint ships, or `None` where it ships none.
    ///
    /// GGUF: `tokenizer.chat_template` and its `.tool_use` variant. Hugging Face: `chat_template.jinja`, or
    /// `chat_template` of `tokenizer_config.json` (one text, or a list of named ones).
    ///
    /// # Errors
    /// [`TextError::Template`] when the template is not valid; [`TextError::Checkpoint`] when a file is unreadable.
    pub fn from_checkpoint(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Option<Self>, TextError> {
        let Some(sources) = TemplateSources::find(checkpoint)? else {
            return Ok(None);
        };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or_default();
        let mut special = special_tokens(&text(tokenizer.bos()), &text(tokenizer.eos()));
        for (name, text) in tokenizer.named_special_tokens() {
            special.insert(name.to_owned(), Value::String(text.to_owned()));
        }
        Self::build(sources, special, system_clock()).map(Some)
    }

    fn build(sources: TemplateSources, special_tokens: Map<String, Value>, clock: Clock) -> Result<Self, TextError> {
        let default = environment(&sources.default, &clock)?;
        let tool_use = sources.tool_use.map(|source| environment(&source, &clock)).transpose()?;
        let inner = Inner { source: sources.default, default, tool_use, special_tokens, supports_tools: false };
        let supports_tools = inner.tool_use.is_some() || inner.shows_tools();
        Ok(Self { inner: Arc::new(Inner { supports_tools, ..inner }) })
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// [`TextError::Template`] when the template refuses the conversation (roles that do not alternate, …), with its
    /// own message, or fails on it.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        self.inner.render(input)
    }

    /// The prompt for a conversation as token ids: [`ChatTemplate::prompt`], encoded.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`Tokenizer::encode`].
    pub fn encode(
        &self,
        input: &ChatInput<'_>,
        tokenizer: &Tokenizer,
        add_special: bool,
    ) -> Result<Vec<u32>, TextError> {
        self.prompt(input, tokenizer)?.encode(tokenizer, add_special)
    }

    /// The prompt for a conversation, for `tokenizer` to encode. The template writes control tokens, the conversation can
    /// not: their texts in messages, tools and variables are encoded as text. Without such texts encoding it is
    /// [`ChatTemplate::render`] and [`Tokenizer::encode`] with `parse_special`. Templates write the tokens that begin and
    /// end a sequence themselves, so `add_special` is usually off.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn prompt(&self, input: &ChatInput<'_>, tokenizer: &Tokenizer) -> Result<Prompt, TextError> {
        let ChatInput { messages, tools, extra, .. } = *input;
        let Some(protected) = protect::protect(tokenizer.guard()?, self.source(), messages, tools, extra) else {
            return Ok(Prompt { text: self.render(input)?, aliases: None });
        };
        let input = ChatInput {
            messages: &protected.messages,
            tools: protected.tools.as_ref(),
            extra: &protected.extra,
            ..*input
        };
        let text = protected.aliases.unescape(self.render(&input)?);
        Ok(Prompt { text, aliases: Some(protected.aliases) })
    }

    /// Whether tools given to [`ChatTemplate::render`] reach the prompt.
    #[must_use]
    pub fn supports_tools(&self) -> bool {
        self.inner.supports_tools
    }

    /// The template's source text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.inner.source
    }
}

impl Inner {
    fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        let mut variables: HashMap<&str, JinjaValue> = HashMap::new();
        for (name, value) in &self.special_tokens {
            variables.insert(name, json::from_json(value));
        }
        variables.insert("messages", json::from_json(input.messages));
        variables.insert("tools", input.tools.map_or_else(|| JinjaValue::from(()), json::from_json));
        variables.insert("documents", JinjaValue::from(()));
        variables.insert("add_generation_prompt", JinjaValue::from(input.add_generation_prompt));
        for (name, value) in input.extra {
            variables.insert(name, json::from_json(value));
        }
        let environment = match (&self.tool_use, input.tools) {
            (Some(tool_use), Some(_)) => tool_use,
            _ => &self.default,
        };
        let template = environment.get_template(NAME).map_err(|error| describe(&error))?;
        template.render(JinjaValue::from_pairs(variables)).map_err(|error| describe(&error))
    }

    /// Renders a conversation with a tool of a telling name and looks for the name: reading the source would be a guess.
    fn shows_tools(&self) -> bool {
        const PROBE: &str = "yantra_probe_tool";
        let tools = json!([{"type": "function", "function": {
            "name": PROBE, "description": "d", "parameters": {"type": "object", "properties": {}, "required": []}}}]);
        let user = json!({"role": "user", "content": "u"});
        let system = json!({"role": "system", "content": "s"});
        [json!([user]), json!([system, user])].iter().any(|messages| {
            let input = ChatInput { messages, tools: Some(&tools), add_generation_prompt: true, extra: &Map::new() };
            self.render(&input).is_ok_and(|prompt| prompt.contains(PROBE))
        })
    }
}

/// The texts found in a checkpoint.
struct TemplateSources {
    default: String,
    tool_use: Option<String>,
}

impl TemplateSources {
    fn find(checkpoint: &Checkpoint) -> Result<Option<Self>, TextError> {
        match checkpoint {
            Checkpoint::Gguf(file) => {
                let metadata = file.metadata();
                let tool_use = metadata.find::<&str>("tokenizer.chat_template.tool_use")?.map(str::to_owned);
                let default = metadata.find::<&str>("tokenizer.chat_template")?;
                Ok(default.map(|default| Self { default: default.to_owned(), tool_use }))
            }
            Checkpoint::HuggingFace(directory) => {
                let named = |name: &str| directory.chat_template(name).map(str::to_owned);
                Ok(named("default").map(|default| Self { default, tool_use: named("tool_use") }))
            }
        }
    }
}

fn special_tokens(bos_text: &str, eos_text: &str) -> Map<String, Value> {
    let mut tokens = Map::new();
    for (name, text) in [("bos_token", bos_text), ("eos_token", eos_text)] {
        tokens.insert(name.to_owned(), Value::String(text.to_owned()));
    }
    tokens
}

fn system_clock() -> Clock {
    Arc::new(SystemTime::now)
}

fn environment(source: &str, clock: &Clock) -> Result<Environment<'static>, TextError> {
    if source.len() > MAX_TEMPLATE_BYTES {
        let length = source.len();
        return Err(TextError::Template(format!("{length} bytes long; at most {MAX_TEMPLATE_BYTES} are accepted")));
    }
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|error| describe(&error))?);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(python::method);
    env.set_formatter(python::format_output);
    env.add_filter("tojson", json::tojson);
    env.add_filter("string", python::string);
    env.add_filter(rewrite::ITERABLE, rewrite::iterable);
    env.add_test("iterable", python::is_iterable);
    env.add_test("sequence", python::is_sequence);
    env.add_test("number", python::is_number);
    env.add_function("raise_exception", raise_exception);
    let clock = Arc::clone(clock);
    env.add_function("strftime_now", move |format: &str| clock::strftime(clock(), format));
    env.add_template_owned(NAME, rewrite::rewrite(source)).map_err(|error| describe(&error))?;
    Ok(env)
}

/// How a template refuses a conversation.
fn raise_exception(message: &str) -> Result<JinjaValue, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

fn describe(error: &Error) -> TextError {
    let mut message = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        message.push_str(&format!(" (line {line} of the template)"));
    }
    TextError::Template(message)
}
