//! The CA's client.
