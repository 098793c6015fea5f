//! The directory itself: made for its owner alone, and held by at most one gateway.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::Trouble;

const LOCK: &str = "lock";

/// An existing directory that belongs to us.
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
}

/// Held while a gateway runs on a state directory. The kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct Running {
    _lock: File,
}

impl Directory {
    /// Opens the directory, or makes it in an existing one.
    pub(super) fn open(path: &Path) -> Result<Self, Trouble> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(Trouble(format!(
                    "the state directory {} cannot be made: {error}",
                    path.display()
                )));
            }
        }
        let handle = File::open(path).map_err(|error| Trouble::with(path, &error))?;
        let found = handle.metadata().map_err(|error| Trouble::with(path, &error))?;
        let refuse = |what: String| Err(Trouble(format!("the state directory {} {what}", path.display())));
        if !found.is_dir() {
            return refuse("is not a directory".to_owned());
        }
        // What we make in another's directory, its owner could not read: the gateway would not start any more.
        let me = std::fs::metadata("/proc/self")
            .map_err(|error| Trouble::with(Path::new("/proc/self"), &error))?;
        if found.uid() != me.uid() {
            return refuse(format!(
                "belongs to user {}, and this is user {}: run this as the user that owns it (`sudo -u`)",
                found.uid(),
                me.uid()
            ));
        }
        if found.mode() & 0o022 != 0 {
            return refuse("can be written to by others: `chmod 700` it".to_owned());
        }
        Ok(Self { path: path.to_owned(), handle })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the turn to make what is missing; it ends when the answer is dropped.
    pub(super) fn turn(&self) -> Result<Turn<'_>, Trouble> {
        self.handle.lock().map_err(|error| Trouble::with(&self.path, &error))?;
        Ok(Turn(&self.handle))
    }

    pub(super) fn run(&self) -> Result<Running, Trouble> {
        let path = self.path.join(LOCK);
        let trouble = |error: &io::Error| Trouble::with(&path, error);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| trouble(&error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                // Who it is helps, but is not needed.
                let _ = lock.take(20).read_to_string(&mut process);
                let process = process.trim();
                let process =
                    if process.is_empty() { String::new() } else { format!(" (process {process})") };
                return Err(Trouble(format!(
                    "another gateway{process} runs on the state directory {}; give each gateway its own",
                    self.path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(trouble(&error)),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|error| trouble(&error))?;
        Ok(Running { _lock: lock })
    }
}

/// The turn to make what is missing.
pub(super) struct Turn<'d>(&'d File);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // At the latest it ends with the handle.
        let _ = self.0.unlock();
    }
}
