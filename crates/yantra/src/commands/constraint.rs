//! The flags that say what a reply must be.

use crate::failure::usage;
use anyhow::{Context, Result};
use std::path::PathBuf;
use yantra_engine::Constraint;

/// What replies must be.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Structured output")]
#[group(multiple = false)]
pub(crate) struct ConstraintArgs {
    /// The reply is JSON of this JSON Schema: a file, or the schema itself
    #[arg(long, value_name = "FILE|JSON")]
    json_schema: Option<String>,
    /// The reply matches this regular expression as a whole
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
    /// The reply is a text of the grammar in this file (Lark as llguidance reads it, or llama.cpp's GBNF)
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// The reply is one of these texts; give it for each
    #[arg(long, value_name = "TEXT")]
    choice: Vec<String>,
}

impl ConstraintArgs {
    /// As the engine takes it.
    pub(crate) fn constraint(&self) -> Result<Option<Constraint>> {
        if let Some(schema) = &self.json_schema {
            let text = if schema.trim_start().starts_with('{') {
                schema.clone()
            } else {
                std::fs::read_to_string(schema).with_context(|| format!("cannot read the schema {schema}"))?
            };
            let schema =
                serde_json::from_str(&text).map_err(|error| usage(format!("--json-schema is not JSON: {error}")))?;
            return Ok(Some(Constraint::JsonSchema(schema)));
        }
        if let Some(path) = &self.grammar {
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read the grammar {}", path.display()))?;
            return Ok(Some(Constraint::of_grammar(text)));
        }
        if !self.choice.is_empty() {
            return Ok(Some(Constraint::Choice(self.choice.clone())));
        }
        Ok(self.regex.clone().map(Constraint::Regex))
    }
}
