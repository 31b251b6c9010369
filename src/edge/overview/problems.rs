//! What is wrong with a server now, in words, from what the broker knows anyway.

use serde::Serialize;

use super::history::{Rise, Trouble};
use super::known_letters::WaitingLetters;
use crate::broker::LogSpace;
use crate::edge::clients::Clients;
use crate::edge::counters::TimeLimit;
use crate::edge::fleet::{NodeOfFleet, ShownRole};
use crate::edge::mounting::{Edge, PausedWebhook};
use crate::edge::rates::Rate;
use crate::event::Timestamp;
use crate::polls;
use crate::topic::TopicName;

/// The free space, in multiples of `log.min_free_bytes`, below which a warning is told.
const LOW_SPACE: u64 = 4;

/// Whether something is refused or lost already, or may be soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Error,
    Warning,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// The stable word for it.
    kind: &'static str,
    severity: Severity,
    /// A sentence with the value, and one with what to do.
    text: String,
    /// How many there are, or how often it happened.
    count: u64,
    since: Timestamp,
    /// When it happened last; absent while it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Timestamp>,
    /// The topic to look at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<TopicName>,
}

/// Something that is wrong, before it is known since when it lasts.
struct State {
    kind: &'static str,
    severity: Severity,
    count: u64,
    text: String,
}

/// Returns the counters of troubles, in the order of [`Trouble::ALL`].
pub(super) fn troubles(edge: &Edge, clients: &Clients) -> [u64; Trouble::ALL.len()] {
    let counters = &edge.counters;
    Trouble::ALL.map(|trouble| match trouble {
        Trouble::Gaps => clients.traffic.gaps.get(),
        Trouble::SlowReaders => counters.slow_peers.get() + counters.time_limits(TimeLimit::Write),
        Trouble::DeadPeers => counters.time_limits(TimeLimit::Ping),
        Trouble::Refused => {
            Rate::ALL.iter().map(|rate| counters.refused_by_rate[*rate as usize].get()).sum()
        }
        Trouble::LongPolls => polls::long_polls().iter().map(|(_, count, _)| count).sum(),
        Trouble::Writes => edge.broker.refused_publishes(),
    })
}

/// Returns why no events are stored now; `None` if they are.
pub(super) fn refusal(edge: &Edge, space: Option<&LogSpace>) -> Option<String> {
    if let Err(error) = edge.broker.check_ready() {
        return Some(error.to_string());
    }
    let LogSpace { free_bytes, min_free_bytes, .. } = space?;
    let free_bytes = (*free_bytes).filter(|free| free < min_free_bytes)?;
    Some(format!(
        "the disk is full: {free_bytes} bytes are free, and log.min_free_bytes is {min_free_bytes}"
    ))
}

/// Returns what is wrong now, errors first.
pub(super) fn problems(
    edge: &Edge,
    clients: &Clients,
    (space, letters): (Option<&LogSpace>, Option<WaitingLetters>),
    now: Timestamp,
) -> Vec<Problem> {
    let lasting = lasting(edge, clients, space);
    let kinds: Vec<&'static str> = lasting.iter().map(|state| state.kind).collect();
    let since = clients.history.since(&kinds, now);
    let lasting = lasting.into_iter().zip(since).map(|(state, since)| {
        let State { kind, severity, count, text } = state;
        Problem { kind, severity, text, count, since, last: None, topic: None }
    });
    let letters = letters.map(|letters| waiting(letters, now));
    let paused = paused(edge.paused_webhooks());
    let values = troubles(edge, clients);
    let risen = Trouble::ALL.iter().zip(values).filter_map(|(trouble, value)| {
        Some(risen_by(*trouble, clients.history.rise(*trouble, value, now)?))
    });
    let mut all: Vec<Problem> = lasting.chain(paused).chain(letters).chain(risen).collect();
    all.sort_by_key(|problem| problem.severity == Severity::Warning); // Stable.
    all
}

/// Returns the states that are wrong.
fn lasting(edge: &Edge, clients: &Clients, space: Option<&LogSpace>) -> Vec<State> {
    let mut all = Vec::new();
    let mut add = |kind, severity, count, text| all.push(State { kind, severity, count, text });
    if let Some(reason) = refusal(edge, space) {
        let text = format!(
            "No events are stored: {reason}. The log of the broker says more; make room on the \
             disk, or start the broker again."
        );
        add("writes_refused", Severity::Error, 1, text);
    } else if let Some(LogSpace { free_bytes: Some(free), min_free_bytes, .. }) = space
        && *free < min_free_bytes.saturating_mul(LOW_SPACE)
    {
        let text = format!(
            "The disk has {free} free bytes. Below {min_free_bytes} (log.min_free_bytes) events \
             are refused: make room, or have topics keep less."
        );
        add("disk_low", Severity::Warning, 1, text);
    }
    let unread = edge.broker.unread_topics();
    if let Some((topic, problem)) = unread.first() {
        let text = format!(
            "{topic} has records that this version cannot read, and what they say does not hold \
             here: {problem}. Run the version that has written them."
        );
        add("records_unread", Severity::Error, unread.len() as u64, text);
    }
    if let Some((kind, severity, text)) = edge.fleet().and_then(|node| of_fleet(&**node)) {
        add(kind, severity, 1, text);
    }
    let (limits, count) = (clients.limits(), clients.count() as u64);
    if count >= limits.connections - limits.connections / 20 {
        let text = format!(
            "{count} clients are connected. At {} (server.max_connections) others are refused: \
             raise the limit, or look for clients that connect too often.",
            limits.connections
        );
        add("connections_full", Severity::Warning, count, text);
    }
    let held = clients.held_bytes() as u64;
    if held >= limits.max_bytes / 4 * 3 {
        let text = format!(
            "Clients hold {held} bytes of memory, of {} (server.max_client_bytes) at the most: \
             raise the limit, or look for clients that take little of what they ask for.",
            limits.max_bytes
        );
        add("memory_short", Severity::Warning, held, text);
    }
    all
}

/// Returns what is wrong with a node of a fleet, if something is.
fn of_fleet(fleet: &dyn NodeOfFleet) -> Option<(&'static str, Severity, String)> {
    let state = fleet.state();
    let ready = fleet.check_ready();
    if state.role == ShownRole::Stopped {
        let reason = ready.err().unwrap_or_default();
        let text = format!("{reason}. It serves readers what it has: mend it, and start it again.");
        return Some(("fleet_stopped", Severity::Error, text));
    }
    if let Some(damage) = state.damage {
        let repair = match fleet.has_secret() {
            true => {
                "Its process ends once another node can help, and its next start loads a backup \
                 of that node."
            }
            false => "Without fleet.secret no other node gives it a backup.",
        };
        let text = format!("The log of this node is damaged: {damage}. {repair}");
        return Some(("fleet_damaged", Severity::Error, text));
    }
    if let Some(problem) = state.engine_problem {
        let text = format!(
            "{problem}. Publishing is refused until the engine answers; reading goes on: look at \
             the servers of NATS."
        );
        return Some(("engine_away", Severity::Error, text));
    }
    let reason = ready.err()?;
    let text = format!("{reason}. Readers of this node get events late: they may use another one.");
    Some(("fleet_behind", Severity::Warning, text))
}

/// Returns the problem that webhooks are paused, if some are.
fn paused(paused: Vec<PausedWebhook>) -> Option<Problem> {
    let (count, since) = (paused.len() as u64, paused.iter().map(|hook| hook.since).min()?);
    let worst = paused.iter().find(|hook| !hook.problem.is_empty());
    let PausedWebhook { name, problem, .. } = worst.or(paused.first())?;
    let reason = if problem.is_empty() { "somebody has asked for it" } else { problem.as_str() };
    let which = match count {
        1 => format!("The webhook {name} is paused"),
        _ => format!("{count} webhooks are paused, such as {name}"),
    };
    let whose = if count == 1 { "Its" } else { "Their" };
    let text = format!("{which}: {reason}. {whose} events wait: mend the receiver, and resume.");
    let severity = if worst.is_some() { Severity::Error } else { Severity::Warning };
    let kind = "webhooks_paused";
    Some(Problem { kind, severity, text, count, since, last: None, topic: None })
}

/// Returns the problem that dead letters wait.
fn waiting(letters: WaitingLetters, now: Timestamp) -> Problem {
    let WaitingLetters { count, more_than, topics, topic, oldest } = letters;
    let least = if more_than { "At least " } else { "" };
    let told = number(count, "dead letter waits", "dead letters wait");
    let place = match topics {
        1 => format!("in {topic}"),
        _ => format!("in {topics} topics, the oldest in {topic}"),
    };
    let text =
        format!("{least}{told} for somebody {place}. Put them back where they were, or drop them.");
    let (kind, severity, since) = ("dead_letters", Severity::Warning, oldest.unwrap_or(now));
    Problem { kind, severity, text, count, since, last: None, topic: Some(topic) }
}

/// Returns the problem that a counter has risen.
fn risen_by(trouble: Trouble, rise: Rise) -> Problem {
    let Rise { count, first: since, last } = rise;
    let (kind, one, many, advice) = match trouble {
        Trouble::Gaps => (
            "gaps_told",
            "gap was told to readers",
            "gaps were told to readers",
            "Events were gone before they were read: have the topic keep more, or read faster.",
        ),
        Trouble::SlowReaders => (
            "slow_readers",
            "client was cut that took nothing of what was sent",
            "clients were cut that took nothing of what was sent",
            "They come back where they stopped: look at their network, or have them read less.",
        ),
        Trouble::DeadPeers => (
            "dead_peers",
            "client answered no ping and was cut",
            "clients answered no ping and were cut",
            "Their network was gone: if they are many, look at the proxies in between.",
        ),
        Trouble::Refused => (
            "rates_exceeded",
            "request, message or connection was over a rate and was refused",
            "requests, messages or connections were over a rate and were refused",
            "Have the clients ask less often, or raise the limit in the section rates.",
        ),
        Trouble::LongPolls => (
            "long_polls",
            "task held a worker of the broker for over 10 ms",
            "tasks held a worker of the broker for over 10 ms",
            "Others waited meanwhile: the broker may need more processors.",
        ),
        Trouble::Writes => (
            "writes_failed",
            "publish was refused, for lack of room or because storage failed,",
            "publishes were refused, for lack of room or because storage failed,",
            "Their publishers were told so. Look at the disk, and at the log of the broker.",
        ),
    };
    let told = number(count, one, many);
    let text = format!("{told} in the last 15 minutes. {advice}");
    let (severity, last) = (Severity::Warning, Some(last));
    Problem { kind, severity, text, count, since, last, topic: None }
}

fn number(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_how_many_and_what_to_do() {
        let [since, last] = [1, 2].map(Timestamp::from_ms);
        for trouble in Trouble::ALL {
            let of = |count| risen_by(trouble, Rise { count, first: since, last });
            let (one, two) = (of(1), of(2));
            assert!(one.text.starts_with("1 ") && two.text.starts_with("2 "), "{one:?} {two:?}");
            assert_ne!(one.text[1..], two.text[1..]);
            assert_eq!((one.kind, one.severity, one.since), (two.kind, Severity::Warning, since));
            assert_eq!(one.last, Some(last));
        }
        assert_eq!(paused(Vec::new()), None);
        let hook = |name: &str, since, problem: &str| {
            let (name, problem) = (name.to_owned(), problem.to_owned());
            PausedWebhook { name, since: Timestamp::from_ms(since), problem }
        };
        let asked = paused(vec![hook("a", 5, "")]).unwrap();
        assert_eq!((asked.severity, asked.count), (Severity::Warning, 1));
        assert!(
            asked.text.starts_with("The webhook a is paused: somebody has asked for it. Its "),
            "{asked:?}"
        );
        let failed = paused(vec![hook("a", 5, ""), hook("b", 3, "it said 500")]).unwrap();
        assert_eq!((failed.severity, failed.count), (Severity::Error, 2));
        assert_eq!(failed.since, Timestamp::from_ms(3));
        assert!(
            failed.text.contains("2 webhooks are paused, such as b: it said 500. Their "),
            "{failed:?}"
        );
    }

    #[test]
    fn dead_letters_that_wait_are_told_with_their_topic_and_their_age() {
        let now = Timestamp::from_ms(9);
        let letters = |count, more_than, topics| WaitingLetters {
            count,
            more_than,
            topics,
            topic: "orders.dead".parse().unwrap(),
            oldest: Some(Timestamp::from_ms(3)),
        };
        let one = waiting(letters(1, false, 1), now);
        assert!(one.text.starts_with("1 dead letter waits for somebody in orders.dead. "));
        assert_eq!((one.since, one.last), (Timestamp::from_ms(3), None));
        assert_eq!(one.topic.unwrap().as_str(), "orders.dead");
        let many = waiting(letters(5, true, 2), now);
        let words = "At least 5 dead letters wait for somebody in 2 topics, the oldest in orders";
        assert!(many.text.starts_with(words), "{many:?}");
        let unread = WaitingLetters { oldest: None, ..letters(1, false, 1) };
        assert_eq!(waiting(unread, now).since, now);
    }
}
