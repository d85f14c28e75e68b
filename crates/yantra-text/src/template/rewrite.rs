//! Small rewritings of a template's source, for the two things minijinja cannot be configured to do:
//!
//! - `{% generation %}` … `{% endgeneration %}` marks, for training masks, what an assistant wrote. A prompt ignores it,
//!   so it becomes `{% with %}`, which prints its body and scopes its variables the same way.
//! - `{% for x in none %}` is an error in Python and an empty loop in minijinja; the loop's subject is sent through the
//!   filter [`ITERABLE`], which refuses `none`.
//!
//! Line numbers stay as they are. Strings, comments and `{% raw %}` are left alone.

use minijinja::{Error, ErrorKind, Value};

/// Name of the filter put on the subject of every loop.
pub(super) const ITERABLE: &str = "__iterable";

/// The filter itself.
pub(super) fn iterable(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "'NoneType' object is not iterable"));
    }
    Ok(value)
}

/// Rewrites `source` as the module describes.
pub(super) fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + source.len() / 16);
    let mut rest = source;
    while let Some(start) = rest.find(['{']) {
        let (before, tail) = rest.split_at(start);
        out.push_str(before);
        let length = match tail.as_bytes().get(1) {
            Some(b'#') => tail.find("#}").map(|end| end + 2),
            Some(b'{') => tag_length(tail, "}}"),
            Some(b'%') => tag_length(tail, "%}"),
            _ => Some(1),
        };
        // An unclosed tag is for the parser to complain about.
        let (tag, mut after) = tail.split_at(length.unwrap_or(tail.len()));
        if tag.starts_with("{%") && tag.ends_with("%}") && tag.len() >= 4 {
            out.push_str(&rewrite_tag(tag));
            if tag_words(tag).starts_with("raw") {
                let end = after.find("endraw").unwrap_or(after.len());
                out.push_str(&after[..end]);
                after = &after[end..];
            }
        } else {
            out.push_str(tag);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Length of the tag `text` begins with, through `end`, which does not count inside strings.
fn tag_length(text: &str, end: &str) -> Option<usize> {
    let mut scanner = Scanner::new(text);
    while let Some((at, _)) = scanner.next_outside_strings() {
        if text[at..].starts_with(end) {
            return Some(at + end.len());
        }
    }
    None
}

/// What stands between `{%-` and `-%}`.
fn tag_words(tag: &str) -> &str {
    tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim()
}

fn rewrite_tag(tag: &str) -> String {
    let words = tag_words(tag);
    match words {
        "generation" => return tag.replacen("generation", "with", 1),
        "endgeneration" => return tag.replacen("endgeneration", "endwith", 1),
        _ => {}
    }
    let Some((subject_start, subject_end)) = loop_subject(words) else {
        return tag.to_owned();
    };
    let offset = tag.find(words).unwrap_or_default();
    let (start, end) = (offset + subject_start, offset + subject_end);
    let subject = tag[start..end].trim();
    format!("{} ({subject})|{ITERABLE} {}", &tag[..start], &tag[end..])
}

/// Where the subject of `for targets in SUBJECT [if condition] [recursive]` stands. A conditional expression cannot stand
/// there without parentheses, so the first bare `if` ends it.
fn loop_subject(words: &str) -> Option<(usize, usize)> {
    if !words.strip_prefix("for")?.starts_with(char::is_whitespace) {
        return None;
    }
    let mut start = None;
    let mut depth = 0usize;
    let mut word_start = 0;
    let mut scanner = Scanner::new(words);
    let mut previous_is_word = false;
    while let Some((at, character)) = scanner.next_outside_strings() {
        let is_word = character.is_alphanumeric() || character == '_';
        if is_word && !previous_is_word {
            word_start = at;
        }
        let word_ends =
            is_word && !words[at + character.len_utf8()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        previous_is_word = is_word;
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ if word_ends && depth == 0 => match (start, &words[word_start..=at]) {
                (None, "in") => start = Some(at + 1),
                (Some(start), "if" | "recursive") => return Some((start, word_start)),
                _ => {}
            },
            _ => {}
        }
    }
    start.map(|start| (start, words.len()))
}

/// Walks over characters that are not inside a string literal.
struct Scanner<'a> {
    characters: std::str::CharIndices<'a>,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { characters: text.char_indices() }
    }

    fn next_outside_strings(&mut self) -> Option<(usize, char)> {
        let (at, character) = self.characters.next()?;
        if character == '"' || character == '\'' {
            while let Some((_, inner)) = self.characters.next() {
                if inner == '\\' {
                    self.characters.next();
                } else if inner == character {
                    break;
                }
            }
        }
        Some((at, character))
    }
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    fn check(source: &str, expected: &str) {
        assert_eq!(rewrite(source), expected);
    }

    #[test]
    fn generation_tags_become_with() {
        check("a{%- generation -%}b{% endgeneration %}{% if x %}", "a{%- with -%}b{% endwith %}{% if x %}");
        check("{{ generation }} {% generation", "{{ generation }} {% generation");
    }

    #[test]
    fn loop_subjects_are_guarded() {
        check("{% for x in a.b %}{% endfor %}", "{% for x in (a.b)|__iterable  %}{% endfor %}");
        check(
            "{%- for k, v in f(x if y else z)|sort if k in v -%}",
            "{%- for k, v in (f(x if y else z)|sort)|__iterable if k in v -%}",
        );
        check("{% for inner in format recursive %}", "{% for inner in (format)|__iterable recursive %}");
        check("{% for x in [' if ', \"%}\"] %}", "{% for x in ([' if ', \"%}\"])|__iterable  %}");
    }

    #[test]
    fn everything_else_stays() {
        for source in [
            "{# {% for x in y %} #}",
            "{{ '{% for x in y %}' }}",
            "{% raw %}{% for x in y %}{% generation %}{% endraw %}",
            "{ {% set formula = 'for x in y' %} }",
            "{% forward x in y %}",
            "{",
            "é{%",
            "{%}",
        ] {
            check(source, source);
        }
    }
}
