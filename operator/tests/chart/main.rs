//! The chart, and what it makes a cluster refuse: rendered by a real helm, applied to a real API server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod guard;
mod helm;
mod installed;
mod rendered;
mod strangers;
mod webhook;
mod world;
