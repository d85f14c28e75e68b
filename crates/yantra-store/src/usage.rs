//! The table of what was used: by whom, of which model, on which day.

use rusqlite::Row;

use crate::{Store, StoreError};

pub(crate) const SCHEMA: &str = "
    CREATE TABLE usage (
        day INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        model TEXT NOT NULL,
        requests INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        PRIMARY KEY (day, tenant, model)
    ) STRICT, WITHOUT ROWID;";

/// What one tenant used of one model on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// Days since 1970, in UTC.
    pub day: u64,
    /// By whom; `None`: nobody in particular, as where there are no keys.
    pub tenant: Option<String>,
    /// Of which model.
    pub model: String,
    /// How much.
    pub used: Used,
}

/// How much was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Requests that a model worked on.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// How many of them came from the prefix cache.
    pub cached_prompt_tokens: u64,
    /// Tokens of their answers.
    pub completion_tokens: u64,
}

impl Used {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            cached_prompt_tokens: self.cached_prompt_tokens + other.cached_prompt_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
        }
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<UsageRow> {
    let tenant: String = row.get("tenant")?;
    Ok(UsageRow {
        day: row.get("day")?,
        tenant: (!tenant.is_empty()).then_some(tenant),
        model: row.get("model")?,
        used: Used {
            requests: row.get("requests")?,
            prompt_tokens: row.get("prompt_tokens")?,
            cached_prompt_tokens: row.get("cached_prompt_tokens")?,
            completion_tokens: row.get("completion_tokens")?,
        },
    })
}

impl Store {
    /// Everything that was used, oldest first.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn usage(&self) -> Result<Vec<UsageRow>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT * FROM usage ORDER BY day, tenant, model")?;
            let rows = statement.query_map([], row)?.collect::<Result<_, _>>()?;
            Ok(rows)
        })
    }

    /// Puts rows in place of those of the same day, tenant and model, and forgets the days before `oldest`.
    ///
    /// # Errors
    /// The database can not be written; then nothing has changed.
    pub fn put_usage(&self, rows: &[UsageRow], oldest: u64) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM usage WHERE day < ?1", [oldest])?;
            let mut put = transaction.prepare("REPLACE INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
            for row in rows {
                let used = &row.used;
                put.execute((
                    row.day,
                    row.tenant.as_deref().unwrap_or_default(),
                    &row.model,
                    used.requests,
                    used.prompt_tokens,
                    used.cached_prompt_tokens,
                    used.completion_tokens,
                ))?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn usage_is_kept_and_old_days_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let row = |day, tenant: Option<&str>, requests| UsageRow {
            day,
            tenant: tenant.map(str::to_owned),
            model: "m".to_owned(),
            used: Used { requests, prompt_tokens: 10, cached_prompt_tokens: 2, completion_tokens: 5 },
        };
        let store = Store::open(directory.path()).unwrap();
        store.put_usage(&[row(7, None, 1), row(8, Some("a"), 1), row(8, Some("b"), 1)], 0).unwrap();
        store.put_usage(&[row(8, Some("a"), 9)], 8).unwrap();
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.usage().unwrap(), [row(8, Some("a"), 9), row(8, Some("b"), 1)]);
    }
}
