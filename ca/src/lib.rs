//! signet-ca as a library: issues short-lived SVIDs to workloads that it has attested. `main` is a thin program around
//! [`program::start`], which is the composition root.
//!
//! ```text
//! service (gRPC) ─▶ attest (who is it) ─▶ issuance ─▶ certificate (template, sign, validate) ─▶ store (journal) ─▶ answer
//!    │ limits                               │
//!    ▼                                      ▼
//! trust (what is published)              issuing (this process' CA) ─▶ root (the upstream)
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | [`config`], [`program`] | the file with the settings; what is built from what |
//! | [`service`], [`limits`] | the four calls of `signet.ca.v1`, from cheap checks to dear ones |
//! | [`attest`] | join tokens, host keys, nonces, pods: evidence to identity |
//! | [`issuance`], [`certificate`] | the one way by which a leaf leaves |
//! | [`issuing`], [`root`], [`own`] | the CA's own keys and certificates |
//! | [`trust`], [`ledger`] | published trust state; what must be remembered, whoever keeps it |
//! | [`store`], [`kube`] | SQLite with group commit; the objects of a cluster |
//! | [`admin`], [`http`], [`metrics`] | the operator's socket; health and numbers on loopback |
//! | [`state_dir`], [`clock`] | the directory that is ours alone; time, passed in |
pub mod admin;
pub mod attest;
pub mod certificate;
pub mod clock;
pub mod config;
pub mod http;
pub mod issuance;
pub mod issuing;
pub mod kube;
pub mod ledger;
pub mod limits;
pub mod metrics;
pub mod own;
pub mod program;
pub mod root;
pub mod service;
pub mod state_dir;
pub mod store;
pub mod trust;
