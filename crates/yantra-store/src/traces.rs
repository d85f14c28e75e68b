//! The table of traces: what was asked and answered, to be searched, exported and learned from.
//!
//! Words are found by an FTS5 index that holds no text of its own. It is written with the rows, and loses their words with
//! them, by a trigger. Another trigger keeps the sum of what is stored. Space that deleted rows leave is used by later
//! ones: the file does not shrink, but for [`Store::compact`].

use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::Value;

use crate::trace_text::{self, Term};
use crate::{Page, Store, StoreError};

/// `created_ms` is in milliseconds since 1970, `bytes` the length of `input` and `output`.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE traces (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        request_id TEXT NOT NULL,
        answer_id TEXT,
        owner TEXT,
        tenant TEXT,
        endpoint TEXT NOT NULL,
        model TEXT NOT NULL,
        stream INTEGER NOT NULL,
        state TEXT NOT NULL,
        status INTEGER,
        error TEXT,
        finish_reasons TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        queue_ms REAL,
        time_to_first_token_ms REAL,
        total_ms REAL NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        input TEXT NOT NULL,
        output TEXT,
        preview TEXT NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX traces_by_owner ON traces (owner, seq);
    CREATE INDEX traces_by_request ON traces (request_id);
    CREATE INDEX traces_by_answer ON traces (answer_id) WHERE answer_id IS NOT NULL;
    CREATE INDEX traces_by_age ON traces (created_ms);
    CREATE VIRTUAL TABLE traces_words USING fts5 (
        input, output, content = '', contentless_delete = 1,
        tokenize = \"unicode61 remove_diacritics 2 categories 'L* N* Co M*'\"
    );
    CREATE TABLE traces_sum (bytes INTEGER NOT NULL) STRICT;
    INSERT INTO traces_sum VALUES (0);
    CREATE TRIGGER traces_added AFTER INSERT ON traces BEGIN
        UPDATE traces_sum SET bytes = bytes + NEW.bytes;
    END;
    CREATE TRIGGER traces_deleted AFTER DELETE ON traces BEGIN
        UPDATE traces_sum SET bytes = bytes - OLD.bytes;
        DELETE FROM traces_words WHERE rowid = OLD.seq;
    END;";

/// Rows that are deleted at once: others want the database too.
const PRUNED_AT_ONCE: usize = 128;

/// What is known of a request besides what it said.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TraceFacts {
    /// `x-request-id` of the answer, which clients may choose: several traces can have the same.
    pub request_id: String,
    /// The answer's own id.
    pub answer_id: Option<String>,
    /// Whose it is; `None`: nobody's, as where there are no tenants.
    pub owner: Option<String>,
    /// What its owner is called.
    pub tenant: Option<String>,
    /// The endpoint's path.
    pub endpoint: String,
    /// The model; empty where none was reached.
    pub model: String,
    /// Whether the answer was streamed.
    pub stream: bool,
    /// `done`, `failed` or `cancelled`.
    pub state: String,
    /// The answer's HTTP status.
    pub status: Option<u16>,
    /// The code of the error that it ended in.
    pub error: Option<String>,
    /// Why choices ended.
    pub finish_reasons: Vec<String>,
    /// When it came, in milliseconds since 1970.
    pub created_ms: u64,
    /// From submission to the first step.
    pub queue_ms: Option<f64>,
    /// From submission to the first token.
    pub time_to_first_token_ms: Option<f64>,
    /// From its coming to the last byte of its answer.
    pub total_ms: f64,
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Those of them that were in the cache.
    pub cached_prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
}

/// A request and its answer, to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTrace {
    /// What is known of it.
    pub facts: TraceFacts,
    /// The request.
    pub input: Value,
    /// The answer, if there was one and it is kept.
    pub output: Option<Value>,
}

/// A trace in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSummary {
    /// Its own id.
    pub id: String,
    /// What is known of it.
    pub facts: TraceFacts,
    /// What was asked last, or the surroundings of what was searched for.
    pub snippet: String,
    /// Bytes of what it says.
    pub bytes: u64,
    seq: i64,
}

/// A trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What is known of it.
    pub summary: TraceSummary,
    /// The request's JSON.
    pub input: String,
    /// The answer's.
    pub output: Option<String>,
}

/// Which traces.
#[derive(Debug, Clone, Default)]
pub struct TracesOf {
    /// Only this owner's; `None`: everybody's.
    pub owner: Option<String>,
    /// Only those that have all words: `"several in their order"`, `beginnings*`.
    pub query: Option<String>,
    /// Only those of this model.
    pub model: Option<String>,
    /// Only those of this endpoint.
    pub endpoint: Option<String>,
    /// Only those that came then or later, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Only those that came before.
    pub until_ms: Option<u64>,
    /// Only what comes behind the trace of this id.
    pub after: Option<String>,
    /// How many.
    pub limit: usize,
    /// Those that ended first first, not last.
    pub ascending: bool,
}

fn summary(row: &Row<'_>) -> rusqlite::Result<TraceSummary> {
    let reasons: String = row.get("finish_reasons")?;
    let facts = TraceFacts {
        request_id: row.get("request_id")?,
        answer_id: row.get("answer_id")?,
        owner: row.get("owner")?,
        tenant: row.get("tenant")?,
        endpoint: row.get("endpoint")?,
        model: row.get("model")?,
        stream: row.get("stream")?,
        state: row.get("state")?,
        status: row.get("status")?,
        error: row.get("error")?,
        finish_reasons: reasons.split(',').filter(|reason| !reason.is_empty()).map(str::to_owned).collect(),
        created_ms: row.get("created_ms")?,
        queue_ms: row.get("queue_ms")?,
        time_to_first_token_ms: row.get("time_to_first_token_ms")?,
        total_ms: row.get("total_ms")?,
        prompt_tokens: row.get("prompt_tokens")?,
        cached_prompt_tokens: row.get("cached_prompt_tokens")?,
        completion_tokens: row.get("completion_tokens")?,
    };
    let (id, snippet, bytes, seq) = (row.get("id")?, row.get("preview")?, row.get("bytes")?, row.get("seq")?);
    Ok(TraceSummary { id, facts, snippet, bytes, seq })
}

fn whole(row: &Row<'_>) -> rusqlite::Result<Trace> {
    Ok(Trace { summary: summary(row)?, input: row.get("input")?, output: row.get("output")? })
}

fn insert(connection: &Connection, trace: &NewTrace) -> Result<(), StoreError> {
    let facts = &trace.facts;
    let (input, output) = (trace.input.to_string(), trace.output.as_ref().map(Value::to_string));
    let texts = trace_text::texts(&trace.input);
    let bytes = input.len() + output.as_ref().map_or(0, String::len);
    let sql = "INSERT INTO traces (id, request_id, answer_id, owner, tenant, endpoint, model, stream, state, status, error,
            finish_reasons, created_ms, queue_ms, time_to_first_token_ms, total_ms, prompt_tokens, cached_prompt_tokens,
            completion_tokens, input, output, preview, bytes)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)";
    connection.prepare_cached(sql)?.execute(rusqlite::params![
        format!("trace-{}", uuid::Uuid::new_v4().simple()),
        facts.request_id,
        facts.answer_id,
        facts.owner,
        facts.tenant,
        facts.endpoint,
        facts.model,
        facts.stream,
        facts.state,
        facts.status,
        facts.error,
        facts.finish_reasons.join(","),
        facts.created_ms,
        facts.queue_ms,
        facts.time_to_first_token_ms,
        facts.total_ms,
        facts.prompt_tokens,
        facts.cached_prompt_tokens,
        facts.completion_tokens,
        input,
        output,
        trace_text::preview(&texts),
        bytes,
    ])?;
    let answered = trace.output.as_ref().map(trace_text::texts).unwrap_or_default();
    let words = (connection.last_insert_rowid(), trace_text::indexed(&texts), trace_text::indexed(&answered));
    let sql = "INSERT INTO traces_words (rowid, input, output) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(words)?;
    Ok(())
}

impl TracesOf {
    /// The page, each row as `read` makes it; `None`: there is no trace `after`.
    fn page<T>(
        &self,
        connection: &Connection,
        terms: &[Term],
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<Page<T>>, StoreError> {
        let begin = match &self.after {
            None if self.ascending => 0,
            None => i64::MAX,
            Some(after) => {
                let sql = "SELECT seq FROM traces WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)";
                let found = connection.query_row(sql, (after, &self.owner), |row| row.get(0)).optional()?;
                let Some(found) = found else { return Ok(None) };
                found
            }
        };
        let (beyond, order) = if self.ascending { (">", "ASC") } else { ("<", "DESC") };
        // The index gives rows in order, too, so that the first page of many is read and no more.
        let (from, seq, matches) = match terms {
            [] => ("traces", "traces.seq", "?8 IS NULL"),
            _ => {
                ("traces_words JOIN traces ON seq = traces_words.rowid", "traces_words.rowid", "traces_words MATCH ?8")
            }
        };
        let owned = if self.owner.is_some() { "owner = ?1" } else { "?1 IS NULL" };
        let sql = format!(
            "SELECT traces.* FROM {from} WHERE {matches} AND {seq} {beyond} ?2 AND {owned}
                AND (?3 IS NULL OR model = ?3) AND (?4 IS NULL OR endpoint = ?4)
                AND (?5 IS NULL OR created_ms >= ?5) AND (?6 IS NULL OR created_ms < ?6)
             ORDER BY {seq} {order} LIMIT ?7"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let expression = (!terms.is_empty()).then(|| trace_text::expression(terms));
        let limit = self.limit.saturating_add(1);
        let (since, until) = (self.since_ms.map(to_sql), self.until_ms.map(to_sql));
        let given = rusqlite::params![self.owner, begin, self.model, self.endpoint, since, until, limit, expression];
        let mut items: Vec<T> = statement.query_map(given, read)?.collect::<Result<_, _>>()?;
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        Ok(Some(Page { items, has_more }))
    }
}

/// Later than SQLite can count is never.
fn to_sql(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl Store {
    /// Keeps traces, all or none.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn add_traces(&self, traces: &[NewTrace]) -> Result<(), StoreError> {
        self.write(|transaction| traces.iter().try_for_each(|trace| insert(transaction, trace)))
    }

    /// A part of the traces, those that ended last first; `None`: there is no trace `after`. A question without words
    /// finds nothing.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn traces(&self, of: &TracesOf) -> Result<Option<Page<TraceSummary>>, StoreError> {
        let query = of.query.as_deref().map(str::trim).filter(|query| !query.is_empty());
        let terms = query.map(trace_text::terms).unwrap_or_default();
        if query.is_some() && terms.is_empty() {
            return Ok(Some(Page { items: Vec::new(), has_more: false }));
        }
        let page = self.read(|connection| of.page(connection, &terms, summary))?;
        let Some(mut page) = page else { return Ok(None) };
        if !terms.is_empty() {
            for found in &mut page.items {
                // One at a time: a trace may be long, and others want the database too.
                if let Some(snippet) = self.snippet(found.seq, &terms)? {
                    found.snippet = snippet;
                }
            }
        }
        Ok(Some(page))
    }

    fn snippet(&self, seq: i64, terms: &[Term]) -> Result<Option<String>, StoreError> {
        let sql = "SELECT * FROM traces WHERE seq = ?1";
        let trace = self.read(|connection| Ok(connection.query_row(sql, [seq], whole).optional()?))?;
        let Some(trace) = trace else { return Ok(None) };
        let sides = [Some(trace.input), trace.output];
        let values = sides.iter().flatten().filter_map(|side| serde_json::from_str::<Value>(side).ok());
        let found = values.into_iter().find_map(|value| trace_text::snippet(&trace_text::texts(&value), terms));
        Ok(found)
    }

    /// A part of the traces, whole; `query` is not heeded.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn whole_traces(&self, of: &TracesOf) -> Result<Option<Page<Trace>>, StoreError> {
        self.read(|connection| of.page(connection, &[], whole))
    }

    /// The latest trace that has this id, request id or answer id, if it is the owner's; `None`: everybody's.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn trace(&self, owner: Option<&str>, id: &str) -> Result<Option<Trace>, StoreError> {
        let sql =
            "SELECT * FROM traces WHERE (id = ?1 OR request_id = ?1 OR answer_id = ?1) AND (?2 IS NULL OR owner = ?2)
            ORDER BY id = ?1 DESC, seq DESC LIMIT 1";
        self.read(|connection| Ok(connection.query_row(sql, (id, owner), whole).optional()?))
    }

    /// Deletes the trace of this id (its own), if it is the owner's. Returns whether it was there.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn delete_trace(&self, owner: Option<&str>, id: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM traces WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)";
        self.write(|transaction| Ok(transaction.execute(sql, (id, owner))? > 0))
    }

    /// Deletes some of the traces that came before a time or are more than so many bytes together, the oldest first.
    /// Returns how many; to be called until it is 0.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn prune_traces(&self, before_ms: u64, max_bytes: u64) -> Result<usize, StoreError> {
        self.write(|transaction| {
            let sql = "DELETE FROM traces WHERE seq IN
                (SELECT seq FROM traces WHERE created_ms < ?1 ORDER BY created_ms LIMIT ?2)";
            let too_old = transaction.execute(sql, (to_sql(before_ms), PRUNED_AT_ONCE))?;
            if too_old > 0 {
                return Ok(too_old);
            }
            let mut excess = sum(transaction)?.saturating_sub(max_bytes);
            if excess == 0 {
                return Ok(0);
            }
            let mut oldest = transaction.prepare_cached("SELECT seq, bytes FROM traces ORDER BY seq LIMIT ?1")?;
            let rows = oldest.query_map([PRUNED_AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let rows: Vec<(i64, u64)> = rows.collect::<Result<_, _>>()?;
            let mut deleted = 0;
            for (seq, bytes) in rows {
                if excess == 0 {
                    break;
                }
                deleted += transaction.execute("DELETE FROM traces WHERE seq = ?1", [seq])?;
                excess = excess.saturating_sub(bytes);
            }
            Ok(deleted)
        })
    }

    /// Bytes of all traces together.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn trace_bytes(&self) -> Result<u64, StoreError> {
        self.read(sum)
    }
}

fn sum(connection: &Connection) -> Result<u64, StoreError> {
    Ok(connection.query_row("SELECT bytes FROM traces_sum", [], |row| row.get(0))?)
}

#[cfg(test)]
mod tests;
