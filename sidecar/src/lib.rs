//! signet-sidecar as a library.

pub mod capture;
pub mod config;
pub mod ports;
