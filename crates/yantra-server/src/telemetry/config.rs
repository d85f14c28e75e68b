//! Where traces go and what they hold.

use axum::http::Uri;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// Where OTLP takes spans, below a collector's address.
const TRACES_PATH: &str = "/v1/traces";

/// The `[server.telemetry]` table of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawTelemetryConfig {
    /// The OpenTelemetry collector to send traces to, by OTLP over HTTP, such as `http://localhost:4318`. None or empty:
    /// no traces.
    pub otlp_endpoint: Option<String>,
    /// Whether traces hold what prompts and answers say.
    pub content: bool,
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TelemetryConfig {
    pub(super) traces_url: String,
    pub(super) content: bool,
}

impl RawTelemetryConfig {
    /// Checked; `None` where there are to be no traces.
    pub(crate) fn validate(&self) -> Result<Option<TelemetryConfig>, ConfigError> {
        let Some(endpoint) = self.otlp_endpoint.as_deref().map(str::trim).filter(|given| !given.is_empty()) else {
            return Ok(None);
        };
        let wrong = || ConfigError {
            field: "telemetry.otlp_endpoint",
            message: format!("'{endpoint}' given, something like 'http://localhost:4318' expected"),
        };
        let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_http || uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
            return Err(wrong());
        }
        let base = endpoint.trim_end_matches('/');
        let traces_url = if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") };
        Ok(Some(TelemetryConfig { traces_url, content: self.content }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, expected: Result<Option<&str>, ()>) {
        let raw = RawTelemetryConfig { otlp_endpoint: Some(given.to_owned()), content: false };
        let url = raw.validate().map(|config| config.map(|config| config.traces_url)).map_err(|_| ());
        assert_eq!(url, expected.map(|url| url.map(str::to_owned)), "{given}");
    }

    #[test]
    fn endpoints_are_addresses_of_collectors() {
        check("", Ok(None));
        check("http://localhost:4318", Ok(Some("http://localhost:4318/v1/traces")));
        check("http://localhost:4318/", Ok(Some("http://localhost:4318/v1/traces")));
        check("https://example.org/otlp", Ok(Some("https://example.org/otlp/v1/traces")));
        check("http://[::1]:4318/v1/traces", Ok(Some("http://[::1]:4318/v1/traces")));
        for wrong in ["localhost:4318", "grpc://localhost:4317", "http://", "http://a b", "http://a/?key=b"] {
            check(wrong, Err(()));
        }
    }
}
