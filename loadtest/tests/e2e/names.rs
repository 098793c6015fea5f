//! A provider's name that has no address, gets one, and gets another: traffic goes elsewhere until it can be reached.
//!
//! The gateway asks the system's resolver, so the answer to one name is put in front of that: a few lines of C, preloaded, read
//! it from a file.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use crate::support::{Deadline, Gateway, Provider, Setup, chat_with, own_address, provider_table};

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  lookup *real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
  if (!node || strcmp(node, "moving.test")) return real(node, service, hints, found);
  char line[64] = "";
  FILE *file = fopen(getenv("MOVING_TEST"), "r");
  if (file) {
    if (!fgets(line, sizeof line, file)) line[0] = 0;
    fclose(file);
  }
  return line[0] ? real(line, service, hints, found) : EAI_NONAME;
}
"#;

/// The answer to the name, and what puts it in front of the system's.
struct Names {
    answer: PathBuf,
    source: PathBuf,
    library: PathBuf,
}

impl Names {
    fn new() -> Self {
        let id = own_address();
        let file = |kind: &str| std::env::temp_dir().join(format!("ringway-e2e-names-{id}.{kind}"));
        let names = Self { answer: file("answer"), source: file("c"), library: file("so") };
        names.say("");
        fs::write(&names.source, SHIM).expect("a temporary file can be written");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(&names.library).arg(&names.source).arg("-ldl");
        let built = cc.output().expect("whoever has Rust has a linker");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        names
    }

    /// From now on this is the name's address; empty for none.
    fn say(&self, address: &str) {
        let half = self.answer.with_extension("new");
        fs::write(&half, address).expect("a temporary file can be written");
        // At once: nobody reads half an address.
        fs::rename(half, &self.answer).expect("in the same directory");
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for file in [&self.answer, &self.source, &self.library] {
            let _ = fs::remove_file(file);
        }
    }
}

#[test]
fn a_name_gets_an_address_and_then_another() {
    let (names, old, backup) = (Names::new(), Provider::start(), Provider::start());
    let new = Provider::at(SocketAddr::from((own_address(), old.address.port())));
    let tables = format!(
        "[breaker]\nenabled = false\n[[route]]\nname = \"r\"\nmodel = \"moving/m\"\nfallbacks = [\"backup/m\"]\n\
         [[provider]]\nname = \"moving\"\nbase_url = \"http://moving.test:{}/v1\"\nkey = \"sk-moving\"\nallow_http = true\n\
         allow_private = true\nmodels = [\"m\"]\n{}",
        old.address.port(),
        provider_table("backup", backup.address)
    );
    let environment = vec![
        format!("LD_PRELOAD={}", names.library.display()),
        format!("MOVING_TEST={}", names.answer.display()),
    ];
    let mut gateway = Gateway::with(&backup, &Setup { provider: tables, environment, ..Setup::default() });
    // No request is lost, whoever serves it; and the new one serves within the time between two look-ups, and some.
    let mut until_served_by = |provider: &str, by: &Provider| {
        let deadline = Deadline::within(Duration::from_secs(60));
        let mut elsewhere = 0;
        loop {
            let answer = gateway.ask(chat_with("dynamic/r", &[], elsewhere % 2 == 1)).expect(200);
            if answer.told("provider") == provider && !by.seen_as("\"m\"").is_empty() {
                return elsewhere;
            }
            elsewhere += 1;
            assert!(!deadline.has_passed(), "never served by {provider} at {}", by.address);
            // Also the pause between two requests.
            assert!(gateway.program.listen_for(Duration::from_millis(50)), "the gateway ended");
        }
    };
    assert_eq!(until_served_by("backup", &backup), 0, "there is no address");
    names.say("127.0.0.1");
    assert!(until_served_by("moving", &old) > 0, "it has not been asked for yet");
    names.say(&new.address.ip().to_string());
    // Who is not there any more is no reason for an answer to be lost.
    drop(old);
    assert!(until_served_by("moving", &new) > 0, "an answer is used for a while");
}
