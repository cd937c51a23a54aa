//! The operator against a real API server: what the cluster refuses and keeps, and what the operator makes of it.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
mod definition;
mod live;
mod status;
mod world;
