//! `signet demo`: a mesh in network namespaces of this machine, told step by step, each step checked.
pub mod mesh;
pub mod process;
pub mod wire;
pub mod world;
