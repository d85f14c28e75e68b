//! One OpenAI-compatible server: addresses, key, time limits, and errors that say what happened.

use crate::{
    ClientError, SseDecoder, SseEvent,
    error::{chain, shorten},
    wire::error_message,
};
use futures_util::{Stream, StreamExt, stream};
use reqwest::{Method, Response, Url, header};
use serde_json::Value;
use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

/// Larger than any reply that is not streamed; a list of ten thousand embeddings is some 100 MiB.
const MAX_BODY_BYTES: usize = 256 << 20;
/// As much of an error page as a message needs.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the connection.
    pub connect: Duration,
    /// For the first byte of the reply: queueing and reading the prompt happen here.
    pub first_byte: Duration,
    /// Between two pieces of a stream.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), first_byte: Duration::from_secs(600), idle: Duration::from_secs(300) }
    }
}

/// Where a server is and how to speak to it.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// `http://host:port`, with or without `/v1` or another path before it.
    pub base_url: String,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// How long to wait.
    pub timeouts: Timeouts,
}

impl EndpointConfig {
    /// A server without a key, with the default time limits.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self { base_url: base_url.into(), api_key: None, timeouts: Timeouts::default() }
    }

    /// The same with a key.
    #[must_use]
    pub fn with_api_key(mut self, api_key: Option<String>) -> Self {
        self.api_key = api_key;
        self
    }
}

/// A model as a server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// The name requests use.
    pub id: String,
    /// The server's whole entry.
    pub details: Value,
}

impl ModelEntry {
    /// Whether the model answers conversations, as far as the server says: Yantra lists capabilities, others nothing.
    pub fn generates_text(&self) -> bool {
        let capabilities = self.details.get("capabilities").and_then(Value::as_array);
        capabilities.is_none_or(|all| all.is_empty() || all.iter().any(|one| one == "chat" || one == "completion"))
    }
}

/// A server that speaks OpenAI's HTTP API. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Endpoint {
    client: reqwest::Client,
    /// Ends without a slash and without `/v1`.
    root: Arc<str>,
    authorization: Option<header::HeaderValue>,
    timeouts: Timeouts,
    is_loopback: bool,
}

/// The events of one streamed reply.
pub(crate) type EventStream = Pin<Box<dyn Stream<Item = Result<SseEvent, ClientError>> + Send>>;

impl Endpoint {
    /// Checks the address and prepares a connection pool; connects to nothing yet.
    ///
    /// # Errors
    /// [`ClientError::InvalidUrl`] for an address or key that cannot be sent.
    pub fn new(config: &EndpointConfig) -> Result<Self, ClientError> {
        let invalid = |reason: String| ClientError::InvalidUrl { given: config.base_url.clone(), reason };
        let url = Url::parse(config.base_url.trim()).map_err(|error| invalid(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid(format!("the scheme is `{}`", url.scheme())));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("it has a query or a fragment".into()));
        }
        let is_loopback = url.host_str().is_some_and(is_loopback_host);
        let root = url.as_str().trim_end_matches('/');
        let root = root.strip_suffix("/v1").unwrap_or(root);
        let authorization = match &config.api_key {
            None => None,
            Some(key) => {
                let mut value = header::HeaderValue::from_str(&format!("Bearer {key}"))
                    .map_err(|_| invalid("the API key has characters that a header cannot carry".into()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        // The provider is process-wide; when an embedding program chose one already, theirs stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(config.timeouts.connect)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("yantra/", env!("CARGO_PKG_VERSION")));
        if is_loopback {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| invalid(chain(&error)))?;
        Ok(Self { client, root: root.into(), authorization, timeouts: config.timeouts, is_loopback })
    }

    /// The server's address, without `/v1`.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Whether the server is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.is_loopback
    }

    /// A JSON document from `path` (which begins with a slash, as `/v1/models`).
    ///
    /// # Errors
    /// As every request: unreachable, too slow, refused, not JSON.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        let response = self.send(Method::GET, path, None).await?;
        self.json_body(path, response).await
    }

    /// Sends a JSON document to `path` and reads one back.
    ///
    /// # Errors
    /// As [`Endpoint::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        let response = self.send(Method::POST, path, Some(body)).await?;
        self.json_body(path, response).await
    }

    /// Sends a JSON document to `path` and reads a stream of events back; dropping the stream closes the connection.
    ///
    /// # Errors
    /// As [`Endpoint::get`]; the stream's items report what breaks later.
    pub async fn post_stream(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<impl Stream<Item = Result<SseEvent, ClientError>> + Send + Unpin + use<>, ClientError> {
        let response = self.send(Method::POST, path, Some(body)).await?;
        let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        if !content_type.starts_with("text/event-stream") {
            return Err(ClientError::protocol("content type text/event-stream", content_type));
        }
        Ok(self.events(path, response))
    }

    /// The models the server offers.
    ///
    /// # Errors
    /// As [`Endpoint::get`].
    pub async fn models(&self) -> Result<Vec<ModelEntry>, ClientError> {
        let body = self.get("/v1/models").await?;
        let data = body.get("data").and_then(Value::as_array);
        let data = data.ok_or_else(|| ClientError::protocol("a list of models in `data`", body.to_string()))?;
        Ok(data
            .iter()
            .filter_map(|entry| Some(ModelEntry { id: entry.get("id")?.as_str()?.to_owned(), details: entry.clone() }))
            .collect())
    }

    /// The token ids of `text`, through the `/tokenize` endpoint that Yantra, llama.cpp and vLLM have.
    ///
    /// # Errors
    /// As [`Endpoint::get`]; [`ClientError::Status`] 404 where there is no such endpoint.
    pub async fn tokenize(&self, model: &str, text: &str) -> Result<Vec<u32>, ClientError> {
        // Yantra and vLLM read `prompt`, llama.cpp reads `content` and gives no tokens for what it does not know.
        let dialects = [
            serde_json::json!({"model": model, "prompt": text, "add_special_tokens": false}),
            serde_json::json!({"content": text, "add_special": false}),
        ];
        let mut last = None;
        for body in &dialects {
            match self.post("/tokenize", body).await {
                Ok(reply) => match token_ids(&reply) {
                    Some(ids) if !ids.is_empty() || text.is_empty() => return Ok(ids),
                    _ => last = Some(ClientError::protocol("token ids in `tokens`", reply.to_string())),
                },
                Err(error @ ClientError::Status { status: 400 | 404 | 422, .. }) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| ClientError::protocol("token ids", "nothing")))
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response, ClientError> {
        let url = format!("{}{path}", self.root);
        let mut request = self.client.request(method, &url);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = within(self.timeouts.first_byte, "answer", &url, request.send()).await?;
        let response = response.map_err(|error| self.transport_error(&url, &error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.status_error(&url, response).await) }
    }

    fn transport_error(&self, url: &str, error: &reqwest::Error) -> ClientError {
        if error.is_timeout() {
            let after = self.timeouts.connect;
            return ClientError::Timeout { what: "connection", url: url.into(), after };
        }
        if error.is_connect() {
            return ClientError::Connect { url: url.into(), reason: chain(error) };
        }
        ClientError::Interrupted { reason: chain(error) }
    }

    async fn status_error(&self, url: &str, response: Response) -> ClientError {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = self.bounded_body(url, response, MAX_ERROR_BYTES).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let (message, kind) = serde_json::from_str(&text).ok().as_ref().and_then(error_message).unwrap_or_else(|| {
            let reason = status.canonical_reason().unwrap_or("no reason given");
            (if text.trim().is_empty() { reason.to_owned() } else { shorten(text.trim(), 300) }, None)
        });
        ClientError::Status { url: url.into(), status: status.as_u16(), kind, message, retry_after }
    }

    async fn json_body(&self, path: &str, response: Response) -> Result<Value, ClientError> {
        let url = format!("{}{path}", self.root);
        let body = self.bounded_body(&url, response, MAX_BODY_BYTES).await?;
        serde_json::from_slice(&body).map_err(|_| ClientError::protocol("JSON", String::from_utf8_lossy(&body)))
    }

    async fn bounded_body(&self, url: &str, mut response: Response, limit: usize) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(piece) = within(self.timeouts.idle, "rest of the reply", url, response.chunk())
            .await?
            .map_err(|error| ClientError::Interrupted { reason: chain(&error) })?
        {
            if body.len() + piece.len() > limit {
                return Err(ClientError::protocol(format!("a reply of at most {limit} bytes"), "a longer one"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn events(&self, path: &str, response: Response) -> EventStream {
        struct Reading {
            response: Response,
            decoder: SseDecoder,
            ready: VecDeque<SseEvent>,
            url: String,
            idle: Duration,
            failed: bool,
        }
        async fn next(reading: &mut Reading) -> Option<Result<SseEvent, ClientError>> {
            let mut events = Vec::new();
            loop {
                if let Some(event) = reading.ready.pop_front() {
                    return Some(Ok(event));
                }
                if reading.failed {
                    return None;
                }
                let piece =
                    within(reading.idle, "next piece of the stream", &reading.url, reading.response.chunk()).await;
                let result = match piece {
                    Err(error) => Err(error),
                    Ok(Err(error)) => Err(ClientError::Interrupted { reason: chain(&error) }),
                    Ok(Ok(None)) => return None,
                    Ok(Ok(Some(bytes))) => reading.decoder.push(&bytes, &mut events),
                };
                reading.ready.extend(events.drain(..));
                if let Err(error) = result {
                    reading.failed = true;
                    return Some(Err(error));
                }
            }
        }
        let reading = Reading {
            response,
            decoder: SseDecoder::default(),
            ready: VecDeque::new(),
            url: format!("{}{path}", self.root),
            idle: self.timeouts.idle,
            failed: false,
        };
        stream::unfold(reading, |mut reading| async move { Some((next(&mut reading).await?, reading)) }).boxed()
    }
}

async fn within<T>(
    limit: Duration,
    what: &'static str,
    url: &str,
    future: impl Future<Output = T>,
) -> Result<T, ClientError> {
    tokio::time::timeout(limit, future).await.map_err(|_| ClientError::Timeout { what, url: url.into(), after: limit })
}

fn is_loopback_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The seconds form of `Retry-After`; the date form is not worth a calendar.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(3600.0)))
}

fn token_ids(reply: &Value) -> Option<Vec<u32>> {
    let tokens = reply.get("tokens")?.as_array()?;
    let id = |token: &Value| token.as_u64().or_else(|| token.get("id")?.as_u64());
    tokens.iter().map(|token| u32::try_from(id(token)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses() {
        let check = |given: &str, root: &str, loopback: bool| {
            let endpoint = Endpoint::new(&EndpointConfig::new(given)).unwrap();
            assert_eq!((endpoint.root(), endpoint.is_loopback()), (root, loopback), "{given}");
        };
        check("http://127.0.0.1:8080", "http://127.0.0.1:8080", true);
        check("http://localhost:8080/v1/", "http://localhost:8080", true);
        check("http://[::1]:80/", "http://[::1]", true);
        check("https://api.example.com/openai/v1", "https://api.example.com/openai", false);
        let entry = |details: Value| ModelEntry { id: "m".into(), details }.generates_text();
        assert!(entry(serde_json::json!({})) && entry(serde_json::json!({"capabilities": ["chat"]})));
        assert!(!entry(serde_json::json!({"capabilities": ["embedding"]})));
        for wrong in ["127.0.0.1:8080", "ftp://x", "", "http://x/?a=b", "http://"] {
            let error = Endpoint::new(&EndpointConfig::new(wrong)).unwrap_err();
            assert!(matches!(error, ClientError::InvalidUrl { .. }), "{wrong}: {error}");
        }
    }

    #[test]
    fn token_lists_of_three_servers() {
        let check = |json: Value| assert_eq!(token_ids(&json), Some(vec![1, 2]), "{json}");
        check(serde_json::json!({"tokens": [1, 2]}));
        check(serde_json::json!({"tokens": [1, 2], "count": 2}));
        check(serde_json::json!({"tokens": [{"id": 1, "piece": "a"}, {"id": 2, "piece": "b"}]}));
        assert_eq!(token_ids(&serde_json::json!({"tokens": ["a"]})), None);
    }
}
