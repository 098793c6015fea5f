//! One request to the collector: OTLP over HTTP, protobuf. No redirect, no proxy, bounded in time and bytes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use prost::Message;
use rustls::ClientConfig;
use ureq::{
    Agent, Error,
    config::Config,
    http,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{Connector, NextTimeout, TcpConnector},
    },
};

use crate::{
    base::limits::{OTLP_ANSWER_BYTES_MAX, OTLP_BACKOFF_MAX},
    config::Otlp,
    control::{fetch::Secured, lock},
};

/// One of the three kinds of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Metrics,
    Traces,
    Logs,
}

impl Signal {
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Traces, Self::Logs];

    pub fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It may be taken later; if the collector says how much later, then that.
    Later {
        after: Option<Duration>,
        why: String,
    },
    Never {
        why: String,
    },
}

/// Where requests go.
pub(super) struct Collector {
    agent: Agent,
    found: Found,
    settings: Arc<Otlp>,
}

impl Collector {
    pub(super) fn new(settings: Arc<Otlp>, tls: Option<Arc<ClientConfig>>) -> Self {
        let config = Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(settings.timeout))
            .user_agent(concat!("ringway/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = TcpConnector::default().chain(Secured(tls));
        let found = Found::default();
        Self { agent: Agent::with_parts(config, connector, found.clone()), found, settings }
    }

    /// Has the collector's name looked up before the next request.
    pub(super) fn look_up_again(&self) {
        *lock(&self.found.0) = None;
    }

    /// Sends what was encoded. How many of its things the collector rejected.
    pub(super) fn post(&self, signal: Signal, body: &[u8]) -> Result<u64, NotTaken> {
        let url = format!("{}/v1/{}", self.settings.endpoint, signal.name());
        let mut request = self.agent.post(url).header("content-type", "application/x-protobuf");
        for (name, secret) in &self.settings.headers {
            let Ok(mut value) = http::HeaderValue::from_bytes(secret.expose()) else { continue };
            value.set_sensitive(true);
            request = request.header(&**name, value);
        }
        let later = |why| NotTaken::Later { after: None, why };
        let mut response = request.send(body).map_err(|error| {
            self.look_up_again();
            later(error.to_string())
        })?;
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let after = after.and_then(|secs| secs.parse().ok()).map(Duration::from_secs);
        // Read to its end, so that the connection serves again.
        let answer = response.body_mut().with_config().limit(OTLP_ANSWER_BYTES_MAX as u64).read_to_vec();
        match status {
            200..300 => Ok(answer.map_or(0, |answer| rejected(&answer))),
            429 | 502..=504 => {
                let after = after.map(|after| after.min(OTLP_BACKOFF_MAX));
                Err(NotTaken::Later { after, why: format!("status {status}") })
            }
            _ => Err(NotTaken::Never { why: format!("status {status}") }),
        }
    }
}

/// Where the collector was found. ureq looks a name up for each request, on a thread that it begins for that, whether it
/// connects anew or not.
#[derive(Clone, Debug, Default)]
struct Found(Arc<Mutex<Option<ResolvedSocketAddrs>>>);

impl Resolver for Found {
    fn resolve(
        &self,
        uri: &http::Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        if let Some(known) = &*lock(&self.0) {
            return Ok(known.clone());
        }
        // There is but one collector, and nobody is redirected.
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        Ok(lock(&self.0).insert(found).clone())
    }
}

#[cfg(test)]
impl Collector {
    pub(super) fn found(&self) -> Option<std::net::SocketAddr> {
        lock(&self.found.0).as_ref().map(|found| found[0])
    }

    /// Has it be found there.
    pub(super) fn find(&self, address: std::net::SocketAddr) {
        let mut found = self.found.empty();
        found.push(address);
        *lock(&self.found.0) = Some(found);
    }
}

/// `partial_success` has one shape for all signals.
fn rejected(answer: &[u8]) -> u64 {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
    let answer = ExportTraceServiceResponse::decode(answer).ok();
    let partial = answer.and_then(|answer| answer.partial_success);
    partial.and_then(|partial| u64::try_from(partial.rejected_spans).ok()).unwrap_or(0)
}
