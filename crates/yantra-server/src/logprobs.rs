//! Log-probabilities as the two completion APIs write them.

use std::collections::BTreeMap;

use yantra_api::{ChatLogprobs, ChatTokenLogprob, ChatTopLogprob, CompletionLogprobs};
use yantra_engine::TokenLogprobs;
use yantra_text::{DetokenizeStream, Tokenizer};

/// A token in a chat's form: text and bytes apart, since a token may hold a part of a character.
fn chat_token(tokenizer: &Tokenizer, token: &TokenLogprobs) -> ChatTokenLogprob {
    let bytes = |id| tokenizer.token_bytes(id).unwrap_or_default().into_owned();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let top = |top: &yantra_engine::TopLogprob| {
        let bytes = bytes(top.id);
        ChatTopLogprob { token: text(&bytes), logprob: top.logprob, bytes: Some(bytes) }
    };
    let own = bytes(token.id);
    ChatTokenLogprob {
        token: text(&own),
        logprob: token.logprob,
        bytes: Some(own),
        top_logprobs: token.top.iter().map(top).collect(),
    }
}

/// Tokens in a chat's form.
pub(crate) fn chat_logprobs(tokenizer: &Tokenizer, tokens: &[TokenLogprobs]) -> ChatLogprobs {
    ChatLogprobs { content: tokens.iter().map(|token| chat_token(tokenizer, token)).collect() }
}

/// A token's text in the completions form, where parts of characters are written as `bytes:\xe2\x82`.
fn completion_text(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(&bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, byte| format!("{text}\\x{byte:02x}")),
    }
}

/// Writes tokens in the completions form, keeping count of where in the choice's text they begin: in characters of the
/// text as it is decoded, in which a token that is a part of a character has no place of its own.
#[derive(Debug, Clone)]
pub(crate) struct CompletionWriter {
    text: DetokenizeStream,
    offset: usize,
}

impl CompletionWriter {
    /// For a text that `text` decodes.
    pub(crate) fn new(text: DetokenizeStream) -> Self {
        Self { text, offset: 0 }
    }

    /// From here on the text is decoded by `text`; what the one before held back is let out.
    pub(crate) fn go_on_with(&mut self, text: DetokenizeStream) {
        self.offset += self.text.finish().chars().count();
        self.text = text;
    }

    /// Appends a token; `logprobs` is `None` for a prompt's first token, which nothing predicts.
    pub(crate) fn push(
        &mut self,
        out: &mut CompletionLogprobs,
        tokenizer: &Tokenizer,
        id: u32,
        logprobs: Option<&TokenLogprobs>,
    ) {
        let text = completion_text(tokenizer, id);
        out.text_offset.push(self.offset);
        self.offset += self.text.push(id).chars().count();
        out.token_logprobs.push(logprobs.map(|token| token.logprob));
        out.top_logprobs.push(logprobs.map(|token| {
            // The token itself is always among them, as OpenAI has it.
            let own = std::iter::once((text.clone(), token.logprob));
            let top = token.top.iter().map(|top| (completion_text(tokenizer, top.id), top.logprob));
            own.chain(top).collect::<BTreeMap<_, _>>()
        }));
        out.tokens.push(text);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A tokeniser whose tokens are the bytes `a`, `\xc3`, `\xa9` and the letters `bc`.
    fn tokenizer() -> Tokenizer {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": {"a": 0, "Ã": 1, "©": 2, "bc": 3}, "merges": []},
        });
        Tokenizer::from_tokenizer_json(json.to_string().as_bytes(), None).unwrap()
    }

    fn check(tokens: &[u32], offsets: &[usize]) {
        let tokenizer = tokenizer();
        let mut writer = CompletionWriter::new(tokenizer.stream(true));
        let mut out = CompletionLogprobs::default();
        for &token in tokens {
            writer.push(&mut out, &tokenizer, token, None);
        }
        assert_eq!(out.text_offset, offsets, "{tokens:?}");
    }

    #[test]
    fn offsets_count_characters_of_the_decoded_text() {
        check(&[0, 3, 0], &[0, 1, 3]);
        // `aébc`: the two halves of é share its place.
        check(&[0, 1, 2, 3], &[0, 1, 1, 2]);
        // `a\u{fffd}bc`: a half without the other is one replacement character.
        check(&[0, 2, 3], &[0, 1, 2]);
    }
}
