//! signet-ca as a library.
pub mod certificate;
pub mod clock;
pub mod issuing;
pub mod limits;
pub mod metrics;
pub mod root;
pub mod state_dir;
pub mod store;
pub mod trust;
