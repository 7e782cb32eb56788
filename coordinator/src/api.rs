//! gRPC edge: validate, convert, call.

pub mod agent;
pub mod control;
