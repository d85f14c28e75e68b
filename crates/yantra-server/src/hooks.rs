//! What a program that embeds the server gives to it.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::loading::ModelLoader;
use crate::moderations::Moderator;
use crate::traces::Redactor;

/// All of it.
#[derive(Debug)]
pub(crate) struct Hooks {
    pub(crate) moderator: Option<Arc<dyn Moderator>>,
    pub(crate) loader: Option<Arc<dyn ModelLoader>>,
    pub(crate) redactor: Option<Arc<dyn Redactor>>,
    /// Models are loaded one at a time.
    pub(crate) loading: Arc<Semaphore>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { moderator: None, loader: None, redactor: None, loading: Arc::new(Semaphore::new(1)) }
    }
}
