//! All suites in one program: the platform is linked once, and the tests of all suites run side by
//! side.

#![allow(clippy::unwrap_used)]

mod artifact_cache;
mod artifacts;
