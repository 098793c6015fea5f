//! The whole file: reads every table, relates them to each other, and compiles the snapshot if nothing is wrong.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use toml::de::DeValue;

use super::{
    breaker, certificate,
    provider::provider,
    quotas::{self, Numbered, quotas},
    raw::{Field, Table, Text},
    snapshot::{Admin, Auth, Backend, Cores, Limits, Parts, Server, Snapshot, Timeouts},
};
use crate::base::{ids::Line, limits};

/// Where the gateway listens if nobody says otherwise: on this machine only.
const LISTEN: &str = "127.0.0.1:8080";
const ADMIN_LISTEN: &str = "127.0.0.1:8081";

/// Compiles a file; what is returned means nothing if anything was complained of.
pub(super) fn compile(mut root: Table<'_>) -> Snapshot {
    let mut places = Places::default();
    let server = match root.table("server") {
        Some(table) => server(table, &mut places),
        None => server_without_table(),
    };
    let admin = admin(root.table("admin"), &mut places);
    let limits = match root.table("limits") {
        Some(table) => limits_of(table),
        None => default_limits(),
    };
    let timeouts = match root.table("timeouts") {
        Some(table) => timeouts(table, default_timeouts()),
        None => default_timeouts(),
    };
    let auth = auth(root.table("auth"), &server);
    let quotas = quotas(&mut root);
    let breaker = breaker::breaker(&mut root);
    let retry = breaker::retry(&mut root);
    let tables = root.tables("provider");
    if tables.is_empty() {
        root.warn(
            "there is no provider: every model is refused",
            "[[provider]]\n          name = \"openai\"",
        );
    }
    if tables.len() > limits::PROVIDERS_MAX {
        root.complain(
            "there are too many providers",
            format!("at most {} are possible", limits::PROVIDERS_MAX),
        );
    }
    let mut taken = HashMap::new();
    let providers = tables.into_iter().take(limits::PROVIDERS_MAX).flatten();
    let mut providers: Vec<_> = providers.filter_map(|table| provider(table, timeouts, &mut taken)).collect();
    for provider in &mut providers {
        provider.allowance = quotas::first(&quotas.providers, &provider.name)
            .map(|allowance| Numbered { allowance: allowance.clone(), line: Line(0) });
    }
    root.close();
    Snapshot::new(Parts { server, admin, limits, auth, quotas, breaker, retry }, providers)
}

/// Which setting took which address: no two listeners may share one.
#[derive(Default)]
struct Places(Vec<(SocketAddr, &'static str)>);

impl Places {
    /// The address, unless something else listens there.
    fn take(&mut self, text: &Text<'_>, setting: &'static str) -> Option<SocketAddr> {
        let address = address(text)?;
        let clash = self.0.iter().find(|(other, _)| {
            let any = other.ip().is_unspecified() || address.ip().is_unspecified();
            let same = other.ip() == address.ip() || any && other.is_ipv4() == address.is_ipv4();
            same && other.port() == address.port() && address.port() != 0
        });
        if let Some((_, before)) = clash {
            text.complain(format!("{before} already takes this address"), "use another port");
            return None;
        }
        self.0.push((address, setting));
        Some(address)
    }
}

fn address(text: &Text<'_>) -> Option<SocketAddr> {
    let parsed = text.value.parse::<SocketAddr>().ok();
    if parsed.is_none() {
        let port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let fix = match text.raw.rsplit_once(':') {
            Some(("localhost", rest)) if port(rest) => {
                format!("write \"127.0.0.1:{rest}\" or \"[::1]:{rest}\"")
            }
            Some(("" | "*", rest)) if port(rest) => {
                format!("write \"0.0.0.0:{rest}\" or \"[::]:{rest}\" for every address of this machine")
            }
            _ if text.raw.parse::<IpAddr>().is_ok() => {
                "add a port: \"127.0.0.1:8080\", \"[::1]:8080\"".to_owned()
            }
            _ => {
                "write an address and a port: \"127.0.0.1:8080\", \"[::1]:8080\"; names are not resolved here"
                    .to_owned()
            }
        };
        text.complain(format!("{} is not an address to listen on", text.quoted()), fix);
    }
    parsed
}

fn server(mut table: Table<'_>, places: &mut Places) -> Server {
    // An address that is wrong stays in the list as `None`: there is something to listen on, only not yet.
    let mut listeners = |field: Option<Field<'_>>, setting| {
        field.map(|field| match field.texts() {
            Some(texts) => texts.iter().map(|text| places.take(text, setting)).collect(),
            None => vec![None],
        })
    };
    let listen = listeners(table.get("listen"), "server.listen");
    let tls_listen = listeners(table.get("tls_listen"), "server.tls_listen");
    let tls = match table.table("tls") {
        Some(mut tls) => {
            let cert = tls.get("cert").map(Field::text);
            let key = tls.get("key").map(Field::text);
            if cert.is_none() || key.is_none() {
                tls.complain(
                    "a certificate and its key are needed",
                    "cert = \"/path/chain.pem\", key = \"/path/key.pem\"",
                );
            }
            let around = tls.around();
            let found = match (cert.flatten(), key.flatten()) {
                (Some(cert), Some(key)) => certificate::server(&cert, &key, around),
                _ => None,
            };
            if tls_listen.is_none() {
                tls.warn("no listener uses this certificate", "server.tls_listen = [\"0.0.0.0:8443\"]");
            }
            tls.close();
            found
        }
        None => {
            if tls_listen.is_some() {
                table.complain(
                    "tls_listen needs a certificate",
                    "[server.tls] with cert = \"/path/chain.pem\" and key = \"/path/key.pem\"",
                );
            }
            None
        }
    };
    let nowhere = [&listen, &tls_listen].iter().all(|list| list.as_ref().is_none_or(Vec::is_empty));
    if nowhere && (listen.is_some() || tls_listen.is_some()) {
        table.complain("there is no address to listen on", format!("listen = [\"{LISTEN}\"]"));
    }
    let defaults = server_without_table();
    let cores = table.get("cores").and_then(cores).unwrap_or(defaults.cores);
    let backends = [("auto", Backend::Auto), ("io_uring", Backend::IoUring), ("epoll", Backend::Epoll)];
    let backend = table.get("backend").and_then(Field::text).and_then(|text| text.choose(&backends));
    let drain_time =
        table.get("drain_secs").and_then(|field| field.secs(Duration::ZERO..=limits::CONFIG_TIME_MAX));
    let connections_max = table.get("connections_max").and_then(|field| field.count(1..=CONNECTIONS_CEILING));
    table.close();
    Server {
        listen: match (listen, &tls_listen) {
            (Some(listen), _) => listen.into_iter().flatten().collect(),
            (None, Some(_)) => Vec::new(),
            (None, None) => defaults.listen,
        },
        tls_listen: tls_listen.into_iter().flatten().flatten().collect(),
        tls,
        cores,
        backend: backend.unwrap_or(defaults.backend),
        drain_time: drain_time.unwrap_or(defaults.drain_time),
        connections_max: connections_max.unwrap_or(defaults.connections_max),
    }
}

/// More connections than one process can have descriptors for.
const CONNECTIONS_CEILING: usize = 1 << 20;

fn server_without_table() -> Server {
    Server {
        listen: LISTEN.parse().into_iter().collect(),
        tls_listen: Vec::new(),
        tls: None,
        cores: Cores::Auto,
        backend: Backend::Auto,
        drain_time: limits::DRAIN_TIME,
        connections_max: limits::CONNECTIONS_MAX,
    }
}

fn cores(field: Field<'_>) -> Option<Cores> {
    match field.value() {
        DeValue::String(_) => field.text()?.choose(&[("auto", ())]).map(|()| Cores::Auto),
        DeValue::Integer(_) => field.count(1..=limits::CORES_MAX).map(Cores::Count),
        DeValue::Array(_) => {
            let items = field.items();
            if items.is_empty() {
                field.complain("this list of cores is empty", "cores = \"auto\" takes every core");
                return None;
            }
            let count = items.len();
            let cores: Vec<usize> =
                items.into_iter().filter_map(|item| item.count(0..=limits::CORES_MAX - 1)).collect();
            let mut sorted = cores.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if sorted.len() < cores.len() {
                field.complain(
                    "a core stands in this list twice",
                    "name each core once: one shard runs on it",
                );
                return None;
            }
            (cores.len() == count).then_some(Cores::List(cores))
        }
        _ => {
            field.complain(
                "this does not name cores",
                "cores = \"auto\", a number of them (3), or a list ([0, 2, 5])",
            );
            None
        }
    }
}

fn admin(table: Option<Table<'_>>, places: &mut Places) -> Admin {
    let default = || Admin { listen: ADMIN_LISTEN.parse().ok() };
    let Some(mut table) = table else { return default() };
    let text = table.get("listen").map(Field::text);
    table.close();
    match text {
        None => default(),
        Some(None) => Admin { listen: None },
        Some(Some(text)) if text.value.as_str() == "off" => Admin { listen: None },
        Some(Some(text)) => {
            let listen = places.take(&text, "another listener");
            if listen.is_some_and(|address| !address.ip().is_loopback()) {
                text.warn(
                    "the admin listener can be reached from other machines and asks nobody who they are",
                    format!("listen = \"{ADMIN_LISTEN}\""),
                );
            }
            Admin { listen }
        }
    }
}

/// Whether callers are asked who they are. Where only this machine can connect they need not be; where others can, leaving it
/// out has to be said twice.
fn auth(table: Option<Table<'_>>, server: &Server) -> Auth {
    let mut listeners = server.listen.iter().chain(&server.tls_listen);
    let is_private = listeners.all(|address| address.ip().is_loopback());
    let Some(mut table) = table else { return Auth { required: !is_private } };
    let required = table.get("required").map(Field::flag);
    let allow_anonymous = table.get("allow_anonymous").and_then(Field::flag).unwrap_or(false);
    let required = match required {
        Some(flag) => flag.unwrap_or(true),
        None => !is_private,
    };
    if !required && !is_private && !allow_anonymous {
        table.complain(
            "anyone who can connect could spend the providers' keys: a listener is open to other machines",
            "required = true, or say allow_anonymous = true as well",
        );
    }
    table.close();
    Auth { required }
}

fn limits_of(mut table: Table<'_>) -> Limits {
    let mut count =
        |key, range, default: usize| table.get(key).and_then(|field| field.count(range)).unwrap_or(default);
    let d = default_limits();
    let head_bytes = count("head_bytes", limits::HEAD_BYTES_FLOOR..=limits::HEAD_BYTES_MAX, d.head_bytes);
    let head_fields = count("head_fields", 16..=limits::HEAD_FIELDS_MAX, d.head_fields);
    let body_bytes = count("body_bytes", 1 << 10..=limits::BODY_BYTES_CEILING, d.body_bytes);
    let buffered_bytes = count("buffered_bytes", 1 << 20..=1 << 40, d.buffered_bytes);
    let rates = 0..=1 << 30;
    let body_rate_floor = count("body_rate_floor", rates.clone(), 1 << 10) as u64;
    let write_rate_floor = count("write_rate_floor", rates, 1 << 10) as u64;
    let pool_idle_max = count("pool_idle_max", 0..=1 << 20, d.pool_idle_max);
    let mut secs = |key, default| {
        let range = limits::TICK..=limits::CONFIG_TIME_MAX;
        table.get(key).and_then(|field| field.secs(range)).unwrap_or(default)
    };
    let limits = Limits {
        head_bytes,
        head_fields,
        body_bytes,
        buffered_bytes,
        buffer_wait: secs("buffer_wait_secs", d.buffer_wait),
        head_time: secs("head_secs", d.head_time),
        handshake_time: secs("handshake_secs", d.handshake_time),
        idle_time: secs("idle_secs", d.idle_time),
        body_grace: secs("body_grace_secs", d.body_grace),
        body_rate_floor,
        write_grace: secs("write_grace_secs", d.write_grace),
        write_rate_floor,
        pool_idle_max,
    };
    if buffered_bytes < body_bytes {
        table.complain(
            "buffered_bytes is less than body_bytes: a request of the size that is allowed never fits",
            "raise buffered_bytes (per core) or lower body_bytes",
        );
    }
    table.close();
    limits
}

fn default_limits() -> Limits {
    Limits {
        head_bytes: limits::HEAD_BYTES_MAX,
        head_fields: limits::HEAD_FIELDS_MAX,
        body_bytes: limits::BODY_BYTES_MAX,
        buffered_bytes: limits::BUFFERED_BYTES_MAX,
        buffer_wait: limits::BUFFER_WAIT,
        head_time: limits::HEAD_TIME,
        handshake_time: limits::HANDSHAKE_TIME,
        idle_time: limits::IDLE_TIME,
        body_grace: limits::BODY_GRACE,
        body_rate_floor: limits::BODY_RATE_FLOOR,
        write_grace: limits::WRITE_GRACE,
        write_rate_floor: limits::WRITE_RATE_FLOOR,
        pool_idle_max: limits::POOL_IDLE_MAX,
    }
}

/// A table of timeouts over `defaults`, for all providers or for one.
pub(super) fn timeouts(mut table: Table<'_>, defaults: Timeouts) -> Timeouts {
    let mut secs = |key, default| {
        let range = limits::TICK..=limits::CONFIG_TIME_MAX;
        table.get(key).and_then(|field| field.secs(range)).unwrap_or(default)
    };
    let timeouts = Timeouts {
        connect: secs("connect_secs", defaults.connect),
        first_byte: secs("first_byte_secs", defaults.first_byte),
        between_bytes: secs("between_bytes_secs", defaults.between_bytes),
        total: secs("total_secs", defaults.total),
    };
    if timeouts.connect > timeouts.total {
        table.complain(
            "connect_secs is more than total_secs",
            "an attempt ends within total_secs whatever it is doing",
        );
    }
    table.close();
    timeouts
}

fn default_timeouts() -> Timeouts {
    Timeouts {
        connect: limits::CONNECT_TIME,
        first_byte: limits::FIRST_BYTE_TIME,
        between_bytes: limits::BETWEEN_BYTES_TIME,
        total: limits::EXCHANGE_TIME,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_fix};

    #[test]
    fn numbers_out_of_range_are_refused() {
        let range = "this number is out of range";
        for (setting, value) in [
            ("server.drain_secs", "-1"),
            ("server.drain_secs", "86401"),
            ("server.drain_secs", "nan"),
            ("server.drain_secs", "inf"),
            ("server.drain_secs", "-0.5"),
            ("server.connections_max", "0"),
            ("server.connections_max", "99999999999999999999"),
            ("server.cores", "0"),
            ("limits.head_bytes", "1023"),
            ("limits.head_bytes", "32769"),
            ("limits.head_fields", "101"),
            ("limits.body_bytes", "1073741825"),
            ("timeouts.total_secs", "0.01"),
        ] {
            let column = setting.len() + 4;
            check(&format!("{setting} = {value}"), &[&format!("1:{column} {setting}: {range}")]);
        }
        check(
            "[limits]\nbody_bytes = 2_000_000\nbuffered_bytes = 1_999_999\n",
            &[
                "1:1 limits: buffered_bytes is less than body_bytes: a request of the size that is allowed never fits",
            ],
        );
        check("[timeouts]\ntotal_secs = 1", &["1:1 timeouts: connect_secs is more than total_secs"]);
    }

    #[test]
    fn listeners_are_addresses_and_each_has_its_own() {
        let wrong = |address: &str| format!("`{address}` is not an address to listen on");
        for address in
            ["localhost:1", ":8080", "8080", "127.0.0.1", "127.0.0.1:70000", "host:1", "", "[::1]", "127.1:1"]
        {
            check(
                &format!("server.listen = \"{address}\""),
                &[&format!("1:17 server.listen: {}", wrong(address))],
            );
        }
        check_fix(
            "server.listen = \":8080\"",
            "write \"0.0.0.0:8080\" or \"[::]:8080\" for every address of this machine",
        );
        check_fix("server.listen = \"::1\"", "add a port: \"127.0.0.1:8080\", \"[::1]:8080\"");
        check(
            "server.listen = \"${HOST}\"",
            &["1:17 server.listen: `${HOST}` is not an address to listen on"],
        );
        check("server.listen = []", &["1:1 server: there is no address to listen on"]);
        check(
            "server.listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
            &["1:33 server.listen[1]: server.listen already takes this address"],
        );
        check(
            "server.listen = [\"0.0.0.0:1\"]\nadmin.listen = \"127.0.0.1:1\"",
            &["2:16 admin.listen: server.listen already takes this address"],
        );
        check("server.tls_listen = \"127.0.0.1:1\"", &["1:1 server: tls_listen needs a certificate"]);
        let provider = "[[provider]]\nname = \"openai\"\n";
        check(
            &format!(
                "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"[::1]:1\", \"0.0.0.0:1\"]\n{provider}"
            ),
            &[],
        );
        check(
            &format!("admin.listen = \"0.0.0.0:9\"\n{provider}"),
            &[
                "1:16 admin.listen: the admin listener can be reached from other machines and asks nobody who they are",
            ],
        );
    }

    #[test]
    fn cores_and_backend_are_one_of_a_few_words() {
        check("server.cores = \"all\"", &["1:16 server.cores: `all` is not a choice here"]);
        check_fix("server.cores = \"atuo\"", "did you mean \"auto\"?");
        check("server.cores = []", &["1:16 server.cores: this list of cores is empty"]);
        check("server.cores = [1, 1]", &["1:16 server.cores: a core stands in this list twice"]);
        check("server.cores = [1, -1]", &["1:20 server.cores[1]: this number is out of range"]);
        check("server.cores = true", &["1:16 server.cores: this does not name cores"]);
        check_fix("server.backend = \"iouring\"", "did you mean \"io_uring\"?");
        check_fix("server.backend = \"kqueue\"", "choose one of: auto, io_uring, epoll");
    }
}
