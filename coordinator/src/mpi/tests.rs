use insta::assert_snapshot;

use super::*;

fn installation(family: &str, version: &str, mpirun: &str) -> Installation {
    Installation { family: family.to_owned(), version: version.to_owned(), mpirun: mpirun.to_owned() }
}

fn hosts(slots: &[u32]) -> Vec<Host> {
    let address = |index| Ipv4Addr::new(10, 213, 0, 10 + u8::try_from(index).unwrap());
    slots.iter().enumerate().map(|(index, slots)| Host { address: address(index), slots: *slots }).collect()
}

/// Hostfile and command of four ranks on nodes of two slots, as text.
fn explain(installation: Installation, dedicated_cores: bool) -> String {
    let facts = LaunchFacts {
        installation,
        cidr: "10.213.0.0/16".to_owned(),
        dedicated_cores,
        job: "j-0123456789ab".to_owned(),
    };
    let program = Program {
        ranks: 4,
        environment: [("OMP_NUM_THREADS", "1"), ("TITLE", "two words; $HOME")]
            .map(|(k, v)| (k.into(), v.into()))
            .into(),
        program: "./replica_exchange".to_owned(),
        arguments: vec!["--sweeps".to_owned(), "1000".to_owned(), "a b".to_owned()],
        mpi_arguments: vec!["-v".to_owned()],
    };
    let launch = launch(&facts, "/run/ec2mpi/hostfiles/j-0123456789ab", &program).unwrap();
    let hostfile = hostfile(facts.installation.launcher().unwrap(), &hosts(&[2, 2, 2]), 4).unwrap();
    let environment: String = launch.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    format!("--- hostfile\n{hostfile}--- argv, a line each\n{}\n--- environment\n{environment}", launch.argv.join("\n"))
}

#[test]
fn open_mpi_4() {
    let found = installation("openmpi", "4.1.4", "/usr/bin/mpirun");
    assert_snapshot!("open_mpi_4_dedicated", explain(found.clone(), true));
    assert_snapshot!("open_mpi_4_shared", explain(found, false));
}

#[test]
fn open_mpi_5() {
    let found = installation("openmpi", "5.0.7", "/opt/amazon/openmpi5/bin/mpirun");
    assert_snapshot!("open_mpi_5_dedicated", explain(found.clone(), true));
    assert_snapshot!("open_mpi_5_shared", explain(found, false));
}

#[test]
fn mpich() {
    let found = installation("mpich", "4.0.2", "/usr/bin/mpiexec.hydra");
    assert_snapshot!("mpich_dedicated", explain(found.clone(), true));
    assert_snapshot!("mpich_shared", explain(found, false));
}

#[test]
fn intel_mpi() {
    let found = installation("intel", "2021.14", "/opt/intel/oneapi/mpi/2021.14/bin/mpirun");
    assert_snapshot!("intel_mpi_dedicated", explain(found.clone(), true));
    assert_snapshot!("intel_mpi_shared", explain(found, false));
}

#[test]
fn a_hostfile_has_only_the_nodes_that_the_ranks_need() {
    let lines = |slots: &[u32], ranks| hostfile(Launcher::OpenMpi4, &hosts(slots), ranks).unwrap().lines().count();
    assert_eq!(lines(&[2, 2, 2, 2], 1), 1);
    assert_eq!(lines(&[2, 2, 2, 2], 2), 1);
    assert_eq!(lines(&[2, 2, 2, 2], 3), 2);
    assert_eq!(lines(&[2, 2, 2, 2], 8), 4);
    assert_eq!(lines(&[0, 2, 0, 2], 3), 2, "a node without slots is left out");
    assert_eq!(needed(&hosts(&[1, 4]), 2).unwrap().len(), 2);
}

#[test]
fn more_ranks_than_slots_is_refused_and_says_how_many_there_are() {
    for launcher in [Launcher::OpenMpi4, Launcher::OpenMpi5, Launcher::Mpich, Launcher::Intel] {
        let error = hostfile(launcher, &hosts(&[2, 2, 2, 2]), 9).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)));
        assert_eq!(
            error.to_string(),
            "9 ranks are more than the 8 slots of the 4 nodes that are ready: ask for fewer ranks, or create a cluster \
             with more nodes or slots"
        );
    }
    assert!(matches!(needed(&hosts(&[u32::MAX, u32::MAX]), u32::MAX), Ok([_])));
    assert!(needed(&[], 1).is_err());
    assert!(needed(&hosts(&[2]), 0).is_err());
}

#[test]
fn nothing_oversubscribes_dedicated_cores() {
    for (family, version) in [("openmpi", "4.1.4"), ("openmpi", "5.0.7"), ("mpich", "4.0.2"), ("intel", "2021.14")] {
        let found = installation(family, version, "/usr/bin/mpirun");
        let text = explain(found, true);
        assert!(!text.contains("oversubscribe") && !text.contains("none"), "{text}");
    }
}

#[test]
fn what_a_launcher_would_misread_is_refused() {
    let facts = LaunchFacts {
        installation: installation("openmpi", "4.1.4", "/usr/bin/mpirun"),
        cidr: "10.213.0.0/16".to_owned(),
        dedicated_cores: true,
        job: "j-0123456789ab".to_owned(),
    };
    let good = Program { ranks: 1, program: "./a.out".to_owned(), ..Program::default() };
    assert!(launch(&facts, "/h", &good).is_ok());
    let variable = |name: &str| [(name.to_owned(), String::new())].into();
    for bad in [
        Program { ranks: 0, ..good.clone() },
        Program { program: String::new(), ..good.clone() },
        Program { program: "--allow-run-as-root".to_owned(), ..good.clone() },
        Program { arguments: vec!["x".to_owned(), ":".to_owned()], ..good.clone() },
        Program { environment: variable("A B"), ..good.clone() },
        Program { environment: variable("1A"), ..good.clone() },
        Program { environment: variable(""), ..good.clone() },
    ] {
        assert!(matches!(launch(&facts, "/h", &bad), Err(Error::Invalid(_))), "{bad:?}");
    }
}

#[test]
fn users_cannot_hide_a_rank_from_its_job() {
    let facts = LaunchFacts {
        installation: installation("openmpi", "4.1.4", "/usr/bin/mpirun"),
        cidr: "10.213.0.0/16".to_owned(),
        dedicated_cores: true,
        job: "j-0123456789ab".to_owned(),
    };
    let environment = [(JOB_VARIABLE.to_owned(), "other".to_owned())].into();
    let program = Program { ranks: 1, program: "./a.out".to_owned(), environment, ..Program::default() };
    let launch = launch(&facts, "/h", &program).unwrap();
    assert_eq!(launch.environment[JOB_VARIABLE], "j-0123456789ab");
    assert_eq!(launch.argv.iter().filter(|word| *word == JOB_VARIABLE).count(), 1);
}

#[test]
fn the_library_is_one_that_all_nodes_have() {
    let old = installation("openmpi", "4.1.4", "/usr/bin/mpirun");
    let new = installation("openmpi", "4.1.10", "/opt/openmpi/bin/mpirun");
    let mpich = installation("mpich", "4.0.2", "/usr/bin/mpiexec.hydra");
    let unknown = installation("lam", "7.1.4", "/usr/bin/mpirun.lam");
    let all = [mpich.clone(), old.clone(), new.clone(), unknown.clone()];
    assert_eq!(choose(&[&all, &all]).unwrap(), new);
    assert_eq!(choose(&[&all, &[old.clone(), mpich.clone()]]).unwrap(), old);
    assert_eq!(choose(&[std::slice::from_ref(&mpich), &all]).unwrap(), mpich);
    let (old, new, unknown) = ([old], [new], [unknown]);
    let nothing: &[Installation] = &[];
    let without: [&[&[Installation]]; 5] = [&[], &[nothing], &[&all, nothing], &[&old, &new], &[&unknown]];
    for nodes in without {
        assert!(choose(nodes).unwrap_err().to_string().contains("openmpi-bin"));
    }
}

#[test]
fn launchers_are_told_apart_by_major_version() {
    let launcher = |family, version| installation(family, version, "/usr/bin/mpirun").launcher();
    assert_eq!(launcher("openmpi", "3.1.0").unwrap(), Launcher::OpenMpi4);
    assert_eq!(launcher("openmpi", "4.1.4").unwrap(), Launcher::OpenMpi4);
    assert_eq!(launcher("openmpi", "5.0.0rc12").unwrap(), Launcher::OpenMpi5);
    assert_eq!(launcher("openmpi", "10.0").unwrap(), Launcher::OpenMpi5);
    assert!(launcher("openmpi", "").is_err());
    assert!(launcher("lam", "7.1.4").is_err());
}
