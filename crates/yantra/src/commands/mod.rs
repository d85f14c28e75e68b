//! One module per command.

pub(crate) mod chat;
pub(crate) mod complete;
pub(crate) mod constraint;
pub(crate) mod convert;
mod experts;
pub(crate) mod inspect;
pub(crate) mod keys;
pub(crate) mod loader;
pub(crate) mod perplexity;
pub(crate) mod pull;
pub(crate) mod reload;
pub(crate) mod sampling;
pub(crate) mod serve;
pub(crate) mod serving;
pub(crate) mod traces;
