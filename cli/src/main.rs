//! signet.
fn main() {}
