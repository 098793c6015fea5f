//! What a configuration may look at outside its own text: environment variables and files. A trait, so that no test
//! needs a real environment.

use std::{fs::File, io, io::Read, path::Path};

use crate::base::limits::CONFIG_FILE_BYTES_MAX;

/// The world around a configuration file.
pub trait Surroundings {
    /// The value of an environment variable, if it is set.
    fn env(&self, name: &str) -> Option<String>;
    /// A whole file of at most [`CONFIG_FILE_BYTES_MAX`] bytes.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// The real environment and file system of this process.
#[derive(Debug)]
pub struct Process;

impl Surroundings for Process {
    fn env(&self, name: &str) -> Option<String> {
        // Not UTF-8 comes through as U+FFFD, which no check accepts: set but unusable is not the same as not set.
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(CONFIG_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > CONFIG_FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any file read here may be"));
        }
        Ok(bytes)
    }
}

/// An environment made of tables.
#[cfg(any(test, feature = "fuzzing"))]
#[derive(Default)]
pub struct Fake {
    pub env: Vec<(&'static str, &'static str)>,
    pub files: Vec<(&'static str, &'static [u8])>,
    /// What every other variable is set to.
    pub any: Option<&'static str>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Surroundings for Fake {
    fn env(&self, name: &str) -> Option<String> {
        let found = self.env.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        found.or(self.any).map(str::to_owned)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = self.files.iter().find(|(known, _)| Path::new(known) == path);
        found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_refused_not_read() {
        let error = Process.read(Path::new("/dev/zero")).expect_err("endless");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
