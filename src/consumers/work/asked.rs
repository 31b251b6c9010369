//! What a node asks of the fleet's leader about shared work, which the leader alone gives away, and
//! the answers.
//!
//! ```text
//! request   JSON
//! answer    | json_bytes: 4, big-endian | JSON | the payloads of leased events, in order |
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::lease_id::LeaseId;
use super::requests::{Leased, PullRequest, Settled, Settlement};
use crate::broker::Answering;
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{Event, NewEvent, Timestamp};
use crate::topic::TopicName;

/// Asks the leader about one consumer.
pub(crate) type AskAboutWork = Arc<dyn Fn(WorkRequest) -> Answering + Send + Sync>;

/// A request about the work of one consumer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkRequest {
    Pull(PullRequest),
    Settle(Settlement),
    Hasten,
}

/// The answer to a request about work.
#[derive(Debug)]
pub(crate) enum WorkAnswer {
    Leased(Vec<Leased>),
    Settled(Settled),
    Hastened,
}

/// The JSON of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnswerForm {
    Leased(Vec<LeasedForm>),
    Settled(Settled),
    Hastened,
}

/// A leased event without its payload.
#[derive(Debug, Serialize, Deserialize)]
struct LeasedForm {
    lease: LeaseId,
    topic: TopicName,
    tries: u32,
    until: Timestamp,
    sequence: Sequence,
    position: Position,
    time: Timestamp,
    #[serde(default)]
    id: String,
    #[serde(default)]
    event_type: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    content_type: String,
    #[serde(default)]
    publisher_time: Option<Timestamp>,
    #[serde(default)]
    ttl_ms: Option<u64>,
    payload_bytes: usize,
}

impl WorkAnswer {
    /// Returns the bytes of the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub(crate) fn to_bytes(&self) -> Result<Bytes> {
        let form = match self {
            Self::Leased(leased) => AnswerForm::Leased(leased.iter().map(LeasedForm::of).collect()),
            Self::Settled(settled) => AnswerForm::Settled(settled.clone()),
            Self::Hastened => AnswerForm::Hastened,
        };
        let invalid = |problem: serde_json::Error| Error::invalid("answer", problem.to_string());
        let json = serde_json::to_vec(&form).map_err(invalid)?;
        let mut bytes = BytesMut::new();
        bytes.put_u32(json.len() as u32);
        bytes.put_slice(&json);
        if let Self::Leased(leased) = self {
            leased.iter().for_each(|leased| bytes.put_slice(&leased.event.content.payload));
        }
        Ok(bytes.freeze())
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`]: the bytes are none that this version can read.
    pub(crate) fn of(mut bytes: Bytes) -> Result<Self> {
        let cut = |bytes: &mut Bytes, count: usize| match count <= bytes.len() {
            true => Ok(bytes.split_to(count)),
            false => Err(unreadable("it is cut off")),
        };
        let head = cut(&mut bytes, 4)?;
        let json_bytes = head.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let json = cut(&mut bytes, json_bytes)?;
        let form = serde_json::from_slice(&json).map_err(|it| unreadable(&it.to_string()))?;
        Ok(match form {
            AnswerForm::Leased(forms) => {
                let leased = forms.into_iter().map(|form| {
                    let payload = cut(&mut bytes, form.payload_bytes)?;
                    Ok(form.with(payload))
                });
                Self::Leased(leased.collect::<Result<_>>()?)
            }
            AnswerForm::Settled(settled) => Self::Settled(settled),
            AnswerForm::Hastened => Self::Hastened,
        })
    }
}

impl LeasedForm {
    fn of(leased: &Leased) -> Self {
        let Leased { lease, topic, event, tries, until } = leased;
        let Event { sequence, position, time, content } = &**event;
        let content = content.clone();
        Self {
            lease: *lease,
            topic: topic.clone(),
            tries: *tries,
            until: *until,
            sequence: *sequence,
            position: *position,
            time: *time,
            id: content.id,
            event_type: content.event_type,
            key: content.key,
            headers: content.headers,
            content_type: content.content_type,
            publisher_time: content.publisher_time,
            ttl_ms: content.ttl_ms,
            payload_bytes: content.payload.len(),
        }
    }

    fn with(self, payload: Bytes) -> Leased {
        let Self { lease, topic, tries, until, sequence, position, time, .. } = self;
        let content = NewEvent {
            id: self.id,
            event_type: self.event_type,
            key: self.key,
            headers: self.headers,
            content_type: self.content_type,
            payload,
            publisher_time: self.publisher_time,
            ttl_ms: self.ttl_ms,
        };
        let event = Arc::new(Event { sequence, position, time, content });
        Leased { lease, topic, event, tries, until }
    }
}

fn unreadable(problem: &str) -> Error {
    let problem = format!("the leader's answer cannot be read: {problem}");
    Error::OutcomeUnknown(std::io::Error::other(problem).into())
}

/// Returns the error for an answer to another question.
pub(super) fn another_answer() -> Error {
    unreadable("it is one to another question")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::requests::{Nack, SettleOutcome};
    use super::*;

    #[test]
    fn requests_and_answers_read_back_as_they_were_written() {
        let lease: LeaseId = "z-7-1e-2".parse().unwrap();
        let delay = Duration::from_millis(1_500);
        let settlement = Settlement::ack([lease])
            .and_nack(Nack::new(lease, "no").delay(delay))
            .and_extend(lease, delay)
            .and_release([lease]);
        let pull = PullRequest::new("w").limit(7).max_bytes(8).wait(delay);
        let requests =
            [WorkRequest::Pull(pull), WorkRequest::Settle(settlement), WorkRequest::Hasten];
        for request in requests {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<WorkRequest>(&text).unwrap(), request, "{text}");
        }
        let event = |sequence, payload: &'static [u8]| {
            let content = NewEvent::new(payload).with_id("i").with_key("k").with_type("t");
            let headers = [("a".to_owned(), "b".to_owned())].into();
            let (content_type, ttl_ms) = ("x/y".to_owned(), Some(9));
            let content = NewEvent { headers, content_type, ttl_ms, ..content };
            let (sequence, position) = (Sequence::new(sequence), Position::new(sequence + 90));
            let event = Event { sequence, position, time: Timestamp::from_ms(5), content };
            let (topic, until) = ("a.b".parse().unwrap(), Timestamp::from_ms(6));
            Leased { lease, topic, event: Arc::new(event), tries: 2, until }
        };
        let outcomes = vec![
            SettleOutcome::Done,
            SettleOutcome::Extended(Timestamp::from_ms(7)),
            SettleOutcome::Over,
        ];
        let [ack, nack, extend, release] = [(); 4].map(|()| outcomes.clone());
        let answers = [
            WorkAnswer::Leased(vec![event(1, b"\xff\x00"), event(2, b""), event(3, b"three")]),
            WorkAnswer::Leased(Vec::new()),
            WorkAnswer::Settled(Settled { ack, nack, extend, release }),
            WorkAnswer::Hastened,
        ];
        for answer in answers {
            let bytes = answer.to_bytes().unwrap();
            let read = WorkAnswer::of(bytes.clone()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{answer:?}"));
            for cut in 0..bytes.len() {
                let error = WorkAnswer::of(bytes.slice(..cut)).unwrap_err();
                assert!(error.outcome_unknown(), "{error}");
            }
        }
    }
}
