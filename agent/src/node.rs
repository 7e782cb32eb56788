//! Being a member of a cluster.
