//! What the gateway is made of.

use std::process::Command;

#[test]
fn the_gateway_holds_no_monoio_http() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "ringway", "-e", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.lines().any(|line| line.starts_with("monoio v0.2.4")), "the tree is the gateway's:\n{tree}");
    for foreign in ["monoio-http ", "monoio-rustls ", "rustls v0.21", "openssl", "native-tls"] {
        let found: Vec<_> = tree.lines().filter(|line| line.starts_with(foreign)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
