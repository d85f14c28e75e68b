//! Where a Hugging Face directory keeps its chat templates, of which there have been four places over the years.

use super::{Config, read_optional};
use crate::{FormatError, checkpoint::file_names};
use serde_json::Value;
use std::path::Path;

/// The name of the template used when none is asked for.
const DEFAULT: &str = "default";

/// The source of a chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTemplate {
    /// `default`, or the purpose: `tool_use`, `rag`.
    pub name: String,
    /// Jinja source.
    pub source: String,
}

/// Every chat template of a directory, newest place first: `chat_template.jinja` with
/// `additional_chat_templates/NAME.jinja`, `chat_template.json`, `tokenizer_config.json` (one string, or a list of named
/// ones). A name found in a newer place is not overridden by an older.
pub(super) fn read(directory: &Path, tokenizer_config: Option<&Config>) -> Result<Vec<NamedTemplate>, FormatError> {
    let mut templates = Vec::new();
    if let Some(source) = read_text(&directory.join("chat_template.jinja"))? {
        add(&mut templates, DEFAULT, source);
    }
    let additional = directory.join("additional_chat_templates");
    if additional.is_dir() {
        for file in file_names(&additional)? {
            if let Some(name) = file.strip_suffix(".jinja")
                && let Some(source) = read_text(&additional.join(&file))?
            {
                add(&mut templates, name, source);
            }
        }
    }
    let legacy = Config::read_optional_object(&directory.join("chat_template.json"))?;
    for config in [legacy.as_ref(), tokenizer_config].into_iter().flatten() {
        for (name, source) in in_config(config)? {
            add(&mut templates, &name, source);
        }
    }
    Ok(templates)
}

fn add(templates: &mut Vec<NamedTemplate>, name: &str, source: String) {
    if templates.iter().all(|template| template.name != name) {
        templates.push(NamedTemplate { name: name.to_owned(), source });
    }
}

fn read_text(path: &Path) -> Result<Option<String>, FormatError> {
    let Some(bytes) = read_optional(path)? else { return Ok(None) };
    let not_text = |_| FormatError::Json { path: path.to_owned(), problem: "it is not UTF-8".to_owned() };
    String::from_utf8(bytes).map_err(not_text).map(Some)
}

/// The templates under `chat_template`: a string, or a list of `{name, template}`.
fn in_config(config: &Config) -> Result<Vec<(String, String)>, FormatError> {
    let wrong = || config.invalid("chat_template: expected a string or a list of {name, template}".to_owned());
    match config.find::<&Value>("chat_template")? {
        None => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![(DEFAULT.to_owned(), source.clone())]),
        Some(Value::Array(list)) => {
            let pair = |entry: &Value| {
                let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                text("name").zip(text("template")).ok_or_else(wrong)
            };
            list.iter().map(pair).collect()
        }
        Some(_) => Err(wrong()),
    }
}
