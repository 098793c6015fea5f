//! The whole file: reads every table, relates them to each other, and compiles the snapshot if nothing is wrong.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use toml::de::DeValue;

use super::{
    access::access,
    access_log::access_log,
    breaker, certificate,
    logs::kept_logs,
    masking::masking,
    otlp::{Tracing, otlp},
    prices::{prices, warn_of_unknown},
    provider::provider,
    quotas::{self, Numbered, quotas},
    raw::{Field, Table, Text},
    relay::relay,
    routes::{self, Known},
    snapshot::{
        Access, Admin, Auth, Backend, Cores, Estimate, Limits, Server, Snapshot, Timeouts, TimingSaid,
    },
    surroundings::Surroundings,
};
use crate::base::{ids::Line, limits};

/// Where the gateway listens if nobody says otherwise: on this machine only.
const LISTEN: &str = "127.0.0.1:8080";
const ADMIN_LISTEN: &str = "127.0.0.1:8081";

/// Compiles a file; what is returned means nothing if anything was complained of.
pub(super) fn compile(mut root: Table<'_>) -> Snapshot {
    let mut places = Places::default();
    let access = access(root.table("access"));
    let access_log = access_log(root.table("access_log"));
    let masking = masking(root.table("masking"));
    let server = match root.table("server") {
        Some(table) => server(table, &mut places, &access),
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
    let state = state(root.table("state"), root.around());
    let kept_logs = kept_logs(root.table("logs"), state.is_some());
    let otlp = otlp(root.table("otlp"));
    let tracing = Tracing::of(otlp.as_ref(), &access_log, kept_logs.as_ref());
    let auth = auth(root.table("auth"), &server, state.is_some());
    if auth.required && state.is_none() {
        root.complain(
            "callers must show a token, and there is no place where they are kept",
            "[state]\n          dir = \"/var/lib/ringway\"   (then: ringway callers create --name …), or auth.required = false",
        );
    }
    let quotas = quotas(&mut root);
    if state.is_none() && quotas.has_budgets() {
        root.warn(
            "what was used of a budget is forgotten at the next start: there is no state directory",
            "[state]\n          dir = \"/var/lib/ringway\"",
        );
    }
    let breaker = breaker::breaker(&mut root);
    let retry = breaker::retry(&mut root);
    let relay = relay(&mut root);
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
    if providers.iter().filter(|provider| provider.health_check.is_some()).count() > limits::HEALTH_CHECKS_MAX
    {
        root.complain(
            "there are too many health checks",
            format!("at most {} providers can be checked", limits::HEALTH_CHECKS_MAX),
        );
    }
    let catalogue = prices(&mut root, state.as_deref(), &mut providers);
    warn_of_unknown(&root, &quotas, &providers);
    for provider in &mut providers {
        provider.allowance = quotas::first(&quotas.providers, &provider.name)
            .map(|allowance| Numbered { allowance: allowance.clone(), line: Line(0) });
    }
    let routes = routes::read(&mut root, Known { list: &providers, taken: &taken });
    let estimate = estimate(root.table("usage"));
    root.close();
    Snapshot {
        // Until it is published.
        generation: 0,
        server,
        admin,
        access,
        access_log,
        kept_logs,
        otlp: otlp.map(Arc::new),
        tracing,
        masking,
        limits,
        state,
        auth,
        quotas,
        routes,
        breaker,
        retry,
        relay,
        estimate,
        catalogue,
        by_name: Snapshot::places(&providers),
        providers,
    }
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

fn server(mut table: Table<'_>, places: &mut Places, access: &Access) -> Server {
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
    let said = [("off", TimingSaid::Never), ("asked", TimingSaid::Asked), ("always", TimingSaid::Always)];
    let timing = table.get("server_timing").and_then(Field::text).and_then(|text| text.choose(&said));
    let connections_max = table.get("connections_max").and_then(|field| field.count(1..=CONNECTIONS_CEILING));
    let all_known = [&listen, &tls_listen].into_iter().flatten().flatten().all(Option::is_some);
    let listen: Vec<SocketAddr> = match (listen, &tls_listen) {
        (Some(listen), _) => listen.into_iter().flatten().collect(),
        (None, Some(_)) => Vec::new(),
        (None, None) => defaults.listen,
    };
    let tls_listen: Vec<SocketAddr> = tls_listen.into_iter().flatten().flatten().collect();
    let proxied = table.get("proxy_protocol").and_then(Field::texts).unwrap_or_default();
    let proxied = proxied.iter().filter_map(|text| {
        let listener = address(text)?;
        if !listen.contains(&listener) && !tls_listen.contains(&listener) {
            // One that was written wrong may be the one that is meant.
            if all_known {
                text.complain(
                    "nothing listens on this address",
                    "name one of `listen` or `tls_listen`, as it stands there",
                );
            }
            return None;
        }
        if !listener.ip().is_loopback() && access.trusted_proxies.is_empty() {
            text.warn(
                "only a proxy on this machine is believed here: the connections of others are closed",
                "access.trusted_proxies = [\"…\"] names the addresses of your proxies",
            );
        }
        Some(listener)
    });
    let proxy_protocol = proxied.collect();
    table.close();
    Server {
        listen,
        tls_listen,
        tls,
        cores,
        backend: backend.unwrap_or(defaults.backend),
        drain_time: drain_time.unwrap_or(defaults.drain_time),
        connections_max: connections_max.unwrap_or(defaults.connections_max),
        timing: timing.unwrap_or_default(),
        proxy_protocol,
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
        timing: TimingSaid::default(),
        proxy_protocol: Vec::new(),
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
fn auth(table: Option<Table<'_>>, server: &Server, has_state: bool) -> Auth {
    let mut listeners = server.listen.iter().chain(&server.tls_listen);
    let is_private = listeners.all(|address| address.ip().is_loopback());
    let by_default = !is_private || has_state;
    let Some(mut table) = table else { return Auth { required: by_default } };
    let required = table.get("required").map(Field::flag);
    let allow_anonymous = table.get("allow_anonymous").and_then(Field::flag).unwrap_or(false);
    // Given wrongly, it was complained of.
    let required = required.map_or(by_default, |flag| flag.unwrap_or(true));
    if !required && !is_private && !allow_anonymous {
        table.complain(
            "anyone who can connect could spend the providers' keys: a listener is open to other machines",
            "required = true, or say allow_anonymous = true as well",
        );
    }
    table.close();
    Auth { required }
}

/// Where the state is kept: as the file says, or where systemd made a directory for it.
fn state(table: Option<Table<'_>>, around: &dyn Surroundings) -> Option<PathBuf> {
    // Several are separated by colons; one that is not absolute was not set by systemd.
    let given = around.env("STATE_DIRECTORY");
    let given = given.as_deref().and_then(|paths| paths.split(':').next()).map(Path::new);
    let given = given.filter(|path| path.is_absolute()).map(Path::to_owned);
    let Some(mut table) = table else { return given };
    let dir = table.get("dir").map(Field::text);
    table.close();
    let Some(dir) = dir else { return given };
    let dir = dir?;
    let path = Path::new(dir.value.as_str());
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        dir.complain(
            format!("{} is not the whole path of a directory", dir.quoted()),
            "dir = \"/var/lib/ringway\"",
        );
        return None;
    }
    Some(path.to_owned())
}

/// How tokens that are not reported are estimated.
fn estimate(table: Option<Table<'_>>) -> Estimate {
    let Some(mut table) = table else { return Estimate::default() };
    let choices = [("bytes", Estimate::Bytes), ("bpe", Estimate::Bpe), ("off", Estimate::Off)];
    let choice = table.get("estimate").and_then(Field::text).and_then(|text| text.choose(&choices));
    table.close();
    choice.unwrap_or_default()
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
    let per_address =
        table.get("connections_per_address").and_then(|field| field.count(1..=CONNECTIONS_CEILING));
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
        connections_per_address: per_address.and_then(|most| u32::try_from(most).ok()),
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
        connections_per_address: None,
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
    use super::super::{
        Fake, compile,
        tests::{check, check_fix, compiled},
    };

    /// Says twice that callers are not verified.
    const ANYONE: &str = "auth.required = false\nauth.allow_anonymous = true\n";

    #[test]
    fn a_gateway_that_others_can_reach_verifies_its_callers_or_says_twice_that_it_does_not() {
        let provider = "[[provider]]\nname = \"openai\"\n";
        let required = |text: &str| compiled(&format!("{text}{provider}")).snapshot.auth.required;
        let open = "server.listen = \"0.0.0.0:1\"\n";
        let state = "state.dir = \"/srv\"\n";
        assert!(!required(""), "only this machine can connect");
        assert!(required(state));
        assert!(required(&format!("{open}{state}")));
        assert!(!required(&format!("{open}{state}{ANYONE}")));
        assert!(!required(&format!("{state}auth.required = false\n")));
        let nowhere = "1:1 : callers must show a token, and there is no place where they are kept";
        check(&format!("{open}{provider}"), &[nowhere]);
        check(&format!("auth.required = true\n{provider}"), &[nowhere]);
        let anyone =
            "anyone who can connect could spend the providers' keys: a listener is open to other machines";
        check(&format!("{open}auth.required = false\n{provider}"), &[&format!("2:1 auth: {anyone}")]);
    }

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
            &format!("server.listen = [\"0.0.0.0:1\"]\nadmin.listen = \"127.0.0.1:1\"\n{ANYONE}"),
            &["2:16 admin.listen: server.listen already takes this address"],
        );
        check("server.tls_listen = \"127.0.0.1:1\"", &["1:1 server: tls_listen needs a certificate"]);
        let provider = "[[provider]]\nname = \"openai\"\n";
        check(
            &format!(
                "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"[::1]:1\", \"0.0.0.0:1\"]\n{ANYONE}{provider}"
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
    fn the_proxy_protocol_is_for_addresses_that_are_listened_on() {
        let provider = "[[provider]]\nname = \"openai\"\n";
        check(&format!("server.proxy_protocol = \"127.0.0.1:8080\"\n{provider}"), &[]);
        check(
            &format!(
                "server.listen = [\"127.0.0.1:1\", \"[::1]:1\"]\nserver.proxy_protocol = [\"[::1]:1\"]\n{provider}"
            ),
            &[],
        );
        check(
            "server.proxy_protocol = [\"127.0.0.1:8081\", \":8080\"]",
            &[
                "1:26 server.proxy_protocol[0]: nothing listens on this address",
                "1:44 server.proxy_protocol[1]: `:8080` is not an address to listen on",
            ],
        );
        check(
            "server.listen = \":1\"\nserver.proxy_protocol = \"127.0.0.1:1\"",
            &["1:17 server.listen: `:1` is not an address to listen on"],
        );
        let open = format!("server.listen = \"0.0.0.0:1\"\nserver.proxy_protocol = \"0.0.0.0:1\"\n{ANYONE}");
        let warning = "only a proxy on this machine is believed here: the connections of others are closed";
        check(&format!("{open}{provider}"), &[&format!("2:25 server.proxy_protocol: {warning}")]);
        check(&format!("{open}access.trusted_proxies = \"10.0.0.0/8\"\n{provider}"), &[]);
    }

    #[test]
    fn the_state_directory_is_a_whole_path_or_the_one_that_systemd_made() {
        for wrong in ["state", "./state", "", "~/state", "/var/lib/../x"] {
            let what = format!("1:13 state.dir: `{wrong}` is not the whole path of a directory");
            check(&format!("state.dir = \"{wrong}\""), &[&what]);
        }
        let dir = |text: &str, given: Option<&'static str>| {
            let env = given.map(|path| ("STATE_DIRECTORY", path)).into_iter().collect();
            let around = Fake { env, ..Fake::default() };
            let loaded = compile(text, "t.toml", &around).unwrap_or_else(|complaints| panic!("{complaints}"));
            loaded.snapshot.state.map(|path| path.display().to_string())
        };
        let said = "state.dir = \"/srv/ringway\"";
        assert_eq!(dir("", None), None);
        assert_eq!(dir("", Some("/var/lib/ringway:/var/lib/other")).as_deref(), Some("/var/lib/ringway"));
        assert_eq!(dir("", Some("relative")), None);
        assert_eq!(dir("[state]", Some("/var/lib/ringway")).as_deref(), Some("/var/lib/ringway"));
        assert_eq!(dir(said, Some("/var/lib/ringway")).as_deref(), Some("/srv/ringway"));
        assert_eq!(dir(said, None).as_deref(), Some("/srv/ringway"));
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
        check("usage.estimate = \"bytess\"", &["1:18 usage.estimate: `bytess` is not a choice here"]);
        check_fix("server.backend = \"kqueue\"", "choose one of: auto, io_uring, epoll");
    }
}
