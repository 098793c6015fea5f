//! One core's world: its ring, its listeners, its timers. monoio and io_uring live here and nowhere else.
//!
//! monoio 0.2.4 forces rules on this folder, each held by a test in `rules.rs`: no future wakes itself; every spawned
//! task is guarded against panics; no read or accept is dropped in flight; no runtime is dropped with operations in
//! flight; connections are made by address only, never by name; the real ring is tried with its flags, by ladder; a
//! heartbeat per core is watched from outside; no `RefCell` borrow lives across an `.await`.

mod buffers;
mod clock;
mod conn;
mod dial;
mod guard;
mod listen;
mod proxy;
mod ring;
#[cfg(test)]
mod rules;
mod run;
mod slots;
mod stream;
mod tls;
mod turn;
mod wheel;

pub use clock::Clock;
pub use listen::{Listeners, bind};
pub use ring::{Backend, Choice};
pub use run::{Links, Listener, Running, start};
pub use tls::{client_config, server_config};
