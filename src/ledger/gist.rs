//! What a log tells of an exchange. It goes to another core's cache, for each exchange there is: hence no more of the record than
//! is told, and of all else what was made of it.

use crate::{
    base::{ids::ProviderId, money::NanoUsd},
    ledger::{
        record::{ModelName, Outcome, Record, Unheard},
        trail::Trail,
    },
    wire::trace_context::{SpanId, TraceId},
};

/// The record of an exchange that has ended, in short. Where its fields have a record's names, they mean the same.
#[derive(Clone, Debug)]
pub struct Gist {
    pub operation: &'static str,
    pub refusal: Option<&'static str>,
    pub provider: Option<ProviderId>,
    pub status: u16,
    pub attempts: u8,
    pub stream: bool,
    pub outcome: Outcome,
    pub source: Option<TokenSource>,
    pub model_asked: ModelName,
    pub model_used: ModelName,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
    pub cached_tokens: Option<u64>,
    pub reasoning_tokens: Option<u64>,
    pub cost: Option<NanoUsd>,
    pub duration_us: u64,
    pub overhead_us: u64,
    pub upstream_us: u64,
    pub first_token_us: Option<u64>,
    pub unheard: Option<Unheard>,
    pub trace: Option<Traced>,
}

/// How the tokens are known, if they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource {
    Reported,
    /// Estimated by the bytes of the words.
    Bytes,
    /// Estimated with a vocabulary.
    Bpe,
}

/// Where an exchange stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    pub trace: TraceId,
    /// The exchange's own; where it takes no part in the trace, the client's.
    pub span: Option<SpanId>,
    /// The trace is kept by who began it.
    pub is_sampled: bool,
}

impl Gist {
    /// Takes the names out of the record, which is needed no more.
    pub(super) fn of(record: &mut Record) -> Self {
        let tokens = record.tokens;
        Self {
            operation: record.operation,
            refusal: record.refusal,
            provider: record.provider,
            status: record.status,
            attempts: record.attempts,
            stream: record.stream,
            outcome: record.outcome.unwrap_or(Outcome::Abandoned),
            source: TokenSource::of(record),
            model_asked: std::mem::take(&mut record.model_asked),
            model_used: std::mem::take(&mut record.model_used),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            prompt_tokens: tokens.prompt,
            completion_tokens: tokens.completion,
            cached_tokens: tokens.cached,
            reasoning_tokens: tokens.reasoning,
            cost: record.cost,
            duration_us: record.duration_us(),
            overhead_us: record.overhead_us(),
            upstream_us: record.upstream_us(),
            first_token_us: record.first_token_us(),
            unheard: record.unheard,
            trace: record.trail.as_deref().map(Traced::of),
        }
    }
}

impl TokenSource {
    fn of(record: &Record) -> Option<Self> {
        record.tokens.total()?;
        Some(match (record.estimated, record.by_vocabulary) {
            (false, _) => Self::Reported,
            (true, false) => Self::Bytes,
            (true, true) => Self::Bpe,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Bytes => "bytes",
            Self::Bpe => "bpe",
        }
    }
}

impl Traced {
    fn of(trail: &Trail) -> Self {
        let Trail { trace, span, parent, .. } = *trail;
        Self { trace, span: span.or(parent), is_sampled: trail.flags().is_sampled() }
    }
}
