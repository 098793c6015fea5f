//! The flap run, shortened: what failover promises of a primary that comes and goes.

use std::process::Command;

use crate::support::{backend, binary};

#[test]
fn a_primary_that_flaps_costs_nobody_an_answer() {
    let seconds = std::env::var("RINGWAY_TEST_FLAP_SECS").unwrap_or_else(|_| "30".to_owned());
    let output = Command::new(binary("ringway-load"))
        .args(["flap", "--backend", &backend(), "--outage", "4s", "--duration", &format!("{seconds}s")])
        .output()
        .expect("the scenario runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{seconds} s (CI 30 s, full 600 s):\n{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
