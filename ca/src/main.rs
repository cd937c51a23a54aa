//! signet-ca.
fn main() {}
