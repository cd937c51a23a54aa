//! signet-sidecar: runs beside one workload, upgrades its traffic to mutual TLS without the workload knowing, and enforces allow
//! rules by identity. What happens to a byte lies in `path`; everything else here feeds it.

mod admin;
mod affinity;
pub mod capture;
mod clock;
pub mod config;
mod control;
mod http2;
mod keeper;
mod live;
mod observe;
mod path;
pub mod ports;
mod proof;
mod record;
mod refusal;
mod replay;
mod report;
pub mod run;
mod shared;
mod tls;
mod view;
