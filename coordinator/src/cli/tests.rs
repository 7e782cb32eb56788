//! What the command line takes and refuses.

use clap::CommandFactory;

use super::*;

fn parsed(words: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(words.split_whitespace())
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn the_help_tells_the_exit_codes() {
    let help = Arguments::command().render_help().to_string();
    for expected in ["Exit codes:", "128 + N", "ec2mpi create demo --nodes 4"] {
        assert!(help.contains(expected), "{help}");
    }
}

#[test]
fn every_verb_is_taken() {
    for words in [
        "ec2mpi create demo --nodes 4 --min-nodes 75% --timeout 10m --type c7i.large --slots 2 --json",
        "ec2mpi create demo --nodes 4 --min-nodes 3 --no-wait",
        "ec2mpi list --json",
        "ec2mpi --state-dir /s --socket /s/c --cloud-dir /c status demo",
        "ec2mpi why demo 3",
        "ec2mpi why demo demo-3 --json",
        "ec2mpi destroy demo --discard --drain-timeout 90 --json",
        "ec2mpi run demo -n 8 --workdir /shared/x --env A=1 --env B=2 --no-barrier --mpi-arg --mca -- ./p -n 3",
        "ec2mpi run demo -n 8 --explain -- ./p",
        "ec2mpi exec demo --node 1 -- mpicc -o p p.c",
        "ec2mpi logs demo",
        "ec2mpi logs demo j-0123456789ab -f",
        "ec2mpi jobs demo --json",
        "ec2mpi cancel demo j-0123456789ab",
        "ec2mpi cp -r dir demo:/shared/",
        "ec2mpi hostfile demo -n 3",
        "ec2mpi ssh demo --node 2 -- ls -l",
        "ec2mpi ssh demo",
        "ec2mpi serve",
        "ec2mpi stop",
    ] {
        if let Err(error) = parsed(words) {
            panic!("{words}: {error}");
        }
    }
}

#[test]
fn bad_input_is_a_usage_error_that_names_it() {
    for (words, expected) in [
        ("ec2mpi create De_mo --nodes 4", "De_mo"),
        ("ec2mpi create demo --nodes 0", "0 is not in 1..=1000"),
        ("ec2mpi create demo --nodes -3", "-3 is not in 1..=1000"),
        ("ec2mpi create demo --nodes 10000", "10000 is not in 1..=1000"),
        ("ec2mpi create demo", "--nodes"),
        ("ec2mpi create demo --nodes 4 --min-nodes 0", "number of nodes"),
        ("ec2mpi create demo --nodes 4 --timeout soon", "soon"),
        ("ec2mpi run demo -n 0 -- ./p", "0 is not in"),
        ("ec2mpi run demo -n 2", "PROGRAM"),
        ("ec2mpi run demo -n 2 --env 1=x -- ./p", "\"1\""),
        ("ec2mpi logs demo x", "job id"),
        ("ec2mpi cp a demo:relative", "/shared/relative"),
        ("ec2mpi nonsense", "nonsense"),
    ] {
        let error = parsed(words).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words}");
        assert!(error.to_string().contains(expected), "{words}: {error}");
    }
}
