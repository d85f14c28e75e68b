//! The server's settings: as written in the configuration file, and checked.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::moderations::{ModerationConfig, RawModerationConfig};
use crate::telemetry::{RawTelemetryConfig, TelemetryConfig};
use crate::tls::TlsFiles;
use crate::traces::{RawTracesConfig, TracesConfig};

/// The `[server]` table of the configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawServerConfig {
    /// Address or name to listen on.
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// PEM file of the certificate, followed by those that vouch for it: HTTPS; read again when it changes.
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    pub tls_key: Option<PathBuf>,
    /// Keys of which a client must send one; none: no key is needed.
    pub api_keys: Vec<String>,
    /// File of further keys, which `yantra keys` makes; read again when it changes.
    pub keys_file: Option<PathBuf>,
    /// Whether requests with different keys may find each other's prompts in the prefix cache.
    pub share_prefix_cache: bool,
    /// Whether to listen without keys where other machines can reach the server.
    pub allow_no_auth: bool,
    /// Whether `/health` and `/ready` need no key.
    pub public_health: bool,
    /// Whether `/metrics` needs no key.
    pub public_metrics: bool,
    /// Web origins that may call the API from a browser; `*` allows every one. None: only the server's own pages.
    pub cors_origins: Vec<String>,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Bytes of request bodies held at the same time, over all requests; more is answered with 429.
    pub max_body_bytes_total: usize,
    /// Connections served at the same time.
    pub max_connections: usize,
    /// Seconds a client may take to send a request's headers; also how long an idle connection is kept.
    pub header_timeout_s: f64,
    /// Seconds a client may take to send a request's body.
    pub body_timeout_s: f64,
    /// Seconds a client may read nothing while there is something to read.
    pub write_timeout_s: f64,
    /// Seconds an answer may take in all; then it is cancelled.
    pub request_timeout_s: f64,
    /// Seconds between comments that keep a silent event stream open.
    pub keep_alive_s: f64,
    /// Seconds that running requests get to finish when the server stops.
    pub drain_timeout_s: f64,
    /// Seconds after which a model's step counts as stuck, and the server as unhealthy.
    pub stuck_step_s: f64,
    /// Whether clients may have models loaded and unloaded; where there are keys, with a key that is an admin's.
    pub allow_model_changes: bool,
    /// Directories below which models may be loaded by their paths; those of the catalogue always may.
    pub model_dirs: Vec<PathBuf>,
    /// Who judges texts for `/v1/moderations`.
    pub moderation: RawModerationConfig,
    /// Directory of what outlives the server: files, batches, usage. Only one server may use it. None: no files and
    /// batches, and usage is forgotten.
    pub state_dir: Option<PathBuf>,
    /// Largest file that is kept, in bytes.
    pub max_file_bytes: usize,
    /// Items of batches that are worked on at the same time.
    pub batch_concurrency: usize,
    /// Requests of which `/v1/requests` tells where their time went; up to some 100 KiB each, most far less. 0: none.
    pub kept_requests: usize,
    /// Where spans of requests go.
    pub telemetry: RawTelemetryConfig,
    /// Whether what is asked and answered is kept.
    pub traces: RawTracesConfig,
}

impl Default for RawServerConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            tls_cert: None,
            tls_key: None,
            api_keys: Vec::new(),
            keys_file: None,
            share_prefix_cache: false,
            allow_no_auth: false,
            public_health: true,
            public_metrics: true,
            cors_origins: Vec::new(),
            max_body_bytes: 10 << 20,
            max_body_bytes_total: 256 << 20,
            max_connections: 1024,
            header_timeout_s: 30.0,
            body_timeout_s: 30.0,
            write_timeout_s: 60.0,
            request_timeout_s: 600.0,
            keep_alive_s: 15.0,
            drain_timeout_s: 30.0,
            stuck_step_s: 120.0,
            allow_model_changes: false,
            model_dirs: Vec::new(),
            moderation: RawModerationConfig::default(),
            state_dir: None,
            max_file_bytes: 100 << 20,
            batch_concurrency: 16,
            kept_requests: 1000,
            telemetry: RawTelemetryConfig::default(),
            traces: RawTracesConfig::default(),
        }
    }
}

/// A setting is out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("server setting '{field}': {message}")]
pub struct ConfigError {
    /// Its name.
    pub field: &'static str,
    /// What was given and what was expected.
    pub message: String,
}

/// Which web origins may call the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CorsOrigins {
    None,
    Any,
    List(Vec<HeaderValue>),
}

/// Checked settings. Made from a [`RawServerConfig`].
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) api_keys: Vec<String>,
    pub(crate) keys_file: Option<PathBuf>,
    pub(crate) share_prefix_cache: bool,
    pub(crate) public_health: bool,
    pub(crate) public_metrics: bool,
    pub(crate) cors_origins: CorsOrigins,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_body_bytes_total: usize,
    pub(crate) max_connections: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) stuck_step: Duration,
    pub(crate) allow_model_changes: bool,
    pub(crate) model_dirs: Vec<PathBuf>,
    pub(crate) moderation: Option<ModerationConfig>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) max_file_bytes: usize,
    pub(crate) batch_concurrency: usize,
    pub(crate) kept_requests: usize,
    pub(crate) telemetry: Option<TelemetryConfig>,
    pub(crate) traces: Option<TracesConfig>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let raw = RawServerConfig::default();
        Self {
            host: raw.host,
            port: raw.port,
            tls: None,
            api_keys: raw.api_keys,
            keys_file: raw.keys_file,
            share_prefix_cache: raw.share_prefix_cache,
            public_health: raw.public_health,
            public_metrics: raw.public_metrics,
            cors_origins: CorsOrigins::None,
            max_body_bytes: raw.max_body_bytes,
            max_body_bytes_total: raw.max_body_bytes_total,
            max_connections: raw.max_connections,
            header_timeout: Duration::from_secs_f64(raw.header_timeout_s),
            body_timeout: Duration::from_secs_f64(raw.body_timeout_s),
            write_timeout: Duration::from_secs_f64(raw.write_timeout_s),
            request_timeout: Duration::from_secs_f64(raw.request_timeout_s),
            keep_alive: Duration::from_secs_f64(raw.keep_alive_s),
            drain_timeout: Duration::from_secs_f64(raw.drain_timeout_s),
            stuck_step: Duration::from_secs_f64(raw.stuck_step_s),
            allow_model_changes: raw.allow_model_changes,
            model_dirs: raw.model_dirs,
            moderation: None,
            state_dir: raw.state_dir,
            max_file_bytes: raw.max_file_bytes,
            batch_concurrency: raw.batch_concurrency,
            kept_requests: raw.kept_requests,
            telemetry: None,
            traces: None,
        }
    }
}

impl TryFrom<RawServerConfig> for ServerConfig {
    type Error = ConfigError;

    fn try_from(raw: RawServerConfig) -> Result<Self, ConfigError> {
        if raw.host.trim().is_empty() {
            return fail("host", "nothing given, an address or a name expected");
        }
        if let Some(index) =
            raw.api_keys.iter().position(|key| key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()))
        {
            return fail("api_keys", format!("key {index} is empty or holds other than printable ASCII characters"));
        }
        if raw.api_keys.is_empty() && raw.keys_file.is_none() && !raw.allow_no_auth && !is_loopback(&raw.host) {
            let host = &raw.host;
            let message = format!(
                "'{host}' given without API keys, which would let every machine that reaches it use the models: give \
                 keys, or an address of this machine only, or --allow-no-auth (allow_no_auth = true) where something else guards it"
            );
            return fail("host", message);
        }
        Ok(Self {
            cors_origins: cors_origins(&raw.cors_origins)?,
            max_body_bytes: count("max_body_bytes", raw.max_body_bytes, 1024, 1 << 30)?,
            max_body_bytes_total: count("max_body_bytes_total", raw.max_body_bytes_total, raw.max_body_bytes, 1 << 40)?,
            max_connections: count("max_connections", raw.max_connections, 1, 1 << 20)?,
            header_timeout: seconds("header_timeout_s", raw.header_timeout_s, 0.05)?,
            body_timeout: seconds("body_timeout_s", raw.body_timeout_s, 0.05)?,
            write_timeout: seconds("write_timeout_s", raw.write_timeout_s, 0.05)?,
            request_timeout: seconds("request_timeout_s", raw.request_timeout_s, 0.05)?,
            keep_alive: seconds("keep_alive_s", raw.keep_alive_s, 0.05)?,
            drain_timeout: seconds("drain_timeout_s", raw.drain_timeout_s, 0.0)?,
            stuck_step: seconds("stuck_step_s", raw.stuck_step_s, 0.05)?,
            traces: raw.traces.validate(raw.state_dir.is_some())?,
            state_dir: raw.state_dir.map(directory).transpose()?,
            max_file_bytes: count("max_file_bytes", raw.max_file_bytes, 1024, 1 << 40)?,
            batch_concurrency: count("batch_concurrency", raw.batch_concurrency, 1, 4096)?,
            kept_requests: count("kept_requests", raw.kept_requests, 0, 100_000)?,
            tls: tls(raw.tls_cert, raw.tls_key)?,
            moderation: raw.moderation.validate()?,
            telemetry: raw.telemetry.validate()?,
            allow_model_changes: raw.allow_model_changes,
            model_dirs: raw.model_dirs,
            host: raw.host,
            port: raw.port,
            api_keys: raw.api_keys,
            keys_file: raw.keys_file,
            share_prefix_cache: raw.share_prefix_cache,
            public_health: raw.public_health,
            public_metrics: raw.public_metrics,
        })
    }
}

impl ServerConfig {
    /// `host:port`, as the system's resolver takes it.
    #[must_use]
    pub fn address(&self) -> String {
        match self.host.contains(':') && !self.host.starts_with('[') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether clients may have models loaded and unloaded.
    #[must_use]
    pub fn allow_model_changes(&self) -> bool {
        self.allow_model_changes
    }

    /// Directories below which clients may have models loaded by their paths.
    #[must_use]
    pub fn model_dirs(&self) -> &[PathBuf] {
        &self.model_dirs
    }

    /// `https` where there is a certificate, else `http`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

fn tls(cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<TlsFiles>, ConfigError> {
    match (cert, key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
        (Some(_), None) => fail("tls_key", "nothing given, the file of the key of tls_cert expected"),
        (None, Some(_)) => fail("tls_cert", "nothing given, the file of the certificate of tls_key expected"),
    }
}

fn directory(given: PathBuf) -> Result<PathBuf, ConfigError> {
    match given.as_os_str().is_empty() {
        false => Ok(given),
        true => fail("state_dir", "nothing given, a directory expected"),
    }
}

/// Whether only this machine can reach the address.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim().trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

fn fail<T>(field: &'static str, message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { field, message: message.into() })
}

fn count(field: &'static str, given: usize, least: usize, most: usize) -> Result<usize, ConfigError> {
    match (least..=most).contains(&given) {
        true => Ok(given),
        false => fail(field, format!("{given} given, {least} to {most} expected")),
    }
}

fn seconds(field: &'static str, given: f64, least: f64) -> Result<Duration, ConfigError> {
    const MOST: f64 = 86_400.0;
    match (least..=MOST).contains(&given) {
        true => Ok(Duration::from_secs_f64(given)),
        false => fail(field, format!("{given} given, {least} to {MOST} seconds expected")),
    }
}

fn cors_origins(origins: &[String]) -> Result<CorsOrigins, ConfigError> {
    if origins.is_empty() {
        return Ok(CorsOrigins::None);
    }
    if origins.iter().any(|origin| origin == "*") {
        return Ok(CorsOrigins::Any);
    }
    let parse = |origin: &String| {
        let has_scheme = origin.starts_with("http://") || origin.starts_with("https://");
        match HeaderValue::from_str(origin) {
            Ok(value) if has_scheme && !origin.ends_with('/') => Ok(value),
            _ => fail("cors_origins", format!("'{origin}' given, something like 'https://example.org' expected")),
        }
    };
    origins.iter().map(parse).collect::<Result<_, _>>().map(CorsOrigins::List)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(toml: &str, expected: &str) {
        let raw: Result<RawServerConfig, _> = toml::from_str(toml);
        let result = raw.map_err(|error| error.to_string());
        let message = match result.map(ServerConfig::try_from) {
            Err(message) => message,
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(_)) => "ok".to_owned(),
        };
        assert!(message.contains(expected), "{toml}: {message}");
    }

    #[test]
    fn settings_are_checked() {
        check("", "ok");
        check("prot = 1", "unknown field `prot`");
        check("port = 70000", "port");
        check("max_connections = 0", "server setting 'max_connections': 0 given, 1 to 1048576 expected");
        check("request_timeout_s = -1", "'request_timeout_s': -1 given, 0.05 to 86400 seconds expected");
        check("request_timeout_s = nan", "NaN given");
        check("api_keys = [\"\"]", "'api_keys': key 0 is empty");
        check("cors_origins = [\"example.org\"]", "'example.org' given");
        check("cors_origins = [\"*\"]", "ok");
        check("tls_cert = \"c.pem\"", "'tls_key': nothing given");
        check("tls_key = \"k.pem\"", "'tls_cert': nothing given");
        check("tls_cert = \"c.pem\"\ntls_key = \"k.pem\"", "ok");
        check("stuck_step_s = 0", "'stuck_step_s': 0 given, 0.05 to 86400 seconds expected");
        check("kept_requests = 100001", "'kept_requests': 100001 given, 0 to 100000 expected");
        check("host = \" \"", "'host'");
        check("state_dir = \"\"", "'state_dir': nothing given");
        check("batch_concurrency = 0", "'batch_concurrency': 0 given, 1 to 4096 expected");
        check("max_file_bytes = 1", "'max_file_bytes': 1 given, 1024 to");
        check("max_body_bytes_total = 1024", "'max_body_bytes_total': 1024 given, 10485760 to");
        check("[traces]\nmode = \"some\"", "unknown variant `some`, expected one of `off`, `sampled`, `full`");
        check("[traces]\nmode = \"full\"", "'traces.mode': there is nowhere to keep them");
        let traces = |toml: &str, expected| check(&format!("state_dir = \"s\"\n[traces]\n{toml}"), expected);
        traces("mode = \"full\"", "ok");
        traces("rate = 1", "unknown field `rate`");
        traces("sample_rate = 1.5", "'traces.sample_rate': 1.5 given, 0 to 1 expected");
        traces("retention_days = 0", "'traces.retention_days': 0 given, 1 to 36500 expected");
        traces("max_bytes = 7", "'traces.max_bytes': 7 given, at least 1048576 expected");
        traces("redact = [\"emails\"]", "'traces.redact': 'emails' given, one of email, phone,");
        traces("redact = [\"email\", { name = \"ticket\", pattern = \"TK-[0-9]+\" }]", "ok");
        traces("redact = [{ name = \"ticket\", regex = \"TK\" }]", "redact");
        for host in ["0.0.0.0", "::", "192.168.1.5", "example.org", "[::]"] {
            check(&format!("host = \"{host}\""), "without API keys");
            check(&format!("host = \"{host}\"\napi_keys = [\"secret-key\"]"), "ok");
            check(&format!("host = \"{host}\"\nallow_no_auth = true"), "ok");
        }
        for host in ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"] {
            check(&format!("host = \"{host}\""), "ok");
        }
    }

    #[test]
    fn the_default_passes_its_own_checks() {
        assert_eq!(ServerConfig::try_from(RawServerConfig::default()).unwrap(), ServerConfig::default());
    }

    #[test]
    fn addresses_of_both_kinds_are_written() {
        let config = |host: &str| ServerConfig { host: host.to_owned(), port: 1, ..ServerConfig::default() };
        assert_eq!(config("::1").address(), "[::1]:1");
        assert_eq!(config("localhost").address(), "localhost:1");
    }
}
