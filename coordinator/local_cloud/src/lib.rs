//! AWS on one Linux machine.

pub mod bucket;
