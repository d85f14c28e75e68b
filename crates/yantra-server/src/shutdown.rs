//! How a server is told to stop: gently first, then at once.

use tokio::sync::watch;

/// How far stopping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Running,
    Draining,
    Stopped,
}

/// Tells a server to stop; cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    stage: watch::Sender<Stage>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// One that only its methods trigger.
    #[must_use]
    pub fn new() -> Self {
        Self { stage: watch::Sender::new(Stage::Running) }
    }

    /// One that the first SIGTERM or Ctrl-C triggers gently and the second at once. Needs a running Tokio runtime.
    #[must_use]
    pub fn on_signals() -> Self {
        let shutdown = Self::new();
        let handle = shutdown.clone();
        tokio::spawn(async move {
            signal().await;
            tracing::info!("stopping: running requests may finish; a second signal stops at once");
            handle.drain();
            signal().await;
            tracing::warn!("stopping at once");
            handle.stop_now();
        });
        shutdown
    }

    /// Takes no new requests and lets running ones finish within the drain deadline.
    pub fn drain(&self) {
        self.advance(Stage::Draining);
    }

    /// Cancels everything.
    pub fn stop_now(&self) {
        self.advance(Stage::Stopped);
    }

    /// Stages only go forwards.
    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let forwards = *stage < to;
            *stage = (*stage).max(to);
            forwards
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }
}

/// Waits until stopping is at least this far.
pub(crate) async fn reached(stage: &mut watch::Receiver<Stage>, at_least: Stage) {
    // A dropped sender means that nobody can stop the server any more.
    if stage.wait_for(|stage| *stage >= at_least).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals can not be received; only killing the process stops it");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
async fn signal() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::error!(%error, "Ctrl-C can not be received; only ending the process stops it");
        std::future::pending::<()>().await;
    }
}
