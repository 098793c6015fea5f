//! Makes a snapshot, and the table of callers, the ones in force, and tells those who follow them.
//!
//! The order is one: lines on the quota board, what budgets had used before, callers, snapshot. No core ever draws from a
//! budget that is still to be restored, or meets a caller without its line.

use std::{path::Path, sync::Arc};

use rustls::ServerConfig;

use super::{
    fixed::Fixed,
    house::{checked, model_source, names},
};
use crate::{
    base::ids::{Line, LineRoll, ProviderRoll},
    bridge::{bulletin::Bulletin, health::HealthBoard, quota::QuotaBoard},
    config::{
        NoLine, ServerTls, Snapshot,
        allowance::{Allowance, Limit},
        callers::Callers,
    },
    control::{
        budgets::{BudgetKeeper, Kept},
        checks::Checks,
        log::Log,
        models::{Models, Offer},
        resolver::Resolver,
        standing::Reloads,
        state::{Running, State, Trouble, watch::News},
    },
    shard,
};

pub(super) struct Publisher {
    pub(super) roll: ProviderRoll,
    pub(super) lines: LineRoll,
    pub(super) health: Arc<HealthBoard>,
    pub(super) snapshots: Arc<Bulletin<Snapshot>>,
    pub(super) callers: Arc<Bulletin<Option<Callers>>>,
    pub(super) certificates: Arc<Bulletin<Arc<ServerConfig>>>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) models: Models,
    pub(super) checks: Checks,
    pub(super) reloads: Arc<Reloads>,
    pub(super) started_with: Fixed,
    /// `None`: nothing outlives this process, and there are no callers.
    pub(super) storage: Option<Storage>,
}

/// The state directory, taken for this process.
pub(super) struct Storage {
    state: State,
    budgets: BudgetKeeper,
    _running: Running,
}

/// What came of publishing a snapshot.
pub(super) struct Published {
    pub(super) generation: u64,
    pub(super) certificate_is_new: bool,
    /// Settings that take effect only at the next start.
    pub(super) waits_for_restart: Vec<&'static str>,
}

impl Storage {
    /// # Errors
    /// Another gateway has the directory, or something in it cannot be read.
    pub(super) fn open(path: &Path, quota: Arc<QuotaBoard>, log: Log) -> Result<Self, Trouble> {
        let state = State::open(path)?;
        let running = state.run()?;
        let budgets = BudgetKeeper::start(path, quota, log)?;
        Ok(Self { state, budgets, _running: running })
    }
}

impl Publisher {
    /// # Errors
    /// A sentence about what cannot be put in force: a certificate, the callers, one limited key too many. Nothing was
    /// published then.
    pub(super) fn publish(&mut self, mut snapshot: Snapshot) -> Result<Published, String> {
        let new_certificate = snapshot.server.tls.as_ref().filter(|tls| !self.shows(tls));
        let certificate = new_certificate.map(|tls| {
            shard::server_config(&tls.certificates_pem, tls.key_pem.expose())
                .map_err(|why| format!("server.tls: {why}"))
        });
        let certificate = certificate.transpose()?;
        let certificate_is_new = certificate.is_some();
        let waits_for_restart = self.started_with.differences(&Fixed::of(&snapshot));
        self.started_with.hold(&mut snapshot);
        snapshot.enrol_lines(&mut self.lines).map_err(no_line)?;
        let callers = match &self.storage {
            Some(storage) => {
                let mut callers = storage.state.callers().map_err(|trouble| trouble.to_string())?;
                callers.complete(&snapshot.quotas, &mut self.lines).map_err(no_line)?;
                storage.budgets.keep(&budgets(&snapshot, &callers));
                Some(callers)
            }
            None => None,
        };

        if let Some(config) = certificate {
            self.certificates.publish(Arc::new(config));
        }
        if callers.is_some() {
            self.callers.publish(Arc::new(callers));
            self.reloads.callers_are_known(None);
        }
        self.health.configure(snapshot.breaker, snapshot.retry);
        snapshot.enrol(&mut self.roll);
        snapshot.generation = self.snapshots.generation() + 1;
        self.resolver.want(names(&snapshot));
        self.models.reload(Offer {
            sources: snapshot.providers.iter().map(model_source).collect(),
            own: snapshot.own_models().map(|(id, owner)| (id.into(), owner.into())).collect(),
        });
        let checked = snapshot.providers.iter().filter_map(checked).collect();
        let generation = self.snapshots.publish(Arc::new(snapshot));
        self.reloads.accepted(self.roll.clone());
        self.checks.reload(checked);
        Ok(Published { generation, certificate_is_new, waits_for_restart })
    }

    /// Puts what became of the callers in force. Nobody is let in by a table that may be old: while the store cannot be
    /// read, every caller is told to come back.
    pub(super) fn take_up(&mut self, news: News) {
        let (callers, trouble) = match news {
            News::Callers(callers) => match self.complete(callers) {
                Ok(callers) => (Some(callers), None),
                Err(why) => (None, Some(why)),
            },
            News::Trouble(trouble) => (None, Some(trouble.to_string())),
        };
        self.callers.publish(Arc::new(callers));
        self.reloads.callers_are_known(trouble);
    }

    fn complete(&mut self, mut callers: Callers) -> Result<Callers, String> {
        if let (Some(snapshot), Some(storage)) = (self.snapshots.current(), &self.storage) {
            callers.complete(&snapshot.quotas, &mut self.lines).map_err(no_line)?;
            storage.budgets.keep(&budgets(&snapshot, &callers));
        }
        Ok(callers)
    }

    /// Whether this certificate is in force already. It then stays as it is, and with it the sessions that clients resume.
    fn shows(&self, tls: &ServerTls) -> bool {
        let current = self.snapshots.current();
        current.is_some_and(|current| current.server.tls.as_ref().is_some_and(|shown| shown.is_same_as(tls)))
    }
}

/// Every budget there is, under a name that outlives this process.
fn budgets(snapshot: &Snapshot, callers: &Callers) -> Vec<Kept> {
    let mut kept = Vec::new();
    let mut add = |line: Line, allowance: &Allowance, name: &dyn Fn() -> String| {
        for limit in &allowance.limits {
            if let Limit::Budget { measure, .. } = *limit {
                kept.push(Kept { line, measure, name: name().into() });
            }
        }
    };
    if let Some(gateway) = &snapshot.quotas.gateway {
        add(gateway.line, &gateway.allowance, &|| "gateway".to_owned());
    }
    for caller in callers.iter() {
        add(caller.line, &caller.allowance, &|| format!("caller/{}", caller.id));
    }
    kept
}

fn no_line(_: NoLine) -> String {
    "more keys have been limited than this process can count: it has to be restarted".to_owned()
}
