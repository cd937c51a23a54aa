//! The CA's client.

pub mod settings;
