//! `/v1/moderations`: asks whoever judges texts here, a program's own [`Moderator`] or a server behind this one.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yantra_api::{ApiError, ErrorBody, ModerationPart, ModerationRequest, ModerationResponse, ModerationResult};

use crate::body::JsonBody;
use crate::config::ConfigError;
use crate::failure::Failure;
use crate::generation::Head;
use crate::tenant::Visit;

/// Longest answer of the server behind this one.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Judges texts.
#[async_trait::async_trait]
pub trait Moderator: Debug + Send + Sync {
    /// Whether it judges images too; else they are refused before it is asked.
    fn takes_images(&self) -> bool {
        false
    }

    /// Gives each list of parts a verdict, in order. `model` is what the request says.
    ///
    /// # Errors
    /// What the client is to be told.
    async fn moderate(&self, model: Option<&str>, items: Vec<Vec<ModerationPart>>) -> Result<Moderated, ApiError>;
}

/// Verdicts, and whose.
#[derive(Debug, Clone, PartialEq)]
pub struct Moderated {
    /// The model that judged.
    pub model: String,
    /// As many as there were items.
    pub results: Vec<ModerationResult>,
}

/// Judges texts by OpenAI's categories or others: whatever the server's moderator has.
#[utoipa::path(
    post, path = "/v1/moderations", tag = "Moderation", request_body = ModerationRequest,
    responses((status = 200, body = ModerationResponse), (status = 501, description = "There is no moderator", body = ErrorBody),
        (status = 502, description = "The moderator failed", body = ErrorBody))
)]
pub(crate) async fn moderations(
    visit: Visit,
    JsonBody(request, _share): JsonBody<ModerationRequest>,
) -> Result<Json<ModerationResponse>, Failure> {
    let moderator = visit.app.hooks().moderator.clone();
    let moderator = moderator.ok_or_else(|| ApiError::not_configured("moderation", "[server.moderation] url"))?;
    let items = request.items(moderator.takes_images())?;
    let expected = items.len();
    let asking = moderator.moderate(request.model.as_deref(), items);
    let answer = tokio::time::timeout_at(visit.app.deadline(), asking).await;
    let Moderated { model, results } = answer.map_err(|_| ApiError::timeout("the moderator took too long"))??;
    if results.len() != expected {
        let message = format!("the moderator gave {} verdicts, {expected} expected", results.len());
        return Err(ApiError::upstream(message).into());
    }
    let Head { id, model, .. } = Head::new("modr", &model);
    Ok(Json(ModerationResponse { id, model, results }))
}

/// The `[server.moderation]` table of the configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawModerationConfig {
    /// An endpoint that answers as OpenAI's `/v1/moderations`. None or empty: there is no moderation.
    pub url: Option<String>,
    /// The key it wants.
    pub api_key: Option<String>,
    /// The model to ask for where a request names none.
    pub model: Option<String>,
    /// Whether it takes images.
    pub images: bool,
    /// Seconds it may take.
    pub timeout_s: f64,
}

impl Default for RawModerationConfig {
    fn default() -> Self {
        Self { url: None, api_key: None, model: None, images: false, timeout_s: 10.0 }
    }
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModerationConfig {
    url: String,
    api_key: Option<String>,
    model: Option<String>,
    images: bool,
    timeout: Duration,
}

impl RawModerationConfig {
    /// Checked; `None` where there is to be no moderation.
    pub(crate) fn validate(self) -> Result<Option<ModerationConfig>, ConfigError> {
        let fail = |field, message| Err(ConfigError { field, message });
        let Some(url) = self.url.filter(|url| !url.is_empty()) else { return Ok(None) };
        let uri = url.parse::<Uri>().ok();
        let is_address = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if !is_address {
            let message = format!("'{url}' given, something like 'https://example.org/v1/moderations' expected");
            return fail("moderation.url", message);
        }
        if !(0.05..=600.0).contains(&self.timeout_s) {
            return fail("moderation.timeout_s", format!("{} given, 0.05 to 600 seconds expected", self.timeout_s));
        }
        let timeout = Duration::from_secs_f64(self.timeout_s);
        Ok(Some(ModerationConfig { url, api_key: self.api_key, model: self.model, images: self.images, timeout }))
    }
}

/// A server that judges.
#[derive(Debug)]
struct Remote {
    client: reqwest::Client,
    config: ModerationConfig,
}

/// The moderator of these settings.
///
/// # Errors
/// No client can be made.
pub(crate) fn remote(config: ModerationConfig) -> Result<Arc<dyn Moderator>, reqwest::Error> {
    // The provider is process-wide; when an embedding program chose one already, theirs stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(config.timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("yantra/", env!("CARGO_PKG_VERSION")))
        .build()?;
    Ok(Arc::new(Remote { client, config }))
}

#[async_trait::async_trait]
impl Moderator for Remote {
    fn takes_images(&self) -> bool {
        self.config.images
    }

    async fn moderate(&self, model: Option<&str>, items: Vec<Vec<ModerationPart>>) -> Result<Moderated, ApiError> {
        let mut body = json!({"input": input_of(items)});
        if let Some(model) = model.or(self.config.model.as_deref()) {
            body["model"] = json!(model);
        }
        let mut request = self.client.post(&self.config.url).json(&body);
        if let Some(key) = &self.config.api_key {
            request = request.bearer_auth(key);
        }
        // Where the moderator is is not for clients to know.
        let failed = |error: reqwest::Error| {
            let error = error.without_url();
            tracing::warn!(%error, "the moderator can not be asked");
            ApiError::upstream(if error.is_timeout() {
                "the moderator took too long"
            } else {
                "no answer of the moderator"
            })
        };
        let mut answer = request.send().await.map_err(failed)?;
        let (status, retry_after) = (answer.status().as_u16(), retry_after_s(&answer));
        let mut bytes = Vec::new();
        while let Some(more) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&more);
            if bytes.len() > MAX_ANSWER_BYTES {
                return Err(ApiError::upstream(format!(
                    "the moderator's answer is longer than {MAX_ANSWER_BYTES} bytes"
                )));
            }
        }
        match status {
            200..=299 => read(&bytes),
            429 => Err(ApiError::overloaded("the moderator has too many requests", retry_after.unwrap_or(1))),
            status => Err(refused(status, &bytes)),
        }
    }
}

/// The items in the form they came in: several are texts, a single one may be of parts.
fn input_of(items: Vec<Vec<ModerationPart>>) -> Value {
    let plain = |parts: &Vec<ModerationPart>| match parts.as_slice() {
        [ModerationPart::Text { text }] => Some(text.clone()),
        _ => None,
    };
    match items.iter().map(plain).collect::<Option<Vec<String>>>() {
        Some(texts) => json!(texts),
        None => json!(items.concat()),
    }
}

fn retry_after_s(answer: &reqwest::Response) -> Option<u64> {
    answer.headers().get("retry-after")?.to_str().ok()?.parse().ok()
}

fn read(bytes: &[u8]) -> Result<Moderated, ApiError> {
    let answer: Result<ModerationResponse, _> = serde_json::from_slice(bytes);
    let answer = answer.map_err(|error| {
        tracing::warn!(%error, "the moderator's answer can not be read");
        ApiError::upstream("the moderator's answer has not the form of OpenAI's")
    })?;
    Ok(Moderated { model: answer.model, results: answer.results })
}

/// What a moderator that refuses says. Only a wrong request is the client's to mend.
fn refused(status: u16, bytes: &[u8]) -> ApiError {
    let body: Option<ErrorBody> = serde_json::from_slice(bytes).ok();
    let message = body.map_or_else(|| format!("status {status}"), |body| body.error.message);
    tracing::warn!(status, message, "the moderator refuses");
    match status {
        400 | 422 => ApiError::invalid_request(format!("the moderator refuses: {message}")),
        _ => ApiError::upstream(format!("the moderator answers with status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: RawModerationConfig, expected: Result<bool, &str>) {
        let result = raw.clone().validate().map(|config| config.is_some()).map_err(|error| error.field);
        assert_eq!(result, expected, "{raw:?}");
    }

    #[test]
    fn settings_are_checked() {
        let url = |url: &str| RawModerationConfig { url: Some(url.to_owned()), ..RawModerationConfig::default() };
        check(RawModerationConfig::default(), Ok(false));
        check(url(""), Ok(false));
        check(url("https://example.org/v1/moderations"), Ok(true));
        check(url("example.org"), Err("moderation.url"));
        check(url("ftp://example.org"), Err("moderation.url"));
        check(RawModerationConfig { timeout_s: 0.0, ..url("http://a") }, Err("moderation.timeout_s"));
    }
}
