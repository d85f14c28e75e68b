//! What can go wrong between asking a model and having its answer.

use std::time::Duration;

/// Why a request failed. Each message says what was asked of whom and what came back.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL cannot be used.
    #[error("`{given}` is not a usable server address: {reason}; expected something like http://127.0.0.1:8080")]
    InvalidUrl {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answered.
    #[error("cannot reach {url}: {reason}")]
    Connect {
        /// Whom was called.
        url: String,
        /// What the network said, innermost cause included.
        reason: String,
    },
    /// Somebody answered, but too slowly.
    #[error("no {what} from {url} within {} s", .after.as_secs_f32())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// From whom.
        url: String,
        /// For how long.
        after: Duration,
    },
    /// The server refused.
    #[error("{url} answered {status}: {message}")]
    Status {
        /// Who answered.
        url: String,
        /// The HTTP status.
        status: u16,
        /// OpenAI's error `type` or `code`, when given.
        kind: Option<String>,
        /// The server's own words, or the start of the body.
        message: String,
        /// When to try again, as the server says.
        retry_after: Option<Duration>,
    },
    /// The server reported an error in the middle of a stream.
    #[error("the server broke off the reply: {message}")]
    Server {
        /// The server's own words.
        message: String,
    },
    /// Something came back that is not the protocol.
    #[error("the server's reply is not understood: expected {expected}, got `{got}`")]
    Protocol {
        /// What should have come.
        expected: String,
        /// What came, shortened.
        got: String,
    },
    /// The stream ended before the reply did.
    #[error("the reply broke off: {reason}")]
    Interrupted {
        /// What ended it.
        reason: String,
    },
    /// The request cannot be answered by this model.
    #[error("the request is not valid: {reason}")]
    InvalidRequest {
        /// What is wrong, with the field's name.
        reason: String,
    },
    /// The model in this process takes no more work for now.
    #[error("the model is busy: its queue is full")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The model in this process failed.
    #[error("the engine failed: {reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
    /// A recording cannot be read, written or does not hold the request.
    #[error("recording {path}: {reason}")]
    Recording {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl ClientError {
    /// A [`ClientError::Protocol`] with `got` shortened to a readable length.
    pub(crate) fn protocol(expected: impl Into<String>, got: impl AsRef<str>) -> Self {
        Self::Protocol { expected: expected.into(), got: shorten(got.as_ref(), 200) }
    }

    /// A word for reports that count failures by reason, the same for every occurrence of the same kind.
    pub fn label(&self) -> String {
        match self {
            Self::InvalidUrl { .. } => "invalid URL".into(),
            Self::Connect { .. } => "connection failed".into(),
            Self::Timeout { what, .. } => format!("timeout waiting for {what}"),
            Self::Status { status, .. } => format!("HTTP {status}"),
            Self::Server { .. } => "error in the stream".into(),
            Self::Protocol { .. } => "protocol error".into(),
            Self::Interrupted { .. } => "interrupted".into(),
            Self::InvalidRequest { .. } => "invalid request".into(),
            Self::Busy { .. } => "busy".into(),
            Self::Engine { .. } => "engine error".into(),
            Self::Recording { .. } => "recording error".into(),
        }
    }

    /// How long to wait before the same request may succeed; `None` when trying again is pointless or unsafe.
    pub fn retry_after(&self) -> Option<Duration> {
        const SOON: Duration = Duration::from_millis(500);
        match self {
            Self::Connect { .. } => Some(SOON),
            Self::Status { status: 429 | 502 | 503 | 504, retry_after, .. } => Some(retry_after.unwrap_or(SOON)),
            Self::Busy { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}

/// The first `limit` characters of `text`, on one line.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    let mut short: String = text.chars().take(limit).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(limit).is_some() {
        short.push('…');
    }
    short
}

/// An error and its causes on one line: `reqwest` hides the useful part in the last one.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
