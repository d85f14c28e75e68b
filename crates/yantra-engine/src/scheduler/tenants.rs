//! What part of the engine a tenant may have at one time, when there are others.
//!
//! Fair queueing alone decides who is next; it does not keep one tenant from filling the batch before the next one comes,
//! whose first token then waits for steps that are long and for places that are taken. So a tenant has at most its
//! share of the places in the batch, of the pages, and, while it wants more than its places, of the prompt tokens of a step.
//! Shares go by weight among the tenants that have sequences or had some lately. One alone has everything.

use std::{collections::HashMap, sync::Arc};

/// Steps for which a tenant without sequences keeps its share.
const REMEMBERED_STEPS: u64 = 256;

/// A tenant's number, while it is known.
pub(super) type TenantIndex = u32;

#[derive(Debug)]
struct Tenant {
    weight: u32,
    /// Sequences in the scheduler.
    sequences: usize,
    /// Those of them in the batch.
    running: usize,
    /// Prompt tokens in the step being planned.
    planned: usize,
    /// The last step it had sequences in.
    last_step: u64,
}

/// The tenants known.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    by_name: HashMap<Option<Arc<str>>, TenantIndex>,
    tenants: Vec<Tenant>,
    vacant: Vec<TenantIndex>,
    step: u64,
    total_weight: u64,
}

impl Tenants {
    /// A sequence of this tenant has come.
    pub(super) fn add(&mut self, name: Option<&Arc<str>>, weight: u32) -> TenantIndex {
        let index = match self.by_name.get(&name.cloned()) {
            Some(&index) => index,
            None => self.remember(name.cloned()),
        };
        let tenant = &mut self.tenants[index as usize];
        self.total_weight = self.total_weight + u64::from(weight.max(1)) - u64::from(tenant.weight);
        tenant.weight = weight.max(1);
        tenant.sequences += 1;
        index
    }

    fn remember(&mut self, name: Option<Arc<str>>) -> TenantIndex {
        let tenant = Tenant { weight: 0, sequences: 0, running: 0, planned: 0, last_step: self.step };
        let index = self.vacant.pop().unwrap_or(self.tenants.len() as TenantIndex);
        match self.tenants.get_mut(index as usize) {
            Some(place) => *place = tenant,
            None => self.tenants.push(tenant),
        }
        self.by_name.insert(name, index);
        index
    }

    /// A sequence has gone.
    pub(super) fn remove(&mut self, index: TenantIndex) {
        let tenant = &mut self.tenants[index as usize];
        tenant.sequences -= 1;
        tenant.last_step = self.step;
    }

    /// A sequence has entered the batch.
    pub(super) fn enter(&mut self, index: TenantIndex) {
        self.tenants[index as usize].running += 1;
    }

    /// A sequence has left the batch.
    pub(super) fn leave(&mut self, index: TenantIndex) {
        self.tenants[index as usize].running -= 1;
    }

    /// A step is going to be planned.
    pub(super) fn begin_step(&mut self) {
        self.step += 1;
        let Self { by_name, tenants, vacant, step, total_weight } = self;
        by_name.retain(|_, &mut index| {
            let tenant = &mut tenants[index as usize];
            tenant.planned = 0;
            let stays = tenant.sequences > 0 || *step - tenant.last_step < REMEMBERED_STEPS;
            if !stays {
                *total_weight -= u64::from(tenant.weight);
                vacant.push(index);
            }
            stays
        });
    }

    /// The tenant's part of something that there is so much of; at least 1.
    fn share(&self, index: TenantIndex, of: usize) -> usize {
        let weight = u128::from(self.tenants[index as usize].weight);
        let share = (of as u128 * weight).div_ceil(u128::from(self.total_weight.max(1)));
        (share as usize).clamp(1, of.max(1))
    }

    /// Whether there are no others to share with.
    pub(super) fn is_alone(&self) -> bool {
        self.by_name.len() < 2
    }

    /// Whether the tenant has all the places in a batch that it may have.
    pub(super) fn is_full(&self, index: TenantIndex, places: usize) -> bool {
        !self.is_alone() && self.tenants[index as usize].running >= self.share(index, places)
    }

    /// Whether the tenant has more places in a batch than its share.
    pub(super) fn has_more(&self, index: TenantIndex, places: usize) -> bool {
        !self.is_alone() && self.tenants[index as usize].running > self.share(index, places)
    }

    /// Whether the tenant may hold so many pages; a single sequence may always hold what it needs.
    pub(super) fn may_hold(&self, index: TenantIndex, pages: usize, num_pages: usize) -> bool {
        self.is_alone() || self.tenants[index as usize].running == 0 || pages <= self.share(index, num_pages)
    }

    /// Prompt tokens that the tenant may still have in this step, of `left`.
    pub(super) fn tokens_left(&self, index: TenantIndex, left: usize, places: usize, token_budget: usize) -> usize {
        let tenant = &self.tenants[index as usize];
        if self.is_alone() || tenant.sequences <= self.share(index, places) {
            return left;
        }
        left.min(self.share(index, token_budget).saturating_sub(tenant.planned))
    }

    /// The tenant has so many more prompt tokens in this step.
    pub(super) fn plan(&mut self, index: TenantIndex, tokens: usize) {
        self.tenants[index as usize].planned += tokens;
    }

    /// Sequences and running ones by the tenants' own account. For tests.
    pub(super) fn totals(&self) -> (usize, usize) {
        let known = self.by_name.values().map(|&index| &self.tenants[index as usize]);
        known.fold((0, 0), |sum, tenant| (sum.0 + tenant.sequences, sum.1 + tenant.running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_go_by_weight_among_those_that_are_there() {
        let mut tenants = Tenants::default();
        let a = tenants.add(Some(&"a".into()), 3);
        assert!(!tenants.is_full(a, 0), "one alone has everything");
        let b = tenants.add(Some(&"b".into()), 1);
        (0..12).for_each(|_| tenants.enter(a));
        (0..3).for_each(|_| tenants.enter(b));
        assert!(tenants.is_full(a, 16) && !tenants.is_full(b, 16));
        tenants.enter(b);
        assert!(tenants.is_full(b, 16));
        assert!(tenants.may_hold(a, 75, 100) && !tenants.may_hold(a, 76, 100));
        (0..20).for_each(|_| _ = tenants.add(Some(&"a".into()), 3));
        assert_eq!(tenants.tokens_left(a, 100, 16, 100), 75, "wants more than its 12 places");
        assert_eq!(tenants.tokens_left(b, 100, 16, 100), 100, "does not");
        tenants.plan(a, 70);
        assert_eq!(tenants.tokens_left(a, 100, 16, 100), 5);
    }

    #[test]
    fn those_that_are_gone_are_forgotten_after_a_while() {
        let mut tenants = Tenants::default();
        let a = tenants.add(Some(&"a".into()), 1);
        let b = tenants.add(Some(&"b".into()), 1);
        tenants.enter(a);
        tenants.remove(b);
        (1..REMEMBERED_STEPS).for_each(|_| tenants.begin_step());
        assert!(tenants.is_full(a, 1));
        tenants.begin_step();
        assert!(!tenants.is_full(a, 1));
        assert_eq!((tenants.total_weight, tenants.vacant.len()), (1, 1));
    }
}
