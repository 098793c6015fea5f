//! End to end: the real binaries, driven over loopback by plain blocking sockets.
//!
//! Each test starts a gateway of its own on a loopback address of its own, in front of a simulated provider of its own;
//! both end with the test. `RINGWAY_TEST_BACKEND` (`io_uring` unless said otherwise, or `epoll`) is the backend that
//! every gateway is told to use, and that every shard must then report on `/metrics`.

mod access_log;
mod admission;
mod attempts;
mod balance;
mod bodies;
mod book;
mod breakers;
mod callers;
mod cuts;
mod estimates;
mod expiry;
mod explain;
mod failover;
mod flap;
mod graph;
mod health_checks;
mod hedge;
mod hold_back;
mod http1;
mod kept_logs;
mod lifecycle;
mod limits;
mod names;
mod payload_logs;
mod placement;
mod prices;
mod proxy_protocol;
mod refusals;
mod refused_ring;
mod relay;
mod reload;
mod replies;
mod routes;
mod smuggling;
mod support;
mod tended;
mod tls;
mod tools;
mod tracing;
mod upstream;
mod upstream_tls;
