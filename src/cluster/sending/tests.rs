//! Tests of sending: each way in which attempts may end.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::cluster::clock::RuntimeClock;
use crate::cluster::stream::{StreamError, StreamFuture, StreamReader};

type Appended = Result<StreamSequence, AppendError>;
type Found = Result<Option<Bytes>, StreamError>;

/// What appends and looks are answered, and what comes of it.
type SendCase = (Vec<Appended>, Vec<Found>, Result<(), NotSent>);

/// A stream that answers as a test says, and with the last answer again and again.
struct Scripted {
    appended: Mutex<VecDeque<Appended>>,
    found: Mutex<VecDeque<Found>>,
}

fn next<T: Clone>(answers: &Mutex<VecDeque<T>>) -> T {
    let mut answers = answers.lock().unwrap();
    let next = answers.pop_front().unwrap();
    if answers.is_empty() {
        answers.push_back(next.clone());
    }
    next
}

impl Stream for Scripted {
    fn append(&self, _: StreamSequence, _: Bytes) -> StreamFuture<'_, Appended> {
        Box::pin(async { next(&self.appended) })
    }

    fn get(&self, _: StreamSequence) -> StreamFuture<'_, Found> {
        Box::pin(async { next(&self.found) })
    }

    fn tail(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>> {
        unreachable!("the tail proves nothing")
    }

    fn first(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>> {
        unreachable!("nobody asks for it")
    }

    fn read(
        &self,
        _: StreamSequence,
    ) -> StreamFuture<'_, Result<Box<dyn StreamReader>, StreamError>> {
        unreachable!("nobody reads")
    }

    fn trim(&self, _: StreamSequence) -> StreamFuture<'_, Result<(), StreamError>> {
        unreachable!("nobody trims")
    }
}

#[tokio::test]
async fn an_outcome_is_told_as_certain_only_if_it_is() {
    let after = StreamSequence::new(4);
    let record = Bytes::from_static(b"this record");
    let stored = || Ok(after.next());
    let fenced = || Err(AppendError::Fenced);
    let refused = || Err(AppendError::Refused("full".to_owned()));
    let unavailable = || Err(AppendError::Away("no leader".to_owned()));
    let unknown = || Err(AppendError::Unknown("late".to_owned()));
    let (mine, other) = (Ok(Some(record.clone())), Ok(Some(Bytes::from_static(b"another"))));
    let (nothing, away) = (Ok(None), Err(StreamError::Away("cut".to_owned())));
    let not_known = || Err(NotSent::Unknown("late".to_owned()));
    let cases: Vec<SendCase> = vec![
        (vec![stored()], vec![nothing.clone()], Ok(())),
        (vec![unknown(), unknown(), stored()], vec![nothing.clone()], Ok(())),
        (vec![unknown(), fenced()], vec![mine.clone()], Ok(())),
        (vec![unknown(), fenced()], vec![nothing.clone(), away.clone(), mine.clone()], Ok(())),
        (vec![unknown(), fenced()], vec![other.clone()], Err(NotSent::Overtaken)),
        (vec![fenced()], vec![away.clone(), other.clone()], Err(NotSent::Overtaken)),
        (vec![fenced(), stored()], vec![nothing.clone()], Ok(())),
        (vec![fenced()], vec![nothing.clone()], Err(NotSent::Fenced)),
        (vec![refused()], vec![nothing.clone()], Err(NotSent::Refused("full".to_owned()))),
        (vec![fenced(), refused()], vec![away.clone()], Err(NotSent::Refused("full".to_owned()))),
        // Nobody took it: it is tried again, and if that lasts, it is surely not stored.
        (vec![unavailable(), unavailable(), stored()], vec![nothing.clone()], Ok(())),
        (vec![unavailable()], vec![nothing.clone()], Err(NotSent::Away("no leader".to_owned()))),
        (
            vec![unavailable(), refused()],
            vec![nothing.clone()],
            Err(NotSent::Refused("full".to_owned())),
        ),
        (vec![unavailable(), fenced()], vec![nothing.clone()], Err(NotSent::Fenced)),
        (vec![unavailable(), fenced()], vec![other.clone()], Err(NotSent::Overtaken)),
        (vec![unknown(), unavailable(), fenced()], vec![mine.clone()], Ok(())),
        (vec![unknown(), unavailable()], vec![nothing.clone()], not_known()),
        // An earlier attempt may be stored, whatever a later one is told.
        (vec![unknown(), refused()], vec![nothing.clone()], not_known()),
        (vec![unknown(), fenced()], vec![nothing.clone()], not_known()),
        (vec![unknown(), fenced()], vec![away.clone()], not_known()),
        (vec![unknown()], vec![nothing.clone()], not_known()),
    ];
    for (number, (appended, found, expected)) in cases.into_iter().enumerate() {
        let (appended, found) = (Mutex::new(appended.into()), Mutex::new(found.into()));
        let stream = Scripted { appended, found };
        let clock = RuntimeClock::default();
        let patience = SendPatience {
            deadline: clock.now() + Duration::from_millis(200),
            away_until: clock.now() + Duration::from_millis(100),
            pause: Duration::from_millis(1),
        };
        let sent = send(&stream, &clock, after, &record, patience).await;
        assert_eq!(sent, expected, "case {number}");
    }
    // An engine that does not keep the fence is not believed.
    let appended = Mutex::new(VecDeque::from([Ok(StreamSequence::new(9))]));
    let stream = Scripted { appended, found: Mutex::new(VecDeque::from([Ok(None)])) };
    let clock = RuntimeClock::default();
    let away_until = Duration::ZERO;
    let patience =
        SendPatience { deadline: Duration::from_secs(60), away_until, pause: Duration::ZERO };
    let sent = send(&stream, &clock, after, &record, patience).await;
    assert!(matches!(sent, Err(NotSent::Unknown(_))), "{sent:?}");
}
