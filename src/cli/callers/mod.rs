//! `ringway callers`: who may call, made and changed whether or not a gateway runs on the same state directory.
//!
//! A token is written to standard output once, when it is made; it is in no argument, no file and no other output.

mod create;
mod show;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};

use super::date;
use crate::{
    config::{self, Process},
    control::state::{
        State, Trouble,
        callers::{Fresh, Kept},
        is_begun, unix_ms,
    },
};

#[derive(Args)]
pub(super) struct Callers {
    /// The configuration, for its state directory.
    #[arg(short, long, value_name = "FILE", env = "RINGWAY_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// The state directory itself.
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a caller, and print its token: it is shown this once.
    Create(Box<create::Create>),
    /// All callers, one a line.
    List {
        /// For programs: a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// One caller, with all that it may do.
    Show {
        #[command(flatten)]
        who: Who,
        #[arg(long)]
        json: bool,
    },
    /// Let a caller in no more, from now on.
    Disable {
        #[command(flatten)]
        who: Who,
    },
    /// Let a disabled caller in again.
    Enable {
        #[command(flatten)]
        who: Who,
    },
    /// Give a caller another token, and print it: it is shown this once.
    Rotate {
        #[command(flatten)]
        who: Who,
        /// How long the present token stays good; the one before it does not.
        #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = date::span)]
        overlap: u64,
        /// Print the token and nothing else.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Forget a caller.
    Delete {
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Args)]
struct Who {
    /// A caller's name, or its id.
    #[arg(value_name = "NAME|ID")]
    caller: String,
}

/// 0: done. 1: not, and standard error says why.
pub(super) fn callers(arguments: Callers) -> ExitCode {
    match arguments.run() {
        Ok(text) => match io::stdout().lock().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&Trouble(format!("the answer could not be written: {error}"))),
        },
        Err(trouble) => fail(&trouble),
    }
}

fn fail(trouble: &Trouble) -> ExitCode {
    eprintln!("ringway: {trouble}");
    ExitCode::FAILURE
}

impl Callers {
    /// What to print.
    fn run(self) -> Result<zeroize::Zeroizing<String>, Trouble> {
        let directory = directory(self.state, self.config)?;
        if !matches!(self.action, Action::Create(_)) && !is_begun(&directory) {
            let directory = directory.display();
            return Err(Trouble(format!(
                "there are no callers in {directory}; `ringway callers create` makes the first"
            )));
        }
        let mut state = State::open(&directory)?;
        state.check()?;
        let now = unix_ms();
        let plain = |text: String| Ok(zeroize::Zeroizing::new(text));
        match self.action {
            Action::Create(create) => {
                let expires = create.expires.as_deref().map(|text| date::end(text, now)).transpose();
                let settings = create.settings().map_err(Trouble)?;
                let made = state.create_caller(&create.name, expires.map_err(Trouble)?, &settings, now)?;
                Ok(shown_once(&create.name, &made, create.quiet))
            }
            Action::List { json: true } => plain(show::json_list(&state.list_callers()?)),
            Action::List { json: false } => plain(show::table(&state.list_callers()?, now)),
            Action::Show { who, json: true } => plain(show::json(&who.find(&state)?)),
            Action::Show { who, json: false } => plain(show::text(&who.find(&state)?, now)),
            Action::Disable { who } => {
                let caller = who.find(&state)?;
                state.enable_caller(caller.id, false)?;
                plain(format!("{} ({}) is disabled\n", caller.name, caller.id))
            }
            Action::Enable { who } => {
                let caller = who.find(&state)?;
                state.enable_caller(caller.id, true)?;
                plain(format!("{} ({}) is enabled\n", caller.name, caller.id))
            }
            Action::Rotate { who, overlap, quiet } => {
                let caller = who.find(&state)?;
                let until = now.saturating_add(overlap);
                let made = state.rotate_caller(caller.id, until)?;
                let mut text = shown_once(&caller.name, &made, quiet);
                if !quiet && overlap > 0 {
                    text.push_str(&format!("The token before it is good until {}.\n", date::render(until)));
                }
                Ok(text)
            }
            Action::Delete { who } => {
                let caller = who.find(&state)?;
                state.delete_caller(caller.id)?;
                plain(format!("{} ({}) is forgotten\n", caller.name, caller.id))
            }
        }
    }
}

impl Who {
    fn find(&self, state: &State) -> Result<Kept, Trouble> {
        let found = state.find_caller(&self.caller)?;
        found.ok_or_else(|| {
            Trouble(format!(
                "there is no caller `{}`; `ringway callers list` names them",
                self.caller.escape_debug()
            ))
        })
    }
}

fn shown_once(name: &str, made: &Fresh, quiet: bool) -> zeroize::Zeroizing<String> {
    let token = made.token.as_str();
    zeroize::Zeroizing::new(if quiet {
        format!("{token}\n")
    } else {
        format!("caller {name} ({})\ntoken  {token}\nThis is the only time the token is shown.\n", made.id)
    })
}

/// Where the state is: as was said, or as the configuration says.
pub(super) fn directory(state: Option<PathBuf>, config: Option<PathBuf>) -> Result<PathBuf, Trouble> {
    if let Some(state) = state {
        return Ok(state);
    }
    let Some(config) = config else {
        return Err(Trouble(
            "say where the state is: --config ringway.toml, or --state /var/lib/ringway".to_owned(),
        ));
    };
    let loaded = config::load(&config, &Process).map_err(|complaints| {
        Trouble(format!(
            "{complaints}name the state directory instead, with --state: a command needs no more"
        ))
    })?;
    loaded.snapshot.state.ok_or_else(|| {
        Trouble(format!(
            "{} has no state directory: `[state]` with dir = \"/var/lib/ringway\"",
            config.display()
        ))
    })
}
