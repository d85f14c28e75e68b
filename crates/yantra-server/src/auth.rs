//! API keys: `Authorization: Bearer KEY` or `x-api-key: KEY`, compared in constant time. Each belongs to a tenant, whose
//! prompts no other tenant can find in the prefix cache.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use yantra_api::ApiError;

use crate::app::App;
use crate::config::ServerConfig;
use crate::failure::Failure;
use crate::keys::{KeyFile, KeyFileError, Terms, digest, digest_of, hex};
use crate::quota::Quotas;
use crate::tenant::Tenant;
use crate::watched::{Source, Watched};

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
    file: Option<Watched<KeySource>>,
    is_shared: bool,
}

/// A file of keys.
#[derive(Debug)]
struct KeySource(PathBuf);

impl Source for KeySource {
    type Value = Vec<Known>;
    type Error = KeyFileError;
    const NAME: &'static str = "keys";

    fn files(&self) -> Vec<&Path> {
        vec![&self.0]
    }

    /// Tenants that were known before go on with what they have left of their quotas.
    fn read(&self, before: Option<&Vec<Known>>) -> Result<Vec<Known>, KeyFileError> {
        let before = before.into_iter().flatten();
        let quotas: HashMap<_, _> =
            before.filter_map(|known| Some((known.tenant.name()?, known.tenant.quotas()?))).collect();
        let quotas_of = |name: &str, terms: &Terms| match quotas.get(name) {
            Some(quotas) if quotas.are_of(terms) => Arc::clone(quotas),
            _ => Arc::new(Quotas::new(terms)),
        };
        let known = KeyFile::read(&self.0)?.keys.into_iter().filter_map(|key| {
            let quotas = quotas_of(&key.name, &key.terms);
            Some(Known { digest: digest_of(&key.sha256)?, tenant: Tenant::new(&key.name, key.terms, quotas) })
        });
        Ok(known.collect())
    }
}

/// The tenant of a key that has no name: without limits, and by number, which says nothing when keys before it are taken
/// away. So what is kept for it goes by the key.
fn unnamed(number: usize, digest: &[u8; 32]) -> Tenant {
    let terms = Terms::default();
    let quotas = Arc::new(Quotas::new(&terms));
    let owner = format!("sha256:{}", hex(digest));
    Tenant::with_owner(&format!("key-{number}"), &owner, terms, quotas)
}

impl Keys {
    pub(crate) fn new(config: &ServerConfig) -> Result<Self, KeyFileError> {
        let configured = config.api_keys.iter().enumerate().map(|(index, key)| {
            let digest = digest(key.as_bytes());
            Known { digest, tenant: unnamed(index + 1, &digest) }
        });
        let file = config.keys_file.clone().map(|path| Watched::open(KeySource(path))).transpose()?;
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
        found.or_else(|| self.file.as_ref().and_then(|file| find(&file.get(), &given)))
    }

    /// Who things are kept for under this name, unless the key has been taken away.
    pub(crate) fn tenant_of(&self, owner: Option<&str>) -> Option<Tenant> {
        let Some(owner) = owner else { return Some(Tenant::default()) };
        let find = |known: &[Known]| {
            known.iter().map(|known| &known.tenant).find(|tenant| tenant.owner() == Some(owner)).cloned()
        };
        find(&self.configured).or_else(|| self.file.as_ref().and_then(|file| find(&file.get())))
    }

    /// All tenants there are.
    pub(crate) fn tenants(&self) -> Vec<Tenant> {
        let of_file = self.file.as_ref().map(Watched::get);
        let of_file = of_file.iter().flat_map(|known| known.iter());
        self.configured.iter().chain(of_file).map(|known| known.tenant.clone()).collect()
    }

    /// Reads the file of keys again, changed or not.
    pub(crate) fn read_again(&self) {
        if let Some(file) = &self.file {
            file.read_again();
        }
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
        if let Some(found) = found {
            assert_eq!(keys.tenant_of(found.owner()), Some(found));
        }
        assert_eq!(keys.tenant_of(Some("nobody")), None);
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
