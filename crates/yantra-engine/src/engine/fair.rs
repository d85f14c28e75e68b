//! Whose request is next: start-time fair queueing (Goyal, Vin and Cheng 1996, <https://doi.org/10.1145/248157.248171>)
//! over the tokens that requests ask for, divided by their tenants' weights.
//!
//! A request's tag is where its tenant's last one will have ended, or where service is now if that is later. Requests are
//! served in the order of their tags, so one of many that a tenant sends at once stands behind the first of any other.
//! With a single tenant tags grow with every request: then it is first come, first served.

use std::{collections::HashMap, sync::Arc};

use crate::Request;

/// Tokens of an answer whose length the request leaves open.
const OPEN_ANSWER: usize = 256;

/// What a token costs a tenant of weight 1.
const COST_OF_TOKEN: u64 = 1000;

/// Tenants remembered before those that are owed nothing are forgotten.
const MANY_TENANTS: usize = 1024;

/// The tenants' tags.
#[derive(Debug, Default)]
pub(super) struct FairShare {
    /// The largest tag of a request that has begun.
    now: u64,
    /// Where each tenant's last request will have ended.
    ends: HashMap<Option<Arc<str>>, u64>,
}

impl FairShare {
    /// The tag of a new request.
    pub(super) fn tag(&mut self, request: &Request) -> u64 {
        if self.ends.len() >= MANY_TENANTS {
            let now = self.now;
            self.ends.retain(|_, end| *end > now);
        }
        let answer = request.max_tokens.unwrap_or(OPEN_ANSWER).saturating_mul(request.n);
        let tokens = request.prompt.len().saturating_add(answer).max(1) as u64;
        let cost = tokens.saturating_mul(COST_OF_TOKEN) / u64::from(request.weight.max(1));
        let end = self.ends.entry(request.tenant.clone()).or_insert(0);
        let tag = self.now.max(*end);
        *end = tag.saturating_add(cost);
        tag
    }

    /// A request of this tag has begun.
    pub(super) fn begin(&mut self, tag: u64) {
        self.now = self.now.max(tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(tenant: &str, tokens: usize) -> Request {
        Request { tenant: Some(tenant.into()), prompt: vec![0; tokens], max_tokens: Some(0), ..Request::default() }
    }

    #[test]
    fn one_tenant_is_served_in_order() {
        let mut fair = FairShare::default();
        let tags: Vec<u64> = (0..100).map(|i| fair.tag(&request("a", 1 + i % 7))).collect();
        assert!(tags.is_sorted_by(|a, b| a < b), "{tags:?}");
    }

    #[test]
    fn a_flood_does_not_delay_the_others() {
        let mut fair = FairShare::default();
        let mut waiting: Vec<(u64, usize, &str)> =
            (0..500).map(|i| (fair.tag(&request("flood", 10)), i, "flood")).collect();
        let names = ["b", "c", "d", "e", "f", "g", "h"];
        let mut longest = 0;
        for round in 0..20 {
            for (index, name) in names.into_iter().enumerate() {
                waiting.push((fair.tag(&request(name, 10)), 1000 + round * 10 + index, name));
            }
            // Eight places: one for each tenant.
            waiting.sort_unstable();
            let served: Vec<_> = waiting.drain(..8).collect();
            served.iter().for_each(|(tag, _, _)| fair.begin(*tag));
            longest = longest.max(waiting.iter().filter(|(_, _, name)| *name != "flood").count());
            assert!(served.iter().any(|(_, _, name)| *name == "flood"), "the flood has its share too");
        }
        assert!(longest <= 8, "{longest} requests of the others waited");
    }

    #[test]
    fn tenants_that_are_owed_nothing_are_forgotten() {
        let mut fair = FairShare::default();
        for i in 0..5000 {
            let tag = fair.tag(&request(&i.to_string(), 1));
            fair.begin(tag + 1);
        }
        assert!(fair.ends.len() <= MANY_TENANTS);
    }
}
