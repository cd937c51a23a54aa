//! signet-operator as a library.
pub mod control;
pub mod documents;
pub mod files;
pub mod http;
pub mod index;
pub mod metrics;
pub mod state;
pub mod store;
