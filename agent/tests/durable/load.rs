//! Programs that write until their volume dies, and what they were promised until then.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Bytes by seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) length: usize,
    pub(crate) seed: u64,
}

impl Content {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        StdRng::seed_from_u64(self.seed).fill(&mut bytes[..]);
        bytes
    }
}

/// What must hold of one name, whatever happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Promise {
    /// It was closed like this.
    Closed(Content),
    /// It begins with this, in S3 too: it was synced, and more was written.
    Synced(Content),
    /// It was removed.
    Removed,
    /// Something was on its way when the volume died.
    Open,
    /// It was being renamed or removed: this, or nothing.
    ClosedOrRemoved(Content),
}

/// What was promised of all names.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<BTreeMap<String, Promise>>);

impl Promises {
    fn set(&self, path: &str, promise: Promise) {
        self.0.lock().insert(path.to_owned(), promise);
    }

    pub(crate) fn all(&self) -> BTreeMap<String, Promise> {
        self.0.lock().clone()
    }
}

/// Writers in threads of their own.
pub(crate) struct Load {
    pub(crate) promises: Arc<Promises>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `writers` threads in `dir` of the volume mounted at `root`, by seed. With `large`, one file is large enough for
    /// parts.
    pub(crate) fn start(root: &Path, dir: &str, writers: usize, seed: u64, large: Option<usize>) -> Self {
        let promises = Arc::new(Promises::default());
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..writers).map(|number| {
            let writer = Writer {
                root: root.to_owned(),
                dir: format!("{dir}/{number}"),
                promises: promises.clone(),
                stop: stop.clone(),
                dice: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number as u64)),
                large: large.filter(|_| number == 0),
            };
            std::thread::spawn(move || writer.run())
        });
        Self { promises: promises.clone(), stop: stop.clone(), threads: threads.collect() }
    }

    /// Ends the writers; one that waits for the volume ends with that.
    pub(crate) fn stop(self) -> Arc<Promises> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.promises
    }
}

struct Writer {
    root: PathBuf,
    dir: String,
    promises: Arc<Promises>,
    stop: Arc<AtomicBool>,
    dice: StdRng,
    large: Option<usize>,
}

impl Writer {
    fn run(mut self) {
        // The volume dies under it: an error is its end, unless the volume lives.
        if let Err(error) = self.work()
            && !matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO | libc::ENODEV))
        {
            panic!("{}: {error}", self.dir);
        }
    }

    fn work(&mut self) -> io::Result<()> {
        match fs::create_dir_all(self.root.join(&self.dir)) {
            // The first directory was another writer's, and the volume died before that was seen: so says this call.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::create_dir(self.root.join(&self.dir))?;
            }
            made => made?,
        }
        if let Some(length) = self.large {
            let content = Content { length, seed: self.dice.r#gen() };
            self.write_twice("large", content, 1 << 20)?;
        }
        for number in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.step(number)?;
        }
        Ok(())
    }

    fn content(&mut self) -> Content {
        let length =
            if self.dice.gen_bool(0.2) { self.dice.gen_range(0..400_000) } else { self.dice.gen_range(0..9000) };
        Content { length, seed: self.dice.r#gen() }
    }

    /// A name that was closed and is not on its way.
    fn closed(&mut self) -> Option<(String, Content)> {
        let all = self.promises.all();
        let mine: Vec<_> = all
            .into_iter()
            .filter_map(|(path, promise)| match promise {
                Promise::Closed(content) if path.starts_with(&format!("{}/f", self.dir)) => Some((path, content)),
                _ => None,
            })
            .collect();
        let chosen = self.dice.gen_range(0..mine.len().max(1));
        mine.into_iter().nth(chosen)
    }

    fn step(&mut self, number: u32) -> io::Result<()> {
        let content = self.content();
        match self.dice.gen_range(0..11) {
            0..=4 => self.write(&format!("f{number}"), content, 4096),
            5 => match self.closed() {
                Some((path, _)) => self.write(path.rsplit('/').next().unwrap_or(&path), content, 65_536),
                None => Ok(()),
            },
            6 => self.sync(&format!("s{number}"), content),
            7 => self.rename(&format!("f{number}r")),
            8 => self.remove(),
            9 => self.move_directory(number, content),
            _ => self.change_mode(),
        }
    }

    fn write(&self, name: &str, content: Content, piece: usize) -> io::Result<()> {
        let path = format!("{}/{name}", self.dir);
        self.promises.set(&path, Promise::Open);
        let mut file = File::create(self.root.join(&path))?;
        for bytes in content.bytes().chunks(piece) {
            file.write_all(bytes)?;
        }
        close(file)?;
        self.promises.set(&path, Promise::Closed(content));
        Ok(())
    }

    /// Its beginning again, when all of it is written: of a file over the bounds that is in S3 only by then.
    fn write_twice(&self, name: &str, content: Content, piece: usize) -> io::Result<()> {
        let path = format!("{}/{name}", self.dir);
        self.promises.set(&path, Promise::Open);
        let mut file = File::create(self.root.join(&path))?;
        let bytes = content.bytes();
        for bytes in bytes.chunks(piece) {
            file.write_all(bytes)?;
        }
        file.write_all_at(&bytes[..piece], 0)?;
        close(file)?;
        self.promises.set(&path, Promise::Closed(content));
        Ok(())
    }

    fn sync(&self, name: &str, content: Content) -> io::Result<()> {
        let path = format!("{}/{name}", self.dir);
        self.promises.set(&path, Promise::Open);
        let mut file = File::create(self.root.join(&path))?;
        file.write_all(&content.bytes())?;
        file.sync_all()?;
        self.promises.set(&path, Promise::Synced(content));
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(5));
            file.write_all(&[7; 3000])?;
        }
        // Never closed by us: the end of the volume, or of this function, does it.
        close(file)
    }

    fn rename(&mut self, to: &str) -> io::Result<()> {
        let Some((from, content)) = self.closed() else { return Ok(()) };
        let to = format!("{}/{to}", self.dir);
        self.promises.set(&from, Promise::ClosedOrRemoved(content));
        self.promises.set(&to, Promise::ClosedOrRemoved(content));
        fs::rename(self.root.join(&from), self.root.join(&to))?;
        self.promises.set(&to, Promise::Closed(content));
        self.promises.set(&from, Promise::Removed);
        Ok(())
    }

    /// A directory with one closed file gets another name.
    fn move_directory(&self, number: u32, content: Content) -> io::Result<()> {
        let (from, to) = (format!("d{number}"), format!("d{number}m"));
        let place = self.root.join(&self.dir);
        fs::create_dir(place.join(&from))?;
        self.write(&format!("{from}/file"), content, 4096)?;
        let [old, new] = [&from, &to].map(|name| format!("{}/{name}/file", self.dir));
        self.promises.set(&old, Promise::ClosedOrRemoved(content));
        self.promises.set(&new, Promise::ClosedOrRemoved(content));
        fs::rename(place.join(from), place.join(to))?;
        self.promises.set(&new, Promise::Closed(content));
        self.promises.set(&old, Promise::Removed);
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        let Some((path, content)) = self.closed() else { return Ok(()) };
        self.promises.set(&path, Promise::ClosedOrRemoved(content));
        fs::remove_file(self.root.join(&path))?;
        self.promises.set(&path, Promise::Removed);
        Ok(())
    }

    fn change_mode(&mut self) -> io::Result<()> {
        let Some((path, _)) = self.closed() else { return Ok(()) };
        let mode = 0o600 | self.dice.gen_range(0..0o100);
        fs::set_permissions(self.root.join(&path), std::os::unix::fs::PermissionsExt::from_mode(mode))
    }
}

/// Closes a file and tells what came of it, which dropping it does not.
fn close(file: File) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    Ok(nix::unistd::close(file.into_raw_fd())?)
}

/// A file opened for writing, as it is.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}
