//! The rules of the house, held as data and checked over its own sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Who may name whom: every arrow points down. A layer may always name itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("wire", &["base"]),
    ("config", &["wire", "base"]),
    ("policy", &["config", "wire", "base"]),
    ("ledger", &["config", "wire", "base"]),
    ("exchange", &["policy", "ledger", "config", "wire", "base"]),
    ("bridge", &["policy", "ledger", "config", "wire", "base"]),
    ("shard", &["bridge", "exchange", "policy", "ledger", "config", "wire", "base"]),
    ("control", &["bridge", "policy", "ledger", "config", "wire", "base"]),
    ("cli", &["shard", "control", "bridge", "exchange", "policy", "ledger", "config", "wire", "base"]),
];

/// Words that have one home. Tests may use them anywhere.
const HOMES: &[(&str, &[&str], &str)] = &[
    ("monoio::", &["shard/"], "the runtime stays at the edge"),
    ("io_uring::", &["shard/ring.rs"], "the ring is set up in one place"),
    ("sync::atomic", &["bridge/"], "what two cores can run at once lives in bridge"),
    ("quanta::", &["shard/clock.rs"], "the clock is read in one place"),
    ("Instant::now", &["shard/clock.rs"], "time is an argument"),
    ("SystemTime::now", &["shard/clock.rs", "control/"], "time is an argument"),
    ("unsafe ", UNSAFE, "unsafe stays where it is reviewed"),
    ("tokio::", &["control/admin.rs"], "tokio serves the admin listener and nothing else"),
    ("serde_json::", &["control/", "cli/"], "the data path has its own JSON"),
    ("thread::sleep", &["cli/sim_provider.rs"], "wait for the event itself"),
    ("wake_by_ref", &[], "a future that wakes itself starves the whole core"),
    ("yield_now", &[], "a future that wakes itself starves the whole core"),
    ("FuturesUnordered", &[], "it wakes itself, and starves the whole core"),
    ("TcpStream::connect(", &["control/"], "a core dials addresses, never names, through shard/dial.rs"),
    ("todo!", &[], "nothing unfinished is called done"),
    ("unimplemented!", &[], "nothing unfinished is called done"),
];

const UNSAFE: &[&str] = &[
    "shard/buffers.rs",
    "shard/guard.rs",
    "shard/slots.rs",
    "shard/stream.rs",
    "shard/tls/at_once.rs",
    "shard/turn.rs",
    "cli/house.rs",
    "cli/placement.rs",
    "lib.rs",
];

const COLUMNS_MAX: usize = 130;

#[test]
fn the_house_is_tidy() {
    let sources = sources();
    assert!(sources.len() > 40, "the sources are found");
    let mut complaints = Vec::new();
    for (path, text) in &sources {
        complaints
            .extend(check(path, text).into_iter().map(|(line, what)| format!("src/{path}:{line}: {what}")));
    }
    complaints.extend(dead_files(&sources));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Every file under `src`, by its path from there.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found
}

/// What is wrong with one file, by line.
fn check(path: &str, text: &str) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    let layer = path.split('/').next().unwrap_or_default();
    let below = LAYERS.iter().find(|(name, _)| *name == layer).map(|(_, below)| *below);
    // tidy itself is full of the words it looks for.
    if path == "tidy.rs" {
        return wrong;
    }
    if !text.starts_with("//!") && !text.starts_with("#![doc") {
        wrong.push((1, "a file opens by saying what it is for".to_owned()));
    }
    let is_test_file = path.contains("test")
        || path.ends_with("rules.rs")
        || path.contains("/sim")
        || path.ends_with("corpus.rs");
    // A module of tests stands last; a line that is for tests alone may stand anywhere and exempts nothing else.
    let tests_from = text
        .lines()
        .zip(text.lines().skip(1))
        .position(|(mark, opens)| {
            mark.trim() == "#[cfg(test)]" && opens.starts_with("mod ") && opens.contains('{')
        })
        .unwrap_or(usize::MAX);
    let mut in_group = false;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.chars().count() > COLUMNS_MAX && index < tests_from && !is_test_file {
            wrong.push((number, format!("a line of more than {COLUMNS_MAX} columns")));
        }
        if line.contains("#[ignore]") {
            wrong.push((number, "an ignored test says why".to_owned()));
        }
        let code = line.split("//").next().unwrap_or_default();
        if let Some(below) = below {
            // `use crate::{` opens a group whose members stand at one level below it.
            in_group |= code.trim_start().starts_with("use crate::{");
            for named in LAYERS.iter().map(|(name, _)| *name) {
                let names = code.contains(&format!("crate::{named}::"))
                    || code.contains(&format!("crate::{named};"))
                    || (in_group && code.starts_with(&format!("    {named}::")));
                if names && named != layer && !below.contains(&named) && !is_test_file && index < tests_from {
                    wrong.push((number, format!("{layer} may not name {named}")));
                }
            }
            in_group &= !code.contains("};");
        }
        for (word, homes, why) in HOMES {
            let is_home = homes.iter().any(|home| path.starts_with(home));
            if code.contains(word) && !is_home && !is_test_file && index < tests_from {
                wrong.push((number, format!("`{}` does not belong here: {why}", word.trim())));
            }
        }
    }
    wrong
}

/// Files that no module declares, and files of leftovers.
fn dead_files(sources: &[(String, String)]) -> Vec<String> {
    let mut dead = Vec::new();
    for (path, _) in sources {
        let path = Path::new(path);
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if ["utils", "util", "common", "helpers", "misc"].contains(&stem) {
            dead.push(format!("src/{}: a file of leftovers; name its one idea", path.display()));
        }
        let folder = path.parent().unwrap();
        let (name, parents) = match stem {
            "main" | "lib" if folder == Path::new("") => continue,
            "mod" => {
                let name = folder.file_name().unwrap().to_str().unwrap();
                (name, parents_of(folder.parent().unwrap()))
            }
            stem => (stem, parents_of(folder)),
        };
        let declared = sources
            .iter()
            .filter(|(parent, _)| parents.contains(parent))
            .any(|(_, text)| text.contains(&format!("mod {name};")));
        if !declared {
            dead.push(format!("src/{}: no module declares it", path.display()));
        }
    }
    dead
}

/// The files that may declare what lies in `folder`.
fn parents_of(folder: &Path) -> Vec<String> {
    if folder == Path::new("") {
        return vec!["lib.rs".into(), "main.rs".into()];
    }
    let mut files = vec![format!("{}/mod.rs", folder.display()), format!("{}.rs", folder.display())];
    // A test module beside the file it tests.
    files.extend(
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder))
            .unwrap()
            .filter_map(|entry| Some(format!("{}/{}", folder.display(), entry.ok()?.file_name().to_str()?))),
    );
    files
}

#[test]
fn the_checks_find_what_they_are_for() {
    #[track_caller]
    fn finds(path: &str, text: &str, expect: &str) {
        let found = check(path, text);
        assert!(found.iter().any(|(_, what)| what.contains(expect)), "{path}: {found:?} lacks {expect:?}");
    }
    #[track_caller]
    fn passes(path: &str, text: &str) {
        assert_eq!(check(path, text), []);
    }
    finds("policy/a.rs", "//! A.\nuse crate::shard::run;", "policy may not name shard");
    finds(
        "policy/a.rs",
        "//! A.\nuse crate::{\n    base::now,\n    exchange::seam,\n};",
        "policy may not name exchange",
    );
    finds("shard/a.rs", "//! A.\nfn f() { crate::control::x() }", "shard may not name control");
    finds("exchange/a.rs", "//! A.\nuse monoio::spawn;", "the runtime stays at the edge");
    finds("wire/a.rs", "//! A.\nunsafe { }", "unsafe stays");
    finds("wire/a.rs", "fn f() {}", "a file opens by saying");
    finds("wire/a.rs", "//! A.\n#[ignore]", "an ignored test says why");
    passes(
        "policy/a.rs",
        "//! A.\nuse crate::{\n    base::now,\n    config::Snapshot,\n};\n// not crate::shard::x",
    );
    passes("wire/a.rs", "//! A.\n#[cfg(test)]\nmod tests { use std::sync::atomic::AtomicU8; }");
}
