//! A compiled configuration: everything resolved, checked and ready to use, never changed after it was made.
//!
//! What the data path needs of a provider stands here in the form in which it is sent: a request is written by copying
//! slices, and nothing is looked up, joined or escaped on the way.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    access_log::AccessLog,
    breaker::{Breaker, Retry},
    first_byte::HoldBack,
    health_check::HealthCheck,
    logs::KeptLogs,
    otlp::{Otlp, Tracing},
    price::{Catalogue, PriceList},
    quotas::{Numbered, Quotas},
    relay::Relay,
    routes::Routes,
};
use crate::{
    base::{
        ids::{KeyStem, LineRoll, ProviderId, ProviderRoll, TargetKey},
        prefixes::{AccessList, Prefixes},
        secret::Secret,
    },
    wire::{http1::Opening, mask::Rules},
};

/// The configuration that one generation of requests runs under.
#[derive(Debug)]
pub struct Snapshot {
    /// Set by whoever publishes it; 0 until then.
    pub generation: u64,
    pub server: Server,
    pub admin: Admin,
    pub access: Access,
    pub access_log: AccessLog,
    pub kept_logs: Option<KeptLogs>,
    /// Where telemetry is sent; taken up at the start alone.
    pub otlp: Option<Arc<Otlp>>,
    pub tracing: Tracing,
    /// What logs do not show.
    pub masking: Arc<Rules>,
    pub limits: Limits,
    pub auth: Auth,
    pub quotas: Quotas,
    /// The state directory; `None`: there are no callers. Taken up at the start alone.
    pub state: Option<PathBuf>,
    pub routes: Routes,
    pub breaker: Breaker,
    pub retry: Retry,
    pub relay: Relay,
    pub estimate: Estimate,
    /// Where prices come from; each provider has its own part of it.
    pub catalogue: Cow<'static, Catalogue>,
    pub providers: Vec<Provider>,
    // Sorted; (p.name, i) is in it exactly when providers[i] is p. They are few: looking through half and half is sooner done
    // than a hash.
    pub(super) by_name: Box<[(Box<str>, ProviderPlace)]>,
}

/// More keys are limited than the quota board has lines for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLine;

/// The place of a provider in a snapshot; means nothing in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderPlace(pub u16);

impl Snapshot {
    /// Where each provider stands, by its name.
    pub(super) fn places(providers: &[Provider]) -> Box<[(Box<str>, ProviderPlace)]> {
        let places = (0..=u16::MAX).map(ProviderPlace);
        let names = providers.iter().map(|provider| provider.name.clone());
        let mut by_name: Box<[_]> = names.zip(places).collect();
        by_name.sort_unstable();
        by_name
    }

    /// Gives each provider its number. What did not fit on the roll is counted as the last that did.
    pub fn enrol(&mut self, roll: &mut ProviderRoll) {
        let mut last = ProviderId(0);
        for provider in &mut self.providers {
            last = roll.enrol(&provider.name).unwrap_or(last);
            provider.id = last;
        }
    }

    /// Gives each key that the configuration limits its line on the quota board.
    ///
    /// # Errors
    /// There is no line left: this process has been given too many names.
    pub fn enrol_lines(&mut self, roll: &mut LineRoll) -> Result<(), NoLine> {
        if let Some(gateway) = &mut self.quotas.gateway {
            gateway.line = roll.enrol("gateway").ok_or(NoLine)?;
        }
        for provider in &mut self.providers {
            if let Some(numbered) = &mut provider.allowance {
                numbered.line = roll.enrol(&format!("provider/{}", provider.name)).ok_or(NoLine)?;
            }
        }
        Ok(())
    }

    /// The provider of that name.
    pub fn provider(&self, name: &str) -> Option<(ProviderPlace, &Provider)> {
        let at = self.by_name.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        let (_, id) = self.by_name[at];
        Some((id, self.providers.get(usize::from(id.0))?))
    }

    /// The models that the gateway itself offers, routes and aliases, each with whose it is.
    pub fn own_models(&self) -> impl Iterator<Item = (String, &str)> {
        self.routes.offered().map(|(id, place)| {
            let owner = place.and_then(|place| self.providers.get(usize::from(place.0)));
            (id, owner.map_or("ringway", |provider| &*provider.name))
        })
    }
}

/// How tokens are known that a provider does not report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Estimate {
    /// By the bytes of what was asked and said.
    #[default]
    Bytes,
    /// With OpenAI's vocabulary `o200k_base`, of the words of what was asked and said; by bytes where they are too many.
    Bpe,
    /// Not at all.
    Off,
}

/// Identity verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether every request must show a caller's token.
    pub required: bool,
}

#[derive(Debug)]
pub struct Server {
    /// Plain HTTP.
    pub listen: Vec<SocketAddr>,
    /// TLS, with the certificate in `tls`, which is there if this is not empty.
    pub tls_listen: Vec<SocketAddr>,
    pub tls: Option<ServerTls>,
    pub cores: Cores,
    pub backend: Backend,
    pub drain_time: Duration,
    /// Per core.
    pub connections_max: usize,
    /// Whether and when a reply says where its time went.
    pub timing: TimingSaid,
    /// Those of `listen` and `tls_listen` on which a connection begins with a PROXY protocol header.
    pub proxy_protocol: Vec<SocketAddr>,
}

/// Who is told where a reply's time went: whoever is tells something of this gateway to the outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimingSaid {
    #[default]
    Never,
    /// Who asks for it with `x-ringway-server-timing: 1`.
    Asked,
    Always,
}

/// The certificate that listeners show. Both parts were parsed and belong together.
#[derive(Debug)]
pub struct ServerTls {
    pub certificates_pem: Vec<u8>,
    pub key_pem: Secret,
}

impl ServerTls {
    /// Whether both files say what they said for `other`.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.certificates_pem == other.certificates_pem && self.key_pem.expose() == other.key_pem.expose()
    }
}

/// Which cores get a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Every core that this process may run on.
    Auto,
    /// That many of them.
    Count(usize),
    /// Exactly these.
    List(Vec<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, or epoll where that is refused.
    Auto,
    IoUring,
    Epoll,
}

#[derive(Debug)]
pub struct Admin {
    /// `None`: there is no admin listener.
    pub listen: Option<SocketAddr>,
}

/// Clients' addresses: who may come in, and whose word is taken for where a client is.
#[derive(Debug, Default)]
pub struct Access {
    pub list: AccessList,
    pub trusted_proxies: Prefixes,
}

/// The bounds that an operator may change; each is explained beside its default in `base::limits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub head_bytes: usize,
    pub head_fields: usize,
    pub body_bytes: usize,
    /// Per core.
    pub buffered_bytes: usize,
    pub buffer_wait: Duration,
    pub head_time: Duration,
    pub handshake_time: Duration,
    pub idle_time: Duration,
    pub body_grace: Duration,
    /// Bytes per second.
    pub body_rate_floor: u64,
    pub write_grace: Duration,
    /// Bytes per second.
    pub write_rate_floor: u64,
    /// Idle upstream connections that a core keeps over all targets.
    pub pool_idle_max: usize,
    /// Over all cores; `None`: as many as there is room for.
    pub connections_per_address: Option<u32>,
}

impl Limits {
    /// The longest that a peer may take over a write of so many bytes.
    pub fn write_time(&self, bytes: usize) -> Duration {
        let earned_ms = (bytes as u64).saturating_mul(1_000) / self.write_rate_floor.max(1);
        self.write_grace + Duration::from_millis(earned_ms)
    }
}

/// A company that answers requests, and all that is needed to send it one.
#[derive(Debug)]
pub struct Provider {
    pub name: Box<str>,
    /// Its number in the books, the same through all reloads; given by [`Snapshot::enrol`].
    pub id: ProviderId,
    /// The built-in profile it was made from.
    pub profile: Option<Box<str>>,
    pub tls: bool,
    /// For SNI and certificates: a name in lower case, or an address without brackets.
    pub host: Box<str>,
    /// The value of the Host field: with the port only where it is not the scheme's own.
    pub authority: Box<str>,
    pub port: u16,
    pub dial: Dial,
    /// Empty, or begins with `/` and does not end with it.
    pub base_path: Box<str>,
    /// What a request to it begins with, made of the two.
    pub opening: Opening,
    /// Never empty: a provider without credentials has one key whose line is empty.
    pub keys: Vec<Key>,
    /// Of each of `keys`, in their order.
    pub stems: Vec<KeyStem>,
    /// Whether `stream_options.include_usage` may be put into a streamed request that lacks it.
    pub inject_usage: bool,
    /// Whether reasoning tokens are counted beside the completion tokens instead of among them.
    pub reasoning_apart: bool,
    /// Whether it may be reached at an address that is not public.
    pub private: bool,
    /// Certificates (PEM) trusted for this provider besides the public roots.
    pub ca: Option<Vec<u8>>,
    /// Models to list for this provider, whether or not it lists them itself.
    pub models: Vec<Box<str>>,
    pub timeouts: Timeouts,
    /// How long the client of a stream is left without a byte, in place of the gateway's; zero: as long as it takes.
    pub keep_alive: Option<Duration>,
    /// How it is asked whether it is there; `None`: it is not.
    pub health_check: Option<HealthCheck>,
    /// Idle connections that a core keeps per target.
    pub pool_idle_max: usize,
    pub pool_idle_time: Duration,
    pub hold_back: HoldBack,
    /// Of its targets' times to first token: after it, another target is asked, too. 0: never.
    pub hedge_percentile: u8,
    /// How much may be asked of it, by everyone together.
    pub allowance: Option<Numbered>,
    /// What its models cost.
    pub prices: PriceList,
}

impl Provider {
    /// The number on the board of `model` under the key of this index; with no model, of the key itself.
    pub fn on_board(&self, key: u16, model: Option<&str>) -> TargetKey {
        match (self.stems.get(usize::from(key)), model) {
            (Some(stem), Some(model)) => stem.target(model),
            (Some(stem), None) => stem.itself,
            (None, model) => TargetKey::of(&self.name, "", model.unwrap_or_default()),
        }
    }

    /// The request target for an endpoint, given as `/chat/completions` or as `/v1/chat/completions`: the base path
    /// has its own version and none is doubled.
    pub fn path(&self, endpoint: &str) -> String {
        debug_assert!(endpoint.starts_with('/'), "an endpoint is a path");
        let endpoint = match endpoint.strip_prefix("/v1") {
            Some(rest) if rest.starts_with('/') => rest,
            _ => endpoint,
        };
        format!("{}{endpoint}", self.base_path)
    }
}

/// What a connection is made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dial {
    /// To be resolved, off the cores.
    Name(Box<str>),
    Address(IpAddr),
}

/// One key of a provider.
#[derive(Debug)]
pub struct Key {
    pub name: Box<str>,
    /// The whole header field as it is sent, such as `authorization: Bearer …\r\n`; empty if nothing is sent.
    pub line: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connect, and again the TLS handshake.
    pub connect: Duration,
    /// From the request sent to the first byte of the answer.
    pub first_byte: Duration,
    pub between_bytes: Duration,
    /// The exchange as a whole.
    pub total: Duration,
}

#[cfg(test)]
mod tests {
    use super::{super::tests::compiled, *};

    #[test]
    fn a_snapshot_crosses_threads() {
        fn crosses<T: Send + Sync>() {}
        crosses::<Snapshot>();
    }

    #[track_caller]
    fn check_path(base_url: &str, endpoint: &str, expect: &str) {
        let loaded =
            compiled(&format!("[[provider]]\nname = \"p\"\nauth = \"none\"\nbase_url = \"{base_url}\"\n"));
        assert_eq!(loaded.snapshot.providers[0].path(endpoint), expect);
    }

    #[test]
    fn base_path_and_endpoint_join_without_doubling_the_version() {
        check_path("https://h.example/v1", "/chat/completions", "/v1/chat/completions");
        check_path("https://h.example/v1/", "/v1/chat/completions", "/v1/chat/completions");
        check_path("https://h.example", "/v1/models", "/v1/models");
        check_path("https://h.example/", "/v1/models", "/models");
        check_path("https://h.example/api/paas/v4", "/v1/chat/completions", "/api/paas/v4/chat/completions");
        check_path("https://h.example/v1", "/v10/x", "/v1/v10/x");
    }

    #[test]
    fn providers_are_found_by_name() {
        let text = "[[provider]]\nname = \"a\"\nbase_url = \"http://127.0.0.1:1\"\n\
                    [[provider]]\nname = \"b\"\nbase_url = \"http://127.0.0.1:2\"\n";
        let snapshot = compiled(text).snapshot;
        let (id, provider) = snapshot.provider("b").expect("there");
        assert_eq!((id, provider.port), (ProviderPlace(1), 2));
        assert!(snapshot.provider("c").is_none());
        assert!(snapshot.provider("").is_none());
    }
}
