//! Logs in the simulation: what clients, callers and the gateway want to be kept, and what must have been handed over for it
//! once a run has come to rest. It is handed over once, whole as far as it may be long, and never against a word of anybody's.
//!
//! What masks and seals it works behind a core, and is no part of this world.

use super::{
    answer::Answer,
    asks::{Ask, Hope},
    chance::Chance,
    client::Visit,
    faults::Fault,
    script::Form,
    world::{Sim, SimWorld},
};
use crate::{
    base::limits::LOG_STREAM_FACTOR,
    config::{
        KeepPayload, KeptLogs,
        callers::{Callers, Digests, tests::caller},
    },
    exchange::tending::COMMENT,
    ledger::{
        logged::{Copied, Logged, Payload},
        record::Outcome,
    },
    wire::token::{DigestKey, TokenId, render},
};

/// What a run's logs are configured with, by its seed. Callers are verified wherever one could have a say.
pub(super) const LOGS: [&str; 7] = [
    "",
    "[state]\ndir = \"/s\"\n[logs]\nsample = 1\npayload = \"always\"\n",
    "[state]\ndir = \"/s\"\n[logs]\nsample = 1\npayload = \"always\"\npayload_bytes_max = 1024\n",
    "[state]\ndir = \"/s\"\n[logs]\nsample = 1\npayload = \"asked\"\npayload_bytes_max = 4096\n",
    "[state]\ndir = \"/s\"\n[logs]\nsample = 0\npayload = \"always\"\n",
    "[state]\ndir = \"/s\"\n[logs]\nsample = 0.5\nerrors = false\npayload = \"always\"\n",
    "[state]\ndir = \"/s\"\n[logs]\nsample = 1\n",
];

/// Whether each caller lets its payloads be kept.
const CALLERS: [Option<bool>; 3] = [None, Some(false), Some(true)];
const SECRET: [u8; 32] = [7; 32];

fn id_of(caller: u8) -> TokenId {
    TokenId::draw(&[caller + 1; 10])
}

/// The callers of every run.
pub(super) fn callers() -> Callers {
    let key = DigestKey::new(&[9; 32]);
    let with_digests = (0_u8..).zip(CALLERS).map(|(number, log_payload)| {
        let id = id_of(number);
        let digests = Digests { current: key.digest_of(id, &SECRET), former: None };
        (crate::config::callers::Caller { log_payload, ..caller(id) }, digests)
    });
    let all = with_digests.collect();
    Callers::new(key, all).expect("three that differ")
}

/// Who asks, and what it wants to be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    caller: u8,
    keep: Option<bool>,
    /// The word, which need not be one that is understood.
    payload: Option<&'static str>,
}

impl Wish {
    pub(super) fn draw(chance: &Chance) -> Self {
        let keep = chance.pick(&[None, None, None, None, Some(true), Some(false)]);
        let payload = chance.pick(&[None, None, None, Some("true"), Some("false"), Some("maybe")]);
        Self { caller: chance.pick(&[0, 0, 1, 2]), keep, payload }
    }

    /// The fields of a head that say it, and by what the request is known again.
    pub(super) fn fields(self, chance: &Chance, id: usize) -> String {
        let token = render(id_of(self.caller), &SECRET);
        let prefix = chance.pick(&["x-ringway", "cf-aig"]);
        let mut fields = format!("Authorization: Bearer {}\r\nx-request-id: sim-{id}\r\n", &*token);
        if let Some(keep) = self.keep {
            fields.push_str(&format!("{prefix}-collect-log: {keep}\r\n"));
        }
        if let Some(word) = self.payload {
            fields.push_str(&format!("{prefix}-collect-log-payload: {word}\r\n"));
        }
        fields
    }

    /// Whether somebody does not want what is said to be kept, or nobody wants it.
    fn is_silent(self, kept: &KeptLogs) -> bool {
        let word = self.payload.map(|word| word == "true");
        let nos = [CALLERS[usize::from(self.caller)], word];
        let yeses = [nos[0] == Some(true), word == Some(true), kept.payload == KeepPayload::Always];
        kept.payload == KeepPayload::Never || nos.contains(&Some(false)) || !yeses.contains(&true)
    }
}

/// Whether an exchange must be kept, as far as its client can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    Be,
    NotBe,
    /// If it does not end well.
    BeIfBad,
    /// By chance.
    Either,
}

impl Must {
    fn of(kept: Option<&KeptLogs>, keep: Option<bool>) -> Self {
        match (kept, keep) {
            (None, _) | (_, Some(false)) => Self::NotBe,
            (_, Some(true)) => Self::Be,
            (Some(kept), None) => match kept.sample_ppm {
                1_000_000 => Self::Be,
                0 if kept.errors => Self::BeIfBad,
                0 => Self::NotBe,
                _ => Self::Either,
            },
        }
    }
}

/// How an answer ended for its client; `None` where the client cannot know.
fn ended_well(ask: &Ask, answer: &Answer, visit: &Visit) -> Option<bool> {
    let says_it_failed = matches!(&ask.hope, Hope::Answer(script) if script.says_it_failed);
    match answer {
        _ if !visit.is_patient() => None,
        _ if answer.status >= 400 || says_it_failed => Some(false),
        _ if answer.whole && !answer.until_close => Some(true),
        _ => None,
    }
}

/// Looks at all that was handed over.
pub(super) fn check(world: &SimWorld, visits: &[Visit]) {
    let (sim, lines) = (&world.sim, world.lines.borrow());
    sim.check(lines.len() == world.begun.get(), || {
        format!("{} lines were handed over for {} exchanges", lines.len(), world.begun.get())
    });
    for line in &*lines {
        let is_kept = line.is_kept();
        sim.check(line.payload.is_none() || is_kept, || {
            format!("{}: copied and not kept", line.request_id.as_str())
        });
    }
    for visit in visits {
        for (number, ask) in visit.asks[..visit.asked].iter().enumerate() {
            let answer = visit.answers.get(number);
            if let Some(wish) = ask.wish {
                Check { world, sim, visit, ask, wish, answer }.exchange(&lines);
            }
        }
    }
    let copies = world.local.copies.used();
    sim.check(copies == 0, || format!("{copies} bytes of the room for copies are gone"));
}

/// One exchange.
struct Check<'a> {
    world: &'a SimWorld,
    sim: &'a Sim,
    visit: &'a Visit,
    ask: &'a Ask,
    wish: Wish,
    answer: Option<&'a Answer>,
}

impl Check<'_> {
    fn that(&self, holds: bool, else_say: impl FnOnce() -> String) {
        self.sim.check(holds, || format!("{}: {} ({:?})", self.ask.id, else_say(), self.wish));
    }

    fn exchange(&self, lines: &[Logged]) {
        let name = format!("sim-{}", self.ask.id);
        let of_it: Vec<_> = lines.iter().filter(|line| line.request_id.as_str() == name).collect();
        let is_told = self.answer.is_some_and(|answer| answer.field("x-request-id") == Some(&*name));
        let is_seen = self.world.seen.borrow().contains_key(&self.ask.id);
        let is_right = of_it.len() == 1 || (of_it.is_empty() && !is_told && !is_seen);
        self.that(is_right, || format!("handed over {} times", of_it.len()));
        if let [line] = of_it[..] {
            self.line(line, is_seen);
        }
    }

    fn line(&self, line: &Logged, is_seen: bool) {
        let kept = self.world.snapshot.kept_logs.as_ref();
        let must = Must::of(kept, self.wish.keep);
        let expect = match must {
            Must::Be => Some(true),
            Must::NotBe => Some(false),
            Must::Either => None,
            Must::BeIfBad => {
                let answer = self.answer.filter(|answer| !answer.fields.is_empty());
                answer.and_then(|answer| ended_well(self.ask, answer, self.visit)).map(|well| !well)
            }
        };
        let is_kept = line.is_kept();
        self.that(expect.is_none_or(|expect| expect == is_kept), || {
            format!("kept: {is_kept}, and must: {must:?}, {:?}", line.gist.outcome)
        });
        let is_silent = kept.is_none_or(|kept| self.wish.is_silent(kept));
        self.that(!is_silent || line.payload.is_none(), || "somebody said no and it was copied".to_owned());
        match (&line.payload, kept) {
            (Some(payload), Some(kept)) => self.payload(payload, line, kept, is_seen),
            _ => {
                // A stream whose end alone is bad had begun by then, and half of an exchange is not kept.
                let wanted = must == Must::Be && !is_silent;
                self.that(!wanted || !is_seen, || "was to be kept with what was said".to_owned());
            }
        }
    }

    fn payload(&self, payload: &Payload, line: &Logged, kept: &KeptLogs, is_seen: bool) {
        self.sim.inject(Fault::Kept);
        let most = kept.payload_bytes_max;
        let Payload { request, response, is_stream } = payload;
        if is_seen || request.whole_bytes > 0 {
            // Of what is no JSON the length is told.
            let is_json = memchr::memmem::find(&self.ask.head, b"application/json").is_some();
            let cut = &self.ask.said[..self.ask.said.len().min(if is_json { most } else { 0 })];
            self.that(request.bytes == cut && request.whole_bytes == self.ask.said.len() as u64, || {
                format!("kept as asking {} of {} bytes", request.bytes.len(), request.whole_bytes)
            });
        }
        let is_sound = matches!(&self.ask.hope, Hope::Answer(script) if script.form == Form::Binary);
        let is_theirs = self.answer.is_some_and(|answer| answer.field("x-sim").is_some());
        let most = match is_stream {
            _ if is_sound && is_theirs => 0,
            true => most * LOG_STREAM_FACTOR,
            false => most,
        };
        self.that(response.bytes.len() <= most, || format!("{} bytes were copied", response.bytes.len()));
        let is_right = response.bytes.len() as u64 <= response.whole_bytes
            && (response.is_whole() || response.bytes.len() == most || is_sound);
        self.that(is_right, || format!("{} bytes of {}", response.bytes.len(), response.whole_bytes));
        if let Some(answer) = self.answer {
            self.response(response, answer, line, most);
        }
    }

    /// What left is what is kept. Who does not take it to its end cannot tell what more has left.
    fn response(&self, response: &Copied, answer: &Answer, line: &Logged, most: usize) {
        let got = without_comments(&answer.payload);
        let is_lost = !answer.whole && self.visit.was_reset;
        let has_all = self.visit.is_patient() && !is_lost && line.gist.outcome != Outcome::ClientGone;
        let is_same = if has_all {
            response.whole_bytes == got.len() as u64 && response.bytes == got[..got.len().min(most)]
        } else {
            // The beginning of a comment may be the last that came.
            let least = got.len().saturating_sub(COMMENT.len());
            (least..=got.len()).any(|end| {
                let got = &got[..end.min(most)];
                response.bytes.starts_with(got)
            })
        };
        self.that(is_same, || {
            let (kept, got) = (String::from_utf8_lossy(&response.bytes), String::from_utf8_lossy(&got));
            let tail = |text: &str| {
                text.chars().rev().take(120).collect::<Vec<_>>().into_iter().rev().collect::<String>()
            };
            format!(
                "kept with another answer, {} bytes where {} came: {:?} and {:?}",
                response.whole_bytes,
                got.len(),
                tail(&kept),
                tail(&got)
            )
        });
    }
}

fn without_comments(payload: &[u8]) -> Vec<u8> {
    let (mut got, mut rest) = (Vec::new(), payload);
    while let Some(at) = memchr::memmem::find(rest, COMMENT) {
        got.extend_from_slice(&rest[..at]);
        rest = &rest[at + COMMENT.len()..];
    }
    got.extend_from_slice(rest);
    got
}
