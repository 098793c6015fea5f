//! What is measured, and how it is called outside: Prometheus conventions (base units, `_total` on counters), and no
//! label whose values a client can make up without bound. What is counted as what: [`figures`](super::figures).

/// One metric: what an operator sees in `# HELP` and `# TYPE`.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// Of which only sum and count are told.
    Summary,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, help }
}

const fn summary(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Summary, help }
}

pub const BUILD_INFO: Metric = gauge("rw_build_info", "1, with the version as a label.");
pub const REQUESTS: Metric = counter(
    "rw_requests_total",
    "Client requests that ended. code is what the client was sent, or none; provider is empty when none was chosen.",
);
pub const OUTCOMES: Metric = counter(
    "rw_outcomes_total",
    "Client requests by how they ended, once each; all but completed and refused went wrong.",
);
pub const REFUSALS: Metric = counter("rw_refusals_total", "Requests the gateway said no to, by error code.");
pub const MODEL_REQUESTS: Metric = counter(
    "rw_model_requests_total",
    "Client requests by what they were sent on as, once each, under the last attempt; empty if there was none.",
);
pub const CALLER_REQUESTS: Metric =
    counter("rw_caller_requests_total", "Client requests by who asked; empty if nobody was recognised.");
pub const CALLER_TOKENS: Metric =
    counter("rw_caller_tokens_total", "Tokens by who asked, as rw_tokens_total.");
pub const CALLER_COST: Metric =
    counter("rw_caller_cost_usd_total", "Dollars by who asked, as rw_cost_usd_total.");
pub const DURATION: Metric = histogram(
    "rw_request_duration_seconds",
    "From the first byte of a request to the end of its answer, all attempts within.",
);
pub const PHASE: Metric = summary(
    "rw_request_phase_seconds",
    "The parts of rw_request_duration_seconds, called by what ends them; those of earlier attempts are in connect.",
);
pub const OVERHEAD: Metric = histogram(
    "rw_overhead_seconds",
    "The part of a request's duration spent neither waiting for upstream nor client.",
);
pub const FIRST_TOKEN: Metric = histogram(
    "rw_time_to_first_token_seconds",
    "From the first byte of a request to the first token of its answer; streams only.",
);
pub const TOKEN_GAP: Metric = histogram("rw_token_gap_seconds", "Between two events of a stream.");
pub const STREAM_GAP: Metric =
    histogram("rw_stream_mean_gap_seconds", "Of each stream the mean time between two of its events.");
pub const REQUEST_TOKENS: Metric = histogram("rw_request_tokens", "Tokens of one request, as reported.");
pub const TOKENS: Metric = counter(
    "rw_tokens_total",
    "Tokens of the answers that clients got, by source. cached and audio_prompt are part of prompt, reasoning and \
     audio_completion of completion.",
);
pub const ESTIMATES: Metric = counter(
    "rw_estimates_total",
    "Client requests whose tokens were not reported, by how they were estimated: bytes, or bpe (with a vocabulary).",
);
pub const ESTIMATES_UNQUEUED: Metric = counter(
    "rw_estimates_unqueued_total",
    "Of those estimated by bytes, the requests for which the queue of usage.estimate = \"bpe\" had no room.",
);
pub const COST: Metric = counter(
    "rw_cost_usd_total",
    "Dollars that providers charge for the tokens used, by the price catalogue and the configuration. What has no price \
     is not in it: see rw_requests_without_price_total.",
);
pub const UNPRICED: Metric = counter(
    "rw_requests_without_price_total",
    "Client requests that used tokens of a model whose price is not known.",
);
/// OpenTelemetry's names (semantic conventions for generative AI), as Prometheus spells them.
pub const GENAI_TOKENS: Metric =
    histogram("gen_ai_client_token_usage", "Input and output tokens of one operation, as reported.");
pub const GENAI_DURATION: Metric = histogram(
    "gen_ai_client_operation_duration_seconds",
    "Of requests that were sent to a provider: rw_request_duration_seconds.",
);
pub const GENAI_FIRST_CHUNK: Metric = histogram(
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    "Of requests that were sent to a provider: rw_time_to_first_token_seconds.",
);
pub const GENAI_OUTPUT_CHUNK: Metric = histogram(
    "gen_ai_client_operation_time_per_output_chunk_seconds",
    "Between the events of a stream: each of the gaps in rw_token_gap_seconds.",
);
pub const BYTES_IN: Metric = counter("rw_request_body_bytes_total", "Bytes of bodies read from clients.");
pub const BYTES_OUT: Metric = counter("rw_response_body_bytes_total", "Bytes of bodies written to clients.");
pub const ATTEMPTS: Metric = counter(
    "rw_attempts_total",
    "Calls to a provider, under the one that was called; a request may need several, or none.",
);
pub const MOVES: Metric = counter(
    "rw_attempts_moved_total",
    "Further tries after one that failed, by the provider that failed, where the request turned, and why.",
);
pub const HEDGES: Metric = counter(
    "rw_hedges_total",
    "Second attempts beside a first that was slow, by its provider: begun, won, or refused by the budget.",
);
pub const HEALTH_CHANGES: Metric = counter(
    "rw_upstream_health_changes_total",
    "Breakers of targets that opened or closed, and keys that were put aside: without money, or refused.",
);
pub const BREAKERS_OPEN: Metric =
    gauge("rw_breakers_open", "Targets whose breaker is open now, or waits for a probe, by provider.");
pub const HEALTH_SEATLESS: Metric = counter(
    "rw_health_seatless_total",
    "Attempts at targets for which the health board had no room: they were taken for healthy.",
);
pub const HEALTH_FORGOTTEN: Metric = counter(
    "rw_health_forgotten_total",
    "Targets whose failures were forgotten because others needed their place on the health board.",
);
pub const PROVIDER_UP: Metric =
    gauge("rw_provider_up", "Whether a provider that is checked is up by its health check.");
pub const HEALTH_CHECKS: Metric =
    counter("rw_health_checks_total", "Active health checks of providers, by what came of them.");
pub const UPSTREAM_CONNECTIONS: Metric = counter(
    "rw_upstream_connections_total",
    "Upstream connections by how an attempt came to one; stale ones were found closed and replaced.",
);
pub const UPSTREAM_CANCELLED: Metric =
    counter("rw_upstream_cancelled_total", "Upstream requests broken off because the client left.");
pub const UPSTREAM_UNHEARD: Metric = counter(
    "rw_upstream_unheard_total",
    "Upstream answers that were read on after their client had left, by how far they were read.",
);
pub const KEEP_ALIVES: Metric =
    counter("rw_keep_alive_comments_total", "Comments written to clients of streams that were silent.");
pub const ACCEPTED: Metric = counter("rw_connections_accepted_total", "Client connections accepted.");
pub const TURNED_AWAY: Metric = counter(
    "rw_connections_turned_away_total",
    "Client connections closed at once: their address had as many as it may.",
);
pub const QUOTA_OVERFLOWS: Metric = counter(
    "rw_quota_overflows_total",
    "Limited keys that had to share a count, because too many were limited at once.",
);
pub const LOG_LINES: Metric = counter("rw_log_lines_total", "Lines written to the access log.");
pub const LOG_LINES_DROPPED: Metric = counter(
    "rw_log_lines_dropped_total",
    "Lines that were not logged: too many waited, or what they go to failed.",
);
pub const LOG_KEPT: Metric =
    counter("rw_log_kept_total", "Exchanges written to the logs in the state directory.");
pub const LOG_KEPT_DROPPED: Metric = counter(
    "rw_log_kept_dropped_total",
    "Exchanges that were to be kept and were not: too many waited, or the store failed.",
);
pub const LOG_PAYLOADS: Metric =
    counter("rw_log_payloads_total", "Exchanges of those that were kept with what was said in them.");
pub const LOG_PAYLOADS_DROPPED: Metric = counter(
    "rw_log_payloads_dropped_total",
    "Payloads that were to be kept and were not: too many bytes waited, or the store failed.",
);
pub const OTLP_SENT: Metric = counter(
    "rw_otlp_sent_total",
    "Data points, spans and log records that the OpenTelemetry collector took.",
);
pub const OTLP_DROPPED: Metric = counter(
    "rw_otlp_dropped_total",
    "Data points, spans and log records that it did not take, or that nobody could wait for.",
);
pub const PANICS: Metric =
    counter("rw_task_panics_total", "Tasks that panicked and were caught. Each is a bug.");
pub const CONNECTIONS: Metric = gauge("rw_connections", "Client connections open now.");
pub const HANDED_OVER: Metric = counter(
    "rw_connections_handed_over_total",
    "Client connections that the core accepted and handed to one with fewer.",
);
pub const BUFFERED: Metric = gauge("rw_buffered_request_bytes", "Request bytes held in memory now.");
pub const BACKEND: Metric =
    gauge("rw_shard_backend", "1, with the I/O backend and ring flags the shard got.");
pub const HEARTBEAT_AGE: Metric =
    gauge("rw_shard_heartbeat_age_seconds", "Since the shard last ticked; absent until it has started.");
pub const CONFIG_GENERATION: Metric = gauge("rw_config_generation", "Number of the configuration in force.");
pub const CONFIG_CORES: Metric =
    gauge("rw_config_cores", "Cores that have taken up the configuration in force.");
pub const CONFIG_RELOAD_SUCCESS: Metric = gauge(
    "rw_config_reload_success",
    "1 if the last reload was accepted, else 0: the old configuration stays.",
);
pub const DRAINING: Metric = gauge("rw_draining", "1 once the process is on its way out.");
