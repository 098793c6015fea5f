//! `ringway explain`: what would become of a request, from who may ask to the head that a provider would see. Nothing is sent,
//! nothing is counted, and no secret is in what is printed.
//!
//! It decides nothing itself: each verdict comes from the function that the gateway asks.

mod account;
mod asked;
mod limits;
mod text;

use std::{
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use self::{
    account::Account,
    asked::{Asked, Unclear},
};
use crate::{
    config::{self, Loaded, Process, Snapshot, callers::Caller},
    control::state::{State, Trouble, is_begun, unix_ms},
    wire::openai::endpoint::{Body, Endpoint},
};

#[derive(Args)]
pub(super) struct Explain {
    #[arg(short, long, value_name = "FILE", env = "RINGWAY_CONFIG")]
    config: PathBuf,
    /// What the client asks for: a model, an alias, or dynamic/<route>.
    #[arg(long)]
    model: String,
    /// The routing metadata, as its header has it: '{"plan":"pro"}'.
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Another field of the head, as 'name: value'. May be given several times.
    #[arg(long, value_name = "FIELD")]
    header: Vec<String>,
    /// The answer is to be streamed.
    #[arg(long)]
    stream: bool,
    /// The body's `user`.
    #[arg(long)]
    user: Option<String>,
    /// The body's `n`.
    #[arg(long)]
    n: Option<u32>,
    /// The body's `max_tokens`.
    #[arg(long)]
    max_tokens: Option<u64>,
    /// Who calls, where callers are verified.
    #[arg(long, value_name = "NAME|ID")]
    caller: Option<String>,
    /// Where the connection comes from.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// What is called, such as chat or /v1/chat/completions.
    #[arg(long, default_value = "chat", value_parser = endpoint)]
    endpoint: Endpoint,
    /// The number that splits and weights are drawn from: another number, another draw.
    #[arg(long, default_value_t = 0)]
    chance: u64,
    /// For programs: one JSON object.
    #[arg(long)]
    json: bool,
}

const SENT: u8 = 0;
const REFUSED: u8 = 1;
const UNUSABLE: u8 = 2;

/// 0: it would be sent. 1: it would be refused, and standard output says why. 2: the configuration or the question can't be
/// used, and standard error says why.
pub(super) fn explain(arguments: Explain) -> ExitCode {
    let mut err = io::stderr().lock();
    let account = match arguments.account(&mut err) {
        Ok(account) => account,
        Err(why) => {
            let _ = writeln!(err, "{}", why.trim_end());
            return ExitCode::from(UNUSABLE);
        }
    };
    let said = if arguments.json { text::json(&account) } else { text::text(&account) };
    match io::stdout().lock().write_all(said.as_bytes()) {
        Ok(()) => ExitCode::from(if account.refusal.is_some() { REFUSED } else { SENT }),
        Err(error) => {
            let _ = writeln!(err, "ringway: the answer could not be written: {error}");
            ExitCode::from(UNUSABLE)
        }
    }
}

impl Explain {
    fn account(&self, err: &mut impl Write) -> Result<Account, String> {
        let Loaded { snapshot, warnings } =
            config::load(&self.config, &Process).map_err(|complaints| complaints.to_string())?;
        for warning in &warnings {
            // Nobody is left to hear of it if this is closed.
            let _ = writeln!(err, "{warning}");
        }
        let says = |trouble: Trouble| format!("ringway: {trouble}");
        let caller = match &self.caller {
            // Nobody looks for a caller where none is asked for.
            Some(name) if snapshot.auth.required => {
                Some(caller(&snapshot, &self.config, name).map_err(says)?)
            }
            _ => None,
        };
        let asked = self.asked();
        account::account(&snapshot, caller.as_ref(), &asked, unix_ms())
            .map_err(|Unclear(why)| format!("ringway: {why}"))
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            model: &self.model,
            endpoint: self.endpoint,
            stream: self.stream,
            user: self.user.as_deref(),
            n: self.n,
            max_tokens: self.max_tokens,
            metadata: self.metadata.as_deref(),
            fields: &self.header,
            address: self.address,
            chance: self.chance,
        }
    }
}

/// A caller as the state directory has it, with no more than its own limits.
fn caller(snapshot: &Snapshot, config: &Path, name: &str) -> Result<Caller, Trouble> {
    let Some(directory) = &snapshot.state else {
        return Err(Trouble(format!("{} has no state directory, so there are no callers", config.display())));
    };
    let nobody = || {
        let name = name.escape_debug();
        Trouble(format!("there is no caller `{name}`; `ringway callers list` names them"))
    };
    if !is_begun(directory) {
        return Err(nobody());
    }
    let kept = State::open(directory)?.find_caller(name)?.ok_or_else(nobody)?;
    kept.settings.caller(kept.id, &kept.name, kept.expires_unix_ms, kept.enabled).map_err(Trouble)
}

/// An endpoint by its name in metrics and logs, or by its path.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    let found = Endpoint::ALL.into_iter().find(|endpoint| {
        let path = endpoint.path();
        text == endpoint.operation() || text == path || text.strip_prefix("/v1") == Some(path)
    });
    match found {
        Some(endpoint) if endpoint.body() != Body::None => Ok(endpoint),
        Some(_) => Err("this is answered here, and nothing is sent for it".to_owned()),
        None => {
            let known = Endpoint::ALL.into_iter().filter(|endpoint| endpoint.body() != Body::None);
            let known: Vec<_> = known.map(Endpoint::operation).collect();
            Err(format!("this is not served; use one of {}", known.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<Endpoint>) {
        assert_eq!(endpoint(text).ok(), expect, "{text}");
    }

    #[test]
    fn an_endpoint_is_named_as_in_metrics_or_by_its_path() {
        check("chat", Some(Endpoint::ChatCompletions));
        check("/chat/completions", Some(Endpoint::ChatCompletions));
        check("/v1/chat/completions", Some(Endpoint::ChatCompletions));
        check("audio_speech", Some(Endpoint::AudioSpeech));
        check("models", None);
        check("/v1/models", None);
        check("/v1", None);
        check("", None);
    }
}
