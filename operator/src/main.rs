//! signet-operator.
fn main() {}
