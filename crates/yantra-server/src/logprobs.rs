//! Log-probabilities as the two completion APIs write them.

use std::collections::BTreeMap;

use yantra_api::{ChatLogprobs, ChatTokenLogprob, ChatTopLogprob, CompletionLogprobs};
use yantra_engine::TokenLogprobs;
use yantra_text::Tokenizer;

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

/// Writes tokens in the completions form, keeping count of where in the choice's text they begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct CompletionWriter {
    offset: usize,
}

impl CompletionWriter {
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
        self.offset += text.chars().count();
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
