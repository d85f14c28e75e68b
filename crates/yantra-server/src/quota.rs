//! How much a tenant may use: requests and tokens, per minute and per day.
//!
//! Token buckets that fill up evenly: after a pause a whole minute's worth may be used at once. A request is let in while
//! there is something left; its tokens are counted when they are known, the prompt's and the answer's. So the last
//! request may overdraw, and what it overdrew is filled up first.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::Extension;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use yantra_api::ApiError;

use crate::failure::Failure;
use crate::keys::Terms;
use crate::tenant::Tenant;

const MINUTE_S: f64 = 60.0;
const DAY_S: f64 = 86_400.0;

/// What fills up at a limit's rate, up to the limit.
#[derive(Debug)]
struct Bucket {
    limit: f64,
    period_s: f64,
    level: f64,
    filled: Instant,
}

impl Bucket {
    fn new(limit: u64, period_s: f64, now: Instant) -> Self {
        Self { limit: limit as f64, period_s, level: limit as f64, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.level = (self.level + passed * self.limit / self.period_s).min(self.limit);
        self.filled = now;
    }

    /// Seconds until there is so much in it.
    fn wait(&self, level: f64) -> f64 {
        ((level - self.level) * self.period_s / self.limit).max(0.0)
    }
}

/// The buckets of one kind: for a minute, and for a day.
#[derive(Debug)]
struct Limits {
    buckets: Vec<Bucket>,
    what: &'static str,
}

impl Limits {
    fn new(what: &'static str, per_minute: Option<u64>, per_day: Option<u64>) -> Self {
        let now = Instant::now();
        let bucket = |limit: Option<u64>, period| limit.map(|limit| Bucket::new(limit, period, now));
        Self { buckets: [bucket(per_minute, MINUTE_S), bucket(per_day, DAY_S)].into_iter().flatten().collect(), what }
    }

    fn fill(&mut self, now: Instant) {
        self.buckets.iter_mut().for_each(|bucket| bucket.fill(now));
    }

    /// Refuses when one of the buckets is empty.
    fn check(&self) -> Result<(), ApiError> {
        match self.buckets.iter().filter(|bucket| bucket.level < 1.0).max_by(|a, b| a.wait(1.0).total_cmp(&b.wait(1.0)))
        {
            None => Ok(()),
            Some(bucket) => {
                let per = if bucket.period_s == MINUTE_S { "minute" } else { "day" };
                let wait = bucket.wait(1.0).ceil();
                let message = format!(
                    "this key may use {} {} per {per}, which have been used; try again in {wait} s",
                    bucket.limit, self.what
                );
                Err(ApiError::overloaded(message, wait as u64).with_code("rate_limit_exceeded"))
            }
        }
    }

    fn take(&mut self, amount: f64) {
        self.buckets.iter_mut().for_each(|bucket| bucket.level -= amount);
    }

    /// As OpenAI tells them: of the shortest period.
    fn tell(&self, headers: &mut HeaderMap) {
        let Some(bucket) = self.buckets.first() else { return };
        let mut put = |name: &str, value: String| {
            let name = HeaderName::try_from(format!("x-ratelimit-{name}-{}", self.what));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        };
        put("limit", bucket.limit.to_string());
        put("remaining", bucket.level.floor().max(0.0).to_string());
        put("reset", format!("{:.3}s", bucket.wait(bucket.limit)));
    }
}

/// What is left to a tenant.
#[derive(Debug)]
pub(crate) struct Quotas {
    terms: Terms,
    left: Mutex<[Limits; 2]>,
}

impl Quotas {
    pub(crate) fn new(terms: &Terms) -> Self {
        let requests = Limits::new("requests", terms.requests_per_minute, terms.requests_per_day);
        let tokens = Limits::new("tokens", terms.tokens_per_minute, terms.tokens_per_day);
        Self { terms: terms.clone(), left: Mutex::new([requests, tokens]) }
    }

    /// Whether these terms have the limits that these quotas were made for.
    pub(crate) fn are_of(&self, terms: &Terms) -> bool {
        let limits = |terms: &Terms| {
            [terms.requests_per_minute, terms.requests_per_day, terms.tokens_per_minute, terms.tokens_per_day]
        };
        limits(&self.terms) == limits(terms)
    }

    /// Lets a request in, or tells when to come again.
    fn enter(&self) -> Result<(), ApiError> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        left.iter_mut().for_each(|limits| limits.fill(now));
        left.iter().try_for_each(Limits::check)?;
        left[0].take(1.0);
        Ok(())
    }

    /// Refuses when the tokens have been used, for work that is not a request of its own.
    pub(crate) fn check_tokens(&self) -> Result<(), ApiError> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left[1].fill(Instant::now());
        left[1].check()
    }

    /// Counts tokens that were used.
    pub(crate) fn use_tokens(&self, tokens: u64) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)[1].take(tokens as f64);
    }

    /// Counts what was used today, before the server started, against the limits of the day.
    pub(crate) fn used_today(&self, requests: u64, tokens: u64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        for (limits, used) in left.iter_mut().zip([requests, tokens]) {
            let daily = limits.buckets.iter_mut().filter(|bucket| bucket.period_s == DAY_S);
            daily.for_each(|bucket| bucket.level -= used as f64);
        }
    }

    fn tell(&self, headers: &mut HeaderMap) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for limits in left.iter_mut() {
            limits.fill(now);
            limits.tell(headers);
        }
    }
}

/// Lets in requests that use models as far as their keys allow it, and tells how much is left.
pub(crate) async fn check(Extension(tenant): Extension<Tenant>, request: Request, next: Next) -> Response {
    let Some(quotas) = tenant.quotas() else { return next.run(request).await };
    let mut response = match quotas.enter() {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error).into_response(),
    };
    quotas.tell(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn buckets_fill_up_evenly_and_debts_first() {
        let now = Instant::now();
        let mut bucket = Bucket::new(60, MINUTE_S, now);
        bucket.level -= 90.0;
        assert_eq!(bucket.wait(1.0), 31.0);
        bucket.fill(now + Duration::from_secs(20));
        assert_eq!((bucket.level, bucket.wait(60.0)), (-10.0, 70.0));
        bucket.fill(now + Duration::from_secs(3600));
        assert_eq!(bucket.level, 60.0);
    }

    #[test]
    fn a_key_uses_up_what_it_may() {
        let terms = Terms { requests_per_minute: Some(2), tokens_per_day: Some(100), ..Terms::default() };
        let quotas = Quotas::new(&terms);
        quotas.enter().unwrap();
        quotas.enter().unwrap();
        let error = quotas.enter().unwrap_err();
        assert_eq!((error.status, error.code, error.retry_after_s), (429, Some("rate_limit_exceeded"), Some(30)));
        assert!(error.message.contains("2 requests per minute"), "{}", error.message);

        let quotas = Quotas::new(&Terms { requests_per_minute: None, ..terms.clone() });
        quotas.enter().unwrap();
        quotas.use_tokens(150);
        let error = quotas.enter().unwrap_err();
        assert!(error.message.contains("100 tokens per day"), "{}", error.message);
        let mut headers = HeaderMap::new();
        quotas.tell(&mut headers);
        assert_eq!(headers["x-ratelimit-remaining-tokens"], "0");
        assert_eq!(quotas.check_tokens().unwrap_err().status, 429);
        assert_eq!(headers["x-ratelimit-limit-tokens"], "100");
        assert!(!headers.contains_key("x-ratelimit-limit-requests"));
        quotas.used_today(7, 1000);
        assert!(quotas.enter().unwrap_err().retry_after_s.unwrap() > 86_400 * 10);
        assert!(
            quotas.are_of(&Terms { requests_per_minute: None, weight: 7, ..terms.clone() }) && !quotas.are_of(&terms)
        );
    }
}
