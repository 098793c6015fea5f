//! Text → tables as they were written (`raw`) → checked, every complaint at once (`check`, `provider`) → an
//! immutable [`Snapshot`].
//!
//! A snapshot exists only if nothing at all was wrong with the text. Nothing here resolves a name, opens a socket or
//! reads a clock; what it reads of the world goes through [`Surroundings`].
//!
//! Every setting there is, with its default (`…` where there is none); strings may hold `${…}` (see `interpolate.rs`):
//!
//! ```toml
//! [server]
//! listen = ["127.0.0.1:8080"]  # plain HTTP
//! tls_listen = []              # TLS; then `listen` is empty unless given
//! tls = { cert = …, key = … }  # PEM files
//! cores = "auto"               # or a number, or a list of cores
//! backend = "auto"             # or "io_uring", "epoll"
//! drain_secs = 30
//! connections_max = 16384      # per core
//! proxy_protocol = []          # which of these expect the PROXY protocol, from this machine or trusted_proxies
//! [admin]
//! listen = "127.0.0.1:8081"    # or "off"
//! [access]                     # networks such as "192.0.2.0/24", "2001:db8::/32", "192.0.2.7"
//! allow = …                    # who may come in; otherwise everyone who is not denied
//! allow_file = …               # a file with more of them, one a line, # begins a comment
//! deny = []                    # wins over allow
//! deny_file = …
//! trusted_proxies = []         # whose X-Forwarded-For says where a client is
//! [limits]                     # explained in base/limits.rs
//! head_bytes = 32768
//! head_fields = 100
//! body_bytes = 33554432
//! buffered_bytes = 536870912   # per core
//! buffer_wait_secs = 5
//! head_secs = 10
//! handshake_secs = 5
//! idle_secs = 75
//! body_grace_secs = 5
//! body_rate_floor = 1024       # bytes per second
//! write_grace_secs = 30
//! write_rate_floor = 1024
//! pool_idle_max = 1024         # per core, over all providers
//! connections_per_address = …  # over all cores; trusted proxies may have as many as they like
//! [timeouts]
//! connect_secs = 2
//! first_byte_secs = 300
//! between_bytes_secs = 120
//! total_secs = 3600
//! [auth]
//! required = …                 # whether callers must show a token: yes, unless only this machine can connect
//! allow_anonymous = false      # must be true for `required = false` where other machines can connect
//! [breaker]                    # of each target; explained in config/breaker.rs
//! enabled = true
//! failures = 5                 # in a row
//! rate_percent = 50            # failed, of at least
//! rate_requests = 20           # in ten seconds
//! open_secs = 5                # doubled each time, up to
//! open_max_secs = 12
//! ramp_secs = 10
//! [retry]
//! attempts_max = 3             # over all targets of a request
//! budget_percent = 10          # of a provider's requests: tries at the same target again
//! [relay]
//! on_disconnect = "cancel"     # or "drain", "drain_until_usage": an answer whose client has left; callers may have their own
//! keep_alive_secs = 0          # a comment to the client of a stream that is silent so long; so may providers and services
//! [[limit]]                    # for each kind of key
//! by = …                       # "gateway", "address", "caller", "provider", "model" or "metadata.<key>"
//! match = "*"                  # names of callers, providers, models; the first table that fits counts
//! requests_per_second = …      # also _per_minute, _per_hour, _per_day
//! tokens_per_minute = …        # also _per_day
//! burst = …                    # requests at once; the rate's own number
//! burst_tokens = …
//! concurrent_requests = …
//! concurrent_streams = …
//! budget_tokens_day = …        # calendar, UTC, kept over restarts; by gateway and caller
//! budget_tokens_month = …
//! budget_usd_day = …           # likewise in dollars, such as 12.50, by the prices below
//! budget_usd_month = …
//! on_exceed = "finish"         # or "cut": a running stream whose tokens cross the limit
//! [prices]
//! file = …                     # made by `ringway prices import`; otherwise one in the state directory, or the built-in one
//! [[price]]                    # for a model, above the catalogue
//! model = …                    # "{provider}/{model}" as it is asked for; `*` in the model's part fits any run of characters
//! input_per_million_usd = …    # dollars for a million tokens, as 2.5
//! output_per_million_usd = …   # otherwise nothing is put out
//! cached_input_per_million_usd = …  # what is left out costs what its kind does: input, or output
//! reasoning_per_million_usd = …
//! audio_input_per_million_usd = …
//! audio_output_per_million_usd = …
//! tiers = []                   # { above = 200_000, input_per_million_usd = …, … }: for input longer than so many tokens
//! [usage]
//! estimate = "bytes"           # where a provider reports no tokens; "off": they stay unknown; "bpe": counted with OpenAI's
//!                              #   vocabularies on a thread of its own: o200k_base, at about 80 MB of memory, or the one that
//!                              #   tiktoken's table has for the model: cl100k_base (gpt-4, gpt-3.5, embeddings), 40 MB more from
//!                              #   its first text on; by bytes where that is too far behind. Limits and budgets are settled by
//!                              #   bytes either way
//! [state]
//! dir = …                      # what outlives the process, such as callers; systemd's $STATE_DIRECTORY, or there is none
//! [[route]]                    # explained in routes/mod.rs
//! name = …                     # callers ask for it as the model `dynamic/<name>`
//! if = …                       # a condition, then one of these two branches, each made as a route is:
//! then = …
//! else = …
//! split = [{ percent = …, … }, …]  # or: one of these branches, by share of requests
//! model = …                    # or: a model service, `{provider}/{model}`; instead: targets = [{ model = …, key = …,
//! key = …                      #   weight = 1, price = … }, …] among which `balance` chooses
//! fallbacks = []               # where to go when those fail, in order; each a model, or { model = …, key = … }
//! balance = "weighted"         # or "least_in_flight", "fastest" (to the first token), "cheapest", "sticky"
//! sticky_by = …                # "user", "caller", "header.<name>" or "metadata.<key>": for `sticky` and for `split`
//! attempts_max = 3             # over all targets
//! timeouts = {}                # over the provider's; also first_token_secs
//! retry_unanswered = true      # elsewhere, after a request was sent and nothing came back: it may be billed twice
//! retry_missing_model = false  # elsewhere, when a provider does not know the model
//! hold_back = …                # in place of the provider's; likewise hedge_percentile
//! keep_alive_secs = …          # in place of the provider's
//! keep_alive_commits = false   # a silent stream is begun, with 200, before anybody has answered: failures are events then
//! [[fallback]]                 # the same for what is asked for as `{provider}/{model}`: the first that fits counts
//! match = …                    # a model; a `*` at the end stands for any rest
//! to = …                       # as fallbacks; also the eight settings above
//! [aliases]                    # other names for models
//! "…" = …                      # a model or a route; with a `*` at its end, for every name that begins so
//! [[provider]]
//! name = …                     # of a profile, or any other
//! profile = …                  # the profile of that name
//! base_url = …                 # the profile's; without a path: /v1
//! key = …                      # the profile's environment variable
//! keys = [{ name = …, key = … }]  # instead of `key`
//! auth = …                     # the profile's; "bearer", "none" or a header field such as "api-key"
//! inject_usage = …             # the profile's; otherwise true
//! allow_private = false        # may be reached at a private address
//! allow_http = false           # may be reached without TLS although it is on another machine
//! ca_file = …                  # PEM file of CA certificates trusted besides the public ones
//! models = []                  # to list in /v1/models besides the provider's own
//! timeouts = {}                # as above, for this provider
//! keep_alive_secs = …          # in place of relay.keep_alive_secs
//! health_check = …             # { path = "/health", interval_secs = 5, timeout_secs = 2, unhealthy_after = 3,
//!                              #   healthy_after = 2, expect_status = 200 }; nobody is checked who has none
//! pool_idle_max = 128          # per core and target
//! pool_idle_secs = 30
//! hold_back = {}               # { events = …, secs = … }: of a stream, until one of the two is reached, so that a failure in
//!                              # them goes elsewhere; adds to the time to the first token
//! hedge_percentile = 0         # 50 to 99: a stream without a first event after this percentile of the target's times to first
//!                              # token is asked elsewhere, too, and may be billed twice; at most 5 % of requests
//! ```

mod access;
mod access_log;
pub mod allowance;
pub mod breaker;
pub mod callers;
mod certificate;
mod check;
mod complaint;
mod credential;
pub mod first_byte;
pub mod health_check;
mod interpolate;
mod logs;
mod masking;
mod otlp;
pub mod price;
pub mod prices;
pub mod profiles;
mod provider;
pub mod quotas;
mod raw;
pub mod relay;
mod report;
pub mod routes;
mod snapshot;
mod suggest;
mod surroundings;
mod url;

use std::path::Path;

use toml::de::DeTable;
use zeroize::Zeroizing;

pub use self::{
    access_log::{AccessLog, LogFormat, LogTarget},
    complaint::{Complaint, Complaints, Severity},
    logs::{KeepPayload, KeptLogs},
    otlp::{Otlp, Signals, Tracing},
    snapshot::{
        Access, Admin, Auth, Backend, Cores, Dial, Estimate, Key, Limits, NoLine, Provider, ProviderPlace,
        Server, ServerTls, Snapshot, Timeouts, TimingSaid,
    },
    surroundings::{Process, Surroundings},
};
use self::{raw::Table, report::Report};

/// A configuration that can be used, and what its operator may want to hear about it all the same.
#[derive(Debug)]
pub struct Loaded {
    pub snapshot: Snapshot,
    pub warnings: Vec<Complaint>,
}

/// Reads and compiles a file.
pub fn load(path: &Path, around: &dyn Surroundings) -> Result<Loaded, Complaints> {
    let name = path.display().to_string();
    let refuse = |what, fix: &str| Err(Complaints(vec![Complaint::whole(&name, what, fix.to_owned())]));
    let bytes = match around.read(path) {
        // There may be keys in it.
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) => return refuse(format!("this file cannot be read: {error}"), "name another with `-c`"),
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) => compile(text, &name, around),
        Err(error) => {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
            refuse(
                format!("this file is not UTF-8 from line {line} on"),
                "save it as UTF-8, without other encodings",
            )
        }
    }
}

/// Compiles a text. `file_name` is what complaints call it.
pub fn compile(text: &str, file_name: &str, around: &dyn Surroundings) -> Result<Loaded, Complaints> {
    let report = Report::new(text, file_name, around);
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What could be read of such a file is not judged: half of it would be wrong only because the rest is missing.
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let what = format!("this is not TOML: {}", error.message());
            report.note(Severity::Error, span, "", what, String::new());
        }
        return Err(Complaints(report.finish(None).0));
    }
    let snapshot = check::compile(Table::root(&report, tree.get_ref()));
    let (complaints, warnings) = report.finish(Some(tree.get_ref()));
    if complaints.is_empty() { Ok(Loaded { snapshot, warnings }) } else { Err(Complaints(complaints)) }
}

#[cfg(any(test, feature = "fuzzing"))]
pub use self::surroundings::Fake;

/// Any text compiles or is complained of, in places that exist and without a secret in any word of it.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_compile(data: &[u8]) {
    const CANARY: &str = "canary-7f3a-0123456789";
    let Ok(text) = std::str::from_utf8(data) else { return };
    let around = Fake { any: Some(CANARY), ..Fake::default() };
    let shown = match compile(text, "fuzz.toml", &around) {
        Ok(loaded) => loaded.warnings,
        Err(complaints) => {
            assert!(!complaints.0.is_empty(), "a refusal has a reason");
            complaints.0
        }
    };
    let lines = text.split('\n').count();
    for complaint in shown {
        assert!((1..=lines).contains(&complaint.line), "line {} of {lines}", complaint.line);
        assert!(complaint.column >= 1);
        let words = complaint.to_string();
        assert!(text.contains(CANARY) || !words.contains(CANARY), "a secret is shown: {words}");
        assert!(
            !words.contains('\u{1b}') && !words.contains('\0'),
            "control characters reach the terminal: {words:?}"
        );
    }
}

#[cfg(test)]
mod tests;
