//! SIGHUP to a server: the configuration is read again.
//!
//! What is logged changes, and the files of keys and of the certificate are read at once. Everything else is what it was
//! at the start, and a change of it is named in the log, so that nobody believes it was taken over.

use super::serve::{self, ServeArgs};
use crate::{config::RawConfig, log::Log};
use anyhow::Result;
use yantra_server::Reload;

/// What reading the configuration again takes.
pub(crate) struct Reloading {
    pub(crate) args: ServeArgs,
    /// What is in force.
    pub(crate) begun_with: RawConfig,
    pub(crate) log: Log,
}

impl Reloading {
    /// Reads the configuration again at every SIGHUP from now on. Of a server that was started at a terminal the signal
    /// means, as ever, that the terminal has gone, and ends it.
    #[cfg(unix)]
    pub(crate) fn on_hangup(self, server: Reload) -> Result<()> {
        use std::io::IsTerminal;
        use tokio::signal::unix::{SignalKind, signal};
        if std::io::stdin().is_terminal() {
            return Ok(());
        }
        let mut hangups = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                match self.again() {
                    Ok(changed) if changed.is_empty() => tracing::info!("the configuration was read again"),
                    Ok(changed) => {
                        let settings = changed.join(", ");
                        tracing::warn!(settings, "the configuration was read again; what changed here needs a restart");
                    }
                    Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
                }
                server.read_files_again();
            }
        });
        Ok(())
    }

    /// There is no such signal elsewhere.
    #[cfg(not(unix))]
    pub(crate) fn on_hangup(self, _: Reload) -> Result<()> {
        Ok(())
    }

    /// Takes over what can change; returns the names of the settings that need a restart.
    fn again(&self) -> Result<Vec<String>> {
        let raw = serve::raw(&self.args)?;
        let settings = raw.clone().validate()?;
        self.log.set(settings.log.as_deref())?;
        Ok(self.begun_with.differences(&raw))
    }
}
