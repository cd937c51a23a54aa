//! signet-sidecar as a library.
