//! The permit of one caller: every edge asks it before it does anything with a topic. Without hooks
//! everything is permitted, and no question costs more than a look at an empty pointer.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::request::Parts as RequestHead;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;
use tracing::debug;

use super::clients::Peer;
use super::error_form;
use super::hooks::{Access, AccessTopics, Connecting, Grant, Hooks, Refusal};
use super::mounting::Edge;
use crate::broker::{Ack, Filter, MAX_PATTERNS, Member, Run, StatePage};
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::lists;
use crate::permission::{Action, Permitted, Verdict};
use crate::topic::{TopicName, TopicPattern};

/// The most topics and patterns of one grant and one action about which the answers of the hooks
/// are remembered.
const MAX_ANSWERS: usize = 1_024;

/// The caller's permit. Cheap to clone; all clones are one caller's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Permit(Option<Arc<Granted>>);

/// What a host has granted.
struct Granted {
    hooks: Arc<dyn Hooks>,
    grant: Mutex<Arc<Grant>>,
    answers: Mutex<Answers>,
    /// The head of the request, to ask again when the grant is over; `None` for a grant without
    /// end. All streams of a connection wait for one renewal.
    request: Option<tokio::sync::Mutex<Connecting>>,
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
#[derive(Default)]
struct Answers(HashMap<Action, HashMap<Box<str>, Result<()>>>);

impl Answers {
    fn get(&self, action: Action, topics: &str) -> Option<Result<()>> {
        self.0.get(&action)?.get(topics).cloned()
    }

    fn insert(&mut self, action: Action, topics: &str, answer: Result<()>) {
        let answers = self.0.entry(action).or_default();
        if answers.len() >= MAX_ANSWERS {
            answers.clear();
        }
        answers.insert(topics.into(), answer);
    }
}

/// The topics that a caller may read, of those that were asked for.
#[derive(Debug, Default)]
pub(super) struct PermittedTopics {
    pub(super) patterns: Vec<TopicPattern>,
    /// Patterns of which a part or all is not permitted.
    pub(super) cut: Vec<TopicPattern>,
}

impl Permit {
    /// Asks the hooks about the caller of a request, if there are hooks. A request that was asked
    /// about already, before its body was read, is not asked about again.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`], [`Error::Denied`].
    pub(crate) async fn ask(edge: &Edge, head: &RequestHead) -> Result<Self> {
        let Some(hooks) = &edge.hooks else { return Ok(Self(None)) };
        if let Some(asked) = head.extensions.get::<Self>() {
            return Ok(asked.clone());
        }
        let mut request = Connecting { head: head.clone(), address: None, is_renewal: false };
        let extensions = &mut request.head.extensions;
        // The rest of the connection must not live as long as this copy.
        extensions.remove::<OnUpgrade>();
        request.address = extensions.remove::<Peer>().map(|peer| peer.address());
        let grant = hooks.connect(&request).await.map_err(|refusal| {
            hooks.refused(None, &refusal);
            Error::from(refusal)
        })?;
        if let Some(peer) = head.extensions.get::<Peer>() {
            peer.set_caller(grant.caller());
        }
        request.is_renewal = true;
        let request = grant.end().map(|_| tokio::sync::Mutex::new(request));
        let (hooks, grant) = (hooks.clone(), Mutex::new(Arc::new(grant)));
        Ok(Self(Some(Arc::new(Granted { hooks, grant, answers: Mutex::default(), request }))))
    }

    /// Returns the time at which the grant is over; `None` if it has no end.
    pub(super) fn end(&self) -> Option<Instant> {
        let end = self.0.as_ref()?.grant().end()?;
        let left = end.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
        Instant::now().checked_add(left)
    }

    /// Checks that the caller's grant is not over. If it is, the hooks are asked again.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`]: they grant no other one.
    pub(super) async fn check_current(&self) -> Result<()> {
        match &self.0 {
            Some(granted) => granted.current().await.map(drop),
            None => Ok(()),
        }
    }

    /// Waits until the caller's grant is over and the hooks grant no other one. Returns the reason.
    /// Never ready if the grant has no end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the hooks may be asked again.
    pub(super) async fn over(self) -> Error {
        loop {
            let Some(end) = self.end() else { return std::future::pending().await };
            tokio::time::sleep_until(end).await;
            if let Err(error) = self.check_current().await {
                return error;
            }
        }
    }

    /// Returns whether there are hooks.
    pub(super) fn has_hooks(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the caller's grant as it is now; `None` without hooks.
    pub(super) fn grant(&self) -> Option<Arc<Grant>> {
        self.0.as_ref().map(|granted| granted.grant())
    }

    /// Checks that the caller may do `action` with `topic`. The answer is the same for a topic that
    /// does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`]; [`Error::Unauthenticated`] if the grant is over, and the caller was
    /// refused when it was asked about again.
    pub(super) async fn check(&self, action: Action, topic: &TopicName) -> Result<()> {
        let Some(granted) = &self.0 else { return Ok(()) };
        let grant = granted.current().await?;
        match grant.permission().of(action).verdict(topic) {
            Verdict::Yes => Ok(()),
            Verdict::No => Err(granted.deny(&grant, Access::topic(action, topic))),
            Verdict::Ask => granted.allow(&grant, Access::topic(action, topic)).await,
        }
    }

    /// Returns whether the caller may do `action` with `topic`. For things that happen beside what
    /// the caller asked for: they are left out, and that is no refusal.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`], as [`Self::check`].
    pub(super) async fn permits(&self, action: Action, topic: &TopicName) -> Result<bool> {
        let Some(granted) = &self.0 else { return Ok(true) };
        let grant = granted.current().await?;
        match grant.permission().of(action).verdict(topic) {
            Verdict::Yes => Ok(true),
            Verdict::No => Ok(false),
            Verdict::Ask => Ok(granted.allow(&grant, Access::topic(action, topic)).await.is_ok()),
        }
    }

    /// Checks that the caller may have maintenance done, make backups, and see metrics and
    /// connections.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub(super) async fn check_administers(&self) -> Result<()> {
        let Some(granted) = &self.0 else { return Ok(()) };
        let grant = granted.current().await?;
        if grant.permission().administers() {
            return Ok(());
        }
        let refusal = Refusal::denied(format!("{} may not administer the broker", grant.caller()));
        granted.hooks.refused(Some(&grant), &refusal);
        Err(refusal.into())
    }

    /// Cuts `patterns` down to the topics that the caller may read.
    ///
    /// # Errors
    ///
    /// As [`Self::check`], if nothing is left; [`Error::OverLimit`] if too many patterns are left.
    pub(super) async fn readable(&self, patterns: Vec<TopicPattern>) -> Result<PermittedTopics> {
        let Some(granted) = &self.0 else {
            return Ok(PermittedTopics { patterns, cut: Vec::new() });
        };
        let grant = granted.current().await?;
        let permitted = grant.permission().of(Action::Subscribe);
        let mut left = PermittedTopics::default();
        let mut refused = None;
        for pattern in patterns {
            let mut part = permitted.part_of(&pattern);
            if *permitted == Permitted::Ask {
                let access =
                    Access { action: Action::Subscribe, topics: AccessTopics::Pattern(&pattern) };
                if let Err(error) = granted.allow(&grant, access).await {
                    refused = Some(error);
                    part.clear();
                }
            }
            if part != [pattern.clone()] {
                left.cut.push(pattern);
            }
            left.patterns.extend(part);
            lists::check("topics that are permitted", left.patterns.len(), MAX_PATTERNS)?;
        }
        match (left.patterns.is_empty(), left.cut.first()) {
            (true, Some(pattern)) => Err(refused.unwrap_or_else(|| {
                let topics = AccessTopics::Pattern(pattern);
                granted.deny(&grant, Access { action: Action::Subscribe, topics })
            })),
            _ => Ok(left),
        }
    }

    /// Returns whether each topic that comes to match a pattern must be asked about.
    pub(super) fn asks_about_each(&self) -> bool {
        let asks = |granted: &Arc<Granted>| {
            *granted.grant().permission().of(Action::Subscribe) == Permitted::Ask
        };
        self.0.as_ref().is_some_and(asks)
    }

    /// Returns a function that says which topics a list shows to the caller; `None` for all.
    ///
    /// # Errors
    ///
    /// As [`Self::check`], if the grant is over.
    pub(super) async fn listed(
        &self,
    ) -> Result<Option<impl Fn(&TopicName) -> bool + Send + Sync + use<>>> {
        let Some(granted) = self.0.clone() else { return Ok(None) };
        let grant = granted.current().await?;
        Ok(Some(move |topic: &TopicName| {
            match grant.permission().of(Action::Subscribe).verdict(topic) {
                Verdict::Yes => true,
                Verdict::No => false,
                Verdict::Ask => granted.hooks.lists(&grant, topic),
            }
        }))
    }

    /// Returns the member as which the caller is present: the one that was asked for, under the id
    /// of the grant.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`]: the client named another id.
    pub(super) fn member(&self, asked: Option<Member>) -> Result<Option<Member>> {
        let (Some(granted), Some(asked)) = (&self.0, &asked) else { return Ok(asked) };
        let grant = granted.grant();
        match grant.member_id() {
            Some(id) if asked.id != id => {
                let problem = format!("{} may not be present as {:?}", grant.caller(), asked.id);
                let refusal = Refusal::denied(problem);
                granted.hooks.refused(Some(&grant), &refusal);
                Err(refusal.into())
            }
            _ => Ok(Some(asked.clone())),
        }
    }

    /// Returns the filter that holds for everything that the caller reads, by the grant as it is
    /// now.
    pub(super) fn filter(&self) -> Filter {
        self.0.as_ref().map(|granted| granted.grant().read_filter().clone()).unwrap_or_default()
    }

    /// Returns the page of a state with the events that the caller's filter picks.
    pub(super) fn picked(&self, mut page: StatePage) -> StatePage {
        if self.0.is_some() {
            let filter = self.filter();
            page.events.retain(|event| filter.picks_new(&event.content));
        }
        page
    }

    /// Has the hooks change `event`, or refuse it.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`], [`Error::Unauthenticated`]: as the hooks say.
    pub(super) fn intercept(&self, topic: &TopicName, mut event: NewEvent) -> Result<NewEvent> {
        let Some(granted) = &self.0 else { return Ok(event) };
        let grant = granted.grant();
        granted.hooks.intercept(&grant, topic, &mut event).map_err(|refusal| {
            granted.hooks.refused(Some(&grant), &refusal);
            Error::from(refusal)
        })?;
        Ok(event)
    }

    /// Tells the hooks of an acknowledgement.
    pub(super) fn acknowledged(&self, topic: &TopicName, ack: &Ack) {
        if let Some(granted) = &self.0 {
            granted.hooks.acknowledged(&granted.grant(), topic, ack);
        }
    }

    /// Tells the hooks of events that are about to be written.
    pub(super) fn delivered(&self, run: &Run) {
        if let Some(granted) = &self.0 {
            granted.hooks.delivered(&granted.grant(), run);
        }
    }
}

impl<'a> Access<'a> {
    fn topic(action: Action, topic: &'a TopicName) -> Self {
        Self { action, topics: AccessTopics::Topic(topic) }
    }
}

impl Granted {
    fn grant(&self) -> Arc<Grant> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the grant. If it is over, the hooks are asked again.
    async fn current(&self) -> Result<Arc<Grant>> {
        let grant = self.grant();
        let is_over = |grant: &Grant| grant.end().is_some_and(|end| end <= SystemTime::now());
        let Some(request) = self.request.as_ref().filter(|_| is_over(&grant)) else {
            return Ok(grant);
        };
        let request = request.lock().await;
        let grant = self.grant();
        if !is_over(&grant) {
            return Ok(grant); // Another stream of the connection has asked.
        }
        let renewed = self.hooks.connect(&request).await;
        let renewed = renewed.and_then(|renewed| match renewed.end() {
            // Otherwise a stream would ask without a pause.
            Some(end) if end <= SystemTime::now() => {
                Err(Refusal::unauthenticated(format!("the grant of {} is over", renewed.caller())))
            }
            _ => Ok(Arc::new(renewed)),
        });
        let renewed = renewed.map_err(|refusal| {
            debug!(caller = grant.caller(), %refusal, "a grant is over");
            self.hooks.refused(Some(&grant), &refusal);
            // Whatever the reason, the caller is known no longer.
            Error::Unauthenticated { reason: refusal.reason().to_owned() }
        })?;
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = renewed.clone();
        *self.answers() = Answers::default();
        Ok(renewed)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the hooks about a topic or a pattern, once for each grant.
    async fn allow(&self, grant: &Arc<Grant>, access: Access<'_>) -> Result<()> {
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
        if Arc::ptr_eq(grant, &self.grant()) {
            answers.insert(action, topics.as_str(), answer.clone());
        }
        answer
    }

    fn deny(&self, grant: &Grant, access: Access<'_>) -> Error {
        let refusal = Refusal::denied(format!("{} may not {access}", grant.caller()));
        self.hooks.refused(Some(grant), &refusal);
        refusal.into()
    }
}

/// Asks the hooks before the body of a call of gRPC is read.
pub(crate) async fn before_body(
    State(edge): State<Edge>,
    mut request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    match Permit::ask(&edge, &head).await {
        Ok(permit) => {
            request = Request::from_parts(head, body);
            request.extensions_mut().insert(permit);
            next.run(request).await
        }
        Err(error) => error_form::of_call(error),
    }
}

/// Asks the hooks before the handler of a request runs.
impl FromRequestParts<Edge> for Permit {
    type Rejection = Error;

    async fn from_request_parts(head: &mut RequestHead, edge: &Edge) -> Result<Self> {
        Self::ask(edge, head).await
    }
}
