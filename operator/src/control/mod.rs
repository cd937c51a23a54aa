//! The control stream: tells each sidecar its own configuration and the destinations that it asked for, and nothing else.
//!
//! ```text
//! sidecar ==mTLS==> service::attach (who is it, may it) --> stream (one task: waits, sends)
//!                                                              |-- session (plain state machine: what was asked, what was sent)
//!                                                              `-- hub (all streams: places, acknowledgements, edges)
//! ```
//!
//! `session`, `edges` and what they check are synchronous and take a snapshot as an argument; only `stream` and `service` wait.
mod edges;
mod hub;
mod server;
mod service;
mod session;
mod stream;

pub use edges::{Edges, Totals};
pub use hub::{Hub, Limits, Presence};
pub use server::serve;
pub use service::Service;
pub use session::{Fault, Session};

#[cfg(test)]
mod tests;
