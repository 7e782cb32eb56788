//! The works of the table, in the order of a run, with what ours must reach.

use crate::works::Name::{Bare, Juicefs, JuicefsWriteback, Native, Ours, OursDisk, OursPlain, Rclone, S3fs};
use crate::works::Target::{AtLeast, AtMost, LimitAnd, SentAtMost, Times};
use crate::works::Unit::{CallsPerSecond, FilesPerSecond, Mib, MibPerSecond, Milliseconds, Seconds};
use crate::works::{Act, Before, Name, Phase, Row, Scene, Seed, Sizes, Target, Unit, Whom};

const MOUNTS: &[Name] = &[Ours, S3fs, Rclone, Juicefs];
const WITH_LIMIT: &[Name] = &[Ours, S3fs, Rclone, Juicefs, Bare];
const WITH_NATIVE: &[Name] = &[Ours, OursPlain, S3fs, Rclone, Juicefs, Native];
const WITH_BOTH: &[Name] = &[Ours, OursDisk, S3fs, Rclone, Juicefs, Native, Bare];

/// Those for whom one file is several round trips, one after another.
const SLOW_WRITERS: &[Name] = &[S3fs];
const SLOW_RENAMERS: &[Name] = &[S3fs, Rclone];

const fn row(id: &'static str, title: &'static str, unit: Unit, targets: &'static [Target]) -> Row {
    Row { id, title, unit, targets, expected: None }
}

fn phase(act: Act, before: Before, repeats: usize, who: &'static [Name], rows: &'static [Row]) -> Phase {
    Phase { act, before, chained: false, repeats, who, rows }
}

/// A phase that needs what the one before it has made.
fn chained(act: Act, before: Before, repeats: usize, who: &'static [Name], rows: &'static [Row]) -> Phase {
    Phase { chained: true, ..phase(act, before, repeats, who, rows) }
}

fn scene(name: &'static str, seed: Seed, phases: Vec<Phase>) -> Scene {
    Scene { name, seed, phases, few: &[], core: false }
}

/// All of them.
pub(crate) fn scenes(sizes: &Sizes) -> Vec<Scene> {
    vec![
        idle(),
        read(sizes),
        random(sizes),
        first_byte(),
        write(sizes),
        overwrite(sizes),
        create(sizes),
        files(sizes),
        records(),
        rename(),
        tree(sizes),
        build(),
        exec(),
    ]
}

/// Rows that no act gives: they are made of all samples of a daemon.
pub(crate) const PEAK: Row = row("peak-rss", "daemon: peak RSS in all of the above", Mib, &[AtMost(300.0)]);
pub(crate) const CPU: Row = row(
    "cpu-per-gib",
    "daemon: CPU seconds per GiB (cold read, write + fsync)",
    Unit::SecondsPerGib,
    &[Target::NotAbove(Whom::S3fs)],
);

fn idle() -> Scene {
    const ROWS: &[Row] = &[row("idle-rss", "daemon: idle RSS", Mib, &[AtMost(40.0)])];
    scene("idle", Seed::Nothing, vec![phase(Act::Idle, Before::Cold, 1, MOUNTS, ROWS)])
}

fn read(sizes: &Sizes) -> Scene {
    const COLD: &[Row] = &[row(
        "cold-read",
        "cold sequential read",
        MibPerSecond,
        &[Times(0.9, Whom::Limit), Times(1.0, Whom::BestPeer)],
    )];
    const AGAIN: &[Row] = &[row(
        "re-read",
        "re-read, attributes known",
        MibPerSecond,
        &[Times(0.9, Whom::Native), Times(5.0, Whom::S3fs)],
    )];
    const RANDOM: &[Row] = &[row(
        "re-read-random",
        "re-read of random 4 KiB, attributes known",
        CallsPerSecond,
        &[Times(0.75, Whom::Native), Times(50.0, Whom::S3fs)],
    )];
    const REOPEN: &[Row] = &[row("reopen", "open a cached file after 1.1 s, and read 4 KiB", Milliseconds, &[])
        .behind("rclone and JuiceFS do not ask S3 whether another machine has written the file")];
    const DROPPED: &[Row] = &[row("re-read-dropped", "re-read, the kernel's caches dropped", MibPerSecond, &[])];
    let random = Act::ReadRandomAgain { reads: sizes.warm_reads };
    let phases = vec![
        phase(Act::ReadAll, Before::Cold, 1, WITH_LIMIT, COLD),
        phase(Act::ReadAgain, Before::Read, 5, WITH_NATIVE, AGAIN),
        phase(random, Before::Read, 5, WITH_NATIVE, RANDOM),
        phase(Act::Reopen, Before::Read, 1, MOUNTS, REOPEN),
        phase(Act::ReadAll, Before::ReadThenDropped, 1, WITH_NATIVE, DROPPED),
    ];
    Scene { core: true, ..scene("read", Seed::Big, phases) }
}

fn random(sizes: &Sizes) -> Scene {
    const ROWS: &[Row] = &[row("cold-random", "cold random 4 KiB reads", CallsPerSecond, &[Times(5.0, Whom::S3fs)])];
    let act = Act::ReadRandom { reads: sizes.random_reads };
    scene("random", Seed::Big, vec![phase(act, Before::Cold, 1, WITH_LIMIT, ROWS)])
}

fn first_byte() -> Scene {
    const ROWS: &[Row] = &[row(
        "first-byte",
        "first byte of a cold file, attributes known",
        Milliseconds,
        &[Times(1.0 / 1.3, Whom::Limit)],
    )];
    scene("first-byte", Seed::Cold, vec![phase(Act::FirstByte, Before::Cold, 1, WITH_LIMIT, ROWS)])
}

fn write(sizes: &Sizes) -> Scene {
    const CLOSED: &[Row] = &[
        row("write-close", "write + close", MibPerSecond, &[Times(0.3, Whom::Native), Times(10.0, Whom::S3fs)]),
        row("write-drained", "write + close, until in S3", MibPerSecond, &[]),
    ];
    const SYNCED: &[Row] = &[row(
        "write-fsync",
        "write + fsync (in S3)",
        MibPerSecond,
        &[Times(0.9, Whom::Limit), Times(1.0, Whom::BestDurablePeer)],
    )];
    const SMALL: &[Row] =
        &[row("write-small", "512-byte writes", CallsPerSecond, &[AtLeast(40_000.0), Times(3.0, Whom::S3fs)])];
    const LOG: &[Row] = &[row("log", "append 512 bytes + fsync, again and again", CallsPerSecond, &[])
        .behind("rclone's fsync waits for nothing")];
    let phases = vec![
        phase(Act::Write { fsync: false }, Before::AsIs, 1, WITH_BOTH, CLOSED),
        phase(Act::Write { fsync: true }, Before::AsIs, 1, WITH_BOTH, SYNCED),
        phase(Act::WriteSmall { calls: sizes.small_writes }, Before::AsIs, 1, WITH_NATIVE, SMALL),
        phase(Act::Log { calls: sizes.log_calls }, Before::AsIs, 1, MOUNTS, LOG),
    ];
    Scene { core: true, ..scene("write", Seed::Nothing, phases) }
}

fn overwrite(sizes: &Sizes) -> Scene {
    const ALL: &[Row] = &[row(
        "overwrite",
        "random 4 KiB writes all over an object + fsync",
        MibPerSecond,
        &[Times(0.9, Whom::Limit), Times(1.0, Whom::S3fs)],
    )];
    const PART: &[Row] = &[row(
        "overwrite-part",
        "the same within a sixteenth of it",
        CallsPerSecond,
        &[Times(4.0, Whom::S3fs), SentAtMost(64.0)],
    )];
    const COLD: &[Row] = &[row("overwrite-cold", "the same within a sixteenth of it, cold", CallsPerSecond, &[])];
    const APPEND: &[Row] = &[row("append-cold", "append 4 KiB to a cold object + fsync", Seconds, &[])
        .behind("for JuiceFS this is one new block")];
    let all = Act::Overwrite { writes: sizes.random_writes, span: 0 };
    let part = Act::Overwrite { writes: sizes.random_writes, span: sizes.span_mib };
    let phases = vec![
        phase(all, Before::Read, 1, WITH_LIMIT, ALL),
        phase(part, Before::Read, 1, MOUNTS, PART),
        phase(part, Before::Cold, 1, MOUNTS, COLD),
        phase(Act::Append, Before::Cold, 1, MOUNTS, APPEND),
    ];
    scene("overwrite", Seed::Big, phases)
}

fn create(sizes: &Sizes) -> Scene {
    const ROWS: &[Row] = &[
        row(
            "create",
            "create files of 4 KiB, acknowledged",
            FilesPerSecond,
            &[AtLeast(3000.0), Times(100.0, Whom::S3fs)],
        ),
        row(
            "create-drained",
            "the same until all in S3",
            FilesPerSecond,
            &[Times(40.0, Whom::S3fs), Times(1.0, Whom::Rclone), Times(1.0, Whom::Juicefs)],
        ),
    ];
    const WHO: &[Name] = &[Ours, OursDisk, S3fs, Rclone, Juicefs, JuicefsWriteback, Native, Bare];
    let phases = vec![phase(Act::Create { files: sizes.files }, Before::AsIs, 1, WHO, ROWS)];
    Scene { few: SLOW_WRITERS, core: true, ..scene("create", Seed::Nothing, phases) }
}

fn files(sizes: &Sizes) -> Scene {
    const LIST: &[Row] =
        &[row("list", "cold ls -l of files that s3fs wrote", FilesPerSecond, &[Times(3.0, Whom::S3fs)])];
    const READ: &[Row] = &[row(
        "read-files",
        "cold read of files of 4 KiB, directory listed",
        FilesPerSecond,
        &[Times(25.0, Whom::S3fs), Times(10.0, Whom::Juicefs), Times(10.0, Whom::Rclone)],
    )];
    const STAT: &[Row] = &[row("stat", "stat, again and again", CallsPerSecond, &[])];
    let phases = vec![
        phase(Act::List, Before::Cold, 1, WITH_LIMIT, LIST),
        chained(Act::ReadFiles, Before::AsIs, 1, WITH_LIMIT, READ),
        phase(Act::Stat { calls: sizes.stat_calls }, Before::AsIs, 1, WITH_NATIVE, STAT),
    ];
    Scene { core: true, ..scene("files", Seed::Small, phases) }
}

fn records() -> Scene {
    const ROWS: &[Row] = &[row(
        "list-own",
        "cold ls -l of files written through the same system",
        FilesPerSecond,
        &[Times(10.0, Whom::S3fs)],
    )];
    // s3fs writes nothing but the files themselves: it is given the same objects without its own slow way to them.
    scene("records", Seed::SmallThroughMount, vec![phase(Act::List, Before::Cold, 1, MOUNTS, ROWS)])
}

fn rename() -> Scene {
    const ROWS: &[Row] = &[
        row("rename", "rename a directory, acknowledged", FilesPerSecond, &[Times(100.0, Whom::S3fs)]),
        row("rename-done", "the same, done in S3", FilesPerSecond, &[Times(10.0, Whom::S3fs)])
            .behind("for JuiceFS this is one question to its Redis, and no object has another name"),
    ];
    let phases = vec![phase(Act::Rename, Before::AsIs, 1, WITH_LIMIT, ROWS)];
    Scene { few: SLOW_RENAMERS, ..scene("rename", Seed::Small, phases) }
}

fn tree(sizes: &Sizes) -> Scene {
    const UNTAR: &[Row] =
        &[row("untar", "tar x of a source tree, until in S3", FilesPerSecond, &[Times(40.0, Whom::S3fs)])];
    const COPY: &[Row] = &[row("copy-tree", "cp -r of it, cold", FilesPerSecond, &[Times(40.0, Whom::S3fs)])];
    const FIND: &[Row] = &[row("find", "find through it, cold", FilesPerSecond, &[])
        .behind("JuiceFS asks its Redis, which is not 20 ms away")];
    const REMOVE: &[Row] = &[row("remove", "rm -r of it, done in S3", FilesPerSecond, &[])
        .behind("JuiceFS is done when its Redis is; its blocks go later")];
    let phases = vec![
        phase(Act::Untar { files: sizes.tree_files }, Before::AsIs, 1, MOUNTS, UNTAR),
        chained(Act::CopyTree, Before::Cold, 1, MOUNTS, COPY),
        chained(Act::Find, Before::Cold, 1, MOUNTS, FIND),
        chained(Act::Remove, Before::AsIs, 1, MOUNTS, REMOVE),
    ];
    Scene { few: SLOW_WRITERS, ..scene("tree", Seed::Nothing, phases) }
}

fn build() -> Scene {
    const ROWS: &[Row] = &[row("build", "make -j2 of a C project, warm", Seconds, &[Times(1.0 / 1.3, Whom::Native)])];
    const WHO: &[Name] = &[Ours, Juicefs, Native];
    scene("build", Seed::Project, vec![phase(Act::Build, Before::AsIs, 1, WHO, ROWS)])
}

fn exec() -> Scene {
    const COLD: &[Row] =
        &[row("exec-cold", "exec of a large binary, cold", Milliseconds, &[LimitAnd { milliseconds: 50.0 }])];
    const WARM: &[Row] = &[row(
        "exec-warm",
        "exec of a large binary, warm, attributes known",
        Milliseconds,
        &[Times(1.0 / 1.1, Whom::Native)],
    )];
    let phases = vec![
        phase(Act::Exec, Before::Cold, 1, WITH_LIMIT, COLD),
        phase(Act::ExecAgain, Before::AsIs, 5, WITH_NATIVE, WARM),
    ];
    scene("exec", Seed::Program, phases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn rows_have_names_of_their_own_and_rivals_take_part() {
        let mut seen = BTreeSet::new();
        for scene in scenes(&Sizes::scaled(1.0)) {
            assert!(
                scene.few.iter().all(|name| scene.phases.iter().any(|phase| phase.who.contains(name))),
                "{}",
                scene.name
            );
            for phase in &scene.phases {
                assert!(phase.who.contains(&Ours) && phase.repeats > 0, "{}", scene.name);
                assert!(!phase.chained || phase.before == Before::Cold || phase.repeats == 1, "{}", scene.name);
                for row in phase.rows {
                    assert!(seen.insert(row.id), "{} twice", row.id);
                    let needed = row.targets.iter().filter_map(|target| match target {
                        Times(_, Whom::Native) => Some(Native),
                        Times(_, Whom::S3fs) | Target::NotAbove(_) => Some(S3fs),
                        Times(_, Whom::Limit) | LimitAnd { .. } => Some(Bare),
                        _ => None,
                    });
                    needed.for_each(|name| assert!(phase.who.contains(&name), "{} without {name:?}", row.id));
                }
            }
        }
        assert!(seen.len() > 20);
        let all = scenes(&Sizes::scaled(1.0));
        let rows = all.iter().flat_map(|scene| &scene.phases).flat_map(|phase| phase.rows);
        assert!(rows.filter(|row| row.expected.is_some()).count() >= 3, "works where others are expected to win");
    }
}
