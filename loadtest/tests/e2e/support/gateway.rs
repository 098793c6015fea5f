//! A gateway in a process of its own, on loopback addresses that nothing else uses.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{Answer, Client, PATIENCE, Program, Provider, binary, post, until};

/// The gauge that says which backend a shard is on, with the core and the backend as labels.
const BACKEND_METRIC: &str = "rw_shard_backend";

/// The provider's key, as no client may ever see it.
pub(crate) const CANARY: &str = "sk-test-canary";

/// What a test changes about the usual configuration.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    /// Lines for `[server]`; `HOST` in them is the address of the gateway. One core unless they say otherwise.
    pub(crate) server: String,
    /// Lines for `[limits]`.
    pub(crate) limits: String,
    /// Lines for the provider `sim`.
    pub(crate) provider: String,
    /// `KEY=VALUE` for the gateway's process.
    pub(crate) environment: Vec<String>,
}

pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) program: Program,
    file: PathBuf,
}

/// The backend that this run is about.
pub(crate) fn backend() -> String {
    std::env::var("RINGWAY_TEST_BACKEND").unwrap_or_else(|_| "io_uring".to_owned())
}

/// A loopback address of this process's own: Linux answers on all of 127.0.0.0/8, so no port is ever fought over.
pub(crate) fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // 127.0.0.x is everyone's.
    Ipv4Addr::new(127, 1 + high % 250, low, u8::try_from(number % 250 + 1).expect("below 251"))
}

impl Setup {
    pub(crate) fn text(&self, listen: SocketAddr, admin: SocketAddr, provider: &Provider) -> String {
        let Self { server, limits, provider: more, .. } = self;
        let server = server.replace("HOST", &listen.ip().to_string());
        let cores = if server.contains("cores = ") { "" } else { "cores = 1" };
        let base_url = format!("http://{}/v1", provider.address);
        format!(
            "[server]\nlisten = [\"{listen}\"]\n{cores}\n{server}\n[limits]\n{limits}\n[admin]\nlisten = \"{admin}\"\n\
             [[provider]]\nname = \"sim\"\nbase_url = \"{base_url}\"\nkey = \"{CANARY}\"\ninject_usage = true\n{more}\n\
             [[provider]]\nname = \"down\"\nbase_url = \"http://127.0.0.1:1/v1\"\nkey = \"sk-unused\"\n"
        )
    }
}

impl Gateway {
    pub(crate) fn start(provider: &Provider) -> Self {
        Self::with(provider, &Setup::default())
    }

    /// Starts a gateway and waits until it is ready and on the backend that was asked for.
    #[track_caller]
    pub(crate) fn with(provider: &Provider, setup: &Setup) -> Self {
        let host = own_address();
        let (address, admin) = (SocketAddr::from((host, 8080)), SocketAddr::from((host, 8081)));
        let file = std::env::temp_dir().join(format!("ringway-e2e-{host}.toml"));
        fs::write(&file, setup.text(address, admin, provider)).expect("a temporary file can be written");
        let backend = backend();
        let path = file.to_str().expect("a plain path");
        let own = binary("ringway");
        let mut command: Vec<_> = setup.environment.iter().map(String::as_str).collect();
        command.extend([own.to_str().expect("a plain path"), "run", "-c", path, "--backend", &backend]);
        // Becomes the gateway itself: the process stays the same.
        let program = Program::start("env", &command);
        let mut gateway = Self { address, admin, program, file };
        until("the gateway is ready", || {
            // Also the pause between two tries: until it says something, or for a moment.
            assert!(
                gateway.program.listen_for(Duration::from_millis(10)),
                "it ended:\n{}",
                gateway.program.said()
            );
            TcpStream::connect_timeout(&admin, PATIENCE).ok()?;
            (gateway.admin("/readyz").status == 200).then_some(())
        });
        gateway.expect_backend(&backend);
        gateway
    }

    /// One whose configuration has these tables, too.
    #[track_caller]
    pub(crate) fn with_tables(provider: &Provider, tables: &str) -> Self {
        Self::with(provider, &Setup { provider: tables.to_owned(), ..Setup::default() })
    }

    /// Every shard, and at least one, is on this backend.
    #[track_caller]
    pub(crate) fn expect_backend(&self, backend: &str) {
        let shards = until("a shard reports its backend", || {
            let shards = self.metric(BACKEND_METRIC);
            (!shards.is_empty()).then_some(shards)
        });
        for (labels, value) in shards {
            let here = labels.contains(&format!("backend=\"{backend}\""));
            assert!(here && value == 1.0, "a shard is not on {backend}: {BACKEND_METRIC}{labels} {value}");
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub(crate) fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        self.client().ask(request)
    }

    /// One chat completion on a connection of its own.
    #[track_caller]
    pub(crate) fn chat(&self, script: &str) -> Answer {
        self.ask(chat(script, false))
    }

    /// One streamed chat completion on a connection of its own.
    #[track_caller]
    pub(crate) fn stream(&self, script: &str) -> Answer {
        self.ask(chat(script, true))
    }

    #[track_caller]
    pub(crate) fn admin(&self, path: &str) -> Answer {
        Client::connect(self.admin)
            .ask(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"))
    }

    /// The samples of one metric: labels as they are printed, and the value.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> Vec<(String, f64)> {
        let page = self.admin("/metrics").text();
        let samples = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        let named = samples.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
        named
            .map(|(labels, value)| (labels.to_owned(), value.parse().expect("a sample is a number")))
            .collect()
    }

    /// The sum over those samples of a metric whose labels hold `part`.
    pub(crate) fn total(&self, name: &str, part: &str) -> f64 {
        self.metric(name)
            .into_iter()
            .filter(|(labels, _)| labels.contains(part))
            .map(|(_, value)| value)
            .sum()
    }

    /// Puts another text into the configuration file; nobody is told.
    pub(crate) fn write_config(&self, text: &str) {
        fs::write(&self.file, text).expect("a temporary file can be written");
    }

    pub(crate) fn read_config(&self) -> String {
        fs::read_to_string(&self.file).expect("the configuration is still there")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// The model that makes the simulated provider play a script, as clients name it.
pub(crate) fn model(script: &str) -> String {
    format!("sim/{script}")
}

pub(crate) fn chat_body(model: &str, stream: bool) -> String {
    format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"Say hello."}}],"stream":{stream}}}"#
    )
}

pub(crate) fn chat(script: &str, stream: bool) -> String {
    post("/v1/chat/completions", &chat_body(&model(script), stream))
}

/// A chat completion of any model, with header lines of the test's choice.
pub(crate) fn chat_with(model: &str, headers: &[&str], stream: bool) -> String {
    let lines: String = headers.iter().map(|line| format!("\r\n{line}")).collect();
    let plain = post("/v1/chat/completions", &chat_body(model, stream));
    plain.replacen("\r\n", &format!("{lines}\r\n"), 1)
}

/// A further provider, with the key `sk-{name}`.
pub(crate) fn provider_table(name: &str, address: SocketAddr) -> String {
    format!("[[provider]]\nname = \"{name}\"\nbase_url = \"http://{address}/v1\"\nkey = \"sk-{name}\"\n")
}

/// A route `r` from `sim` to a second provider, `two`; `more` are further lines of it.
pub(crate) fn pair(two: &Provider, first: &str, second: &str, more: &str) -> String {
    format!(
        "[[route]]\nname = \"r\"\nmodel = \"sim/{first}\"\nfallbacks = [\"two/{second}\"]\n{more}\n{}",
        provider_table("two", two.address)
    )
}
