//! A server: models and settings, put behind a listener.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use yantra_store::StoreError;

use crate::app::{self, App};
use crate::batches;
use crate::config::ServerConfig;
use crate::hooks::Hooks;
use crate::keys::KeyFileError;
use crate::listen;
use crate::loading::ModelLoader;
use crate::moderations::{self, Moderator};
use crate::registry::{Registry, RegistryError, ServedModel};
use crate::shutdown::Shutdown;
use crate::telemetry::{Telemetry, TelemetryError};
use crate::tls::TlsError;
use crate::traces::{self, Redactor, Traces};
use crate::usage;
use crate::watchdog;

/// The server can not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another program listens there.
    #[error("{address} is in use by another program; choose another port, or 0 to let the system choose")]
    AddressInUse {
        /// `host:port`.
        address: String,
    },
    /// The system refuses for another reason.
    #[error("can not listen on {address}: {source}")]
    Bind {
        /// `host:port`.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The file of keys.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The exporter of traces.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The client of the moderator.
    #[error("no client for the moderator can be made: {0}")]
    Moderation(#[source] reqwest::Error),
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Has a running server read its files again: the keys, and the certificate with its key. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Reload {
    told: Arc<Notify>,
}

impl Reload {
    /// Reads them soon; what can not be read is logged, and stays as it was.
    pub fn read_files_again(&self) {
        self.told.notify_one();
    }
}

/// Collects models, then makes a [`Server`].
#[derive(Debug)]
pub struct ServerBuilder {
    config: ServerConfig,
    registry: Arc<Registry>,
    hooks: Hooks,
    error: Option<RegistryError>,
}

impl ServerBuilder {
    /// Adds a model that takes requests at once.
    #[must_use]
    pub fn model(self, model: ServedModel) -> Self {
        let result = self.registry.ready(model);
        self.keep(result)
    }

    /// Adds a model that is going to be loaded: requests for it are answered with 503 until
    /// [`Registry::ready`] is called with the same id.
    #[must_use]
    pub fn announce(self, id: &str, aliases: &[String]) -> Self {
        let result = self.registry.announce(id, aliases);
        self.keep(result)
    }

    /// Who judges texts for `/v1/moderations`, in place of the one that is configured.
    #[must_use]
    pub fn moderator(mut self, moderator: Arc<dyn Moderator>) -> Self {
        self.hooks.moderator = Some(moderator);
        self
    }

    /// Who loads models while the server runs, where the configuration allows it.
    #[must_use]
    pub fn model_loader(mut self, loader: Arc<dyn ModelLoader>) -> Self {
        self.hooks.loader = Some(loader);
        self
    }

    /// What is taken out of traces before they are written, before what is configured.
    #[must_use]
    pub fn redactor(mut self, redactor: Arc<dyn Redactor>) -> Self {
        self.hooks.redactor = Some(redactor);
        self
    }

    fn keep(mut self, result: Result<(), RegistryError>) -> Self {
        self.error = self.error.or(result.err());
        self
    }

    /// Makes the server.
    ///
    /// # Errors
    /// The first model that could not be registered.
    pub fn build(self) -> Result<Server, RegistryError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(Server {
                config: self.config,
                registry: self.registry,
                hooks: self.hooks,
                reload: Reload::default(),
            }),
        }
    }
}

/// A server that is ready to listen.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    registry: Arc<Registry>,
    hooks: Hooks,
    reload: Reload,
}

impl Server {
    /// Begins a server with these settings.
    #[must_use]
    pub fn builder(config: ServerConfig) -> ServerBuilder {
        ServerBuilder { config, registry: Arc::default(), hooks: Hooks::default(), error: None }
    }

    /// The models, to add to and to report loading to while the server runs.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// What has the server read its files again while it runs.
    #[must_use]
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Opens the configured address. With port 0 the listener's `local_addr` tells which port it became.
    ///
    /// # Errors
    /// The address is in use, unknown or not allowed.
    pub async fn bind(&self) -> Result<TcpListener, ServeError> {
        let address = self.config.address();
        TcpListener::bind(&address).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServeError::AddressInUse { address },
            _ => ServeError::Bind { address, source },
        })
    }

    /// Serves until told to stop, then lets running requests finish within the drain deadline. Returns whether all of
    /// them could.
    ///
    /// # Errors
    /// The file of keys, the certificate or the state directory can not be read, or traces can not be made. A listener that fails is retried.
    pub async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> Result<bool, ServeError> {
        let telemetry = self.config.telemetry.as_ref();
        let address = listener.local_addr().ok();
        let telemetry = telemetry.map(|config| Telemetry::start(config, &self.config.host, address)).transpose()?;
        let mut hooks = self.hooks;
        if let (None, Some(config)) = (&hooks.moderator, &self.config.moderation) {
            hooks.moderator = Some(moderations::remote(config.clone()).map_err(ServeError::Moderation)?);
        }
        let traces = self.config.traces.clone().map(|config| Traces::new(config, self.config.max_body_bytes));
        let (traces, traced) = traces.unzip();
        let app = App::new(self.config, self.registry, hooks, &shutdown, telemetry.clone(), traces)?;
        let writer = traced.and_then(|traced| traces::Writer::start(&app, traced));
        usage::load(&app)?;
        let router = app::router(&app);
        let batches = batches::start(&app);
        let read_again = async {
            loop {
                self.reload.told.notified().await;
                app.read_files_again();
            }
        };
        let finished = tokio::select! {
            finished = listen::serve(listener, app.clone(), router) => finished,
            never = watchdog::watch(&app) => match never {},
            never = read_again => match never {},
            never = usage::keep(&app) => match never {},
        };
        if let Some(batches) = batches {
            batches.finish().await;
        }
        if let Some(writer) = writer {
            writer.finish().await;
        }
        usage::write(&app).await;
        if let Some(telemetry) = telemetry {
            telemetry.finish().await;
        }
        Ok(finished)
    }
}
