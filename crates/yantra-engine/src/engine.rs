//! The engine's thread.

use std::sync::Arc;

use crate::{EngineConfig, EngineError, EngineHandle, StepModel, TextDecoder};

/// Starts engines.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Puts `model` on a thread of its own and returns a handle to it. Without a tokenizer events carry no text.
    ///
    /// # Errors
    /// A setting is out of range, or the thread can not be started.
    pub fn spawn(
        _model: Box<dyn StepModel>,
        _tokenizer: Option<Arc<dyn TextDecoder>>,
        config: EngineConfig,
    ) -> Result<EngineHandle, EngineError> {
        config.validate()?;
        Err(EngineError::Internal { message: "the step loop is not in place yet".to_owned() })
    }
}
