//! Machines of the local cloud, from launch to the last trace of them. Needs root, curl and python3.

#![allow(clippy::unwrap_used)]

#[path = "machines/lab.rs"]
mod lab;

use std::process::Command;

use lab::{Lab, is_there, kill, text, until};

/// Asks the metadata service for what follows.
const ASK: &str = r#"
IMDS=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
TOKEN=$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $IMDS/api/token)
ask() { curl -fsS -H "X-aws-ec2-metadata-token: $TOKEN" $IMDS/$1; }
"#;

/// Serves its instance id, and looks for its neighbours.
const MEET: &str = r#"
mkdir /srv/www && ask meta-data/instance-id > /srv/www/id
(cd /srv/www && setsid python3 -m http.server 8000 >/dev/null 2>&1 &)
for last in 4 5 6 7; do
  url=http://$(ask meta-data/local-ipv4 | sed "s/[0-9]*$/$last/"):8000/id
  for try in $(seq 100); do curl -fsS -m 2 -o /tmp/id $url 2>/dev/null && break; sleep 0.1; done
  echo "met $(cat /tmp/id)"; rm /tmp/id
done
"#;

#[test]
fn machines_boot_by_themselves_and_reach_each_other() {
    let lab = Lab::start();
    let machines =
        lab.launch(4, &format!("#!/bin/sh\n{ASK}{MEET}echo I am $(hostname), $(ask meta-data/placement/region)\n"));
    for machine in &machines {
        lab.until_console(&machine.id, "boot script ended: exit code 0");
        let console = lab.console(&machine.id);
        for other in &machines {
            assert!(console.contains(&format!("met {}", other.id)), "{console}");
        }
        let host_name = format!("ip-{}", machine.address.replace('.', "-"));
        assert!(console.contains(&format!("I am {host_name}, local-1")), "{console}");
    }
    let output = lab.ec2("GetConsoleOutput", &[("InstanceId", &machines[0].id)]);
    assert!(output.contains("<output>"), "{output}");
}

/// What a machine must not see, and what must be its own.
const LOOK: &str = r#"#!/bin/sh
for path in /var/lib/ec2mpi /etc/ec2mpi /opt/ec2mpi MASKED CLOUD; do [ -e $path ] && echo "sees $path"; done
for path in /root /home /var/tmp /tmp /dev/shm; do [ -z "$(ls -A $path)" ] || echo "not empty: $path"; done
ls /etc/ssh/ssh_host_* 2>/dev/null && echo "sees host keys"
[ $(ls -d /proc/[0-9]* | wc -l) -lt 10 ] || echo "sees processes"
(echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo "changes the kernel's settings"
tty=$(python3 -c 'import pty, os; print(os.ttyname(pty.openpty()[1]))') && [ "$tty" = /dev/pts/0 ] || echo "terminal: $tty"
for device in null zero full random urandom tty fuse; do [ -c /dev/$device ] || echo "no $device"; done
curl -s -m 2 -o /dev/null http://192.0.2.1/ && echo "reaches the outside"
echo looked
"#;

#[test]
fn machines_see_nothing_of_the_host_that_is_not_theirs() {
    let masked = tempfile::tempdir_in("/var/lib").unwrap();
    let lab = Lab::start();
    assert!(lab.cloud(&["stop"]).status.success());
    let output = lab.cloud(&["start", "--mask", masked.path().to_str().unwrap(), "--slots", "3"]);
    assert!(output.status.success(), "{}", text(&output));
    let script =
        LOOK.replace("MASKED", masked.path().to_str().unwrap()).replace("CLOUD", lab.path("").to_str().unwrap());
    let machine = lab.launch(1, &script).remove(0);
    lab.until_console(&machine.id, "boot script ended: exit code 0");
    assert!(lab.console(&machine.id).starts_with("looked\n"), "{}", lab.console(&machine.id));
    assert!(lab.ec2("DescribeInstanceTypes", &[]).contains("<defaultCores>3</defaultCores>"));
}

/// Each boot leaves a line on the disk and in /tmp; the third one powers off.
const COUNT: &str = r#"#!/bin/sh
cat > /etc/rc.local <<'END'
#!/bin/sh
echo boot >> /var/boots; echo boot >> /tmp/boots
echo "boots: $(wc -l < /var/boots) on disk, $(wc -l < /tmp/boots) in memory"
[ $(wc -l < /var/boots) -eq 2 ] && reboot -f
[ $(wc -l < /var/boots) -eq 3 ] && sleep 1 && poweroff -f
END
chmod 755 /etc/rc.local; /etc/rc.local
"#;

#[test]
fn a_reboot_keeps_the_disk_and_power_off_is_the_end() {
    let lab = Lab::start();
    let machine = lab.launch(1, COUNT).remove(0);
    lab.until_console(&machine.id, "boots: 1 on disk, 1 in memory");
    lab.ec2("RebootInstances", &[("InstanceId.1", &machine.id)]);
    lab.until_console(&machine.id, "boots: 3 on disk, 1 in memory");
    assert!(lab.console(&machine.id).contains("boots: 2 on disk, 1 in memory"));
    assert_eq!(lab.keeper(&machine.id)["boots"], 3);
    let ended = lab.until_state(&machine.id, "terminated");
    assert!(ended.reason.contains("Client.InstanceInitiatedShutdown"), "{ended:?}");
    assert!(!is_there(&lab.path(&format!("instances/{}/upper", machine.id))));
    assert_eq!(lab.traces().iter().filter(|line| line.contains(&machine.id)).count(), 0, "{:#?}", lab.traces());
}

#[test]
fn machines_outlive_the_cloud_and_are_found_again() {
    let lab = Lab::start();
    let sleeper = lab.launch(1, "#!/bin/sh\necho up\n").remove(0);
    let quitter = lab.launch(1, "#!/bin/sh\nwhile [ ! -e /tmp/quit ]; do sleep 0.05; done; poweroff -f\n").remove(0);
    let (imds, keeper) = (lab.info("gateway"), lab.keeper(&sleeper.id));
    let endpoint = lab.info("ec2_endpoint");
    kill(lab.pid());
    until("the cloud is gone", || !lab.cloud(&["status"]).status.success());
    assert!(text(&lab.cloud(&["status"])).contains("no cloud is running"));
    let pid = init_of(&lab, &quitter.id);
    std::fs::write(format!("/proc/{pid}/root/tmp/quit"), "").unwrap();
    until("the machine has powered off", || !lab.keeper(&quitter.id)["end"].is_null());
    lab.start_again();
    assert_eq!((lab.info("gateway"), lab.info("ec2_endpoint")), (imds, endpoint));
    let ended = lab.until_state(&quitter.id, "terminated");
    assert!(ended.reason.contains("Client.InstanceInitiatedShutdown"), "{ended:?}");
    assert_eq!(lab.machine(&sleeper.id).state, "running");
    assert_eq!(lab.keeper(&sleeper.id), keeper);
    lab.ec2("TerminateInstances", &[("InstanceId.1", &sleeper.id)]);
    lab.until_state(&sleeper.id, "terminated");
}

#[test]
fn a_launch_survives_a_cloud_killed_in_the_middle_of_it() {
    let lab = Lab::start();
    let pid = lab.pid();
    let launching = std::thread::scope(|scope| {
        let launch = scope.spawn(|| std::panic::catch_unwind(|| lab.launch(6, "#!/bin/sh\necho up\n")));
        until("the launch is written down", || {
            let names = std::fs::read_dir(lab.path("launches")).unwrap().map(|entry| entry.unwrap().path());
            names.into_iter().any(|path| path.extension().is_some_and(|extension| extension == "json"))
        });
        kill(pid);
        launch.join().unwrap()
    });
    drop(launching);
    until("the cloud is gone", || !lab.cloud(&["status"]).status.success());
    lab.start_again();
    until("all machines run", || {
        let machines = lab.machines();
        assert!(machines.len() == 6 && machines.iter().all(|machine| machine.reason.is_empty()), "{machines:?}");
        machines.iter().filter(|machine| machine.state == "running").count() == 6
    });
    for machine in lab.machines() {
        lab.until_console(&machine.id, "up\n");
        assert_eq!(lab.console(&machine.id).matches("up\n").count(), 1);
    }
}

#[test]
fn a_machine_dies_with_its_keeper() {
    let lab = Lab::start();
    let machine = lab.launch(1, "#!/bin/sh\nsetsid sleep 1000 &\necho up\n").remove(0);
    lab.until_console(&machine.id, "up");
    let pid = init_of(&lab, &machine.id);
    kill(lab.keeper(&machine.id)["pid"].as_u64().unwrap());
    let ended = lab.until_state(&machine.id, "terminated");
    assert!(ended.reason.contains("Server.InternalError"), "{ended:?}");
    until("pid 1 is buried", || !is_there(format!("/proc/{pid}").as_ref()));
    assert_eq!(lab.traces().iter().filter(|line| line.contains(&machine.id)).count(), 0, "{:#?}", lab.traces());
}

#[test]
fn a_machine_that_does_not_obey_is_ended_by_force() {
    let lab = Lab::start();
    let stubborn =
        "#!/bin/sh\ntrap '' TERM\n(trap '' TERM; while :; do sleep 1; done) &\necho up; while :; do sleep 1; done\n";
    let machine = lab.launch(1, stubborn).remove(0);
    lab.until_console(&machine.id, "up");
    lab.ec2("TerminateInstances", &[("InstanceId.1", &machine.id)]);
    let ended = lab.until_state(&machine.id, "terminated");
    assert!(ended.reason.contains("Client.UserInitiatedShutdown"), "{ended:?}");
}

#[test]
fn stopping_leaves_nothing_but_the_buckets() {
    let lab = Lab::start();
    lab.launch(2, "#!/bin/sh\nsetsid sleep 1000 &\n");
    assert!(lab.traces().len() >= 7, "{:#?}", lab.traces());
    let output = lab.cloud(&["stop"]);
    assert!(text(&output).contains("2 instances terminated"), "{}", text(&output));
    assert_eq!(lab.traces(), [""; 0]);
    assert!(lab.path("bucket").exists() && !lab.path("instances").exists());
    lab.start_again();
    lab.launch(2, "#!/bin/sh\nsetsid sleep 1000 &\n");
    kill(lab.pid());
    let output = lab.cloud(&["stop", "--purge"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(lab.traces(), [""; 0]);
    assert!(!lab.path("settings.json").exists());
    assert!(text(&lab.cloud(&["stop"])).contains("no cloud in"));
}

#[test]
fn one_cloud_a_directory() {
    let lab = Lab::start();
    for verb in ["start", "serve"] {
        let output = lab.cloud(&[verb]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains("a cloud is already running in"), "{}", text(&output));
        assert!(text(&output).contains(&format!("(pid {})", lab.pid())), "{}", text(&output));
    }
    let other = Lab::start();
    assert_ne!(other.info("cidr"), lab.info("cidr"));
    assert_ne!(other.info("bridge"), lab.info("bridge"));
}

#[test]
fn only_root_can_start_one() {
    use std::os::unix::process::CommandExt;
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    let program =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    std::fs::copy(lab::program(), program.path().join("cloud")).unwrap();
    let dir = program.path().join("none");
    let run = |verb: &str| {
        let mut command = Command::new(program.path().join("cloud"));
        command.arg("--cloud-dir").arg(&dir).args(["cloud", verb]).uid(65_534).gid(65_534);
        command.output().unwrap()
    };
    for verb in ["start", "serve", "stop"] {
        let output = run(verb);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains("must run as root"), "{}", text(&output));
    }
    assert!(!dir.exists());
}

/// Pid 1 of a machine, as the host numbers it.
fn init_of(lab: &Lab, id: &str) -> u64 {
    let keeper = lab.keeper(id)["pid"].as_u64().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    children.trim().parse().unwrap()
}
