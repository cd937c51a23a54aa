//! signet-operator as a library.
