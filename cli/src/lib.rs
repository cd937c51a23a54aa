//! The command line `signet` as a library: `main` is thin, and the tests build their worlds with `demo`.
pub mod demo;
