//! Machines that never boot or join, die, reboot, are taken back or cut off.

use ec2mpi_tests::wait::{seconds, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bench::{Bench, Did, Play, Runs, last_words};

/// One of two machines does not come; the cluster is content with the other.
fn goes_on_without(play: &Play<'_>) -> Did {
    let outcome = play.create("--nodes 2 --min-nodes 1 --timeout 12s");
    assert_eq!(outcome.code, 0, "{outcome}");
    play.works(1);
    let status = play.status();
    let missing = &status["nodes"][1];
    assert_ne!(missing["state"], "ready", "{status}");
    Did { launched: 2, text: format!("{}, the other: {}", last_words(&outcome), why(missing)) }
}

/// It is not content.
fn fails_naming_the_node(play: &Play<'_>) -> Did {
    let outcome = play.create("--nodes 2 --timeout 12s");
    assert!(outcome.code == 1 && outcome.stderr.contains("node 1"), "{outcome}");
    Did { launched: 2, text: last_words(&outcome) }
}

fn why(node: &serde_json::Value) -> String {
    format!("{} {}", node["state"].as_str().unwrap_or_default(), node["message"].as_str().unwrap_or_default())
}

/// A fault of node 1, while a job runs on both: the job ends soon, and names the node.
fn ends_the_job(fault: &'static str) -> impl FnOnce(&Play<'_>) -> Did {
    move |play| {
        play.ready();
        let (instance, node) = (play.instance(1), format!("{}-1", play.name));
        let mut job = play.site.start(&["run", &play.name, "-n", "4", "--", "sh", "-c", "echo started; sleep 300"]);
        job.wait_for_stdout("started", seconds(30));
        play.fault(&format!("{fault} --instance {instance}"));
        let outcome = job.wait(seconds(100));
        let is_named = |line: &&str| line.contains(&node);
        assert!(outcome.code != 0 && outcome.stderr.lines().any(|line| is_named(&line)), "{outcome}");
        let line = outcome.stderr.lines().rfind(is_named).unwrap_or_default();
        Did {
            launched: 2,
            text: format!("code {} after {:.1} s: {}", outcome.code, outcome.took.as_secs_f64(), line.trim()),
        }
    }
}

/// A fault of node 1 while nothing runs, and the node is back afterwards.
fn comes_back(fault: &'static str) -> impl FnOnce(&Play<'_>) -> Did {
    move |play| {
        play.ready();
        // What is in memory only is gone after a reboot.
        play.sh(1, "echo before > /shared/before; sync; touch /dev/shm/mark").ok();
        let reboots = fault.starts_with("reboots");
        let look = if reboots { "test ! -e /dev/shm/mark && cat /shared/before" } else { "cat /shared/before" };
        play.fault(&format!("{fault} --instance {}", play.instance(1)));
        let begun = std::time::Instant::now();
        until(seconds(20), "the fault strikes", || {
            let faults = play.site.run(&["cloud", "fault", "list", "--json"]).json();
            (faults[0]["struck"] == 1).then_some(())
        });
        if fault.contains("--from nodes") {
            let script = format!("timeout 1 bash -c '</dev/tcp/{}-1/2222'", play.name);
            assert_ne!(play.sh(0, &script).code, 0, "the other node is out of reach");
        }
        until(seconds(90), "the node works again", || {
            let again = play.sh(1, look);
            (again.code == 0 && again.stdout == "before\n").then_some(())
        });
        let took = begun.elapsed().as_secs_f64();
        play.until_node(1, "ready");
        play.works(2);
        Did { launched: 2, text: format!("node 1 works again after {took:.1} s, its file is there") }
    }
}

/// A fault of node 1 from which it does not come back: the cluster says so.
fn is_missed(fault: &'static str, reason: &'static str) -> impl FnOnce(&Play<'_>) -> Did {
    move |play| {
        play.ready();
        play.fault(&format!("{fault} --instance {}", play.instance(1)));
        play.until_node(1, "gone");
        let status = play.site.run(&["cloud", "status"]).ok();
        assert!(status.contains(reason), "{status}");
        Did { launched: 2, text: format!("node 1 {}, {}", why(&play.status()["nodes"][1]), play.status()["message"]) }
    }
}

/// Cut off for good: destroy refuses as long as files may be lost, and does it when told so.
fn is_destroyed_without(play: &Play<'_>) -> Did {
    play.ready();
    play.fault(&format!("cut --instance {}", play.instance(1)));
    play.until_node(1, "unreachable");
    let outcome = play.site.run(&["destroy", &play.name, "--drain-timeout", "10s"]);
    assert!(outcome.code == 1 && outcome.stderr.contains("--discard"), "{outcome}");
    play.site.run(&["destroy", &play.name, "--discard"]).ok();
    Did { launched: 2, text: format!("destroy: {}; with --discard it is done", last_words(&outcome)) }
}

/// The cloud is killed and started again while a machine is cut off: it still is, and is joined again when told so.
fn stays_cut_over_a_restart(play: &Play<'_>) -> Did {
    play.ready();
    play.fault(&format!("cut --instance {}", play.instance(1)));
    play.until_node(1, "unreachable");
    let pid = play.site.cloud()["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    until(seconds(10), "the cloud has ended", || kill(Pid::from_raw(pid), None).is_err().then_some(()));
    play.site.start_cloud(&[]);
    let faults = play.site.run(&["cloud", "fault", "list", "--json"]).json();
    assert_eq!((&faults[0]["stage"], faults[1].is_null()), (&"striking".into(), true), "{faults}");
    std::thread::sleep(seconds(1));
    assert_eq!(play.status()["nodes"][1]["state"], "unreachable");
    play.clear();
    play.until_node(1, "ready");
    play.works(2);
    Did { launched: 2, text: "the fault is kept; cleared, node 1 is back".to_owned() }
}

#[test]
fn machines_that_fail() {
    let mut bench = Bench::new();
    bench.row(Runs::Always, "create", "never-boots --launch 2", goes_on_without);
    bench.row(Runs::Soak, "create", "never-boots --launch 2 --pending", goes_on_without);
    bench.row(Runs::Soak, "create", "never-joins --launch 2", goes_on_without);
    bench.row(Runs::Soak, "create", "dies --launch 2", goes_on_without);
    bench.row(Runs::Soak, "create", "cut --launch 2", goes_on_without);
    bench.row(Runs::Soak, "create", "never-boots --launch 2", fails_naming_the_node);
    bench.row(Runs::Soak, "create", "never-joins --launch 2", fails_naming_the_node);
    for (runs, fault, reason) in [
        (Runs::Always, "dies", "Server.InternalError"),
        (Runs::Always, "spot --notice 2s", "Server.SpotInstanceTermination"),
    ] {
        bench.row(runs, "idle", &format!("[{fault}]"), is_missed(fault, reason));
    }
    for (runs, fault) in [
        (Runs::Soak, "reboots"),
        (Runs::Soak, "reboots --hard"),
        (Runs::Always, "cut --for 3s"),
        (Runs::Soak, "cut --for 15s"),
        (Runs::Soak, "cut --from nodes --for 3s"),
    ] {
        bench.row(runs, "idle", &format!("[{fault}]"), comes_back(fault));
    }
    for (runs, fault) in
        [(Runs::Always, "dies"), (Runs::Soak, "cut"), (Runs::Soak, "spot --notice 2s"), (Runs::Soak, "reboots")]
    {
        bench.row(runs, "run", &format!("[{fault}]"), ends_the_job(fault));
    }
    bench.row(Runs::Soak, "destroy", "[cut]", is_destroyed_without);
    bench.row(Runs::Soak, "restart of the cloud", "[cut]", stays_cut_over_a_restart);
}
