//! `yantra bench`: how fast models compute, how a server holds up under load, and what the hardware would allow.

pub(crate) mod context;
pub(crate) mod embed;
pub(crate) mod engine;
pub(crate) mod hardware;
pub(crate) mod load;
pub(crate) mod speculation;
pub(crate) mod statistics;
pub(crate) mod tools;
