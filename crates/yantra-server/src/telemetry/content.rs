//! What prompts and answers say, as the conventions write messages, within a limit.

use serde_json::{Value, json};
use yantra_api::ChatMessage;

/// Most bytes of text that one attribute holds.
pub(super) const MAX_BYTES: usize = 32 << 10;
/// What a message takes besides its text.
const MESSAGE_BYTES: usize = 64;

/// A conversation; of a long one its end.
pub(super) fn conversation(messages: &[ChatMessage]) -> String {
    let text = |message: &ChatMessage| message.content.as_ref().and_then(|content| content.text("").ok());
    of(messages.iter().rev().map(|message| (message.role.as_str(), text(message).unwrap_or_default())))
}

/// Texts to continue; of many the last.
pub(super) fn texts<'a>(texts: impl DoubleEndedIterator<Item = &'a str>) -> String {
    of(texts.rev().map(|text| ("user", text.to_owned())))
}

/// Messages, the last first, as JSON, the first first.
fn of<'a>(messages: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut left = MAX_BYTES;
    let mut written: Vec<Value> = Vec::new();
    for (role, text) in messages {
        if left == 0 {
            break;
        }
        let text = cut(&text, left);
        left = left.saturating_sub(text.len() + MESSAGE_BYTES);
        written.push(message(role, text));
    }
    written.reverse();
    Value::Array(written).to_string()
}

/// One message of one text.
pub(super) fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "parts": [{"type": "text", "content": text}]})
}

/// The text's beginning, at most so many bytes.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_the_last_are_kept() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        let long = "é".repeat(MAX_BYTES);
        assert_eq!(
            texts(["first", "second"].into_iter()),
            r#"[{"role":"user","parts":[{"type":"text","content":"first"}]},{"role":"user","parts":[{"type":"text","content":"second"}]}]"#
        );
        let cut = texts([long.as_str(), "last"].into_iter());
        assert!(cut.len() < MAX_BYTES + 200 && cut.contains("last") && cut.contains('é'), "{}", cut.len());
        let cut = texts(["first", long.as_str()].into_iter());
        assert!(cut.len() < MAX_BYTES + 200 && !cut.contains("first"), "{}", cut.len());
    }
}
