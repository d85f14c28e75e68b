//! `yantra bench`: how fast the engine computes, and how a server holds up under load.

pub(crate) mod engine;
pub(crate) mod load;
pub(crate) mod speculation;
pub(crate) mod statistics;
