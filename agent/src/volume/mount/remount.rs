//! `mount -o remount,ro DIR` and back: what the kernel changes by itself, without the volume.

use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::MountArgs;

/// What every volume is mounted with.
const ALWAYS: MsFlags = MsFlags::MS_NODEV.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NOATIME);

/// How long files that were open for writing are waited for.
const BUSY: Duration = Duration::from_secs(3);

pub(super) fn is_asked(args: &MountArgs) -> bool {
    args.options.iter().any(|option| option == "remount")
}

/// Takes `ro`, `rw`, `exec` and `noexec`, the last of each kind; everything else stays as it was.
pub(super) fn run(args: &MountArgs) -> anyhow::Result<()> {
    let (nothing, flags, deadline) = (None::<&str>, MsFlags::MS_REMOUNT | flags(args), Instant::now() + BUSY);
    loop {
        match mount(nothing, &args.dir, nothing, flags, nothing) {
            // A file that was closed or removed a moment ago is still being let go of.
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            result => return result.with_context(|| format!("mounting {} anew", args.dir.display())),
        }
    }
}

fn flags(args: &MountArgs) -> MsFlags {
    let mut flags = ALWAYS;
    flags.set(MsFlags::MS_RDONLY, args.read_only);
    for option in &args.options {
        match option.as_str() {
            "ro" | "rw" => flags.set(MsFlags::MS_RDONLY, option == "ro"),
            "exec" | "noexec" => flags.set(MsFlags::MS_NOEXEC, option == "noexec"),
            _ => {}
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::super::tests::parsed;
    use super::*;

    #[test]
    fn the_last_word_counts() {
        let args = parsed(&["-o", "rw,remount,ro,noexec"]);
        assert!(is_asked(&args) && !is_asked(&parsed(&["-o", "ro"])));
        assert_eq!(flags(&args), ALWAYS | MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC);
        assert_eq!(flags(&parsed(&["-o", "ro,remount,rw"])), ALWAYS);
    }
}
