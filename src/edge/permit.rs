//! The permit of one caller: every edge asks it before it does anything with a topic. Without hooks
//! everything is permitted, and no question costs more than a look at an empty pointer.
//!
//! The file is longer than others, because each question that an edge may ask stands here, beside
//! the others.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::request::Parts as RequestHead;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clients::{Peer, share};
use super::error_form;
use super::granted::{Granted, Refresh};
use super::hooks::{
    Access, AccessTopics, ActKind, ActOutcome, Connecting, Grant, PUBLISHER_HEADER, Refusal,
    RefusalContext,
};
use super::media::is_json;
use super::mounting::Edge;
use crate::broker::{Ack, Filter, MAX_PATTERNS, Member, Run, StatePage};
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::json_levels::{self, MAX_JSON_LEVELS};
use crate::lists;
use crate::permission::{Action, Permitted, Verdict};
use crate::polls;
use crate::topic::{TopicName, TopicPattern};

/// The caller's permit. Cheap to clone; all clones are one caller's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Permit(Option<Arc<Granted>>);

/// The topics that a caller may read, of those that were asked for.
#[derive(Debug, Default)]
pub(super) struct PermittedTopics {
    pub(super) patterns: Vec<TopicPattern>,
    pub(super) left_out: LeftOut,
}

/// What a caller may not read, of the topics that it asked for. Empty if it may read all.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    /// Patterns of which a part or all is not permitted.
    pub(super) cut: Vec<TopicPattern>,
    /// Topics that were named, and are not permitted.
    pub(super) denied: Vec<TopicPattern>,
}

impl LeftOut {
    /// Returns one of the patterns and topics.
    pub(super) fn first(&self) -> Option<&TopicPattern> {
        self.denied.first().or(self.cut.first())
    }
}

impl Permit {
    /// Asks the hooks about the caller of a request, if there are hooks. A request that was asked
    /// about already, before its body was read, is not asked about again.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`], [`Error::Denied`]; [`Error::NoRoom`].
    pub(crate) async fn ask(edge: &Edge, head: &RequestHead) -> Result<Self> {
        Self::ask_with(edge, head, Refresh::Never).await
    }

    /// Asks as [`Self::ask`] does, for a client that may send new tokens ([`Self::refresh`]).
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub(super) async fn ask_refreshable(edge: &Edge, head: &RequestHead) -> Result<Self> {
        Self::ask_with(edge, head, Refresh::Possible).await
    }

    async fn ask_with(edge: &Edge, head: &RequestHead, refresh: Refresh) -> Result<Self> {
        let Some(hooks) = &edge.hooks else { return Ok(Self(None)) };
        if let Some(asked) = head.extensions.get::<Self>() {
            return Ok(asked.clone());
        }
        let request = connecting(head);
        let grant = hooks.connect(&request).await.map_err(|refusal| {
            let (address, path) = (request.address, Some(request.uri().path()));
            hooks.refused(&RefusalContext { refusal: &refusal, grant: None, address, path });
            Error::from(refusal)
        })?;
        let peer = head.extensions.get::<Peer>();
        if let Some(peer) = peer {
            peer.set_caller(grant.shared_caller());
        }
        let granted = Granted::new(hooks.clone(), grant, &request, share(peer), refresh)?;
        Ok(Self(Some(Arc::new(granted))))
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
            self.ended().await;
            if let Err(error) = self.check_current().await {
                return error;
            }
        }
    }

    /// Waits until the end of the caller's grant, or until it is revoked or replaced. The hooks are
    /// not asked. Never ready if the grant has no end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn ended(&self) {
        let (replaced, end) = (self.replaced(), self.end());
        let replaced = async {
            match &replaced {
                Some(replaced) => replaced.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let end = async {
            match end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = replaced => {}
            () = end => {}
        }
    }

    /// Returns the token that is cancelled when the caller's grant is revoked or replaced; `None`
    /// if it never is. Ask for the token before the grant: a later grant cancels it.
    pub(super) fn replaced(&self) -> Option<CancellationToken> {
        self.0.as_ref()?.replaced()
    }

    /// Returns the id of the caller; `None` without hooks.
    pub(crate) fn caller(&self) -> Option<Arc<str>> {
        self.0.as_ref().map(|granted| granted.grant().shared_caller())
    }

    /// Returns whether `grant` is the caller's grant as it is now.
    pub(super) fn has(&self, grant: Option<&Grant>) -> bool {
        match (&self.0, grant) {
            (Some(granted), Some(grant)) => granted.grant().is_same(grant),
            _ => true,
        }
    }

    /// Proves anew who the caller is. Returns the end of the grant in effect.
    ///
    /// # Errors
    ///
    /// As [`Granted::refresh`]: the grant is as it was.
    pub(super) async fn refresh(&self, token: &str) -> Result<Option<SystemTime>> {
        match &self.0 {
            Some(granted) => Ok(granted.refresh(token).await?.end()),
            None => Ok(None),
        }
    }

    /// Returns whether there are hooks.
    pub(super) fn has_hooks(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the caller's grant as it is now; `None` without hooks.
    pub(crate) fn grant(&self) -> Option<Grant> {
        self.0.as_ref().map(|granted| granted.grant())
    }

    /// Checks that the caller may do `action` with `topic`. The answer is the same for a topic that
    /// does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: nobody but the broker writes its own topics, with or without hooks.
    /// [`Error::UnknownTopic`]: nobody but the broker reads its secrets.
    /// [`Error::Denied`]; [`Error::Unauthenticated`] if the grant is over, and the caller was
    /// refused when it was asked about again.
    pub(super) async fn check(&self, action: Action, topic: &TopicName) -> Result<()> {
        if matches!(action, Action::Publish | Action::Manage) {
            topic.check_of_clients()?;
        }
        if topic.is_secret() {
            return Err(Error::UnknownTopic(topic.clone()));
        }
        let Some(granted) = &self.0 else { return Ok(()) };
        let grant = granted.current().await?;
        match grant.permission().of(action).verdict(topic) {
            Verdict::Yes => Ok(()),
            Verdict::No => Err(granted.deny(&grant, Access::topic(action, topic))),
            Verdict::Ask => granted.allow(&grant, Access::topic(action, topic)).await,
        }
    }

    /// Checks that the caller may be told the numbers and the settings of `topic`: it may manage
    /// the topic, or subscribe to it. The answer is the same for a topic that does not exist.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub(super) async fn check_shown(&self, topic: &TopicName) -> Result<()> {
        let Some(granted) = &self.0 else { return self.check(Action::Subscribe, topic).await };
        let grant = granted.current().await?;
        let of = |action| grant.permission().of(action).verdict(topic);
        let managed = match topic.check_of_clients() {
            Ok(()) => of(Action::Manage),
            Err(_) => Verdict::No,
        };
        match (of(Action::Subscribe), managed) {
            (_, Verdict::Yes) => Ok(()),
            (Verdict::No, Verdict::Ask) => self.check(Action::Manage, topic).await,
            (Verdict::Ask, Verdict::Ask) => match self.check(Action::Subscribe, topic).await {
                Err(Error::Denied { .. }) => self.check(Action::Manage, topic).await,
                read => read,
            },
            (_, Verdict::No) => self.check(Action::Subscribe, topic).await,
            (Verdict::Yes, Verdict::Ask) => Ok(()),
        }
    }

    /// Returns whether the caller may do `action` with `topic`. For things that happen beside what
    /// the caller asked for: they are left out, and that is no refusal.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`], as [`Self::check`].
    pub(super) async fn permits(&self, action: Action, topic: &TopicName) -> Result<bool> {
        if topic.is_secret() {
            return Ok(false);
        }
        let Some(granted) = &self.0 else { return Ok(true) };
        let grant = granted.current().await?;
        match grant.permission().of(action).verdict(topic) {
            Verdict::Yes => Ok(true),
            Verdict::No => Ok(false),
            Verdict::Ask => Ok(granted.allow(&grant, Access::topic(action, topic)).await.is_ok()),
        }
    }

    /// Returns whether a publisher to `topic` is told how many read it: not if it certainly may not
    /// read it itself. Nobody is asked for this.
    pub(super) fn counts_readers(&self, topic: &TopicName) -> bool {
        let Some(granted) = &self.0 else { return true };
        granted.grant().permission().of(Action::Subscribe).verdict(topic) != Verdict::No
    }

    /// Checks that something may be kept for the caller: it is not one of many strangers.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`].
    pub(super) fn check_known(&self) -> Result<()> {
        let Some(granted) = &self.0 else { return Ok(()) };
        let grant = granted.grant();
        if !grant.is_of_strangers() {
            return Ok(());
        }
        let refusal = Refusal::denied(format!(
            "{} stands for many callers, for whom nothing is kept: send a credential",
            grant.caller()
        ));
        granted.hooks.refused(Some(&grant), &refusal);
        Err(refusal.into())
    }

    /// Returns whether the caller administers the broker, by the grant as it is now. Nobody is told
    /// of a refusal.
    pub(super) fn administers(&self) -> bool {
        self.0.as_ref().is_none_or(|granted| granted.grant().permission().administers())
    }

    /// Checks that the caller may have maintenance done, make backups, and see metrics and
    /// connections.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub(crate) async fn check_administers(&self) -> Result<()> {
        let Some(granted) = &self.0 else { return Ok(()) };
        let grant = granted.current().await?;
        if grant.permission().administers() {
            return Ok(());
        }
        let refusal = Refusal::denied(format!("{} may not administer the broker", grant.caller()));
        granted.hooks.refused(Some(&grant), &refusal);
        Err(refusal.into())
    }

    /// Cuts `patterns` down to the topics that the caller may read. If `is_strict`, nothing may be
    /// missing.
    ///
    /// # Errors
    ///
    /// As [`Self::check`], if nothing is left, or something is missing although it may not;
    /// [`Error::OverLimit`] if too many patterns are left.
    pub(super) async fn readable(
        &self,
        patterns: Vec<TopicPattern>,
        is_strict: bool,
    ) -> Result<PermittedTopics> {
        // No pattern with wildcards has such a topic.
        let secret = patterns
            .iter()
            .filter(|it| it.is_name())
            .find_map(|it| TopicName::new(it.as_str()).ok().filter(TopicName::is_secret));
        if let Some(secret) = secret {
            return Err(Error::UnknownTopic(secret));
        }
        let Some(granted) = &self.0 else {
            return Ok(PermittedTopics { patterns, left_out: LeftOut::default() });
        };
        let grant = granted.current().await?;
        let permitted = grant.permission().of(Action::Subscribe);
        let mut left = PermittedTopics::default();
        let mut refused = None;
        for pattern in patterns {
            polls::rest().await; // A thousand patterns, cut down by as many, take a while.
            let mut part = permitted.part_of(&pattern);
            if *permitted == Permitted::Ask
                && let Err(error) = granted.allow_pattern(&grant, &pattern).await
            {
                refused = Some(error);
                part.clear();
            }
            if part != [pattern.clone()] {
                match pattern.is_name() {
                    true => left.left_out.denied.push(pattern),
                    false => left.left_out.cut.push(pattern),
                }
            }
            left.patterns.extend(part);
            lists::check("topics that are permitted", left.patterns.len(), MAX_PATTERNS)?;
        }
        match left.left_out.first() {
            Some(pattern) if is_strict || left.patterns.is_empty() => {
                Err(refused.unwrap_or_else(|| {
                    let topics = AccessTopics::Pattern(pattern);
                    granted.deny(&grant, Access { action: Action::Subscribe, topics })
                }))
            }
            _ => {
                // The others are told already, by the hooks' own answer.
                let is_told = *permitted == Permitted::Ask;
                left.left_out.denied.iter().filter(|_| !is_told).for_each(|topic| {
                    let topics = AccessTopics::Pattern(topic);
                    granted.deny(&grant, Access { action: Action::Subscribe, topics });
                });
                Ok(left)
            }
        }
    }

    /// Checks that the caller may do `action` with all topics that match `selection`, now and
    /// later. The answer is the same whether such topics exist or not.
    ///
    /// # Errors
    ///
    /// As [`Self::check`]. [`Error::Invalid`] for a pattern of which each topic must be asked
    /// about: what is kept for the whole of it would tell of topics that are refused.
    pub(crate) async fn check_whole(&self, action: Action, selection: &TopicPattern) -> Result<()> {
        if selection.is_name() {
            return self.check(action, &TopicName::new(selection.as_str())?).await;
        }
        let Some(granted) = &self.0 else { return Ok(()) };
        let grant = granted.current().await?;
        let topics = AccessTopics::Pattern(selection);
        let permitted = grant.permission().of(action);
        if *permitted == Permitted::Ask {
            granted.allow(&grant, Access { action, topics }).await?;
            let problem = "is a pattern of which each topic is asked about; name one topic";
            return Err(Error::invalid("topic", problem));
        }
        match permitted.part_of(selection).as_slice() {
            [whole] if whole == selection => Ok(()),
            _ => Err(granted.deny(&grant, Access { action, topics })),
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

    /// Returns a function that says for which selections a list shows consumers to the caller:
    /// those that the caller may subscribe to as a whole, or all if `is_of_another`, for
    /// administrators.
    ///
    /// # Errors
    ///
    /// As [`Self::check`], if the grant is over.
    pub(super) async fn listed_whole(
        &self,
        is_of_another: bool,
    ) -> Result<impl Fn(&TopicPattern) -> bool + Send + Sync + use<>> {
        let granted = self.0.clone().filter(|_| !is_of_another);
        let granted = match granted {
            Some(granted) => Some((granted.current().await?, granted)),
            None => None,
        };
        Ok(move |selection: &TopicPattern| {
            let Some((grant, granted)) = &granted else { return true };
            let permitted = grant.permission().of(Action::Subscribe);
            match permitted {
                Permitted::Ask => {
                    let topic = selection.is_name().then(|| TopicName::new(selection.as_str()));
                    topic.is_some_and(|it| it.is_ok_and(|it| granted.hooks.lists(grant, &it)))
                }
                _ => permitted.part_of(selection).contains(selection),
            }
        })
    }

    /// Returns the member as which the caller is present: the one that was asked for, under the id
    /// of the grant. The client may leave its id out if the grant has one.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`]: the client named another id.
    pub(super) fn member(&self, asked: Option<Member>) -> Result<Option<Member>> {
        let (Some(granted), Some(asked)) = (&self.0, &asked) else { return Ok(asked) };
        let grant = granted.grant();
        match grant.member_id() {
            Some(id) if asked.id.is_empty() => {
                Ok(Some(Member { id: id.to_owned(), ..asked.clone() }))
            }
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
    /// [`Error::Denied`], [`Error::Unauthenticated`]: as the hooks say. [`Error::Invalid`]: the
    /// publisher has set [`PUBLISHER_HEADER`], with or without hooks. [`Error::OverLimit`]: the
    /// payload is JSON by its type, and has more than [`MAX_JSON_LEVELS`].
    pub(super) fn intercept(&self, topic: &TopicName, mut event: NewEvent) -> Result<NewEvent> {
        // Readers may compare the names of headers without regard to case.
        if event.headers.keys().any(|name| name.eq_ignore_ascii_case(PUBLISHER_HEADER)) {
            let problem = format!("{PUBLISHER_HEADER:?} is set by the broker, and by nobody else");
            return Err(Error::invalid("headers", problem));
        }
        // A shorter payload cannot have so many levels.
        if event.payload.len() > MAX_JSON_LEVELS && is_json(&event.content_type) {
            json_levels::check("levels of JSON in the payload", &event.payload, MAX_JSON_LEVELS)?;
        }
        let Some(granted) = &self.0 else { return Ok(event) };
        let grant = granted.grant();
        granted.hooks.intercept(&grant, topic, &mut event).map_err(|refusal| {
            granted.hooks.refused(Some(&grant), &refusal);
            Error::from(refusal)
        })?;
        Ok(event)
    }

    /// Does an act of administration, and tells the hooks of it, also if it is given up.
    ///
    /// # Errors
    ///
    /// Those of `act`.
    ///
    /// # Cancel safety
    ///
    /// That of `act`.
    pub(super) async fn administering<T>(
        &self,
        kind: ActKind,
        topic: Option<&TopicName>,
        act: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.telling((kind, topic, None), act).await
    }

    /// Does an act of administration on a webhook, as [`Self::administering`].
    ///
    /// # Errors
    ///
    /// Those of `act`.
    ///
    /// # Cancel safety
    ///
    /// That of `act`.
    #[cfg(feature = "webhooks")]
    pub(crate) async fn administering_webhook<T>(
        &self,
        kind: ActKind,
        webhook: &str,
        act: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.telling((kind, None, Some(webhook)), act).await
    }

    async fn telling<T>(
        &self,
        (kind, topic, webhook): (ActKind, Option<&TopicName>, Option<&str>),
        act: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut telling = Telling { granted: self.0.as_deref(), kind, topic, webhook };
        let outcome = act.await;
        telling.tell(match &outcome {
            Ok(_) => ActOutcome::Done,
            Err(error) => ActOutcome::Failed(error),
        });
        outcome
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

/// Returns the head of a request, as hooks are asked about it.
pub(crate) fn connecting(head: &RequestHead) -> Connecting<'_> {
    let peer = head.extensions.get::<Peer>();
    Connecting {
        head: Cow::Borrowed(head),
        address: peer.map(Peer::address),
        certificate: peer.and_then(Peer::certificate),
        is_renewal: false,
    }
}

/// An act of administration that the hooks are not told of yet.
struct Telling<'a> {
    granted: Option<&'a Granted>,
    kind: ActKind,
    topic: Option<&'a TopicName>,
    webhook: Option<&'a str>,
}

impl Telling<'_> {
    fn tell(&mut self, outcome: ActOutcome<'_>) {
        if let Some(granted) = self.granted.take() {
            let about = (self.topic, self.webhook);
            granted.hooks.administered(&granted.grant(), self.kind, about, outcome);
        }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.tell(ActOutcome::GivenUp);
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
