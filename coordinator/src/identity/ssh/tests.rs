//! Against the real ssh-keygen, sshd and ssh.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::*;

fn an_hour() -> Validity {
    Validity::starting(Timestamp::now(), Duration::from_secs(3600))
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// A new key pair `name` and `name.pub` in `dir`; the public line.
fn new_key(dir: &Path, name: &str) -> String {
    let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
    write_private(&dir.join(name), &key.to_openssh(LineEnding::LF).unwrap());
    key.public_key().to_openssh().unwrap()
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn keygen_lists(certificate: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key-cert.pub");
    fs::write(&path, certificate).unwrap();
    let output = Command::new("ssh-keygen").arg("-L").arg("-f").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn certificates_say_what_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let authority = SshAuthority::generate("ec2mpi demo").unwrap();
    let line = new_key(dir.path(), "key");
    let host = authority.sign_host(&line, &strings(&["demo-0", "10.213.0.10"]), an_hour()).unwrap();
    let text = squeezed(&keygen_lists(&host));
    assert!(text.contains("Type: ssh-ed25519-cert-v01@openssh.com host certificate"), "{text}");
    assert!(text.contains("Principals: demo-0 10.213.0.10 Critical Options: (none) Extensions: (none)"), "{text}");
    let user = authority.sign_user(&line, &strings(&["mpi"]), an_hour()).unwrap();
    let text = squeezed(&keygen_lists(&user));
    assert!(text.contains("user certificate"), "{text}");
    assert!(text.contains("Principals: mpi Critical Options: (none) Extensions: permit-pty"), "{text}");
    assert!(!text.contains("forwarding"), "{text}");
}

#[test]
fn only_ed25519_keys_and_named_principals_are_signed() {
    let dir = tempfile::tempdir().unwrap();
    let authority = SshAuthority::generate("ec2mpi demo").unwrap();
    let line = new_key(dir.path(), "key");
    for principals in [vec![], strings(&[""]), strings(&["mpi", "a b"]), strings(&["a,b"]), strings(&["*"])] {
        assert!(authority.sign_user(&line, &principals, an_hour()).is_err(), "{principals:?}");
    }
    let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5K\
                 qiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc= x";
    for bad in ["", "nonsense", "ssh-ed25519 AAAA", ecdsa, &"x".repeat(LINE_LIMIT + 1)] {
        assert!(authority.sign_user(bad, &strings(&["mpi"]), an_hour()).is_err(), "{bad:.40}");
    }
}

#[test]
fn a_stored_authority_is_the_same_and_never_shows_its_key() {
    let authority = SshAuthority::generate("ec2mpi demo").unwrap();
    let private = authority.to_openssh().unwrap();
    let again = SshAuthority::from_openssh(&private).unwrap();
    assert_eq!(again.public_line(), authority.public_line());
    assert!(authority.public_line().ends_with(" ec2mpi demo"));
    let secret = private.lines().nth(2).unwrap();
    assert!(!format!("{authority:?}").contains(secret));
    assert!(SshAuthority::from_openssh("nonsense").is_err());
}

#[test]
fn address_patterns_cover_their_block() {
    assert_eq!(address_patterns("10.213.0.0/16").unwrap(), ["10.213.*"]);
    assert_eq!(address_patterns("10.1.2.0/24").unwrap(), ["10.1.2.*"]);
    assert_eq!(address_patterns("10.1.2.3/32").unwrap(), ["10.1.2.3"]);
    assert_eq!(address_patterns("0.0.0.0/0").unwrap(), ["*"]);
    assert_eq!(address_patterns("10.1.18.0/23").unwrap(), ["10.1.18.*", "10.1.19.*"]);
    assert_eq!(address_patterns("10.1.2.255/31").unwrap(), ["10.1.2.254", "10.1.2.255"]);
    assert_eq!(address_patterns("128.0.0.0/1").unwrap().len(), 128);
    for bad in ["", "10.0.0.0", "10.0.0/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/x", "::/0"] {
        assert!(address_patterns(bad).is_err(), "{bad}");
    }
}

/// A real sshd on a port of 127.0.0.1; ends with this value.
struct Sshd {
    child: Child,
    port: u16,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Sshd {
    /// With `host_key` and `host_key-cert.pub` of `dir`, trusting the authority in `ca.pub`.
    fn start(dir: &Path) -> Self {
        if nix::unistd::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host_key\nHostCertificate {0}/host_key-cert.pub\n\
             TrustedUserCAKeys {0}/ca.pub\nAuthorizedKeysFile none\nPasswordAuthentication no\nUsePAM no\n\
             StrictModes no\nPidFile none\n",
            dir.display()
        );
        fs::write(dir.join("sshd_config"), config).unwrap();
        let log = fs::File::create(dir.join("sshd.log")).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(dir.join("sshd_config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let sshd = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(dir.join("sshd.log")).unwrap());
            sleep(Duration::from_millis(20));
        }
        sshd
    }

    /// Runs `true` over ssh as the user of this process, without a prompt, trusting only `known_hosts`.
    fn try_ssh(&self, dir: &Path, known_hosts: &str) -> Output {
        fs::write(dir.join("known_hosts"), known_hosts).unwrap();
        Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10"])
            .args(["-o", "GlobalKnownHostsFile=none", "-o", "IdentitiesOnly=yes", "-o"])
            .arg(format!("UserKnownHostsFile={}/known_hosts", dir.display()))
            .arg("-i")
            .arg(dir.join("user_key"))
            .args(["-p", &self.port.to_string(), "127.0.0.1", "true"])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

fn user_name() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

#[test]
fn ssh_and_sshd_trust_what_the_authority_signed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ours = SshAuthority::generate("ours").unwrap();
    let theirs = SshAuthority::generate("theirs").unwrap();
    let host = new_key(dir, "host_key");
    let principals = strings(&["127.0.0.1", "demo-0"]);
    fs::write(dir.join("host_key-cert.pub"), ours.sign_host(&host, &principals, an_hour()).unwrap()).unwrap();
    fs::write(dir.join("ca.pub"), ours.public_line()).unwrap();
    let user = new_key(dir, "user_key");
    let sign = |authority: &SshAuthority, name: &str| {
        let certificate = authority.sign_user(&user, &strings(&[name]), an_hour()).unwrap();
        fs::write(dir.join("user_key-cert.pub"), certificate).unwrap();
    };
    let sshd = Sshd::start(dir);
    let known = ours.known_hosts(&strings(&["127.*"]));

    sign(&ours, &user_name());
    let output = sshd.try_ssh(dir, &known);
    let log = fs::read_to_string(dir.join("sshd.log")).unwrap();
    assert!(output.status.success(), "{}\n{log}", String::from_utf8_lossy(&output.stderr));
    let ported: String = known.replace("127.*,", "");
    assert!(sshd.try_ssh(dir, &ported).status.success(), "the [host]:port form alone");

    assert!(!sshd.try_ssh(dir, "").status.success(), "a host that nobody vouches for");
    assert!(!sshd.try_ssh(dir, &theirs.known_hosts(&strings(&["127.*"]))).status.success(), "a foreign host");
    assert!(!sshd.try_ssh(dir, &ours.known_hosts(&strings(&["10.*"]))).status.success(), "a host outside the patterns");
    sign(&theirs, &user_name());
    assert!(!sshd.try_ssh(dir, &known).status.success(), "a foreign user certificate");
    sign(&ours, "somebody-else");
    assert!(!sshd.try_ssh(dir, &known).status.success(), "a certificate for another account");
}
