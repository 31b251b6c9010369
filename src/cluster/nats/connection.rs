//! The connection to NATS: comes back by itself, and tells each caller in a bounded time.
//!
//! All answers, those to requests and the acknowledgements of appends, come to one subject of this
//! connection's own; `pending.rs` has who waits for which.
//!
//! # Why
//!
//! Of `async-nats` only the connection is used, and JetStream's requests are made here. Its own
//! request keeps an entry for each answer that never comes. It also does not tell that the
//! connection was lost: the caller waits out the time. Here a lost connection ends all waiting.
//!
//! What is handed to the client while there is no connection is sent when there is one again, which
//! may be minutes later. So nothing is handed over then; only what was handed over in the moment
//! before the loss was noticed may come late, and its fence refuses it if anything came between.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::crypto::CryptoProvider;

use super::pending::{AwaitedAnswer, NoAnswer, PendingAnswers};
use super::settings::{NatsConfig, NatsCredentials};
use crate::cluster::messages::NotTold;

/// How often the client asks the server whether it is there. Three questions without an answer end
/// the connection, so that a server that stands still is left after 3 s.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// How long one server may take to accept a connection. One that stands still accepts it in its
/// system, and then says nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to connect.
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// Messages that wait for a reader. Their bytes are bounded by the flow control of the reader's
/// consumer; this many are never reached by records of 100 bytes.
const SUBSCRIPTION_CAPACITY: usize = 512 << 10;

/// The connection, shared by all who use the engine.
#[derive(Clone)]
pub(super) struct NatsConnection {
    client: Client,
    pending: Arc<PendingAnswers>,
    link: watch::Receiver<LinkState>,
    inbox: Arc<str>,
}

/// Whether there is a connection.
#[derive(Debug, Clone, Default)]
struct LinkState {
    connected: bool,
    /// The last thing that went wrong; empty if nothing has.
    problem: String,
}

impl NatsConnection {
    /// Connects, within the settings' time for an answer.
    ///
    /// # Errors
    ///
    /// What was wrong with the last attempt. Wrong credentials and files are told at once.
    pub(super) async fn open(config: &NatsConfig) -> Result<Self, String> {
        if CryptoProvider::get_default().is_none() {
            // The client would panic once a server asks for TLS.
            return Err(
                "TLS with NATS needs a provider of cryptography: the host installs one of \
                        rustls (install_default)"
                    .to_owned(),
            );
        }
        let deadline = Instant::now() + config.answer_timeout;
        let pending = Arc::new(PendingAnswers::default());
        let (link_sender, link) = watch::channel(LinkState::default());
        let link_sender = Arc::new(link_sender);
        let client = loop {
            let options = options_of(config)?;
            let (pending, link) = (Arc::clone(&pending), Arc::clone(&link_sender));
            let options = options.event_callback(move |event| {
                note(&event, &pending, &link);
                std::future::ready(())
            });
            let problem = match timeout_at(deadline, options.connect(&config.urls[..])).await {
                Ok(Ok(client)) => break client,
                Ok(Err(error)) => match error.kind() {
                    ConnectErrorKind::Authentication
                    | ConnectErrorKind::AuthorizationViolation
                    | ConnectErrorKind::ServerParse => {
                        return Err(format!("NATS refuses the connection: {error}"));
                    }
                    _ => error.to_string(),
                },
                Err(_) => "no answer in time".to_owned(),
            };
            if Instant::now() + LONGEST_RECONNECT_DELAY >= deadline {
                return Err(format!("no connection to NATS at {}: {problem}", shown(&config.urls)));
            }
            tokio::time::sleep(LONGEST_RECONNECT_DELAY).await;
        };
        let inbox: Arc<str> = client.new_inbox().into();
        let answers = client.subscribe(format!("{inbox}.*")).await;
        let answers = answers.map_err(|error| format!("NATS takes no subscription: {error}"))?;
        tokio::spawn(hand_out(answers, Arc::clone(&pending)));
        Ok(Self { client, pending, link, inbox })
    }

    /// Returns what the server says of itself.
    pub(super) fn server(&self) -> async_nats::ServerInfo {
        self.client.server_info()
    }

    /// Subscribes to a new subject of this connection's own, and returns it.
    pub(super) async fn subscribe(&self) -> Result<(String, Subscriber), String> {
        let inbox = self.client.new_inbox();
        let subscriber = self.subscribe_to(inbox.clone()).await?;
        Ok((inbox, subscriber))
    }

    /// Subscribes to a subject. The subscription outlives the loss of the connection.
    pub(super) async fn subscribe_to(&self, subject: String) -> Result<Subscriber, String> {
        self.client.subscribe(subject).await.map_err(|error| error.to_string())
    }

    /// Waits for a connection.
    ///
    /// # Errors
    ///
    /// There is none until the deadline; what the last problem was.
    pub(super) async fn connected(&self, deadline: Instant) -> Result<(), String> {
        let mut link = self.link.clone();
        let waited = timeout_at(deadline, link.wait_for(|link| link.connected)).await;
        if matches!(waited, Ok(Ok(_))) && self.client.connection_state() == State::Connected {
            return Ok(());
        }
        let problem = self.link.borrow().problem.clone();
        let problem =
            if problem.is_empty() { "the connection was lost".to_owned() } else { problem };
        Err(format!("no connection to NATS: {problem}"))
    }

    /// Registers one who waits for an answer.
    pub(super) fn wait(&self) -> AwaitedAnswer {
        AwaitedAnswer::register(&self.pending)
    }

    /// Sends a message whose answer goes to `token`, unless its waiter has given up.
    ///
    /// Messages are sent in the order in which these calls return.
    pub(super) async fn send(
        &self,
        token: u64,
        subject: String,
        headers: Option<HeaderMap>,
        body: Bytes,
        deadline: Instant,
    ) {
        if let Err(problem) = self.connected(deadline).await {
            self.pending.refuse(token, problem);
            return;
        }
        if !self.pending.mark_sent(token) {
            return;
        }
        let reply = format!("{}.{token}", self.inbox);
        let client = &self.client;
        let sent = async {
            match headers {
                Some(headers) => {
                    client.publish_with_reply_and_headers(subject, reply, headers, body).await
                }
                None => client.publish_with_reply(subject, reply, body).await,
            }
        };
        match timeout_at(deadline, sent).await {
            Ok(Ok(())) => {}
            // Both mean that the client did not take it.
            Ok(Err(error)) => self.pending.refuse(token, error.to_string()),
            Err(_) => self.pending.refuse(token, "NATS takes no more messages".to_owned()),
        }
    }

    /// Sends a message that nobody waits for, if there is a connection.
    pub(super) async fn tell(&self, subject: String, body: Bytes) {
        if self.link.borrow().connected {
            let _best_effort = self.client.publish(subject, body).await;
        }
    }

    /// Hands over a message that nobody waits for, without waiting.
    pub(super) fn tell_now(&self, subject: String, body: Bytes) -> Result<(), NotTold> {
        let link = self.link.borrow().clone();
        if !link.connected {
            return Err(NotTold::Away(link.problem));
        }
        // The client takes a message at once, unless too many wait.
        let handed_over = unconstrained(self.client.publish(subject, body)).now_or_never();
        match handed_over {
            Some(taken) => taken.map_err(|error| NotTold::Away(error.to_string())),
            None => Err(NotTold::Busy),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn request(
        &self,
        subject: String,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Message, NoAnswer> {
        let waiting = self.wait();
        self.send(waiting.token(), subject, None, body, deadline).await;
        waiting.answer(deadline).await
    }
}

/// Notes what the client tells of its connection.
fn note(event: &Event, pending: &PendingAnswers, link: &watch::Sender<LinkState>) {
    match event {
        Event::Connected => link.send_modify(|link| link.connected = true),
        Event::Disconnected | Event::Closed => {
            link.send_modify(|link| link.connected = false);
            pending.lose_all();
        }
        Event::ServerError(error) => {
            link.send_modify(|link| link.problem = error.to_string());
        }
        Event::ClientError(error) => link.send_modify(|link| link.problem = error.to_string()),
        Event::SlowConsumer(_) | Event::LameDuckMode | Event::Draining => {}
    }
}

/// Hands each answer to the one who waits for it, until the connection's end.
async fn hand_out(mut answers: Subscriber, pending: Arc<PendingAnswers>) {
    while let Some(message) = answers.next().await {
        let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        if let Some(token) = token {
            pending.answer(token, message);
        }
    }
    pending.lose_all();
}

/// Returns the options of the client.
fn options_of(config: &NatsConfig) -> Result<ConnectOptions, String> {
    let mut options = ConnectOptions::new()
        .name("leftoff")
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .reconnect_delay_callback(reconnect_delay);
    options = match &config.credentials {
        NatsCredentials::None => match in_url(&config.urls) {
            Some((user, password)) => options.user_and_password(user, password),
            None => options,
        },
        NatsCredentials::Password { user, password } => {
            options.user_and_password(user.clone(), password.expose().to_owned())
        }
        NatsCredentials::Token(token) => options.token(token.expose().to_owned()),
        NatsCredentials::Nkey(seed) => options.nkey(seed.expose().trim().to_owned()),
        NatsCredentials::File(text) => {
            let taken = options.credentials(text.expose());
            taken.map_err(|error| format!("credentials of NATS: {error}"))?
        }
    };
    if let Some(file) = &config.tls.trusted {
        options = options.add_root_certificates(file.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &config.tls.identity {
        options =
            options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    if config.tls.first {
        options = options.tls_first();
    }
    Ok(options)
}

/// Returns the user and the password in the first URL that has them; the client reads none there.
fn in_url(urls: &[String]) -> Option<(String, String)> {
    urls.iter().find_map(|url| {
        let (_, rest) = url.split_once("://")?;
        let (user, _) = rest.split('/').next()?.rsplit_once('@')?;
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        Some((user.to_owned(), password.to_owned()))
    })
}

/// Returns the URLs for messages, without passwords.
fn shown(urls: &[String]) -> String {
    let without = |url: &String| match url.split_once("://") {
        Some((scheme, rest)) => {
            format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
        }
        None => url.clone(),
    };
    urls.iter().map(without).collect::<Vec<_>>().join(", ")
}

/// Returns the pause before an attempt to connect: none before the first two, so that a lost server
/// costs nothing if another answers, then longer ones, which differ from node to node.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 2 {
        return Duration::ZERO;
    }
    let doubled = Duration::from_millis(8 << attempts.min(10));
    doubled.min(LONGEST_RECONNECT_DELAY).mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_urls_are_read_and_not_shown() {
        let urls = ["nats://a:4222".to_owned(), "nats://ann:s:e@b:4222/x".to_owned()];
        assert_eq!(in_url(&urls), Some(("ann".to_owned(), "s:e".to_owned())));
        assert_eq!(shown(&urls), "nats://a:4222, nats://b:4222/x");
    }
}
