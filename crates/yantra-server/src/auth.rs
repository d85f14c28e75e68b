//! API keys: `Authorization: Bearer KEY` or `x-api-key: KEY`, compared in constant time. Each belongs to a tenant, whose
//! prompts no other tenant can find in the prefix cache.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use yantra_api::ApiError;

use crate::app::App;
use crate::config::ServerConfig;
use crate::failure::Failure;
use crate::keys::{KeyFile, KeyFileError, Terms, digest, digest_of};
use crate::quota::Quotas;
use crate::tenant::Tenant;

/// How often the file of keys is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A key's digest: equally long for all, so that comparing tells nothing of the keys' lengths.
#[derive(Debug)]
struct Known {
    digest: [u8; 32],
    tenant: Tenant,
}

/// The keys of the configuration, and those of a file.
#[derive(Debug)]
pub(crate) struct Keys {
    configured: Vec<Known>,
    file: Option<Watched>,
    is_shared: bool,
}

/// A file of keys, read again when it changes.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    known: RwLock<Vec<Known>>,
    looked: Mutex<Looked>,
}

/// When a file was looked at, and what it was then.
#[derive(Debug)]
struct Looked {
    at: Instant,
    was: Option<(SystemTime, u64)>,
}

impl Keys {
    pub(crate) fn new(config: &ServerConfig) -> Result<Self, KeyFileError> {
        let configured = config.api_keys.iter().enumerate().map(|(index, key)| Known {
            digest: digest(key.as_bytes()),
            tenant: unlimited(&format!("key-{}", index + 1)),
        });
        let file = config.keys_file.clone().map(Watched::open).transpose()?;
        Ok(Self { configured: configured.collect(), file, is_shared: config.share_prefix_cache })
    }

    /// Whose key a request has; `None`: not one of ours.
    fn tenant(&self, headers: &HeaderMap) -> Option<Tenant> {
        if self.configured.is_empty() && self.file.is_none() {
            return Some(Tenant::default());
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        // Anthropic's clients send keys so.
        let key = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))?;
        let given = digest(key);
        let found = find(&self.configured, &given);
        found.or_else(|| self.file.as_ref().and_then(|file| file.find(&given)))
    }

    /// Whether tenants may find each other's prompts in the prefix cache.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }
}

/// Every key is looked at, whichever fits.
fn find(known: &[Known], given: &[u8; 32]) -> Option<Tenant> {
    let (mut found, mut at) = (Choice::from(0), 0u64);
    for (index, known) in (0u64..).zip(known) {
        let fits = known.digest.ct_eq(given);
        at.conditional_assign(&index, fits);
        found |= fits;
    }
    bool::from(found).then(|| known[at as usize].tenant.clone())
}

impl Watched {
    fn open(path: PathBuf) -> Result<Self, KeyFileError> {
        let was = state_of(&path);
        let known = RwLock::new(read(&path, &[])?);
        Ok(Self { path, known, looked: Mutex::new(Looked { at: Instant::now(), was }) })
    }

    fn find(&self, given: &[u8; 32]) -> Option<Tenant> {
        self.look();
        find(&self.known.read().unwrap_or_else(PoisonError::into_inner), given)
    }

    /// Reads the file again if it has changed. A broken one leaves the keys as they were.
    fn look(&self) {
        // Whoever comes while another looks goes on with what is known.
        let Ok(mut looked) = self.looked.try_lock() else { return };
        if looked.at.elapsed() < LOOK_INTERVAL {
            return;
        }
        looked.at = Instant::now();
        let is = state_of(&self.path);
        if is == looked.was {
            return;
        }
        looked.was = is;
        let read = read(&self.path, &self.known.read().unwrap_or_else(PoisonError::into_inner));
        match read {
            Ok(known) => {
                tracing::info!(keys = known.len(), file = %self.path.display(), "the keys have changed");
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
            }
            Err(error) => tracing::error!(%error, "the keys stay as they were"),
        }
    }
}

/// What tells that a file has changed.
fn state_of(path: &std::path::Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The keys of a file; those that were known before go on with what they have left of their quotas.
fn read(path: &std::path::Path, before: &[Known]) -> Result<Vec<Known>, KeyFileError> {
    let file = KeyFile::read(path)?;
    let quotas: HashMap<_, _> =
        before.iter().filter_map(|known| Some((known.tenant.name()?, known.tenant.quotas()?))).collect();
    let quotas_of = |name: &str, terms: &Terms| match quotas.get(name) {
        Some(quotas) if quotas.are_of(terms) => Arc::clone(quotas),
        _ => Arc::new(Quotas::new(terms)),
    };
    let known = file.keys.into_iter().filter_map(|key| {
        let quotas = quotas_of(&key.name, &key.terms);
        Some(Known { digest: digest_of(&key.sha256)?, tenant: Tenant::new(&key.name, key.terms, quotas) })
    });
    Ok(known.collect())
}

/// A tenant without limits.
fn unlimited(name: &str) -> Tenant {
    let terms = Terms::default();
    let quotas = Arc::new(Quotas::new(&terms));
    Tenant::new(name, terms, quotas)
}

/// The key of a `Bearer` header; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// Refuses requests without a key, but for the paths that need none; tells the others whose they are.
pub(crate) async fn check(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let config = app.config();
    let public = request.method() == Method::OPTIONS
        || match path {
            "/health" | "/ready" | "/v1/health" => config.public_health,
            "/metrics" => config.public_metrics,
            "/openapi.json" => true,
            path => crate::console::is_page(path),
        };
    let tenant = match app.keys().tenant(request.headers()) {
        Some(tenant) => tenant,
        None if public => Tenant::default(),
        None => return Failure(ApiError::invalid_api_key()).into_response(),
    };
    request.extensions_mut().insert(tenant.clone());
    let mut response = next.run(request).await;
    // For the access log.
    response.extensions_mut().insert(tenant);
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(keys: &[&str], header: Option<(&'static str, &str)>, tenant: Option<Option<&str>>) {
        let api_keys = keys.iter().map(|&key| key.to_owned()).collect();
        let keys = Keys::new(&ServerConfig { api_keys, ..ServerConfig::default() }).unwrap();
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().unwrap());
        }
        let found = keys.tenant(&headers);
        assert_eq!(found.as_ref().map(Tenant::name), tenant, "{header:?}");
    }

    #[test]
    fn only_whole_keys_are_accepted() {
        let bearer = |value| Some(("authorization", value));
        check(&[], None, Some(None));
        check(&["ab", "cd"], bearer("Bearer cd"), Some(Some("key-2")));
        check(&["ab", "cd"], bearer("bearer ab"), Some(Some("key-1")));
        check(&["ab", "cd"], Some(("x-api-key", "ab")), Some(Some("key-1")));
        for wrong in ["Bearer a", "Bearer abc", "Bearer ", "Basic ab", "ab", "Bearer", "Bearer ab cd"] {
            check(&["ab", "cd"], bearer(wrong), None);
        }
        check(&["ab"], None, None);
        check(&["ab"], Some(("x-api-key", "a")), None);
    }
}
