//! A server: models and settings, put behind a listener.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::app::{self, App};
use crate::config::ServerConfig;
use crate::keys::KeyFileError;
use crate::listen;
use crate::registry::{Registry, RegistryError, ServedModel};
use crate::shutdown::Shutdown;
use crate::telemetry::{Telemetry, TelemetryError};

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
    /// The exporter of traces.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
}

/// Collects models, then makes a [`Server`].
#[derive(Debug)]
pub struct ServerBuilder {
    config: ServerConfig,
    registry: Arc<Registry>,
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
            None => Ok(Server { config: self.config, registry: self.registry }),
        }
    }
}

/// A server that is ready to listen.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    registry: Arc<Registry>,
}

impl Server {
    /// Begins a server with these settings.
    #[must_use]
    pub fn builder(config: ServerConfig) -> ServerBuilder {
        ServerBuilder { config, registry: Arc::default(), error: None }
    }

    /// The models, to add to and to report loading to while the server runs.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
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
    /// The file of keys can not be read, or traces can not be made. A listener that fails is retried.
    pub async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> Result<bool, ServeError> {
        let telemetry = self.config.telemetry.as_ref();
        let address = listener.local_addr().ok();
        let telemetry = telemetry.map(|config| Telemetry::start(config, &self.config.host, address)).transpose()?;
        let app = App::new(self.config, self.registry, &shutdown, telemetry.clone())?;
        let router = app::router(&app);
        let finished = listen::serve(listener, app, router).await;
        if let Some(telemetry) = telemetry {
            telemetry.finish().await;
        }
        Ok(finished)
    }
}
