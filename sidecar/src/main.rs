//! signet-sidecar.
fn main() {}
