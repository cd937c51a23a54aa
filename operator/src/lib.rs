//! signet-operator as a library.
pub mod documents;
pub mod index;
