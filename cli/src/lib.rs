//! The command line `signet` as a library: `main` is thin, and the tests build their worlds with `demo`.
pub mod check;
mod cluster;
pub mod demo;
pub mod edges;
pub mod identity;
pub mod inspect;
mod output;
pub mod rules;
pub mod selftest;
pub mod token;
