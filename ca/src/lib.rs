//! signet-ca as a library.
