//! Launch, describe and terminate: too few machines, too many requests, lost answers, errors.

use ec2mpi_tests::outcome::Outcome;
use ec2mpi_tests::wait::{seconds, until};

use super::bench::{Bench, Did, Play, Runs, last_words};

/// The cluster becomes ready all the same.
fn ready_with(nodes: usize, arguments: &'static str) -> impl FnOnce(&Play<'_>) -> Did {
    move |play| {
        let outcome = play.create(arguments);
        assert_eq!(outcome.code, 0, "{outcome}");
        let status = play.status();
        let ready = status["nodes"].as_array().unwrap().iter().filter(|node| node["state"] == "ready").count();
        assert_eq!(ready, nodes, "{status}");
        Did { launched: nodes, text: last_words(&outcome) }
    }
}

/// It does not, and the reason is told.
fn fails_saying(words: &'static str, arguments: &'static str) -> impl FnOnce(&Play<'_>) -> Did {
    move |play| {
        let outcome = play.create(arguments);
        assert!(outcome.code == 1 && outcome.stderr.contains(words), "{outcome}");
        Did { launched: 0, text: last_words(&outcome) }
    }
}

/// The cluster is made before the faults and destroyed under them.
fn destroyed_under(faults: &'static str) -> impl FnOnce(&Play<'_>) -> Did {
    move |play| {
        play.ready();
        play.fault(faults);
        let outcome: Outcome = play.site.run(&["destroy", &play.name]);
        assert_eq!(outcome.code, 0, "{outcome}");
        assert!(outcome.stdout.contains("2 instances terminated, 0 left"), "{outcome}");
        Did { launched: 2, text: last_words(&Outcome { stdout: first_line(&outcome.stdout), ..outcome }) }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Destroyed while the API does not list the machines yet that it launched.
fn destroyed_unseen(play: &Play<'_>) -> Did {
    let create = play.site.start(&["create", &play.name, "--nodes", "2"]);
    let launched = || {
        let status = play.site.run(&["cloud", "status", "--json"]).json();
        let all = status["instances"].as_array().unwrap().clone();
        all.iter().filter(|one| one["tags"]["ec2mpi:cluster"] == play.name.as_str()).count()
    };
    until(seconds(30), "the launch has happened", || (launched() == 2).then_some(()));
    let outcome = play.site.run(&["destroy", &play.name, "--discard"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    drop(create);
    let text = last_words(&Outcome { stdout: first_line(&outcome.stdout), ..outcome });
    // What shows up late is not to be alive.
    until(seconds(30), "the machines are listed", || (play.instances().len() == 2).then_some(()));
    Did { launched: 2, text }
}

#[test]
fn calls_that_fail() {
    let mut bench = Bench::new();
    let two = "--nodes 2";
    bench.row(Runs::Always, "launch", "capacity 1", ready_with(1, "--nodes 2 --min-nodes 1"));
    bench.row(Runs::Soak, "launch", "capacity 1 --count 2", ready_with(2, two));
    bench.row(
        Runs::Soak,
        "launch",
        "capacity 1",
        fails_saying("InsufficientInstanceCapacity", "--nodes 2 --timeout 12s"),
    );
    bench.row(Runs::Soak, "launch", "throttle --action RunInstances --burst 0 --refill 0 --for 3s", ready_with(2, two));
    bench.row(Runs::Always, "launch", "ec2-lost --action RunInstances --count 1", ready_with(2, two));
    bench.row(Runs::Soak, "launch", "ec2-lost --action RunInstances --count 5", ready_with(2, two));
    bench.row(Runs::Soak, "launch", "ec2-lost --action RunInstances --count 5 --answer 500", ready_with(2, two));
    bench.row(Runs::Soak, "launch", "ec2-error --action RunInstances --count 6", ready_with(2, two));
    let denied = "ec2-error UnauthorizedOperation --action RunInstances";
    bench.row(Runs::Always, "launch", denied, fails_saying("UnauthorizedOperation", two));

    let describe = "DescribeInstances";
    bench.row(Runs::Soak, describe, "throttle --action DescribeInstances --burst 1 --refill 0.5", ready_with(2, two));
    bench.row(Runs::Soak, describe, "ec2-error --action DescribeInstances --for 4s", ready_with(2, two));
    bench.row(Runs::Soak, describe, "ec2-lost --action DescribeInstances --probability 0.5", ready_with(2, two));
    bench.row(Runs::Soak, describe, "settle --hidden 2s --pending 5s", ready_with(2, two));
    bench.row(Runs::Always, describe, "settle --hidden 2s --pending 2s", destroyed_unseen);

    for (runs, fault) in [
        (Runs::Soak, "throttle --action TerminateInstances --burst 0 --refill 0 --for 3s"),
        (Runs::Always, "ec2-lost --action TerminateInstances --count 2"),
        (Runs::Soak, "ec2-lost --action TerminateInstances --count 5 --answer 500"),
        (Runs::Soak, "ec2-error --action TerminateInstances --count 6"),
        (Runs::Soak, "ec2-error UnauthorizedOperation --action TerminateInstances --count 1"),
        (Runs::Soak, "ec2-error --action DescribeInstances --for 4s"),
    ] {
        bench.row(runs, "terminate", &format!("[{fault}]"), destroyed_under(fault));
    }
}
