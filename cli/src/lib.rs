//! The command line `signet` as a library: `main` is thin, and the tests build their worlds with `demo`.
pub mod demo;
pub mod inspect;
mod output;
pub mod rules;
pub mod selftest;
pub mod token;
