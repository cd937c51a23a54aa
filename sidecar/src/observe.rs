//! What the sidecar tells its people: one access-log record for every connection, and metrics. Both are fed by `report` from
//! the data path's threads and never block them; both are read elsewhere (a log thread, admin).

mod access;
mod metrics;

pub use access::AccessLog;
pub use metrics::{Metrics, Present};
