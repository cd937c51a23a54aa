//! The CA as a whole: the real server on loopback, real TLS, real files; clients that do what workloads do.
mod faults;
mod issuing;
mod joining;
mod kill;
mod limits;
mod surface;

#[path = "../support/mod.rs"]
mod support;
