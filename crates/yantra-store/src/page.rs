//! Lists, one page at a time.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::StoreError;

/// Which part of a list.
#[derive(Debug, Clone, Default)]
pub struct PageOf {
    /// Whose things; `None`: nobody's, as where there are no tenants.
    pub owner: Option<String>,
    /// Only what comes behind the thing of this id.
    pub after: Option<String>,
    /// How many.
    pub limit: usize,
    /// Oldest first, not newest first.
    pub ascending: bool,
    /// Only those whose kind is this, in lists of things that have kinds.
    pub kind: Option<String>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Whether more comes behind it.
    pub has_more: bool,
}

/// A page of a table that has `seq`, `id` and `owner`; `kind` is the column of the kinds. `None`: there is no thing `after`.
pub(crate) fn page<T>(
    connection: &Connection,
    table: &str,
    kind: &str,
    of: &PageOf,
    read: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<Page<T>>, StoreError> {
    let begin: i64 = match &of.after {
        None if of.ascending => i64::MIN,
        None => i64::MAX,
        Some(after) => {
            let sql = format!("SELECT seq FROM {table} WHERE id = ?1 AND owner IS ?2");
            let found = connection.query_row(&sql, (after, &of.owner), |row| row.get(0)).optional()?;
            let Some(found) = found else { return Ok(None) };
            found
        }
    };
    let (beyond, order) = if of.ascending { (">", "ASC") } else { ("<", "DESC") };
    let sql = format!(
        "SELECT * FROM {table} WHERE owner IS ?1 AND seq {beyond} ?2 AND (?3 IS NULL OR {kind} = ?3)
         ORDER BY seq {order} LIMIT ?4"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map((&of.owner, begin, &of.kind, of.limit.saturating_add(1)), read)?;
    let mut items: Vec<T> = rows.collect::<Result<_, _>>()?;
    let has_more = items.len() > of.limit;
    items.truncate(of.limit);
    Ok(Some(Page { items, has_more }))
}
