//! S3 that is slow, fails, is away, or loses its answers.

use ec2mpi_tests::stranger;

use super::bench::{Bench, Did, Play, Runs};

/// Files written under the fault, by both nodes, are in S3 after the faults, whole.
fn writes_arrive(fault: &'static str) -> impl FnOnce(&Play<'_>) -> Did {
    move |play| {
        let status = play.ready();
        play.fault(fault);
        let begun = std::time::Instant::now();
        for node in 0..2 {
            let script = format!("for i in 1 2 3 4 5; do echo {node} $i > n{node}-$i; done; cat n{node}-5");
            assert_eq!(play.sh(node, &script).ok(), format!("{node} 5\n"));
        }
        let took = begun.elapsed().as_secs_f64();
        for node in play.status()["nodes"].as_array().unwrap() {
            assert_eq!(node["volume"]["failed_files"], 0, "{node}");
        }
        let end = play.site.run(&["destroy", &play.name]);
        // Without --discard, it has uploaded everything.
        assert_eq!(end.code, 0, "{end}");
        let struck = play.site.run(&["cloud", "fault", "list", "--json"]).json()[0]["struck"].clone();
        assert_ne!(struck, 0, "the fault has struck");
        play.clear();
        let prefix = stranger::prefix(&status);
        for name in ["n0-1", "n0-5", "n1-1", "n1-5"] {
            let wanted = format!("{}\n", name.trim_start_matches('n').replace('-', " "));
            assert_eq!(stranger::object(play.site, &format!("{prefix}{name}")), wanted.as_bytes(), "{name}");
        }
        Did { launched: 2, text: format!("10 files written in {took:.1} s, struck {struck} times, all whole in S3") }
    }
}

#[test]
fn storage_that_fails() {
    let mut bench = Bench::new();
    for (runs, fault) in [
        (Runs::Soak, "s3-slow 200ms"),
        (Runs::Always, "s3-error SlowDown --probability 0.3 --seed 7"),
        (Runs::Soak, "s3-error --probability 0.3 --seed 8"),
        (Runs::Always, "s3-lost --method PUT --count 3"),
        (Runs::Soak, "s3-lost --probability 0.3 --seed 9"),
        (Runs::Soak, "s3-outage --for 6s"),
    ] {
        bench.row(runs, "write", &format!("[{fault}]"), writes_arrive(fault));
    }
}
