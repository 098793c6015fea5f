//! A program that was started by a test and ends with it, by its process id and no other way.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use super::{Deadline, PATIENCE};

/// A running program and the lines it has said.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
}

/// A binary of this workspace, as built beside this test.
pub(crate) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let profile = test.ancestors().nth(2).expect("tests lie in target/<profile>/deps");
    let path = profile.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// Runs the gateway's binary to its end: whether it succeeded, and all it said.
pub(crate) fn ringway(arguments: &[&str]) -> (ExitStatus, String) {
    let output =
        Command::new(binary("ringway")).args(arguments).stdin(Stdio::null()).output().expect("ringway runs");
    (
        output.status,
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

impl Program {
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        // A name alone is one of ours; a path, or a tool that is given one, is taken as it stands.
        let tool = ["env", "prlimit", "python3"].contains(&name);
        let mut child = Command::new(if tool { PathBuf::from(name) } else { binary(name) })
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (sender, lines) = channel();
        listen(child.stdout.take().expect("piped"), sender.clone());
        listen(child.stderr.take().expect("piped"), sender);
        Self { child, lines, heard: Vec::new() }
    }

    /// Waits until `find` makes something of a line that was said.
    #[track_caller]
    pub(crate) fn line<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Deadline::within(PATIENCE);
        let mut next = 0;
        loop {
            while let Some(line) = self.heard.get(next) {
                if let Some(found) = find(line) {
                    return found;
                }
                next += 1;
            }
            assert!(!deadline.has_passed(), "never said {what}; it said:\n{}", self.heard.join("\n"));
            assert!(
                self.listen_for(Duration::from_millis(100)),
                "ended before it said {what}:\n{}",
                self.heard.join("\n")
            );
        }
    }

    /// Takes in what is said within `span`, or as soon as something is. False once the program has ended.
    pub(crate) fn listen_for(&mut self, span: Duration) -> bool {
        let line = self.lines.recv_timeout(span);
        self.heard.extend(line.clone());
        self.heard.extend(self.lines.try_iter());
        line.is_ok() || matches!(self.child.try_wait(), Ok(None))
    }

    /// All that was said so far.
    pub(crate) fn said(&mut self) -> String {
        self.heard.extend(self.lines.try_iter());
        self.heard.join("\n")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by its short name.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill`: no unsafe here, and no package to install.
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send SIG{name}");
    }

    /// Tells it to end, and waits until it has.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        assert!(self.wait().success(), "it did not end well:\n{}", self.said());
    }

    /// Waits for the program to end by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Deadline::within(PATIENCE);
        while self.listen_for(Duration::from_millis(20)) {
            assert!(!deadline.has_passed(), "it did not end; it said:\n{}", self.heard.join("\n"));
        }
        self.child.wait().expect("an own child can be waited for")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("--- said by process {}:\n{}", self.child.id(), self.said());
        }
    }
}

/// Passes on each line from a thread of its own, so that a chatty program never blocks on a full pipe.
fn listen(from: impl Read + Send + 'static, sender: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
}
