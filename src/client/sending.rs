//! One publish of a client, over as many tries as it takes.

use crate::broker::Ack;
use crate::edge::proto::publish_stream_response::Outcome;
use crate::edge::proto::publisher_service_client::PublisherServiceClient;
use crate::edge::proto::{
    self, PublishRequest, PublishStreamRequest, PublishStreamResponse, TopicAck,
};
use crate::event::NewEvent;
use crate::topic::TopicName;

use super::connection::{Connection, Link};
use super::error::ClientError;
use super::messages;

/// Largest message that is sent to the broker, in bytes. The broker has a lower limit of its own.
const MAX_MESSAGE_BYTES: usize = 96 << 20;

/// Events that are stored together: all of them in all of the topics, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishBatch {
    /// The topics, each of which gets all events; at most 1,000.
    pub topics: Vec<TopicName>,
    /// The events, at least one. An event without an id gets a random one.
    pub events: Vec<NewEvent>,
}

impl PublishBatch {
    /// Returns a batch for one topic.
    pub fn new(topic: TopicName, events: Vec<NewEvent>) -> Self {
        Self { topics: vec![topic], events }
    }

    /// Returns a batch for several topics.
    pub fn to_topics(topics: Vec<TopicName>, events: Vec<NewEvent>) -> Self {
        Self { topics, events }
    }

    /// Gives an id to each event without one. It stays the same over all tries.
    pub(super) fn identify(&mut self) {
        for event in self.events.iter_mut().filter(|event| event.id.is_empty()) {
            event.id = format!("{:032x}", rand::random::<u128>());
        }
    }

    /// Returns about how much memory the batch takes, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        self.events.iter().map(NewEvent::content_bytes).sum()
    }

    /// Returns the one topic, or the list of several, as the wire has them.
    fn destination(&self) -> (String, Vec<String>) {
        match &self.topics[..] {
            [topic] => (topic.to_string(), Vec::new()),
            topics => (String::new(), topics.iter().map(TopicName::to_string).collect()),
        }
    }

    fn wire_events(&self) -> Vec<proto::NewEvent> {
        self.events.iter().cloned().map(proto::NewEvent::from).collect()
    }

    /// Returns the request of a stream that keeps its order.
    pub(super) fn in_order(&self) -> PublishStreamRequest {
        let (topic, topics) = self.destination();
        let (events, in_order) = (self.wire_events(), true);
        PublishStreamRequest { topic, topics, events, in_order, ..PublishStreamRequest::default() }
    }

    fn alone(&self) -> PublishRequest {
        let (topic, topics) = self.destination();
        let events = self.wire_events();
        PublishRequest { topic, topics, events, ..PublishRequest::default() }
    }

    /// Returns the acknowledgement in an answer of a stream.
    pub(super) fn settled(
        &self,
        response: Option<PublishStreamResponse>,
    ) -> Result<BatchAck, ClientError> {
        match response.and_then(|response| response.outcome).ok_or(ClientError::Ended)? {
            Outcome::Ack(ack) => self.acknowledged(Some(ack), Vec::new()),
            Outcome::Acks(acks) => self.acknowledged(None, acks.acks),
            Outcome::Error(error) => {
                let status = tonic_types::Status {
                    code: error.code,
                    message: error.message,
                    details: error.details,
                };
                let details = prost::Message::encode_to_vec(&status);
                let code = tonic::Code::from(status.code);
                let status = tonic::Status::with_details(code, status.message, details.into());
                Err(status.into())
            }
        }
    }

    fn acknowledged(
        &self,
        ack: Option<proto::Ack>,
        acks: Vec<TopicAck>,
    ) -> Result<BatchAck, ClientError> {
        let acks: Vec<(TopicName, Ack)> = match (ack, &self.topics[..]) {
            (Some(ack), [topic]) => vec![(topic.clone(), messages::ack(ack))],
            (None, _) => acks
                .into_iter()
                .map(|TopicAck { topic, ack }| {
                    Ok((messages::topic(&topic)?, messages::ack(ack.unwrap_or_default())))
                })
                .collect::<Result<_, ClientError>>()?,
            _ => Vec::new(),
        };
        let is_whole = |(_, ack): &(TopicName, Ack)| ack.count == self.events.len();
        if acks.is_empty() || !acks.iter().all(is_whole) {
            let problem = "an acknowledgement of something else than the batch".to_owned();
            return Err(ClientError::Unreadable(problem));
        }
        Ok(BatchAck { acks })
    }
}

/// The acknowledgement of a batch: all its events are durable in all its topics.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchAck {
    /// The acknowledgement of each topic, at least one, in the order of the batch. Among the
    /// duplicates are events that an earlier try of the same batch stored.
    pub acks: Vec<(TopicName, Ack)>,
}

/// Publishes one batch, and tries again as long as the settings say.
pub(super) async fn publish(
    connection: &Connection,
    mut batch: PublishBatch,
) -> Result<Ack, ClientError> {
    batch.identify();
    let mut backoff = connection.backoff();
    loop {
        let mut link = None;
        let error = match publish_once(connection, &batch, &mut link).await {
            Ok(mut acknowledged) => return Ok(acknowledged.acks.remove(0).1),
            Err(error) => error,
        };
        connection.after(link.as_ref(), error, &mut backoff).await?;
    }
}

async fn publish_once(
    connection: &Connection,
    batch: &PublishBatch,
    link: &mut Option<Link>,
) -> Result<BatchAck, ClientError> {
    let link = link.insert(connection.link().await?);
    let mut request = tonic::Request::new(batch.alone());
    request.set_timeout(connection.config.deadline);
    let response = client(link).publish(request).await?.into_inner();
    batch.acknowledged(response.ack, response.acks)
}

pub(super) fn client(link: &Link) -> PublisherServiceClient<super::connection::ClientChannel> {
    PublisherServiceClient::new(link.channel.clone()).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_get_ids_once_and_keep_their_own() {
        let own = NewEvent::new("a").with_id("own");
        let topic: TopicName = "orders".parse().unwrap();
        let mut batch = PublishBatch::new(topic, vec![own, NewEvent::new("b"), NewEvent::new("b")]);
        batch.identify();
        let ids: Vec<String> = batch.events.iter().map(|event| event.id.clone()).collect();
        assert_eq!((&ids[0][..], ids[1].len()), ("own", 32));
        assert_ne!(ids[1], ids[2]);
        let first = batch.in_order();
        batch.identify();
        assert_eq!(batch.in_order(), first, "each try sends the same");
        assert!(first.in_order && first.topics.is_empty());
    }

    #[test]
    fn an_answer_that_does_not_fit_its_batch_is_no_acknowledgement() {
        let topic: TopicName = "orders".parse().unwrap();
        let batch = PublishBatch::new(topic, vec![NewEvent::new("a")]);
        let answer = |outcome| Some(PublishStreamResponse { outcome });
        let ack = |count| Outcome::Ack(proto::Ack { count, ..proto::Ack::default() });
        assert_eq!(batch.settled(answer(Some(ack(1)))).unwrap().acks[0].1.count, 1);
        for wrong in [Some(ack(0)), Some(ack(2)), Some(Outcome::Acks(proto::TopicAcks::default()))]
        {
            let error = batch.settled(answer(wrong)).unwrap_err();
            assert!(matches!(error, ClientError::Unreadable(_)), "{error}");
        }
        for none in [answer(None), None] {
            assert!(batch.settled(none).unwrap_err().is_transient());
        }
        let message = "no".to_owned();
        let refused = proto::PublishError { code: 3, message, ..Default::default() };
        let error = batch.settled(answer(Some(Outcome::Error(refused)))).unwrap_err();
        assert!(!error.is_transient() && !error.outcome_unknown(), "{error}");
        assert_eq!(error.to_string(), "no");
    }
}
