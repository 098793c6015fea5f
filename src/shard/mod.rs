//! One core's world: its ring, its listeners, its timers. monoio and io_uring live here and nowhere else.
//!
//! Rules that monoio 0.2.4 forces on this folder, each held by a test in `rules.rs`:
//! 1. no future that wakes itself; 2. every spawned task guarded against panics; 3. no read or accept dropped in flight;
//! 4. no runtime dropped with operations in flight; 5. connect by address only, never by name; 6. the real ring is
//! tried with its flags, by ladder; 7. a heartbeat per core, watched from outside; 8. no `RefCell` borrow across await.

mod buffers;
mod clock;
mod conn;
mod dial;
mod guard;
mod listen;
mod ring;
#[cfg(test)]
mod rules;
mod run;
mod stream;
mod tls;
mod wheel;

pub use clock::Clock;
pub use listen::{Listeners, bind};
pub use ring::{Backend, Choice};
pub use run::{Links, Listener, Running, start};
pub use tls::{client_config, server_config};
