//! One caller's grant: its renewal, its refresh, and the answers of the hooks about single topics.
//!
//! Thousands of idle streams have one of these each, so whatever only some of them need is made
//! when it is needed: the answers of the hooks, and the head of the request.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::bounds::head_bytes;
use super::budget::{Held, Share};
use super::hooks::{Access, AccessTopics, Connecting, Grant, Hooks, Refusal, Revoker};
use super::new_token::with_token;
use super::placed_hooks::PlacedHooks;
use crate::error::{Error, Result};
use crate::permission::Action;
use crate::topic::{TopicName, TopicPattern};

/// The most topics and patterns of one grant and one action about which the answers of the hooks
/// are remembered, and the memory of one answer besides its topic, in bytes: a place in a map that
/// is half full, and a reason.
const MAX_ANSWERS: usize = 1_024;
const ANSWER_BYTES: usize = 512;

/// One caller's grant, and the means to ask the hooks about it again.
pub(super) struct Granted {
    pub(super) hooks: PlacedHooks,
    grant: Mutex<Grant>,
    /// Made with the first answer.
    answers: OnceLock<Box<Mutex<Answers>>>,
    share: Share,
    /// `None` for a grant that is never over, or whose end is final, unless it may be refreshed.
    renewing: Option<Box<Renewing>>,
}

/// The means to ask the hooks again.
struct Renewing {
    /// The head of the request. All streams of a connection wait for one renewal.
    request: tokio::sync::Mutex<KeptHead>,
    /// Cancelled when the grant is revoked, or replaced by another one.
    replaced: Mutex<CancellationToken>,
}

/// The head of a request, and its memory.
struct KeptHead {
    request: Connecting<'static>,
    held: Held,
}

/// Whether a grant may be replaced before it is over: that of a WebSocket, whose client may send
/// new tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refresh {
    Never,
    Possible,
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted").field("grant", &self.grant()).finish_non_exhaustive()
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let reason = refusal.reason().to_owned();
        match refusal.is_unauthenticated() {
            true => Self::Unauthenticated { reason },
            false => Self::Denied { reason },
        }
    }
}

/// The answers of the hooks about single topics and patterns. They hold as long as the grant.
struct Answers {
    known: HashMap<Action, HashMap<Box<str>, Result<()>>>,
    /// The memory of the answers, taken from the client's share.
    held: Held,
}

impl Answers {
    fn new(share: &Share) -> Self {
        Self { known: HashMap::new(), held: share.nothing() }
    }

    fn get(&self, action: Action, topics: &str) -> Option<Result<()>> {
        self.known.get(&action)?.get(topics).cloned()
    }

    /// Remembers an answer. Where there is no room for it, it is asked for again.
    fn insert(&mut self, action: Action, topics: &str, answer: Result<()>) {
        if self.known.get(&action).is_some_and(|answers| answers.len() >= MAX_ANSWERS) {
            self.clear();
        }
        let is_known = self.get(action, topics).is_some();
        if is_known || self.held.grow(ANSWER_BYTES + topics.len()).is_ok() {
            self.known.entry(action).or_default().insert(topics.into(), answer);
        }
    }

    fn clear(&mut self) {
        self.known.clear();
        self.held.keep(0);
    }
}

impl<'a> Access<'a> {
    pub(super) fn topic(action: Action, topic: &'a TopicName) -> Self {
        Self { action, topics: AccessTopics::Topic(topic) }
    }
}

impl Granted {
    /// Returns what was granted on a request with this head, to a client with this share of the
    /// memory.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`] for the head, which is kept if the hooks may be asked again.
    pub(super) fn new(
        hooks: Arc<dyn Hooks>,
        grant: Grant,
        request: &Connecting<'_>,
        share: Share,
        refresh: Refresh,
    ) -> Result<Self> {
        let address = request.address;
        let has_end = grant.end().is_some() || grant.revoker().is_some();
        let is_kept = has_end && !grant.is_final() || refresh == Refresh::Possible;
        let renewing = match is_kept {
            true => {
                let held = share.take(head_bytes(request.uri(), request.headers()))?;
                let mut request = request.owned();
                request.is_renewal = true;
                request.detach();
                let request = tokio::sync::Mutex::new(KeptHead { request, held });
                Some(Box::new(Renewing { request, replaced: Mutex::new(end_of(&grant)) }))
            }
            false => None,
        };
        let hooks = PlacedHooks { hooks, address };
        Ok(Self { hooks, grant: Mutex::new(grant), answers: OnceLock::new(), share, renewing })
    }

    /// Returns the token that is cancelled when the grant is revoked or replaced; `None` if it
    /// never is.
    ///
    /// The grant that is read afterwards is the one of the token, or a later one. With a later one,
    /// the token is cancelled.
    pub(super) fn replaced(&self) -> Option<CancellationToken> {
        match &self.renewing {
            Some(renewing) => {
                Some(renewing.replaced.lock().unwrap_or_else(PoisonError::into_inner).clone())
            }
            None => self.grant().revoker().map(|revoker| revoker.token().clone()),
        }
    }

    /// Returns the grant as it is now, even if it is over.
    pub(super) fn grant(&self) -> Grant {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the grant. If it is over, the hooks are asked again.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`]: they grant no other one.
    pub(super) async fn current(&self) -> Result<Grant> {
        let grant = self.grant();
        if !grant.is_over(SystemTime::now()) {
            return Ok(grant);
        }
        let Some(renewing) = self.renewing.as_ref().filter(|_| !grant.is_final()) else {
            let refusal = Refusal::unauthenticated(over(&grant));
            self.hooks.refused(Some(&grant), &refusal);
            return Err(refusal.into());
        };
        let kept = renewing.request.lock().await;
        let grant = self.grant();
        if !grant.is_over(SystemTime::now()) {
            return Ok(grant); // Another stream of the connection has asked.
        }
        let renewed = self.asked(&kept.request).await.map_err(|refusal| {
            debug!(caller = grant.caller(), %refusal, "a grant is over");
            self.hooks.refused(Some(&grant), &refusal);
            // Whatever the reason, the caller is known no longer.
            Error::Unauthenticated { reason: refusal.reason().to_owned() }
        })?;
        self.replace(renewing, renewed.clone());
        Ok(renewed)
    }

    /// Asks the hooks about a request. A grant that is over already is a refusal: otherwise a
    /// stream would ask without a pause.
    async fn asked(&self, request: &Connecting<'_>) -> Result<Grant, Refusal> {
        let grant = self.hooks.connect(request).await?;
        match grant.is_over(SystemTime::now()) {
            true => Err(Refusal::unauthenticated(over(&grant))),
            false => Ok(grant),
        }
    }

    /// Replaces the grant. Its answers are forgotten, and whatever lives on looks at the new one.
    fn replace(&self, renewing: &Renewing, grant: Grant) {
        let token = end_of(&grant);
        // Held from before the new grant is there: no answer is taken for one of another grant.
        let mut answers = self.answers();
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = grant;
        answers.clear();
        drop(answers);
        let mut replaced = renewing.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *replaced, token);
        drop(replaced);
        before.cancel();
    }

    /// Replaces the grant by that of a new token, which the hooks are asked about. The caller stays
    /// the same, and an end stays if the new grant has none. Returns the grant in effect.
    ///
    /// # Errors
    ///
    /// Nothing has changed then. [`Error::Unauthenticated`], [`Error::Denied`]: the hooks refuse
    /// the token, it is another caller's, or the grant is over and final. [`Error::NoRoom`];
    /// [`Error::Invalid`], [`Error::OverLimit`]: see [`with_token`].
    ///
    /// # Cancel safety
    ///
    /// Nothing has changed, or all has.
    pub(super) async fn refresh(&self, token: &str) -> Result<Grant> {
        let Some(renewing) = &self.renewing else {
            return Err(Error::invalid("type", "this grant cannot be refreshed"));
        };
        let mut kept = renewing.request.lock().await;
        let grant = self.grant();
        let request = with_token(&kept.request, token)?;
        let size_bytes = head_bytes(request.uri(), request.headers());
        let asked = match grant.is_final() && grant.is_over(SystemTime::now()) {
            true => Err(Refusal::unauthenticated(over(&grant))),
            false => self.asked(&request).await,
        };
        let same = asked.and_then(|refreshed| match refreshed.caller() == grant.caller() {
            true => Ok(refreshed),
            false => {
                let reason = format!("the token is not one of {}", grant.caller());
                Err(Refusal::denied(reason))
            }
        });
        let mut refreshed = same.map_err(|refusal| {
            self.hooks.refused(Some(&grant), &refusal);
            Error::from(refusal)
        })?;
        if let (None, Some(end)) = (refreshed.end(), grant.end()) {
            refreshed = refreshed.until(end);
        }
        let missing = size_bytes.saturating_sub(kept.held.size_bytes());
        kept.held.grow(missing)?;
        kept.held.keep(size_bytes);
        kept.request = request;
        self.replace(renewing, refreshed.clone());
        Ok(refreshed)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        let new = || Box::new(Mutex::new(Answers::new(&self.share)));
        self.answers.get_or_init(new).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the hooks about a topic or a pattern, once for each grant.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`], [`Error::Unauthenticated`]: as the hooks say.
    pub(super) async fn allow(&self, grant: &Grant, access: Access<'_>) -> Result<()> {
        let Access { action, topics } = access;
        if let Some(answer) = self.answers().get(action, topics.as_str()) {
            return answer;
        }
        let answer = self.hooks.allow(grant, access).await.map_err(|refusal| {
            self.hooks.refused(Some(grant), &refusal);
            Error::from(refusal)
        });
        let mut answers = self.answers();
        // An answer of a grant that is over by now must not hold for the next one.
        if grant.is_same(&self.grant()) {
            answers.insert(action, topics.as_str(), answer.clone());
        }
        answer
    }

    /// Asks the hooks whether the caller may read the topics of a pattern. A pattern without a
    /// wildcard is a topic, and no other one will come to match it.
    ///
    /// # Errors
    ///
    /// As [`Self::allow`].
    pub(super) async fn allow_pattern(&self, grant: &Grant, pattern: &TopicPattern) -> Result<()> {
        let named = pattern.is_name().then(|| TopicName::new(pattern.as_str())).transpose()?;
        let topics = match &named {
            Some(topic) => AccessTopics::Topic(topic),
            None => AccessTopics::Pattern(pattern),
        };
        self.allow(grant, Access { action: Action::Subscribe, topics }).await
    }

    /// Returns the error for what the grant does not permit, and tells the hooks.
    pub(super) fn deny(&self, grant: &Grant, access: Access<'_>) -> Error {
        let refusal = Refusal::denied(format!("{} may not {access}", grant.caller()));
        self.hooks.refused(Some(grant), &refusal);
        refusal.into()
    }
}

/// Returns a token that is cancelled when the grant is revoked, and that may be cancelled alone.
fn end_of(grant: &Grant) -> CancellationToken {
    grant.revoker().map(|revoker| revoker.token().child_token()).unwrap_or_default()
}

/// Returns the reason for which a caller is known no longer.
fn over(grant: &Grant) -> String {
    let is_revoked = grant.revoker().is_some_and(Revoker::is_revoked);
    let what = if is_revoked { "is revoked" } else { "is over" };
    format!("the grant of {} {what}", grant.caller())
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    /// Goal: what hooks have answered is the client's memory: it is bounded, and without room the
    /// hooks are asked again.
    #[test]
    fn answers_are_counted_and_are_not_remembered_where_there_is_no_room() {
        let budget = Budget::new(1 << 20);
        let share = budget.address().connection();
        let mut answers = Answers::new(&share);
        for number in 0..MAX_ANSWERS {
            answers.insert(Action::Publish, &format!("topic.{number}"), Ok(()));
        }
        assert!(answers.get(Action::Publish, "topic.0").is_some());
        let used_bytes = budget.used_bytes();
        assert!(used_bytes > 100 << 10 && used_bytes < 1 << 20, "{used_bytes}");
        let is_known =
            |number: &usize| answers.get(Action::Publish, &format!("topic.{number}")).is_some();
        let known = (0..MAX_ANSWERS).filter(is_known).count();
        assert!(known > 100 && known < MAX_ANSWERS, "{known}: a client alone has a quarter");
        answers.clear();
        assert_eq!(budget.used_bytes(), 0);
        for number in 0..=MAX_ANSWERS {
            answers.insert(Action::Manage, "x", Ok(()));
            answers.insert(Action::Subscribe, &format!("{}", number % 100), Ok(()));
        }
        drop(answers);
        assert_eq!(budget.used_bytes(), 0, "the memory is given back with the grant");
    }
}
