//! What the process does when it is told to from outside: drain, reload, or end at once.
//!
//! Two interrupts end the process from inside the signal handler: they do so even when every thread here is stuck.

use std::{io, thread::JoinHandle};

use signal_hook::{
    SigId,
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    flag,
    iterator::{Handle, Signals},
    low_level,
};

use crate::{bridge::drain, control::log::Log};

/// Exit status after the second interrupt: 128 + SIGINT, as a shell would say it.
pub const INTERRUPTED: i32 = 130;

/// What is done on a signal. Each runs on the signals' thread, one at a time.
pub struct Actions {
    /// SIGTERM and the first SIGINT. Called once for each.
    pub drain: Box<dyn FnMut() + Send>,
    /// SIGHUP.
    pub reload: Box<dyn FnMut() + Send>,
    /// SIGUSR1.
    pub reopen_logs: Box<dyn FnMut() + Send>,
}

/// The thread that waits for signals. Dropping it stops listening.
pub struct SignalsThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    at_once: [SigId; 2],
}

impl SignalsThread {
    pub fn start(mut actions: Actions, log: Log) -> io::Result<Self> {
        let interrupted = drain::latch();
        // In this order: the first interrupt passes the first and sets the latch in the second.
        let at_once = [
            flag::register_conditional_shutdown(SIGINT, INTERRUPTED, interrupted.clone())?,
            flag::register(SIGINT, interrupted)?,
        ];
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("rw-signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGTERM => {
                        log.info(format_args!("SIGTERM: draining"));
                        (actions.drain)();
                    }
                    SIGINT => {
                        log.info(format_args!("SIGINT: draining; another one ends the process at once"));
                        (actions.drain)();
                    }
                    SIGHUP => {
                        log.info(format_args!("SIGHUP: reloading the configuration"));
                        (actions.reload)();
                    }
                    _ => {
                        log.info(format_args!("SIGUSR1: opening the access log again"));
                        (actions.reopen_logs)();
                    }
                }
            }
        })?;
        Ok(Self { handle, thread: Some(thread), at_once })
    }
}

impl Drop for SignalsThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for id in self.at_once {
            low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::process::ExitStatusExt,
        process::{Child, ChildStdout, Command, Stdio},
        sync::mpsc,
    };

    use super::*;

    const CHILD: &str = "RINGWAY_TEST_SIGNALS_CHILD";

    /// The other process of the tests below: says what it was told to do, until it is ended.
    #[test]
    fn child_says_what_it_was_told() {
        let Some(temper) = std::env::var_os(CHILD) else { return };
        let (say, said) = mpsc::channel();
        let (drain, reload, reopen) = (say.clone(), say.clone(), say);
        let actions = Actions {
            drain: Box::new(move || {
                drain.send("drain").expect("somebody listens");
                if temper == "stuck" {
                    // Until the process ends: nobody sends here.
                    let (_kept, never) = mpsc::channel::<()>();
                    let _ = never.recv();
                }
            }),
            reload: Box::new(move || reload.send("reload").expect("somebody listens")),
            reopen_logs: Box::new(move || reopen.send("reopen").expect("somebody listens")),
        };
        let _signals = SignalsThread::start(actions, Log::to(io::sink(), false)).expect("signals");
        println!("\nlistening");
        for word in said {
            println!("{word}");
        }
    }

    struct Told {
        child: Child,
        lines: io::Lines<BufReader<ChildStdout>>,
    }

    impl Told {
        fn start(temper: &str) -> Self {
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "control::signals::tests::child_says_what_it_was_told", "--nocapture"])
                .env(CHILD, temper)
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child");
            let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
            let mut told = Self { child, lines };
            told.wait_for("listening");
            told
        }

        #[track_caller]
        fn wait_for(&mut self, word: &str) {
            let found = self.lines.by_ref().map_while(Result::ok).any(|line| line == word);
            assert!(found, "the child never said {word:?}");
        }

        fn send(&self, signal: &str) {
            let kill = format!("kill -s {signal} {}", self.child.id());
            let sent = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
            assert!(sent.success());
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn each_signal_does_its_own() {
        let mut told = Told::start("willing");
        for (signal, word) in [("HUP", "reload"), ("TERM", "drain"), ("USR1", "reopen"), ("HUP", "reload")] {
            told.send(signal);
            told.wait_for(word);
        }
    }

    #[test]
    fn the_second_interrupt_ends_the_process_even_when_the_first_is_stuck() {
        let mut told = Told::start("stuck");
        told.send("INT");
        told.wait_for("drain");
        told.send("INT");
        let status = told.child.wait().expect("it ends");
        assert_eq!((status.code(), status.signal()), (Some(INTERRUPTED), None));
    }
}
