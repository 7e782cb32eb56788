//! What mount(8) and umount(8) start for the type `fuse.ec2mpi`, by the names `mount.fuse.ec2mpi` and
//! `umount.fuse.ec2mpi`: their arguments as this program's own.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Seconds that umount(8) leaves for uploads; what is left then stays in the journal.
const UMOUNT_SECONDS: u64 = 60;

/// The arguments of this program, started under whatever name.
///
/// `mount.fuse.ec2mpi SPEC DIR [-sfnvr] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]` is `mount SPEC DIR -o OPTIONS`, and
/// `umount.fuse.ec2mpi DIR [-flnrv] [-N NAMESPACE] [-t TYPE]` is `umount DIR`.
pub fn arguments(mut given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let program = given.next().unwrap_or_default();
    let name = Path::new(&program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let verb = match name.split_once('.') {
        Some((verb @ ("mount" | "umount"), _)) => verb.to_owned(),
        _ => return [program].into_iter().chain(given).collect(),
    };
    let mut arguments = vec![program, OsString::from(&verb)];
    if verb == "umount" {
        arguments.extend(["--timeout".into(), UMOUNT_SECONDS.to_string().into()]);
    }
    arguments.extend(translated(given));
    arguments
}

fn translated(mut given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = Vec::new();
    while let Some(one) = given.next() {
        match one.to_str() {
            Some("-o") => arguments.extend([Some(one), given.next()].into_iter().flatten()),
            Some("-t" | "-N") => drop(given.next()),
            Some("-r") => arguments.push("--read-only".into()),
            Some(flags) if flags.starts_with('-') && !flags.starts_with("-o") => {}
            _ => arguments.push(one),
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(text: &str) -> String {
        let all = arguments(text.split_whitespace().map(OsString::from));
        all.iter().map(|one| one.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn by_its_own_name_nothing_changes() {
        assert_eq!(translate("/usr/bin/ec2mpi-agent mount -o ro b /d"), "/usr/bin/ec2mpi-agent mount -o ro b /d");
    }

    #[test]
    fn what_mount_passes() {
        assert_eq!(
            translate("/sbin/mount.fuse.ec2mpi b/p /d -n -v -t fuse.ec2mpi -o rw,url=http://h"),
            "/sbin/mount.fuse.ec2mpi mount b/p /d -o rw,url=http://h"
        );
        assert_eq!(translate("/sbin/mount.ec2mpi b /d -r"), "/sbin/mount.ec2mpi mount b /d --read-only");
        assert_eq!(
            translate("/sbin/umount.fuse.ec2mpi /d -l -t fuse.ec2mpi"),
            "/sbin/umount.fuse.ec2mpi umount --timeout 60 /d"
        );
    }
}
