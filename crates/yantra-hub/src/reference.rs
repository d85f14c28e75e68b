//! How a model on Hugging Face is named: `OWNER/REPO[@REVISION][:FILE]`.

use crate::HubError;
use std::{fmt, str::FromStr};

/// A model on Hugging Face.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubReference {
    /// `OWNER/REPO`.
    pub repository: String,
    /// A branch, tag or commit; `main` if none is given.
    pub revision: Option<String>,
    /// A file of the repository, or a part of its name that only one GGUF has (`Q4_K_M`).
    pub file: Option<String>,
}

impl HubReference {
    /// Whether `text` looks like a reference rather than like a path.
    pub fn looks_like(text: &str) -> bool {
        let is_path = text.starts_with(['.', '/', '~', '\\']) || text.contains('\\') || has_drive(text);
        !is_path && text.parse::<Self>().is_ok()
    }
}

/// Whether a Windows path begins here (`C:…`).
fn has_drive(text: &str) -> bool {
    matches!(text.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic())
}

/// A name of an owner or a repository as Hugging Face allows it.
fn is_name(text: &str) -> bool {
    const MAX_BYTES: usize = 96;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('.') && !text.contains("..")
}

/// A relative path without any way out of the directory it is joined to.
pub(crate) fn is_inside(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    !path.contains(['\\', '\0', ':']) && path.split('/').all(part)
}

impl FromStr for HubReference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let problem = |problem| HubError::Reference { given: text.to_owned(), problem };
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (text, None),
        };
        if file.is_some_and(|file| !is_inside(file)) {
            return Err(problem("the file is no relative path"));
        }
        let (repository, revision) = match rest.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (rest, None),
        };
        if revision.is_some_and(|revision| !is_inside(revision)) {
            return Err(problem("the revision is empty or malformed"));
        }
        let (owner, name) = repository.split_once('/').ok_or_else(|| problem("there is no '/'"))?;
        if !is_name(owner) || !is_name(name) {
            return Err(problem("names have letters, digits, '-', '_' and '.'"));
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Self { repository: repository.to_owned(), revision: owned(revision), file: owned(file) })
    }
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn references_are_parsed_and_shown_alike() {
        let check = |text: &str, repository: &str, revision: Option<&str>, file: Option<&str>| {
            let reference: HubReference = text.parse().unwrap();
            let found = (reference.repository.as_str(), reference.revision.as_deref(), reference.file.as_deref());
            assert_eq!(found, (repository, revision, file));
            assert_eq!(reference.to_string(), text);
            assert!(HubReference::looks_like(text));
        };
        check("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", None, None);
        check("a/b:Q4_K_M", "a/b", None, Some("Q4_K_M"));
        check("a/b@refs/pr/1:dir/m.gguf", "a/b", Some("refs/pr/1"), Some("dir/m.gguf"));
    }

    #[test]
    fn other_texts_are_not_references() {
        for text in
            ["", "a", "a/b/c", "/a/b", "./a/b", "../b", "~/b", "a/..", "a/b:", "a/b:../c", "a/b@", "C:/a", "a\\b"]
        {
            assert!(!HubReference::looks_like(text), "{text}");
        }
    }
}
