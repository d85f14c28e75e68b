//! Where models come from: a path, the catalogue, or Hugging Face.
//!
//! Enter at [`Hub`]: [`Hub::resolve`] turns what a user types into a path on this machine and never touches the network;
//! [`Hub::pull`] downloads. Catalogue models lie in the cache directory ([`ModelCache`]) as `NAME/FILE`; they are held
//! against a SHA-256 pinned in the catalogue once, and a stamp spares the next start the reading.
//!
//! The sources are traits ([`PackageSource`], [`HubSource`]), so that everything here is tested without a network.

mod assemble;
mod cache;
mod catalogue;
mod environment;
mod error;
mod hub;
mod huggingface;
mod pip;
mod progress;
mod reference;

pub use cache::{ModelCache, ModelState};
pub use catalogue::{Catalogue, CatalogueFile, CatalogueModel, CatalogueSampling, Entry, Package, Piece};
pub use error::HubError;
pub use hub::{Hub, ModelStatus, Origin, Resolved};
pub use huggingface::{HubSource, HuggingFace, Selection, select_files};
pub use pip::{PackageSource, PipSource};
pub use progress::{Phase, Progress, ProgressUpdate, Silent};
pub use reference::HubReference;
