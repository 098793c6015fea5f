//! What a model's name asks the simulated provider to do.
//!
//! `sim,ttft=80,gap=10,events=100` or `sim-crlf-nodone`: a name, then words. A word that is not known is an
//! error that the client sees, never a default that a test would silently pass on. A name other than `sim`
//! may hold hyphens (`gpt-4o-mini,status=500`); its words begin at the first comma.

use std::time::Duration;

/// The words, in the form that `--help` prints.
pub const WORDS: &str = "\
Words of a model's name: `sim,WORD,WORD` (or `sim-WORD-WORD`; after another name only commas separate)
 time     ttft=MS gap=MS (between events) head (the head goes at once, before ttft) pause=MS (between split writes)
 amount   events=N size=BYTES (of the JSON answer, 500; of an SSE event, 200) big=BYTES (the same, for large ones)
          prompt=N completion=N cached=N reasoning=N (the usage that is reported)
 stream   crlf cr comments multiline nospace utf8 (multi-byte text, cut inside a character) bom named (event: lines)
          nodone (no [DONE]) nofinish (neither [DONE] nor finish_reason) errorevent (an error half-way, then a clean end)
          nousage usageall (on each event) usagelast (on the event with finish_reason) stamp (send time in each event)
 framing  chunk=N (bytes a chunk) chunkext trailers lengthbody (Content-Length) untilclose http10 gzip split=N (bytes a write)
 answer   status=CODE CODE=SECS (with Retry-After) code=NAME (the error's) redirect html (200, but no JSON) echo tools json
          key=SECRET (401 without it)
 vice     cut=N reset=N stall=N (after N body bytes) headcut=N (after N bytes of the head) extra (stray bytes after)
          early (answers before the body is read) closeafter idleclose=MS interim interim=N (1xx first)
          badhead=clte|dupcl|cl|te|version|status|fold|space|barelf|nul|huge|many|empty|chunk
 wire     wirecut=N wirereset=N wirestall=N wiregarbage=N (after N bytes of the response as written, head and framing too)
          byuser (the words in the request's `user` member hold, too: one model's name for many scripts)
 times=N  the words status, CODE=SECS and the vices hold for the first N requests of this very name";

/// How the script ends a body early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ending {
    /// It does not.
    #[default]
    Whole,
    /// FIN after so many body bytes.
    Cut(usize),
    /// RST after so many body bytes.
    Reset(usize),
    /// Silence after so many body bytes, until the client leaves.
    Stall(usize),
    /// FIN after so many bytes of the head.
    HeadCut(usize),
}

/// What happens after so many bytes of the response as it is written, head and framing among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireEnd {
    /// FIN.
    Cut(usize),
    /// RST.
    Reset(usize),
    /// Silence, until the client leaves.
    Stall(usize),
    /// Bytes that mean nothing, then FIN.
    Garbage(usize),
}

/// How the body's end is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Framing {
    /// Content-Length for JSON, chunked for streams.
    #[default]
    Usual,
    /// Content-Length, also for a stream.
    Length,
    /// HTTP/1.1, ended by closing.
    UntilClose,
    /// HTTP/1.0, ended by closing.
    Http10,
}

/// Heads that must not be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// Content-Length and Transfer-Encoding at once.
    LengthAndChunked,
    /// Two Content-Lengths that differ.
    TwoLengths,
    /// A Content-Length that is no number.
    OddLength,
    /// `Transfer-Encoding: gzip, chunked`.
    OddEncoding,
    /// HTTP/2.0 in the status line.
    Version,
    /// A status of four digits.
    Status,
    /// A folded header line.
    Fold,
    /// A space before the colon.
    Space,
    /// Lines that end in LF alone.
    BareLf,
    /// A NUL in a value.
    Nul,
    /// A header of a mebibyte.
    Huge,
    /// Five hundred headers.
    Many,
    /// A header without a name.
    Empty,
    /// A good head, then a chunk size that is no number.
    Chunk,
}

/// A script: what one model's name asks for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Script {
    pub ttft: Duration,
    pub gap: Duration,
    pub pause: Duration,
    pub head_first: bool,
    pub events: Option<usize>,
    pub size: Option<usize>,
    pub prompt: Option<u64>,
    pub completion: Option<u64>,
    pub cached: u64,
    pub reasoning: u64,

    pub crlf: bool,
    pub cr: bool,
    pub comments: bool,
    pub multiline: bool,
    pub nospace: bool,
    pub utf8: bool,
    pub bom: bool,
    pub named: bool,
    pub no_done: bool,
    pub no_finish: bool,
    pub error_event: bool,
    pub no_usage: bool,
    pub usage_all: bool,
    pub usage_last: bool,
    pub stamp: bool,

    pub framing: Framing,
    pub chunk: Option<usize>,
    pub chunk_extension: bool,
    pub trailers: bool,
    pub gzip: bool,
    pub split: Option<usize>,

    pub status: Option<u16>,
    pub retry_after_secs: Option<u32>,
    pub code: Option<String>,
    pub redirect: bool,
    pub html: bool,
    pub echo: bool,
    pub tools: bool,
    pub json: bool,
    pub key: Option<String>,

    pub ending: Ending,
    pub wire_end: Option<WireEnd>,
    pub by_user: bool,
    pub extra: bool,
    pub early: bool,
    pub close_after: bool,
    pub idle_close: Option<Duration>,
    pub interim: usize,
    pub bad_head: Option<BadHead>,
    pub times: Option<u64>,
}

impl Script {
    /// The script in a model's name, or the word that is not one.
    pub fn parse(model: &str) -> Result<Self, String> {
        let (name, words) = model.split_once(',').unwrap_or((model, ""));
        // `provider/model`: a proxy that does not know the prefix leaves it on.
        let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
        let mut script = Self::default();
        if let Some(more) = name.strip_prefix("sim-") {
            more.split('-').try_for_each(|word| script.word(word))?;
        }
        words.split(',').filter(|word| !word.is_empty()).try_for_each(|word| script.word(word))?;
        Ok(script)
    }

    /// This script with the words of a `user` member, where it takes them.
    pub fn with_words_of(mut self, user: &str) -> Result<Self, String> {
        if self.by_user {
            user.split(',').filter(|word| !word.is_empty()).try_for_each(|word| self.word(word))?;
        }
        Ok(self)
    }

    /// This script once `times` is used up: a plain answer with the same timing and amounts.
    pub fn mended(&self) -> Self {
        Self {
            status: None,
            retry_after_secs: None,
            code: None,
            redirect: false,
            html: false,
            ending: Ending::Whole,
            wire_end: None,
            extra: false,
            early: false,
            close_after: false,
            idle_close: None,
            interim: 0,
            bad_head: None,
            error_event: false,
            no_done: false,
            no_finish: false,
            times: None,
            ..self.clone()
        }
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        let wrong = || format!("unknown word `{word}`");
        let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
        let count = || value.and_then(|value| value.parse::<usize>().ok()).ok_or_else(wrong);
        let large = || value.and_then(|value| value.parse::<u64>().ok()).ok_or_else(wrong);
        let ms = || large().map(Duration::from_millis);

        if let Ok(status @ 100..=599) = key.parse::<u16>() {
            self.status = Some(status);
            self.retry_after_secs = Some(value.and_then(|secs| secs.parse().ok()).ok_or_else(wrong)?);
            return Ok(());
        }
        match (key, value) {
            ("ttft", Some(_)) => self.ttft = ms()?,
            ("gap", Some(_)) => self.gap = ms()?,
            ("pause", Some(_)) => self.pause = ms()?,
            ("events", Some(_)) => self.events = Some(count()?.min(EVENTS_MAX)),
            ("size" | "big", Some(_)) => self.size = Some(count()?.min(BODY_BYTES_MAX)),
            ("prompt", Some(_)) => self.prompt = Some(large()?),
            ("completion", Some(_)) => self.completion = Some(large()?),
            ("cached", Some(_)) => self.cached = large()?,
            ("reasoning", Some(_)) => self.reasoning = large()?,
            ("chunk", Some(_)) => self.chunk = Some(count()?.max(1)),
            ("split", Some(_)) => self.split = Some(count()?.max(1)),
            ("status", Some(_)) => {
                self.status =
                    Some(u16::try_from(large()?).ok().filter(|s| (100..=999).contains(s)).ok_or_else(wrong)?);
            }
            ("code", Some(name)) if !name.is_empty() => self.code = Some(name.to_owned()),
            ("key", Some(secret)) => self.key = Some(secret.to_owned()),
            ("cut", Some(_)) => self.ending = Ending::Cut(count()?),
            ("reset", Some(_)) => self.ending = Ending::Reset(count()?),
            ("stall", Some(_)) => self.ending = Ending::Stall(count()?),
            ("wirecut", Some(_)) => self.wire_end = Some(WireEnd::Cut(count()?)),
            ("wirereset", Some(_)) => self.wire_end = Some(WireEnd::Reset(count()?)),
            ("wirestall", Some(_)) => self.wire_end = Some(WireEnd::Stall(count()?)),
            ("wiregarbage", Some(_)) => self.wire_end = Some(WireEnd::Garbage(count()?)),
            ("headcut", Some(_)) => self.ending = Ending::HeadCut(count()?),
            ("idleclose", Some(_)) => self.idle_close = Some(ms()?),
            ("interim", None) => self.interim = 1,
            ("interim", Some(_)) => self.interim = count()?.min(1000),
            ("badhead", Some(kind)) => self.bad_head = Some(BadHead::named(kind).ok_or_else(wrong)?),
            ("times", Some(_)) => self.times = Some(large()?),
            ("lengthbody", None) => self.framing = Framing::Length,
            ("untilclose", None) => self.framing = Framing::UntilClose,
            ("http10", None) => self.framing = Framing::Http10,
            (flag, None) => *self.flag(flag).ok_or_else(wrong)? = true,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    fn flag(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "head" => &mut self.head_first,
            "crlf" => &mut self.crlf,
            "cr" => &mut self.cr,
            "comments" => &mut self.comments,
            "multiline" => &mut self.multiline,
            "nospace" => &mut self.nospace,
            "utf8" => &mut self.utf8,
            "bom" => &mut self.bom,
            "named" => &mut self.named,
            "nodone" => &mut self.no_done,
            "nofinish" => &mut self.no_finish,
            "errorevent" => &mut self.error_event,
            "nousage" => &mut self.no_usage,
            "usageall" => &mut self.usage_all,
            "usagelast" => &mut self.usage_last,
            "stamp" => &mut self.stamp,
            "chunkext" => &mut self.chunk_extension,
            "trailers" => &mut self.trailers,
            "gzip" => &mut self.gzip,
            "redirect" => &mut self.redirect,
            "html" => &mut self.html,
            "echo" => &mut self.echo,
            "tools" => &mut self.tools,
            "json" => &mut self.json,
            "byuser" => &mut self.by_user,
            "extra" => &mut self.extra,
            "early" => &mut self.early,
            "closeafter" => &mut self.close_after,
            _ => return None,
        })
    }
}

impl BadHead {
    fn named(kind: &str) -> Option<Self> {
        Some(match kind {
            "clte" => Self::LengthAndChunked,
            "dupcl" => Self::TwoLengths,
            "cl" => Self::OddLength,
            "te" => Self::OddEncoding,
            "version" => Self::Version,
            "status" => Self::Status,
            "fold" => Self::Fold,
            "space" => Self::Space,
            "barelf" => Self::BareLf,
            "nul" => Self::Nul,
            "huge" => Self::Huge,
            "many" => Self::Many,
            "empty" => Self::Empty,
            "chunk" => Self::Chunk,
            _ => return None,
        })
    }
}

/// A plan is built whole before it is sent, so both have an end.
const EVENTS_MAX: usize = 1_000_000;
const BODY_BYTES_MAX: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(model: &str, expect: Script) {
        assert_eq!(Script::parse(model), Ok(expect), "{model}");
    }

    #[test]
    fn a_plain_name_asks_for_nothing() {
        for model in ["sim", "gpt-4o-mini", "sim/sim", "openai/gpt-4o", "", "sim,"] {
            check(model, Script::default());
        }
    }

    #[test]
    fn words_follow_a_comma_or_the_hyphens_of_sim() {
        let timed = Script {
            ttft: Duration::from_millis(80),
            gap: Duration::from_millis(10),
            events: Some(100),
            size: Some(120),
            ..Script::default()
        };
        check("sim,ttft=80,gap=10,events=100,size=120", timed.clone());
        check("sim-ttft=80-gap=10-events=100-size=120", timed.clone());
        check("sim-ttft=80,gap=10,events=100,size=120", timed.clone());
        check("sim/sim,ttft=80,gap=10,events=100,size=120", timed.clone());
        check("gpt-4o-mini,ttft=80,gap=10,events=100,size=120", timed);
        check("a/b,key=sk-a/b", Script { key: Some("sk-a/b".into()), ..Script::default() });
    }

    #[test]
    fn each_vice_has_its_word() {
        check("sim,429=2", Script { status: Some(429), retry_after_secs: Some(2), ..Script::default() });
        check("sim,status=500", Script { status: Some(500), ..Script::default() });
        let spent =
            Script { status: Some(429), code: Some("insufficient_quota".into()), ..Script::default() };
        check("sim,status=429,code=insufficient_quota", spent);
        check("sim,html", Script { html: true, ..Script::default() });
        check("sim,cut=7", Script { ending: Ending::Cut(7), ..Script::default() });
        check("sim,reset=7", Script { ending: Ending::Reset(7), ..Script::default() });
        check("sim,stall=0", Script { ending: Ending::Stall(0), ..Script::default() });
        check("sim,wirecut=07", Script { wire_end: Some(WireEnd::Cut(7)), ..Script::default() });
        check("sim,badhead=clte", Script { bad_head: Some(BadHead::LengthAndChunked), ..Script::default() });
        check("sim-http10", Script { framing: Framing::Http10, ..Script::default() });
        check("sim,interim", Script { interim: 1, ..Script::default() });
        check("sim,split=0", Script { split: Some(1), ..Script::default() });
    }

    #[test]
    fn a_word_that_is_not_known_is_an_error() {
        for model in [
            "sim,crfl",
            "sim-4o",
            "sim,ttft",
            "sim,ttft=",
            "sim,crlf=1",
            "sim,429",
            "sim,badhead=x",
            "sim,code=",
        ] {
            assert!(Script::parse(model).is_err(), "{model}");
        }
    }

    #[test]
    fn every_word_of_the_help_is_known() {
        let listed = WORDS.lines().skip(1).filter(|line| !line.starts_with(" times"));
        for line in listed {
            let outside_brackets = {
                let mut depth = 0;
                line[10..]
                    .chars()
                    .filter(move |c| {
                        depth += i32::from(*c == '(') - i32::from(*c == ')');
                        depth == 0 && *c != ')'
                    })
                    .collect::<String>()
            };
            for word in outside_brackets.split_whitespace() {
                let word = word
                    .replace("CODE=SECS", "429=1")
                    .replace("=CODE", "=500")
                    .replace("=SECRET", "=s")
                    .replace("=NAME", "=n");
                let word = word.split('|').next().unwrap_or_default().to_owned();
                let word = ["=MS", "=N", "=BYTES"].iter().fold(word, |w, unit| w.replace(unit, "=1"));
                assert!(Script::parse(&format!("sim,{word}")).is_ok(), "{word}");
            }
        }
    }

    #[test]
    fn a_user_s_words_hold_where_the_name_says_so() {
        let with = |model: &str, user| Script::parse(model).and_then(|script| script.with_words_of(user));
        let cut = Script { by_user: true, wire_end: Some(WireEnd::Cut(1)), ..Script::default() };
        assert_eq!(with("sim,byuser", "wirecut=1"), Ok(cut));
        assert_eq!(with("sim", "wirecut=1"), Ok(Script::default()));
        assert!(with("sim,byuser", "somebody").is_err());
    }

    #[test]
    fn a_mended_script_keeps_its_time_and_loses_its_vices() {
        let script = Script::parse("sim,ttft=5,status=500,cut=1,times=2").unwrap_or_default();
        assert_eq!(script.mended(), Script { ttft: Duration::from_millis(5), ..Script::default() });
    }
}
