//! What of requests and answers is kept.

/// Whether requests to this endpoint can be kept.
pub(super) fn is_traced(endpoint: &str) -> bool {
    let endpoints = ["chat/completions", "completions", "responses", "messages", "embeddings", "rerank", "score"];
    endpoint.strip_prefix("/v1/").is_some_and(|endpoint| endpoints.contains(&endpoint))
}

/// Whether its answers are kept: vectors say nothing to anybody, and are large.
pub(super) fn is_answer_kept(endpoint: &str, status: u16) -> bool {
    endpoint != "/v1/embeddings" || status >= 400
}

/// Whether what became of a request is worth keeping: of one that was only told to come again nothing was learned.
pub(super) fn is_worth(status: Option<u16>) -> bool {
    !matches!(status, Some(429 | 503))
}
