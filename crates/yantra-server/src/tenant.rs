//! Whose a request is, and what comes with that.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::{Extension, RequestPartsExt};
use yantra_api::ApiError;

use crate::app::App;
use crate::failure::Failure;
use crate::keys::{Terms, digest, hex};
use crate::observe::REQUEST_ID;
use crate::quota::Quotas;

/// The priority of the items of batches: they wait for everybody else.
const BULK_PRIORITY: i32 = -1_000_000;

/// Whose request it is. Without keys everybody is the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tenant {
    account: Option<Arc<Account>>,
    /// Whether nobody waits for the answer.
    in_bulk: bool,
}

/// A tenant with a name.
#[derive(Debug)]
pub(crate) struct Account {
    name: Arc<str>,
    /// What is kept for it is kept under this.
    owner: Arc<str>,
    terms: Terms,
    /// The same for as long as the limits are, however often the keys are read.
    quotas: Arc<Quotas>,
}

/// By name: the terms may have changed between two requests.
impl PartialEq for Tenant {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Tenant {
    pub(crate) fn new(name: &str, terms: Terms, quotas: Arc<Quotas>) -> Self {
        Self::with_owner(name, name, terms, quotas)
    }

    /// One whose name says less of who it is than `owner` does.
    pub(crate) fn with_owner(name: &str, owner: &str, terms: Terms, quotas: Arc<Quotas>) -> Self {
        let account = Account { name: name.into(), owner: owner.into(), terms, quotas };
        Self { account: Some(Arc::new(account)), in_bulk: false }
    }

    /// The same, for requests that nobody waits for.
    pub(crate) fn in_bulk(self) -> Self {
        Self { in_bulk: true, ..self }
    }

    /// Whether nobody waits for the answer.
    pub(crate) fn is_in_bulk(&self) -> bool {
        self.in_bulk
    }

    /// Under what things are kept for the tenant; the same after a restart.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.account.as_ref().map(|account| &*account.owner)
    }

    /// The tenant's name.
    pub(crate) fn name(&self) -> Option<&str> {
        self.account.as_ref().map(|account| &*account.name)
    }

    /// The same, to be kept.
    pub(crate) fn shared_name(&self) -> Option<Arc<str>> {
        self.account.as_ref().map(|account| Arc::clone(&account.name))
    }

    /// How much of an engine it gets beside others.
    pub(crate) fn weight(&self) -> u32 {
        self.account.as_ref().map_or(1, |account| account.terms.weight)
    }

    /// Whether it may change what everybody uses. Without keys everybody may.
    pub(crate) fn is_admin(&self) -> bool {
        self.account.as_ref().is_none_or(|account| account.terms.admin)
    }

    /// How much it may use, if that is limited.
    pub(crate) fn quotas(&self) -> Option<&Arc<Quotas>> {
        self.account.as_ref().map(|account| &account.quotas)
    }

    /// The priority of a request that wants this one.
    pub(crate) fn priority(&self, wanted: Option<i32>) -> Result<i32, ApiError> {
        if self.in_bulk {
            return Ok(wanted.unwrap_or(BULK_PRIORITY).min(BULK_PRIORITY));
        }
        let most = self.account.as_ref().and_then(|account| account.terms.priority);
        match (wanted, most) {
            (Some(wanted), Some(most)) if wanted > most => Err(ApiError::invalid_param(
                "priority",
                format!("{wanted} given, at most {most} expected with this key"),
            )),
            (wanted, most) => Ok(wanted.or(most).unwrap_or(0)),
        }
    }

    /// Under what the tenant's prompts are kept in the prefix cache.
    pub(crate) fn cache_salt(&self, salt: Option<String>) -> Option<String> {
        let Some(name) = self.name() else { return salt };
        // Of one length, whatever the request's own salt is.
        let salt = salt.map(|salt| hex(&digest(salt.as_bytes()))).unwrap_or_default();
        Some(format!("{name}:{salt}"))
    }
}

/// One request, as endpoints see it that do something for somebody.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    pub(crate) app: App,
    pub(crate) tenant: Tenant,
    /// As in the response's headers.
    pub(crate) request_id: Arc<str>,
}

impl FromRequestParts<App> for Visit {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let tenant = parts.extract::<Extension<Tenant>>().await;
        let Extension(tenant) = tenant.map_err(|error| ApiError::internal(error.to_string()))?;
        let id = parts.headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
        Ok(Self { app: app.clone(), tenant, request_id: id.unwrap_or("-").into() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tenant(name: &str, priority: Option<i32>) -> Tenant {
        let terms = Terms { priority, ..Terms::default() };
        Tenant::new(name, terms.clone(), Arc::new(Quotas::new(&terms)))
    }

    #[test]
    fn tenants_have_caches_of_their_own() {
        let tenant = |name: &str| tenant(name, None);
        let salts = [
            Tenant::default().cache_salt(Some("s".to_owned())),
            tenant("a").cache_salt(None),
            tenant("b").cache_salt(None),
            tenant("a").cache_salt(Some("s".to_owned())),
        ];
        assert!((0..4).all(|a| (a + 1..4).all(|b| salts[a] != salts[b])), "{salts:?}");
        assert_eq!(Tenant::default().cache_salt(None), None);
        let long = tenant(&"x".repeat(64)).cache_salt(Some("y".repeat(256))).unwrap();
        assert!(long.len() <= yantra_engine::limits::MAX_SALT_BYTES);
    }

    #[test]
    fn a_request_may_lower_its_priority_but_not_raise_it() {
        assert_eq!(tenant("a", Some(5)).priority(None).unwrap(), 5);
        assert_eq!(tenant("a", Some(5)).priority(Some(-3)).unwrap(), -3);
        assert_eq!(tenant("a", Some(5)).priority(Some(6)).unwrap_err().param.as_deref(), Some("priority"));
        assert_eq!(tenant("a", None).priority(Some(6)).unwrap(), 6);
        assert_eq!(Tenant::default().priority(None).unwrap(), 0);
        let bulk = tenant("a", Some(5)).in_bulk();
        assert_eq!(
            [None, Some(6), Some(i32::MIN)].map(|wanted| bulk.priority(wanted).unwrap()),
            [BULK_PRIORITY, BULK_PRIORITY, i32::MIN]
        );
    }
}
