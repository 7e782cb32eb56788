//! The steps, how they are drawn, and what each compares.

use proptest::prelude::*;

use super::life::World;
use super::reference::{Answer, Item, No, Reference};
use crate::volume::store::memory::Operation;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Open or create, write, close.
    Write {
        path: String,
        offset: usize,
        length: usize,
        seed: u8,
    },
    Truncate {
        path: String,
        size: usize,
    },
    Open {
        slot: usize,
        path: String,
    },
    WriteSlot {
        slot: usize,
        offset: usize,
        length: usize,
        seed: u8,
    },
    ReadSlot {
        slot: usize,
    },
    Fsync {
        slot: usize,
    },
    Close {
        slot: usize,
    },
    Read {
        path: String,
    },
    Unlink {
        path: String,
    },
    Mkdir {
        path: String,
    },
    Rmdir {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Symlink {
        path: String,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    List {
        path: String,
    },
    /// The next call of its kind is carried out and not answered, or not carried out.
    Lose {
        operation: Operation,
    },
    Fail {
        operation: Operation,
    },
    /// Write-back gets a chance to go on.
    Wait {
        turns: usize,
    },
    Drain,
    Epoch,
    Evict,
    Reboot,
}

const SLOTS: usize = 3;
/// A few pages, some parts.
const SIZES: usize = 200_000;

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..=3).prop_map(|names| names.join("/"))
}

fn any_extent() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        3 => (0usize..5000, 0usize..5000),
        1 => (0usize..SIZES, 0usize..SIZES),
        1 => (0usize..4).prop_map(|page| (page * 65_536, 65_536)),
    ]
}

fn any_write_call() -> impl Strategy<Value = Operation> {
    prop::sample::select(vec![
        Operation::Put,
        Operation::Copy,
        Operation::Delete,
        Operation::MultipartPut,
        Operation::MultipartComplete,
    ])
}

fn any_step() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    prop_oneof![
        8 => (any_path(), any_extent(), any::<u8>())
            .prop_map(|(path, (offset, length), seed)| Step::Write { path, offset, length, seed }),
        3 => (any_path(), 0..SIZES).prop_map(|(path, size)| Step::Truncate { path, size }),
        3 => (slot.clone(), any_path()).prop_map(|(slot, path)| Step::Open { slot, path }),
        5 => (slot.clone(), any_extent(), any::<u8>())
            .prop_map(|(slot, (offset, length), seed)| Step::WriteSlot { slot, offset, length, seed }),
        2 => slot.clone().prop_map(|slot| Step::ReadSlot { slot }),
        2 => slot.clone().prop_map(|slot| Step::Fsync { slot }),
        2 => slot.prop_map(|slot| Step::Close { slot }),
        4 => any_path().prop_map(|path| Step::Read { path }),
        4 => any_path().prop_map(|path| Step::Unlink { path }),
        5 => any_path().prop_map(|path| Step::Mkdir { path }),
        2 => any_path().prop_map(|path| Step::Rmdir { path }),
        7 => (any_path(), any_path()).prop_map(|(from, to)| Step::Rename { from, to }),
        2 => any_path().prop_map(|path| Step::Symlink { path }),
        3 => (any_path(), 0o400u32..0o1000).prop_map(|(path, mode)| Step::Chmod { path, mode: mode | 0o600 }),
        3 => any_path().prop_map(|path| Step::List { path }),
        2 => any_write_call().prop_map(|operation| Step::Lose { operation }),
        1 => any_write_call().prop_map(|operation| Step::Fail { operation }),
        6 => (1usize..40).prop_map(|turns| Step::Wait { turns }),
        1 => Just(Step::Drain),
        2 => Just(Step::Epoch),
        3 => Just(Step::Evict),
        4 => Just(Step::Reboot),
    ]
}

pub(super) fn any_steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any_step(), 1..=most)
}

/// Bytes by seed that differ from one part to the next.
fn pattern(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24).to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

pub(super) type Check = Result<(), String>;

/// Whether the volume did what the reference did.
fn same<T: PartialEq + std::fmt::Debug>(expected: Answer<T>, run: impl FnOnce() -> Result<T, i32>) -> Check {
    let expected = match expected {
        Err(No::Skip) => return Ok(()),
        Err(No::Errno(errno)) => Err(errno),
        Ok(value) => Ok(value),
    };
    let found = run();
    if found == expected { Ok(()) } else { Err(format!("{} instead of {}", brief(&found), brief(&expected))) }
}

fn brief(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    if text.len() > 200 { format!("{}… ({} characters)", &text[..200], text.len()) } else { text }
}

/// Two files that should be equal.
fn same_bytes(found: &[u8], expected: &[u8]) -> Check {
    if found.len() != expected.len() {
        return Err(format!("{} bytes instead of {}", found.len(), expected.len()));
    }
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        Some(at) => Err(format!("byte {at} is {} instead of {}", found[at], expected[at])),
        None => Ok(()),
    }
}

impl Step {
    pub(super) fn check(&self, world: &mut World, reference: &mut Reference) -> Check {
        match self {
            Self::Write { path, offset, length, seed } => {
                let bytes = pattern(*length, *seed);
                let expected = reference.open(path, 0o644).map(|id| reference.write(id, *offset, &bytes));
                same(expected, || world.write(path, *offset as u64, &bytes))
            }
            Self::Truncate { path, size } => {
                same(reference.truncate(path, *size), || world.truncate(path, *size as u64))
            }
            Self::Open { slot, path } => {
                if reference.slots.contains_key(slot) {
                    return Ok(());
                }
                let opened = reference.open(path, 0o644);
                if let Ok(id) = opened {
                    reference.slots.insert(*slot, id);
                }
                same(opened.map(drop), || world.open(*slot, path))
            }
            Self::WriteSlot { slot, offset, length, seed } => {
                let Some(id) = reference.slots.get(slot).copied() else { return Ok(()) };
                let bytes = pattern(*length, *seed);
                reference.write(id, *offset, &bytes);
                same(Ok(()), || world.write_slot(*slot, *offset as u64, &bytes))
            }
            Self::ReadSlot { slot } => {
                let Some(id) = reference.slots.get(slot) else { return Ok(()) };
                let found = world.read_slot(*slot).map_err(|errno| format!("errno {errno}"))?;
                same_bytes(&found, reference.bytes(*id))
            }
            Self::Fsync { slot } => match reference.slots.get(slot) {
                Some(id) => world.fsync(*slot, reference.bytes(*id), named(reference, *id).as_deref()),
                None => Ok(()),
            },
            Self::Close { slot } => match reference.slots.remove(slot) {
                Some(_) => same(Ok(()), || world.close(*slot)),
                None => Ok(()),
            },
            Self::Read { path } => read(world, reference, path),
            Self::Unlink { path } => same(reference.unlink(path), || world.unlink(path)),
            Self::Mkdir { path } => same(reference.mkdir(path, 0o755), || world.mkdir(path, 0o755)),
            Self::Rmdir { path } => same(reference.rmdir(path), || world.rmdir(path)),
            Self::Rename { from, to } => same(reference.rename(from, to), || world.rename(from, to)),
            Self::Symlink { path } => same(reference.symlink(path, "to/there"), || world.symlink(path, "to/there")),
            Self::Chmod { path, mode } => same(reference.chmod(path, *mode), || world.chmod(path, *mode)),
            Self::List { path } => {
                let expected = match reference.get(path) {
                    Ok(Item::Dir { .. }) => reference.names(path),
                    _ => return Ok(()),
                };
                same(Ok(expected), || world.list(path))
            }
            Self::Lose { operation } => {
                world.store.apply_then_fail(*operation);
                Ok(())
            }
            Self::Fail { operation } => {
                world.store.fail_next(*operation, 1);
                Ok(())
            }
            Self::Wait { turns } => {
                world.wait(*turns);
                Ok(())
            }
            Self::Drain => world.check_s3(reference),
            Self::Epoch => {
                world.epoch();
                Ok(())
            }
            Self::Evict => {
                world.evict();
                Ok(())
            }
            Self::Reboot => {
                reference.reboot();
                world.reboot();
                world.check_tree(reference)
            }
        }
    }
}

/// A name of the file, if it has one.
fn named(reference: &Reference, wanted: u64) -> Option<String> {
    let mut names = reference.items().iter();
    names.find_map(|(path, item)| matches!(item, Item::File { id, .. } if *id == wanted).then(|| path.clone()))
}

/// Bytes, target, or what is said of a directory.
pub(super) fn read(world: &World, reference: &Reference, path: &str) -> Check {
    match reference.get(path) {
        Err(No::Skip) => Ok(()),
        Err(No::Errno(errno)) => same::<()>(Err(No::Errno(errno)), || world.stat(path).map(drop)),
        Ok(Item::File { id, mode }) => {
            let expected = reference.bytes(*id);
            same(Ok((libc::S_IFREG | mode, expected.len() as u64)), || world.stat(path))?;
            same_bytes(&world.read(path).map_err(|errno| format!("errno {errno}"))?, expected)
        }
        Ok(Item::Dir { mode }) => same(Ok(libc::S_IFDIR | mode), || world.stat(path).map(|(mode, _)| mode)),
        Ok(Item::Link { target }) => same(Ok(target.clone()), || world.read_link(path)),
    }
}
