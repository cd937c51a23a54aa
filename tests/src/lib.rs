//! Helpers of the tests that need more than one program.
