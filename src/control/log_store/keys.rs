//! The keys that payloads are sealed with: one a day, each in a file of its own, itself sealed with a key that is drawn from
//! the state directory's. Whoever destroys a day's file has destroyed that day's payloads, in every copy of the store.
//!
//! ```text
//! log-keys/                 0700
//! └── 2026-11-22.key        0600  61 bytes: form, nonce, sealed key, tag; overwritten before it goes
//! ```
//!
//! A payload is sealed with its day, its row and its column, and opens nowhere else.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::{
    base::calendar::{date, day_of},
    control::state::{Trouble, chance, sealing_key},
};

const FOLDER: &str = "log-keys";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const FORM: u8 = 1;
const FILE_BYTES: usize = 1 + NONCE_LEN + KEY_BYTES + TAG_BYTES;
/// What the keys' own key is drawn for.
const PURPOSE: &[u8] = b"ringway log keys 1";

/// Which part of a row is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Request = 1,
    Response = 2,
}

/// The place that a sealed payload belongs to, and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Since 1970-01-01.
    pub(super) day: u32,
    pub(super) row: i64,
    pub(super) column: Column,
}

impl Place {
    fn aad(self) -> Aad<Vec<u8>> {
        let mut aad = b"ringway log payload 1".to_vec();
        aad.extend_from_slice(&self.day.to_le_bytes());
        aad.extend_from_slice(&self.row.to_le_bytes());
        aad.push(self.column as u8);
        Aad::from(aad)
    }
}

/// The keys of one state directory.
pub(super) struct Keys {
    folder: PathBuf,
    directory: PathBuf,
    /// What the days' keys are sealed with; drawn when the first is needed.
    sealing: OnceCell<LessSafeKey>,
    days: RefCell<HashMap<u32, Arc<LessSafeKey>>>,
}

impl Keys {
    pub(super) fn of(directory: &Path) -> Self {
        Self {
            folder: directory.join(FOLDER),
            directory: directory.to_owned(),
            sealing: OnceCell::new(),
            days: RefCell::default(),
        }
    }

    /// Seals a payload, with a day's key that is made if it is not there.
    pub(super) fn seal(&self, place: Place, plain: &[u8]) -> Result<Vec<u8>, Trouble> {
        let key = match self.day(place.day)? {
            Some(key) => key,
            None => self.make(place.day)?,
        };
        seal(&key, place.aad(), plain)
    }

    /// Opens what was sealed; `None` if its key was destroyed, or it was sealed for another place.
    pub(super) fn open(&self, place: Place, sealed: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
        Ok(self.day(place.day)?.and_then(|key| open(&key, place.aad(), sealed)))
    }

    /// The days that have a file, whatever is in it.
    pub(super) fn list(&self) -> Result<Vec<u32>, Trouble> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(trouble(&self.folder, &error)),
        };
        let mut days = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| trouble(&self.folder, &error))?.file_name();
            days.extend(name.to_str().and_then(day_named));
        }
        days.sort_unstable();
        // A key and its draft are one.
        days.dedup();
        Ok(days)
    }

    /// Overwrites and removes a day's key: from then on nothing opens what was sealed with it.
    pub(super) fn destroy(&self, day: u32) -> Result<(), Trouble> {
        self.days.borrow_mut().remove(&day);
        for path in [self.path(day, "key"), self.path(day, "new")] {
            match overwrite(&path).and_then(|()| fs::remove_file(&path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(trouble(&path, &error)),
                _ => {}
            }
        }
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| trouble(&self.folder, &error))
    }

    /// The key of a day that has one.
    fn day(&self, day: u32) -> Result<Option<Arc<LessSafeKey>>, Trouble> {
        if let Some(key) = self.days.borrow().get(&day) {
            return Ok(Some(key.clone()));
        }
        let path = self.path(day, "key");
        let mut sealed = Vec::with_capacity(FILE_BYTES);
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        match file.and_then(|file| file.take(FILE_BYTES as u64 + 1).read_to_end(&mut sealed)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(trouble(&path, &error)),
        }
        let opened = match sealed.split_first() {
            Some((&FORM, sealed)) => open(self.sealing()?, aad_of(day), sealed),
            _ => None,
        };
        // Half overwritten, or not ours: as good as destroyed.
        let Some(key) = opened.filter(|key| key.len() == KEY_BYTES) else { return Ok(None) };
        self.keep(day, &key).map(Some)
    }

    /// Makes the key of a day. It is on the disk before anything is sealed with it.
    fn make(&self, day: u32) -> Result<Arc<LessSafeKey>, Trouble> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        chance(&mut *key)?;
        let mut sealed = vec![FORM];
        sealed.extend(seal(self.sealing()?, aad_of(day), &*key)?);
        let (draft, path) = (self.path(day, "new"), self.path(day, "key"));
        let write = || {
            match DirBuilder::new().mode(0o700).create(&self.folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.folder)?.sync_all()?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|error| trouble(&path, &error))?;
        self.keep(day, &*key)
    }

    fn keep(&self, day: u32, key: &[u8]) -> Result<Arc<LessSafeKey>, Trouble> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| unusable())?;
        let key = Arc::new(LessSafeKey::new(key));
        self.days.borrow_mut().insert(day, key.clone());
        Ok(key)
    }

    fn sealing(&self) -> Result<&LessSafeKey, Trouble> {
        if let Some(key) = self.sealing.get() {
            return Ok(key);
        }
        let key = sealing_key(&self.directory, PURPOSE)?;
        Ok(self.sealing.get_or_init(|| key))
    }

    fn path(&self, day: u32, extension: &str) -> PathBuf {
        let (year, month, day) = date(day);
        self.folder.join(format!("{year:04}-{month:02}-{day:02}.{extension}"))
    }
}

fn day_named(name: &str) -> Option<u32> {
    let name = name.strip_suffix(".key").or_else(|| name.strip_suffix(".new"))?;
    let mut parts = name.split('-').map(|part| part.parse().ok());
    let day = day_of(parts.next()??, parts.next()??, parts.next()??);
    day.filter(|_| parts.next().is_none())
}

fn aad_of(day: u32) -> Aad<Vec<u8>> {
    Aad::from([&b"ringway log key 1"[..], &day.to_le_bytes()].concat())
}

/// A fresh nonce, the sealed bytes, and their tag. Nonces are drawn by chance: a day has not nearly the 2^32 messages at
/// which two might be the same.
fn seal(key: &LessSafeKey, aad: Aad<Vec<u8>>, plain: &[u8]) -> Result<Vec<u8>, Trouble> {
    let mut nonce = [0; NONCE_LEN];
    chance(&mut nonce)?;
    let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + TAG_BYTES);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed[NONCE_LEN..])
        .map_err(|_| unusable())?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

fn open(key: &LessSafeKey, aad: Aad<Vec<u8>>, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut opened = Zeroizing::new(sealed.to_vec());
    let plain_bytes = {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        key.open_in_place(nonce, aad, &mut opened).ok()?.len()
    };
    opened.truncate(plain_bytes);
    Some(opened)
}

fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(0).min(4_096);
    file.write_all(&vec![0; bytes])?;
    file.sync_all()
}

fn trouble(path: &Path, error: &io::Error) -> Trouble {
    Trouble(format!("{}: {error}", path.display()))
}

fn unusable() -> Trouble {
    Trouble("the key of the day cannot be used".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::state::{State, tests::Scratch};

    const PLACE: Place = Place { day: 20_779, row: 7, column: Column::Request };

    fn keys() -> (Scratch, Keys) {
        let scratch = Scratch::new();
        State::open(&scratch.0).expect("a state");
        let keys = Keys::of(&scratch.0);
        (scratch, keys)
    }

    #[track_caller]
    fn check_open(keys: &Keys, place: Place, sealed: &[u8], expect: Option<&[u8]>) {
        assert_eq!(keys.open(place, sealed).expect("no trouble").as_deref().map(|plain| &**plain), expect);
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_alone() {
        let (scratch, keys) = keys();
        let sealed = keys.seal(PLACE, b"a prompt").expect("a key");
        assert!(!sealed.windows(8).any(|bytes| bytes == b"a prompt"));
        assert_ne!(sealed, keys.seal(PLACE, b"a prompt").expect("a key"), "no two are sealed alike");
        for keys in [&keys, &Keys::of(&scratch.0)] {
            check_open(keys, PLACE, &sealed, Some(b"a prompt"));
            check_open(keys, Place { row: 8, ..PLACE }, &sealed, None);
            check_open(keys, Place { column: Column::Response, ..PLACE }, &sealed, None);
            check_open(keys, Place { day: 20_780, ..PLACE }, &sealed, None);
            for cut in 0..sealed.len() {
                check_open(keys, PLACE, &sealed[..cut], None);
            }
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                check_open(keys, PLACE, &changed, None);
            }
        }
    }

    #[test]
    fn with_its_key_goes_what_was_sealed_and_nothing_else() {
        let (scratch, keys) = keys();
        let other = Place { day: 3, ..PLACE };
        let (one, two) = (keys.seal(PLACE, b"one").expect("a key"), keys.seal(other, b"two").expect("a key"));
        assert_eq!(keys.list(), Ok(vec![3, 20_779]));
        keys.destroy(PLACE.day).expect("it is there");
        keys.destroy(PLACE.day).expect("twice is once");
        assert_eq!(keys.list(), Ok(vec![3]));
        for keys in [&keys, &Keys::of(&scratch.0)] {
            check_open(keys, PLACE, &one, None);
            check_open(keys, other, &two, Some(b"two"));
        }
        // The same day begins anew with another key.
        keys.seal(PLACE, b"three").expect("a key");
        check_open(&keys, PLACE, &one, None);
    }

    #[test]
    fn a_key_file_is_its_owners_and_of_no_use_elsewhere() {
        use std::os::unix::fs::PermissionsExt;
        let (scratch, keys) = keys();
        let sealed = keys.seal(PLACE, b"one").expect("a key");
        let path = scratch.file("log-keys/2026-11-22.key");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&scratch.file("log-keys"))), (0o600, 0o700));
        let whole = fs::read(&path).expect("there");
        assert_eq!(whole.len(), FILE_BYTES);
        // Under another state's key, torn, or overwritten it is no key, and no trouble.
        let other = Scratch::new();
        State::open(&other.0).expect("a state");
        fs::create_dir(other.file("log-keys")).expect("made");
        fs::copy(&path, other.file("log-keys/2026-11-22.key")).expect("copied");
        check_open(&Keys::of(&other.0), PLACE, &sealed, None);
        for torn in 0..FILE_BYTES {
            fs::write(&path, &whole[..torn]).expect("written");
            check_open(&Keys::of(&scratch.0), PLACE, &sealed, None);
        }
        fs::write(&path, &whole).expect("written");
        check_open(&Keys::of(&scratch.0), PLACE, &sealed, Some(b"one"));
        overwrite(&path).expect("ours");
        assert_eq!(fs::read(&path).expect("there"), [0; FILE_BYTES]);
        check_open(&Keys::of(&scratch.0), PLACE, &sealed, None);
    }

    #[test]
    fn a_draft_that_was_left_is_destroyed_with_its_day() {
        let (scratch, keys) = keys();
        keys.seal(Place { day: 1, ..PLACE }, b"").expect("a key");
        fs::write(scratch.file("log-keys/2026-11-22.new"), "half").expect("written");
        fs::write(scratch.file("log-keys/other"), "not ours").expect("written");
        assert_eq!(keys.list(), Ok(vec![1, PLACE.day]));
        keys.destroy(PLACE.day).expect("ours");
        assert_eq!(keys.list(), Ok(vec![1]));
        assert!(scratch.file("log-keys/other").exists());
    }

    #[test]
    fn without_the_state_directorys_key_nothing_is_sealed() {
        let scratch = Scratch::new();
        fs::create_dir(&scratch.0).expect("made");
        let said = Keys::of(&scratch.0).seal(PLACE, b"one").expect_err("there is no key");
        assert!(said.0.contains("digest.key"), "{said}");
    }
}
