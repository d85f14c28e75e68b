//! What each tenant has used of each model, day by day: `/v1/usage`.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use serde::Deserialize;
use yantra_api::{ApiError, ErrorBody, UsageList, UsageRecord};
use yantra_store::{StoreError, UsageRow, Used};

use crate::app::App;
use crate::body::QueryFields;
use crate::failure::Failure;
use crate::storage::now;
use crate::tenant::{Tenant, Visit};

const DAY_S: u64 = 86_400;
/// How long what was used may be known to the process alone.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// Days that are kept.
const KEPT_DAYS: u64 = 92;

/// Whose and what for. Days count from 1970, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UsageKey {
    pub(crate) day: u64,
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) model: Arc<str>,
}

/// All that was used.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    used: BTreeMap<UsageKey, Used>,
    /// What the state directory does not know yet.
    changed: BTreeSet<UsageKey>,
}

impl Ledger {
    /// Writes down what one request used, and takes its tokens from the tenant's quota.
    pub(crate) fn note(&self, tenant: &Tenant, model: &str, used: Used) {
        if let Some(quotas) = tenant.quotas() {
            quotas.use_tokens(used.prompt_tokens + used.completion_tokens);
        }
        let key = UsageKey { day: today(), tenant: tenant.shared_name(), model: model.into() };
        let mut books = self.books();
        if books.used.first_key_value().is_some_and(|(first, _)| first.day + KEPT_DAYS < key.day) {
            let oldest = key.day - KEPT_DAYS;
            books.used.retain(|key, _| key.day >= oldest);
        }
        add(&mut books.used, key.clone(), used);
        books.changed.insert(key);
    }

    /// Everything since a day, of one tenant or of all.
    fn since(&self, day: u64, tenant: &Tenant) -> Vec<(UsageKey, Used)> {
        let is_wanted =
            |key: &UsageKey| key.day >= day && (tenant.name().is_none() || tenant.name() == key.tenant.as_deref());
        self.books().used.iter().filter(|(key, _)| is_wanted(key)).map(|(key, used)| (key.clone(), *used)).collect()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what an earlier server wrote down; what tenants used today counts against their quotas for the day.
    fn load<'a>(&self, rows: Vec<UsageRow>, tenants: impl Iterator<Item = &'a Tenant> + Clone) {
        let mut books = self.books();
        for row in rows {
            let used = row.used;
            let whose = tenants.clone().find(|tenant| tenant.name() == row.tenant.as_deref());
            if let Some(quotas) = whose.and_then(Tenant::quotas).filter(|_| row.day == today()) {
                quotas.used_today(used.requests, used.prompt_tokens + used.completion_tokens);
            }
            let key = UsageKey { day: row.day, tenant: row.tenant.map(Into::into), model: row.model.into() };
            add(&mut books.used, key, used);
        }
    }

    /// What has changed since the last time.
    fn take_changed(&self) -> Vec<UsageRow> {
        let mut books = self.books();
        let changed = std::mem::take(&mut books.changed);
        let row = |key: UsageKey| {
            let used = *books.used.get(&key)?;
            let tenant = key.tenant.as_deref().map(str::to_owned);
            Some(UsageRow { day: key.day, tenant, model: key.model.as_ref().to_owned(), used })
        };
        changed.into_iter().filter_map(row).collect()
    }

    /// These have changed after all.
    fn put_back(&self, rows: Vec<UsageRow>) {
        let key =
            |row: UsageRow| UsageKey { day: row.day, tenant: row.tenant.map(Into::into), model: row.model.into() };
        self.books().changed.extend(rows.into_iter().map(key));
    }

    /// Everything, over all days.
    pub(crate) fn totals(&self) -> BTreeMap<(Option<Arc<str>>, Arc<str>), Used> {
        let mut totals = BTreeMap::new();
        for (key, used) in &self.books().used {
            add(&mut totals, (key.tenant.clone(), Arc::clone(&key.model)), *used);
        }
        totals
    }
}

/// Adds to what is in a map.
fn add<K: Ord>(map: &mut BTreeMap<K, Used>, key: K, used: Used) {
    let so_far = map.entry(key).or_default();
    *so_far = so_far.plus(used);
}

/// Takes over what the state directory knows, if there is one.
pub(crate) fn load(app: &App) -> Result<(), StoreError> {
    if let Some(storage) = app.storage() {
        let tenants = app.keys().tenants();
        app.usage().load(storage.usage()?, tenants.iter());
    }
    Ok(())
}

/// Writes to the state directory what was used, every few seconds: as much is forgotten when the process is killed.
pub(crate) async fn keep(app: &App) -> Infallible {
    loop {
        tokio::time::sleep(WRITE_INTERVAL).await;
        write(app).await;
    }
}

/// Writes to the state directory what is not there yet.
pub(crate) async fn write(app: &App) {
    let Some(storage) = app.storage() else { return };
    let rows = app.usage().take_changed();
    if rows.is_empty() {
        return;
    }
    let kept = rows.clone();
    let oldest = today().saturating_sub(KEPT_DAYS);
    // Failures are logged where they are told; the next time may go better.
    if storage.run(move |store| store.put_usage(&kept, oldest)).await.is_err() {
        app.usage().put_back(rows);
    }
}

fn today() -> u64 {
    now() / DAY_S
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageQuery {
    /// How many days, today among them; 30 if not given.
    #[param(minimum = 1, maximum = 92)]
    days: Option<u64>,
}

/// What the key's owner has used of each model, day by day; without keys, what everybody has.
#[utoipa::path(
    get, path = "/v1/usage", tag = "Operation", params(UsageQuery),
    responses((status = 200, body = UsageList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody))
)]
pub(crate) async fn usage(
    visit: Visit,
    QueryFields(query): QueryFields<UsageQuery>,
) -> Result<Json<UsageList>, Failure> {
    let days = query.days.unwrap_or(30);
    if !(1..=KEPT_DAYS).contains(&days) {
        return Err(ApiError::invalid_param("days", format!("{days} given, 1 to {KEPT_DAYS} expected")).into());
    }
    let used = visit.app.usage().since((today() + 1).saturating_sub(days), &visit.tenant);
    let record = |(key, used): (UsageKey, Used)| UsageRecord {
        day: date(key.day),
        tenant: key.tenant.as_deref().map(str::to_owned),
        model: key.model.as_ref().to_owned(),
        requests: used.requests,
        prompt_tokens: used.prompt_tokens,
        cached_prompt_tokens: used.cached_prompt_tokens,
        completion_tokens: used.completion_tokens,
    };
    Ok(Json(UsageList { object: "list".to_owned(), data: used.into_iter().map(record).collect() }))
}

/// A day since 1970 as `2026-11-28`.
fn date(day: u64) -> String {
    yantra_text::strftime(UNIX_EPOCH + Duration::from_secs(day * DAY_S), "%Y-%m-%d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @$((DAY * 86400)) +%F`.
        for (day, expected) in
            [(0, "1970-01-01"), (11_016, "2000-02-29"), (20_785, "2026-11-28"), (47_481, "2099-12-31")]
        {
            assert_eq!(date(day), expected);
        }
    }

    #[test]
    fn tenants_see_what_is_theirs() {
        let ledger = Ledger::default();
        let terms = crate::keys::Terms::default();
        let tenant = |name: &str| Tenant::new(name, terms.clone(), Arc::new(crate::quota::Quotas::new(&terms)));
        let used = Used { requests: 1, prompt_tokens: 5, cached_prompt_tokens: 2, completion_tokens: 7 };
        ledger.note(&tenant("a"), "m", used);
        ledger.note(&tenant("a"), "m", used);
        ledger.note(&tenant("b"), "m", used);
        assert_eq!(
            ledger.since(0, &tenant("a")).iter().map(|(_, used)| used.completion_tokens).collect::<Vec<_>>(),
            [14]
        );
        assert_eq!(ledger.since(0, &Tenant::default()).len(), 2);
        assert_eq!(ledger.since(today() + 1, &Tenant::default()).len(), 0);
        assert_eq!(ledger.totals().len(), 2);

        let rows = ledger.take_changed();
        assert!(rows.len() == 2 && ledger.take_changed().is_empty());
        ledger.put_back(rows.clone());
        assert_eq!(ledger.take_changed(), rows);
        let next = Ledger::default();
        next.load(rows, [tenant("a")].iter());
        assert_eq!(next.totals(), ledger.totals());
        assert!(next.take_changed().is_empty());
    }
}
