//! The file that holds the key of all digests: whole or not there, and never seen by anyone else.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use super::Trouble;

pub(super) const NAME: &str = "digest.key";
pub(super) const BYTES: usize = 32;
/// Where it is written before it has its name. What an interrupted write left here is nobody's key.
const DRAFT: &str = "digest.key.new";

/// The key, or `None` if there is none. A file that is anything but a key is trouble.
pub(super) fn read(directory: &Path) -> Result<Option<Zeroizing<[u8; BYTES]>>, Trouble> {
    let path = directory.join(NAME);
    let trouble = |error: io::Error| Trouble::with(&path, &error);
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(trouble(error)),
    };
    let found = file.metadata().map_err(trouble)?;
    let mode = found.mode() & 0o7777;
    if !found.is_file() || mode != 0o400 {
        return Err(Trouble(format!(
            "{} has mode {mode:04o}: others may have read or changed it; `chmod 400` it if they have not",
            path.display()
        )));
    }
    if found.len() != BYTES as u64 {
        return Err(Trouble(format!(
            "{} is {} bytes long, and a key is {BYTES}: restore it from a backup",
            path.display(),
            found.len()
        )));
    }
    let mut key = Zeroizing::new([0; BYTES]);
    file.read_exact(&mut *key).map_err(trouble)?;
    Ok(Some(key))
}

/// What has been done so far, for a test that stops there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Begun,
    Created,
    Written,
    Synced,
    Renamed,
}

/// Writes the key so that after a power cut at any moment the file holds it whole or is as it was before.
pub(super) fn write(
    directory: &Path,
    key: &[u8; BYTES],
    after: &mut dyn FnMut(Step) -> io::Result<()>,
) -> io::Result<()> {
    let draft = directory.join(DRAFT);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => after(Step::Begun)?,
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&draft)?;
    after(Step::Created)?;
    let (first, second) = key.split_at(BYTES / 2);
    file.write_all(first)?;
    file.write_all(second)?;
    after(Step::Written)?;
    file.sync_all()?;
    after(Step::Synced)?;
    fs::rename(&draft, directory.join(NAME))?;
    after(Step::Renamed)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{super::tests::Scratch, *};

    const STEPS: [Step; 5] = [Step::Begun, Step::Created, Step::Written, Step::Synced, Step::Renamed];

    fn scratch() -> Scratch {
        let scratch = Scratch::new();
        fs::create_dir(&scratch.0).expect("a new directory");
        scratch
    }

    /// Writes, and is interrupted after `last`.
    fn interrupted(scratch: &Scratch, key: &[u8; BYTES], last: Step) {
        let stop = &mut |step| if step == last { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) };
        write(&scratch.0, key, stop).expect_err("interrupted");
    }

    #[test]
    fn a_key_reads_as_it_was_written() {
        let scratch = scratch();
        assert_eq!(read(&scratch.0), Ok(None));
        write(&scratch.0, &[7; BYTES], &mut |_| Ok(())).expect("written");
        assert_eq!(read(&scratch.0).expect("read").as_deref(), Some(&[7; BYTES]));
    }

    #[test]
    fn an_interrupted_write_leaves_the_old_key_or_none() {
        for last in STEPS {
            let scratch = scratch();
            interrupted(&scratch, &[7; BYTES], last);
            let expect = (last == Step::Renamed).then_some([7; BYTES]);
            assert_eq!(read(&scratch.0).expect("read").as_deref(), expect.as_ref(), "{last:?}");
            // And the next one is not in the way.
            write(&scratch.0, &[8; BYTES], &mut |_| Ok(())).expect("written");
            interrupted(&scratch, &[9; BYTES], last);
            let expect = if last == Step::Renamed { [9; BYTES] } else { [8; BYTES] };
            assert_eq!(read(&scratch.0).expect("read").as_deref(), Some(&expect), "{last:?}");
        }
    }

    #[test]
    fn a_draft_torn_anywhere_is_nobodys_key() {
        for bytes in 0..=BYTES {
            let scratch = scratch();
            fs::write(scratch.file(DRAFT), vec![1; bytes]).expect("written");
            assert_eq!(read(&scratch.0), Ok(None));
            write(&scratch.0, &[7; BYTES], &mut |_| Ok(())).expect("written");
            assert_eq!(read(&scratch.0).expect("read").as_deref(), Some(&[7; BYTES]));
            assert!(!scratch.file(DRAFT).exists());
        }
    }

    #[test]
    fn a_file_of_another_length_or_mode_is_no_key() {
        for (bytes, mode, words) in [
            (31, 0o400, "31 bytes long"),
            (33, 0o400, "33 bytes long"),
            (0, 0o400, "0 bytes long"),
            (32, 0o600, "mode 0600"),
            (32, 0o440, "mode 0440"),
            (32, 0o4400, "mode 4400"),
        ] {
            let scratch = scratch();
            fs::write(scratch.file(NAME), vec![1; bytes]).expect("written");
            fs::set_permissions(scratch.file(NAME), PermissionsExt::from_mode(mode)).expect("ours");
            let Err(Trouble(said)) = read(&scratch.0) else { panic!("{words}") };
            assert!(said.contains(words), "{said}");
        }
        let scratch = scratch();
        std::os::unix::fs::symlink("/dev/zero", scratch.file(NAME)).expect("a link");
        assert!(read(&scratch.0).is_err(), "a link is no key");
    }
}
