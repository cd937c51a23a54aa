//! What may be called by whom: the `AllowRule` that users write, its validation, its compilation to a table, and verdicts with
//! their reasons. Pure: no clock, no I/O, nothing else of Signet. The sidecar, the operator and the command line call the same
//! functions, so that they can never disagree.
//!
//! ```text
//! YAML/JSON value --validate::read--> AllowRule --resolve::for_workload (which workloads, which ports)--> WorkloadRule
//!                                                                     |
//! Caller + port  --Table::judge--> Verdict  <--Table::compile---------+
//! ```

pub mod compile;
pub mod egress;
pub mod model;
mod name;
mod networks;
mod ports;
pub mod resolve;
mod table;
pub mod validate;
pub mod verdict;

pub use compile::{Admits, FEATURES, Mode, Ports, Posture, RuleKey, Source, Table, WorkloadRule};
pub use egress::{Egress, EgressException};
pub use model::AllowRule;
pub use resolve::{Workload, for_workload};
pub use validate::{Problem, Reading, similar};
pub use verdict::{Caller, Decision, Difference, Reason, RuleRef, Shadow, Verdict};
