//! Forms of values that are kept as they were sent, told in the OpenAPI document only.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::RerankDocument;

/// A text, or a list of objects.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TextOrItems {
    /// A text.
    Text(String),
    /// Objects, in order.
    Items(Vec<BTreeMap<String, Value>>),
}

/// A word, or an object.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum WordOrObject {
    /// A word.
    Word(String),
    /// An object.
    Object(BTreeMap<String, Value>),
}

/// A text, plain or in an object.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TextOrDocument {
    /// A text.
    Text(String),
    /// A text in an object.
    Document(RerankDocument),
}
