//! The simulated provider: answers like an OpenAI-compatible one, and misbehaves as the model's name tells it to.
//!
//! One thread per core, each with its own ring; only the log is shared. monoio-http decodes the requests,
//! the responses are written raw (`respond`), so that every fault of a real peer can be shown.

mod answer;
mod asked;
mod log;
mod reader;
mod respond;
pub mod script;
mod serve;
mod sse;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
};

use monoio::net::{ListenerOpts, TcpListener};

pub use self::{
    answer::STAMP_DIGITS,
    log::{Entry, Log, Outcome, fnv},
};
use crate::runtime::{block_on, pin_to};

/// How a provider is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Threads.
    pub threads: usize,
    /// Cores to pin them to, in turn; none leaves them to the scheduler.
    pub cores: Vec<usize>,
    /// Requests that the log keeps; 0 for none.
    pub log_kept_max: usize,
}

impl Options {
    /// One thread with a log, as tests want it.
    pub fn on(listen: SocketAddr) -> Self {
        Self { listen, threads: 1, cores: Vec::new(), log_kept_max: 4096 }
    }
}

/// A provider that runs on threads of its own until the process ends.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it has received.
    pub log: Arc<Log>,
}

/// Starts a provider; it accepts connections when this returns.
pub fn start(options: &Options) -> io::Result<Provider> {
    let log = Arc::new(Log::new(options.log_kept_max));
    let memory = Arc::new(serve::Memory::default());
    let mut addr = options.listen;
    for index in 0..options.threads.max(1) {
        let shared = options.threads > 1;
        let core = options.cores.get(index % options.cores.len().max(1)).copied();
        let (log, memory) = (Arc::clone(&log), Arc::clone(&memory));
        let (bound, heard) = mpsc::channel();
        thread::Builder::new().name(format!("provider-{index}")).spawn(move || {
            if let Some(error) = core.and_then(|core| pin_to(core).err()) {
                drop(bound.send(Err(error)));
                return;
            }
            block_on(async move {
                let opts = ListenerOpts::new().reuse_port(shared).reuse_addr(true).backlog(16_384);
                match TcpListener::bind_with_config(addr, &opts).and_then(|l| Ok((l.local_addr()?, l))) {
                    Ok((addr, listener)) => {
                        drop(bound.send(Ok(addr)));
                        serve::accept(listener, log, memory).await;
                    }
                    Err(error) => drop(bound.send(Err(error))),
                }
            });
        })?;
        addr = heard.recv().map_err(|_| io::Error::other("the provider's thread ended"))??;
    }
    Ok(Provider { addr, log })
}
