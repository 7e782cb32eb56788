//! The user of the jobs: the account, and what ssh needs in its home.
//!
//! The home belongs to the user, whose programs may put links there. So root opens `.ssh` without following one and
//! works through the open directory.

use std::fs::{File, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::durable::{self, Owner};
use crate::node::membership::{Membership, User};
use crate::node::paths::Paths;

/// The account with this name and number, made if there is none. One that has only the name or only the number is
/// somebody else's, and ranks of one user with two numbers could not share files.
pub(super) fn ensure(paths: &Paths, user: &User) -> anyhow::Result<()> {
    let passwd = std::fs::read_to_string(paths.passwd()).context("cannot read the accounts")?;
    let group = std::fs::read_to_string(paths.group()).context("cannot read the groups")?;
    if !has_entry(&group, &user.name, user.id).context("group")? {
        let line = format!("{}:x:{}:\n", user.name, user.id);
        durable::overwrite(&paths.group(), 0o644, with_line(&group, &line).as_bytes())?;
    }
    if !has_entry(&passwd, &user.name, user.id).context("user")? {
        // "*" and not "!": without PAM sshd refuses accounts that are locked.
        let line = format!("{}:*:{1}:{1}:MPI jobs:{2}:/bin/bash\n", user.name, user.id, user.home);
        durable::overwrite(&paths.passwd(), 0o644, with_line(&passwd, &line).as_bytes())?;
    }
    let home = paths.at(&user.home);
    durable::create_dirs(&home, 0o755)?;
    own(&open_dir(&home)?, 0o755, user.id)
}

/// Whether `text` (passwd or group) has `name` with `id`; an error when one of the two is taken.
fn has_entry(text: &str, name: &str, id: u32) -> anyhow::Result<bool> {
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [its_name, _, its_id, ..] = fields.as_slice() else { continue };
        match (*its_name == name, its_id.parse() == Ok(id)) {
            (true, true) => return Ok(true),
            (true, false) => bail!("{name} exists with number {its_id}, the cluster needs {id}"),
            (false, true) => bail!("number {id} belongs to {its_name}, the cluster needs it for {name}"),
            (false, false) => {}
        }
    }
    Ok(false)
}

fn with_line(text: &str, line: &str) -> String {
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}{line}")
}

/// The directory itself: a link in its place is refused.
fn open_dir(dir: &Path) -> anyhow::Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(dir)
        .with_context(|| format!("cannot open {}", dir.display()))
}

fn own(dir: &File, mode: u32, id: u32) -> anyhow::Result<()> {
    fchown(dir, Some(id), Some(id)).context("cannot give a directory away")?;
    dir.set_permissions(Permissions::from_mode(mode)).context("cannot set the rights of a directory")
}

/// A name that leads into the open directory whatever its path leads to by now.
fn inside(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)
}

/// Key, certificate and configuration of ssh in the user's home. A configuration of the user's own stays.
pub(super) fn write_ssh_files(paths: &Paths, member: &Membership) -> anyhow::Result<()> {
    let user = &member.user;
    let owner = Owner { uid: user.id, gid: user.id };
    let path = paths.at(&user.home).join(".ssh");
    if path.symlink_metadata().is_err() {
        durable::create_dirs(&path, 0o700)?;
    }
    let dir = open_dir(&path)?;
    own(&dir, 0o700, user.id)?;
    let private = std::fs::read(paths.user_key())?;
    let include = format!("Include {}\n", paths.ssh_dir().join("ssh_config").display());
    let files = [
        ("id_ed25519", 0o600, private),
        ("id_ed25519-cert.pub", 0o644, super::line(&member.ssh.user_certificate).into_bytes()),
        ("config", 0o600, include.into_bytes()),
    ];
    for (name, mode, content) in files {
        if name == "config" && inside(&dir, name).symlink_metadata().is_ok() {
            continue;
        }
        durable::overwrite_for(&inside(&dir, name), mode, owner, &content)
            .with_context(|| format!("cannot write {}/{name}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_ours_only_with_name_and_number() {
        let text = "root:x:0:0::/root:/bin/bash\nmpi:*:2009:2009::/home/mpi:/bin/bash\n";
        assert!(has_entry(text, "mpi", 2009).unwrap());
        assert!(!has_entry(text, "other", 2010).unwrap());
        assert!(has_entry(text, "mpi", 2010).unwrap_err().to_string().contains("exists with number 2009"));
        assert!(has_entry(text, "other", 2009).unwrap_err().to_string().contains("belongs to mpi"));
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (precious, ssh) = (root.path().join("precious"), root.path().join(".ssh"));
        std::fs::create_dir(&precious).unwrap();
        std::os::unix::fs::symlink(&precious, &ssh).unwrap();
        assert!(open_dir(&ssh).is_err());
        let open = open_dir(&precious).unwrap();
        std::fs::rename(&precious, root.path().join("moved")).unwrap();
        std::fs::write(inside(&open, "file"), "x").unwrap();
        assert!(root.path().join("moved/file").exists());
    }
}
