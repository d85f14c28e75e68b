//! What is searched of a trace: the texts in its JSON, the words of a question, and where they were found.
//!
//! SQLite's tokeniser splits at what is neither letter, mark nor digit, which finds the words of most scripts. Those that
//! write without spaces between words have each character indexed as a word of its own, and are searched for as sequences of
//! them: whatever part of a sentence is asked for is found.

use serde_json::Value;

/// Most words of a question that are looked for.
const MAX_TERMS: usize = 64;
/// Characters of a preview, and of a snippet around what was found.
const PREVIEW_CHARS: usize = 160;
const BEFORE_CHARS: usize = 60;

/// What is under these names says nothing: names, kinds, settings, schemas, and files in text form.
const SILENT: &[&str] = &[
    "audio",
    "call_id",
    "created",
    "data",
    "encoding_format",
    "file",
    "file_data",
    "finish_reason",
    "format",
    "id",
    "image",
    "image_url",
    "input_audio",
    "item_id",
    "logprobs",
    "model",
    "object",
    "response_format",
    "role",
    "service_tier",
    "source",
    "status",
    "stop_reason",
    "structured_outputs",
    "system_fingerprint",
    "tool_call_id",
    "tool_choice",
    "tools",
    "type",
    "url",
];

/// The texts in a request or an answer, in order.
pub(crate) fn texts(value: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    collect(value, &mut found);
    found
}

fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) if !text.is_empty() => found.push(text),
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(map) => {
            let telling = map.iter().filter(|(name, _)| !SILENT.contains(&name.as_str()));
            telling.for_each(|(_, value)| collect(value, found));
        }
        _ => {}
    }
}

/// Texts as they are indexed.
pub(crate) fn indexed(texts: &[&str]) -> String {
    let mut indexed = String::new();
    for text in texts {
        push_spaced(&mut indexed, text);
        indexed.push('\n');
    }
    indexed
}

fn push_spaced(spaced: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            // Where SQLite's texts end.
            '\0' => spaced.push(' '),
            c if is_unspaced(c) => spaced.extend([' ', c, ' ']),
            c => spaced.push(c),
        }
    }
}

/// Letters of scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' | '\u{3040}'..='\u{30FF}'
        | '\u{31F0}'..='\u{31FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{FF66}'..='\u{FF9F}' | '\u{20000}'..='\u{3FFFF}')
}

/// One thing to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    /// Its words, as they were written.
    text: String,
    /// Whether the last word may go on.
    is_prefix: bool,
}

/// The terms of a question, all of which have to be there: words, `"several words"` in their order, and `beginnings*`.
pub(crate) fn terms(query: &str) -> Vec<Term> {
    let mut terms = Vec::new();
    let mut add = |text: &str, is_prefix: bool| {
        if text.chars().any(char::is_alphanumeric) && terms.len() < MAX_TERMS {
            terms.push(Term { text: text.replace(['"', '\0'], " "), is_prefix });
        }
    };
    let mut rest = query;
    while let Some((before, after)) = rest.split_once('"') {
        words(before, &mut add);
        // A quotation that does not end goes to the end.
        let (phrase, after) = after.split_once('"').unwrap_or((after, ""));
        let prefixed = after.strip_prefix('*');
        add(phrase, prefixed.is_some());
        rest = prefixed.unwrap_or(after);
    }
    words(rest, &mut add);
    terms
}

fn words(text: &str, add: &mut impl FnMut(&str, bool)) {
    for word in text.split_whitespace() {
        let bare = word.trim_end_matches('*');
        add(bare, bare.len() < word.len());
    }
}

/// The terms in the language of FTS5, in which what is quoted is nothing but text.
pub(crate) fn expression(terms: &[Term]) -> String {
    let term = |Term { text, is_prefix }: &Term| {
        let mut spaced = String::new();
        push_spaced(&mut spaced, text);
        format!("\"{}\"{}", spaced.trim(), if *is_prefix { " *" } else { "" })
    };
    terms.iter().map(term).collect::<Vec<_>>().join(" AND ")
}

/// What to show of a trace: the beginning of the last thing that was said to the model.
pub(crate) fn preview(texts: &[&str]) -> String {
    texts.last().map_or_else(String::new, |text| flat(text, 0))
}

/// The surroundings of the first term that one of the texts has.
pub(crate) fn snippet(texts: &[&str], terms: &[Term]) -> Option<String> {
    let found = |text: &&str| terms.iter().find_map(|term| find(text, &term.text));
    texts.iter().find_map(|text| Some(flat(text, found(text)?)))
}

/// One line of a text from a little before the character of this number.
fn flat(text: &str, at: usize) -> String {
    let begin = at.saturating_sub(BEFORE_CHARS);
    let mut shown: String = if begin > 0 { "…".to_owned() } else { String::new() };
    let mut rest = text.chars().skip(begin);
    shown.extend(rest.by_ref().take(PREVIEW_CHARS).map(|c| if c.is_control() { ' ' } else { c }));
    if rest.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Where a text has these words, in characters; upper and lower case are the same.
fn find(text: &str, words: &str) -> Option<usize> {
    let lower = |c: char| c.to_lowercase().next().unwrap_or(c);
    let text: Vec<char> = text.chars().map(lower).collect();
    let words: Vec<char> = words.trim().chars().map(lower).collect();
    text.windows(words.len().max(1)).position(|window| window == words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_said_is_indexed() {
        let request = json!({"model": "m", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": "data:"}}]},
        ], "tools": [{"function": {"name": "f"}}], "temperature": 0.5});
        assert_eq!(texts(&request), ["Be brief.", "Hello"]);
        assert_eq!(preview(&texts(&request)), "Hello");
        assert_eq!(indexed(&["東京 tower", "a\0b"]), " 東  京  tower\na b\n");
    }

    #[test]
    fn questions_are_words_phrases_and_beginnings() {
        let check = |query: &str, expected: &str| assert_eq!(expression(&terms(query)), expected, "{query}");
        check("red  fox", r#""red" AND "fox""#);
        check(r#"the "quick brown" fo*"#, r#""the" AND "quick brown" AND "fo" *"#);
        check(r#""quick bro"* x"#, r#""quick bro" * AND "x""#);
        check(r#""never ends"#, r#""never ends""#);
        check("大学", r#""大  学""#);
        check("a NEAR b", r#""a" AND "NEAR" AND "b""#);
        check("input : x) OR ^y --", r#""input" AND "x)" AND "OR" AND "^y""#);
        check("\" ' * ( ) \0", "");
        assert_eq!(terms(&"w ".repeat(500)).len(), MAX_TERMS);
    }

    #[test]
    fn snippets_are_around_what_was_found() {
        let long = format!("{} needle {}", "a".repeat(300), "b".repeat(300));
        let shown = snippet(&["nothing", &long], &terms("NEEDLE")).unwrap_or_default();
        assert!(shown.starts_with("…a") && shown.contains(" needle b") && shown.ends_with("b…"), "{shown}");
        assert_eq!(snippet(&["nothing"], &terms("needle")), None);
        assert_eq!(snippet(&["नमस्ते दुनिया\n!"], &terms("दुनिया")).as_deref(), Some("नमस्ते दुनिया !"));
    }
}
