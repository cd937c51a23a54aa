//! The CA as a whole: the real server on loopback, real TLS, real files; clients that do what workloads do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod enrolment;
mod faults;
mod issuing;
mod joining;
mod kill;
mod limits;
mod surface;

#[path = "../support/mod.rs"]
mod support;
