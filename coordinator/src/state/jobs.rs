//! Records of jobs.

/// Makes the table.
pub const MIGRATION: &str = "
CREATE TABLE jobs (
    id TEXT PRIMARY KEY NOT NULL,
    cluster_id TEXT NOT NULL,
    cluster_name TEXT NOT NULL,
    started_at REAL NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_cluster ON jobs (cluster_name, started_at);
";
