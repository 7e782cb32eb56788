//! Tests of the actions as a client sees them, without machines.
