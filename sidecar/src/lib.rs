//! signet-sidecar: runs beside one workload, upgrades its traffic to mutual TLS without the workload knowing, and enforces allow
//! rules by identity. What happens to a byte lies in `path`; everything else here feeds it.

//pub mod control;
pub mod admin;
pub mod capture;
pub mod config;
pub mod keeper;
pub mod observe;
pub mod path;
pub mod ports;
pub mod records;
pub mod report;
pub mod view;
