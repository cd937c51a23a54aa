//! signet-operator: tells each sidecar who its peers are and what its rules are.
//!
//! | module | what it does |
//! |---|---|
//! | `documents` | reads what users write, and names the place of every mistake |
//! | `files` | watches the directory of documents |
//! | `cluster` | watches the objects of a cluster instead |
//! | `index` | from documents to each workload's configuration; plain and synchronous |
//! | `state` | what is in force, applied whole or not at all |
//! | `store` | what must be remembered over a restart |
//! | `control` | the stream to each sidecar, over mutual TLS |
//! | `inject` | from a pod that opted in to the same pod with a sidecar; pure |
//! | `webhook` | what the API server asks before such a pod is created |
//! | `uninstall` | what `helm uninstall` asks before and after |
//! | `http`, `metrics` | health, status and counters on loopback |
//! | `crd` | the custom resource definition of `AllowRule`, made from the types in `policy` |
//! | `config`, `program` | the configuration file, and what is built from what |
//!
//! The command line uses `documents` and `index` to check and explain rules as the operator would.
pub mod cluster;
pub mod config;
pub mod control;
pub mod crd;
pub mod documents;
pub mod files;
pub mod http;
pub mod index;
pub mod inject;
pub mod metrics;
pub mod program;
pub mod state;
pub mod store;
pub mod uninstall;
pub mod webhook;
