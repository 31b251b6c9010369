//! What the outcome of a subscription means for its client.

use std::sync::Arc;

use serde_json::{Value, json};

use super::subscription::NamedFollowing;
use crate::broker::{Delivery, Ephemeral, Run, Waited};
use crate::edge::consumers::telling::{MarksNews, News};
use crate::edge::following::FollowTurn;
use crate::edge::gaps;
use crate::error::Error;

/// What a client is told. The subscription waits again when all is written.
pub(in crate::edge) enum ToClient {
    /// Nothing: the subscription goes on, or ends with the connection.
    Nothing,
    /// The messages, in their order.
    Messages(ToldAbout, Vec<String>, Box<NamedFollowing>),
    /// The events of the run, and of the runs that follow in memory.
    Events(Box<NamedFollowing>, Run),
    /// An event that is not stored.
    Ephemeral(Box<NamedFollowing>, Arc<Ephemeral>),
    /// The message that the subscription with this name is over.
    Ended(String, String),
    /// The permission of the caller is over, and the connection with it.
    Expired(Error),
}

/// What messages are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum ToldAbout {
    /// The subscription has begun.
    Begun,
    /// The subscription has begun without topics that were named and are not permitted.
    Denied,
    /// All that was there is delivered.
    CaughtUp,
    /// The subscription's place alone.
    Place,
    /// A gap.
    Gap,
    /// The counts of the consumer.
    Counts,
    /// All marks of the consumer.
    AllMarks,
    /// A change of marks.
    Marks,
}

/// Returns what the client is told when its subscription has begun.
pub(super) fn begun(mut subscription: Box<NamedFollowing>) -> ToClient {
    let (earliest, tail) = subscription.following.reader().bounds();
    let mut message = subscription.tell("subscribed");
    message.insert("earliest".to_owned(), json!(earliest));
    message.insert("tail".to_owned(), json!(tail));
    let followed = subscription.following.cut_to();
    if !followed.is_empty() {
        message.insert("topics".to_owned(), json!(followed));
    }
    let denied = subscription.denied();
    let about = if denied.is_some() { ToldAbout::Denied } else { ToldAbout::Begun };
    let messages = [message].into_iter().chain(denied);
    let messages = messages.map(|message| Value::Object(message).to_string()).collect();
    ToClient::Messages(about, messages, subscription)
}

/// Returns what the client is told of a turn of its subscription.
pub(super) fn waited(mut subscription: Box<NamedFollowing>, turn: FollowTurn) -> ToClient {
    let (about, message) = match turn {
        FollowTurn::News(news) => {
            let about = match &news {
                News::Counts(..) => ToldAbout::Counts,
                News::Marked(MarksNews::Whole(..)) => ToldAbout::AllMarks,
                News::Marked(MarksNews::Change(..)) => ToldAbout::Marks,
            };
            (about, subscription.news(&news))
        }
        FollowTurn::Waited(Waited::Silence) => {
            let messages = subscription.moved().into_iter().collect();
            return ToClient::Messages(ToldAbout::Place, messages, subscription);
        }
        FollowTurn::Waited(Waited::Stopping) => return ToClient::Nothing,
        FollowTurn::Waited(Waited::Delivery(delivery)) => match delivery {
            Delivery::CaughtUp => (ToldAbout::CaughtUp, subscription.tell("caught_up")),
            Delivery::Gap(gap) => {
                let mut message = subscription.tell("gap");
                message.insert("gap".to_owned(), gaps::json(&gap));
                (ToldAbout::Gap, message)
            }
            Delivery::Events(run) => return ToClient::Events(subscription, run),
            Delivery::Ephemeral(event) => return ToClient::Ephemeral(subscription, event),
        },
    };
    ToClient::Messages(about, vec![Value::Object(message).to_string()], subscription)
}
