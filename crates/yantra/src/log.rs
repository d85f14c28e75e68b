//! What is logged, on standard error, and changing it while the program runs.

use crate::{env, failure::usage};
use anyhow::{Context, Result};
use std::{
    io::{IsTerminal, stderr},
    sync::Arc,
};
use tracing_subscriber::EnvFilter;

/// Changes what is logged; cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    /// Where nothing else is said.
    default: &'static str,
    replace: Arc<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>,
}

impl Log {
    /// Begins to log what the environment says, or else `default`.
    pub(crate) fn start(default: &'static str) -> Self {
        let filter = env::log_filter().unwrap_or_else(|| default.to_owned());
        let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| "warn".into());
        let colours = stderr().is_terminal() && !env::no_color();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(stderr);
        let log = log.with_filter_reloading();
        let handle = log.reload_handle();
        log.init();
        let replace = move |filter| handle.reload(filter).context("what is logged can not be changed");
        Self { default, replace: Arc::new(replace) }
    }

    /// Logs what `filter` says from now on; without one the default.
    pub(crate) fn set(&self, filter: Option<&str>) -> Result<()> {
        (self.replace)(parse(filter.unwrap_or(self.default))?)
    }
}

/// Checks a filter.
pub(crate) fn parse(filter: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(filter).map_err(|error| {
        usage(format!("log is `{filter}` ({error}), expected such as info or warn,yantra_engine=debug"))
    })
}
