//! The places of requests that wait: a bounded number, of which one tenant can not take all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::SeqCst},
};

use crate::handle::Shared;

/// Tenants remembered before those that wait for nothing are forgotten.
const MANY_TENANTS: usize = 1024;

/// How many places each tenant has taken. Those with none are remembered for a while: that there are others is what
/// bounds a tenant.
#[derive(Debug, Default)]
pub(crate) struct Tenants(Mutex<HashMap<Arc<str>, usize>>);

impl Tenants {
    /// Takes a place for a tenant: where there are others, no more than three quarters of all.
    fn enter(&self, tenant: &Arc<str>, max_queue: usize) -> bool {
        let mut tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() >= MANY_TENANTS {
            tenants.retain(|_, taken| *taken > 0);
        }
        tenants.entry(Arc::clone(tenant)).or_insert(0);
        let most = if tenants.len() > 1 { (max_queue - max_queue / 4).max(1) } else { max_queue };
        let taken = tenants.entry(Arc::clone(tenant)).or_insert(0);
        let enters = *taken < most;
        *taken += usize::from(enters);
        enters
    }

    fn leave(&self, tenant: &Arc<str>) {
        let mut tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = tenants.get_mut(tenant) {
            *taken = taken.saturating_sub(1);
        }
    }
}

/// A place in the queue, given back when it is dropped.
pub(crate) struct Place {
    shared: Arc<Shared>,
    tenant: Option<Arc<str>>,
}

impl Place {
    /// Takes a place; when there is none, how many are taken.
    pub(crate) fn take(shared: &Arc<Shared>, tenant: Option<&Arc<str>>) -> Result<Self, usize> {
        let (max_queue, queued) = (shared.config.max_queue, &shared.counters.queued);
        queued.fetch_update(SeqCst, SeqCst, |queued| (queued < max_queue).then_some(queued + 1))?;
        if let Some(tenant) = tenant
            && !shared.tenants.enter(tenant, max_queue)
        {
            return Err(queued.fetch_sub(1, SeqCst) - 1);
        }
        Ok(Self { shared: Arc::clone(shared), tenant: tenant.cloned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.counters.queued.fetch_sub(1, SeqCst);
        if let Some(tenant) = &self.tenant {
            self.shared.tenants.leave(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_tenants_can_not_take_all_places() {
        let tenants = Tenants::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        assert!((0..8).all(|_| tenants.enter(&a, 8)), "alone it may");
        assert!(!tenants.enter(&a, 8));
        assert!(tenants.enter(&b, 8));
        (0..8).for_each(|_| tenants.leave(&a));
        assert!((0..6).all(|_| tenants.enter(&a, 8)));
        assert!(!tenants.enter(&a, 8) && tenants.enter(&b, 8));
    }
}
