//! placeholder

pub mod blob;
