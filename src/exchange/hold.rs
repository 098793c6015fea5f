//! The hold before the commit point: the beginning of a stream stays in the buffer that it was read into until enough of it
//! has come, so that a provider which fails right after its 200 costs the client nothing.
//!
//! Nothing is copied for it: a hold ends where the buffer would have to grow.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use super::{
    h1::Client,
    intake::Intake,
    lens::{Kind, Lens},
    seam::{Wire, World},
};
use crate::{
    base::{limits::HOLD_BACK_BYTES_MAX, now::Now},
    config::first_byte::HoldBack,
};

/// A hold that has not ended.
pub(super) struct Hold {
    terms: HoldBack,
    /// When it ends at the latest; `None`: nothing has come yet that could leave.
    until: Option<Now>,
}

/// How a wait ended.
pub(super) enum Waited {
    /// Something can be read, or somebody has left, which the read will find out.
    Stirred,
    TimeUp,
}

impl Hold {
    /// `None`: nothing of such an answer is held. What is no stream is held to its end, or too long for it.
    pub(super) fn of(terms: HoldBack, kind: Kind) -> Option<Self> {
        (terms != HoldBack::OFF && kind == Kind::Events).then_some(Self { terms, until: None })
    }

    /// Whether what may leave is still to stay.
    pub(super) fn keeps(&mut self, intake: &Intake, lens: &Lens, now: Now) -> bool {
        if intake.ready_bytes() == 0 {
            return true;
        }
        let until = *self.until.get_or_insert(now + self.terms.time);
        now < until
            && lens.whole_events() < u64::from(self.terms.events)
            && intake.buffer.len() <= HOLD_BACK_BYTES_MAX
    }

    /// Waits for more of the answer, but no longer than the hold lasts. The buffer is not given to a read meanwhile: it could
    /// not be written from then.
    pub(super) async fn wait<W: World>(
        &self,
        world: &W,
        client: &mut Client<W::Wire>,
        wire: &mut W::Wire,
    ) -> Waited {
        // As long as nothing is held, the read may have the buffer.
        let Some(until) = self.until else { return Waited::Stirred };
        // Boxed: few exchanges hold, and none should be larger for it.
        Box::pin(wait_until(world, client, wire, until)).await
    }
}

async fn wait_until<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    wire: &mut W::Wire,
    until: Now,
) -> Waited {
    let mut timer = pin!(world.sleep_until(until));
    poll_fn(|cx| {
        if wire.poll_readable(cx).is_ready() || client.poll_gone(cx).is_ready() {
            return Poll::Ready(Waited::Stirred);
        }
        timer.as_mut().poll(cx).map(|()| Waited::TimeUp)
    })
    .await
}
