//! The control service over real TLS on loopback, with certificates from a CA made for the test.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
mod floods;
mod storm;
mod stream;
mod world;
