//! Where lines go. A sink that fails is opened again by itself, and a line that was cut by the failure is ended before
//! the next begins: a reader meets at most one line that is not whole, and never two in one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
};

use crate::{config::LogTarget, control::log::Log};

/// What was to be written is lost, at least in part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

pub(super) struct Sink {
    target: LogTarget,
    /// `None`: not open, for it has not been needed or has failed.
    file: Option<File>,
    /// A line was begun and not ended.
    is_torn: bool,
    /// The operator knows that it fails.
    is_told: bool,
    log: Log,
}

impl Sink {
    pub(super) fn new(target: LogTarget, log: Log) -> Self {
        Self { target, file: None, is_torn: false, is_told: false, log }
    }

    /// Writes whole lines. Tries to open what is not open.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), Lost> {
        match self.try_write(lines) {
            Ok(()) => {
                if std::mem::take(&mut self.is_told) {
                    self.log.info(format_args!("the access log is written again"));
                }
                Ok(())
            }
            Err(error) => {
                self.file = None;
                if !std::mem::replace(&mut self.is_told, true) {
                    let target = match &self.target {
                        LogTarget::Stdout => "stdout".into(),
                        LogTarget::File(path) => path.to_string_lossy(),
                    };
                    self.log.error(format_args!(
                        "the access log cannot be written, its lines are dropped and counted: {target}: {error}"
                    ));
                }
                Err(Lost)
            }
        }
    }

    /// Opens the file anew at the next write: it was moved away.
    pub(super) fn reopen(&mut self) {
        self.file = None;
        self.is_torn = false;
    }

    fn try_write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open(&self.target)?,
        };
        if self.is_torn {
            file.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => {
                    written += wrote;
                    self.is_torn = lines.get(written - 1) != Some(&b'\n');
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.file = Some(file);
        Ok(())
    }
}

fn open(target: &LogTarget) -> io::Result<File> {
    match target {
        // A descriptor of our own, so that no lock or buffer of the process is held by a write that is stuck.
        LogTarget::Stdout => {
            let own = std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?;
            Ok(File::from(own))
        }
        // Who calls and which models are used is nobody's business but the operator's group's.
        LogTarget::File(path) => OpenOptions::new().append(true).create(true).mode(0o640).open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_full_loses_lines_and_is_told_of_once() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut sink = Sink::new(LogTarget::File("/dev/full".into()), Log::to(writer, false));
        assert_eq!(sink.write(b"one\n"), Err(Lost));
        assert_eq!(sink.write(b"two\n"), Err(Lost));
        sink.target = LogTarget::File("/dev/null".into());
        assert_eq!(sink.write(b"three\n"), Ok(()));
        drop(sink);
        let told = io::read_to_string(reader).expect("what was said");
        assert_eq!(told.lines().count(), 2, "{told}");
        assert!(told.contains("/dev/full: No space left"), "{told}");
    }

    #[test]
    fn a_file_that_was_moved_is_written_until_it_is_opened_again() {
        let path = std::env::temp_dir().join(format!("ringway-sink-moved-{}", std::process::id()));
        let moved = path.with_extension("1");
        let mut sink = Sink::new(LogTarget::File(path.clone()), Log::to(io::sink(), false));
        assert_eq!(sink.write(b"one\n"), Ok(()));
        std::fs::rename(&path, &moved).expect("it is there");
        assert_eq!(sink.write(b"two\n"), Ok(()));
        sink.reopen();
        assert_eq!(sink.write(b"three\n"), Ok(()));
        let read = |path| std::fs::read_to_string(path).expect("it was written");
        assert_eq!((read(&moved), read(&path)), ("one\ntwo\n".to_owned(), "three\n".to_owned()));
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(&moved));
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let path = std::env::temp_dir().join(format!("ringway-sink-{}", std::process::id()));
        let mut sink = Sink::new(LogTarget::File(path.clone()), Log::to(io::sink(), false));
        assert_eq!(sink.write(b"whole\ntor"), Ok(()));
        assert_eq!(sink.write(b"next\n"), Ok(()));
        let text = std::fs::read_to_string(&path).expect("it was written");
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(text, "whole\ntor\nnext\n");
    }
}
