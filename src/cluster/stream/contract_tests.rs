//! Tests of the contract. The same tests run over every stream.
//!
//! Each test gets a stream of its own, which is empty. No test waits for a fixed time, but for what
//! must happen; if it does not, the test fails after [`PATIENCE`].

use std::sync::Arc;
use std::time::Duration;

use super::*;

/// The time after which a call hangs. An engine of its own in a test may begin slowly.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs all tests, each on a new stream that `make` makes.
pub(in crate::cluster) async fn keeps_the_contract(mut make: impl AsyncFnMut() -> Arc<dyn Stream>) {
    a_record_is_stored_after_the_last_one_and_nowhere_else(&*make().await).await;
    what_was_stored_is_read_from_any_place_and_followed(&*make().await).await;
    of_writers_with_the_same_fence_one_wins(make().await).await;
    a_record_that_is_sent_twice_is_stored_once(&*make().await).await;
    records_have_a_largest_size_and_a_least(&*make().await).await;
    what_is_trimmed_is_gone_and_the_rest_stays(&*make().await).await;
    a_read_that_is_given_up_loses_nothing(make().await).await;
}

fn at(number: u64) -> StreamSequence {
    StreamSequence::new(number)
}

fn record(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("an answer in time")
}

/// The pause before an engine is asked again that has no leader for the stream.
const PAUSE: Duration = Duration::from_millis(10);

/// Appends until the outcome is known. An engine may say that it is unknown, or that it is away,
/// while the servers of a new stream do not know its leader yet.
async fn append_record(
    stream: &dyn Stream,
    after: u64,
    record: Bytes,
) -> Result<StreamSequence, AppendError> {
    let mut was_unknown = false;
    let deciding = async {
        loop {
            let outcome = stream.append(at(after), record.clone()).await;
            match outcome {
                Err(AppendError::Unknown(_)) => was_unknown = true,
                Err(AppendError::Away(_)) => tokio::time::sleep(PAUSE).await,
                Err(AppendError::Fenced) if was_unknown => {
                    let found = stream.get(at(after + 1)).await.unwrap();
                    let is_mine = found == Some(record);
                    return if is_mine { Ok(at(after + 1)) } else { outcome };
                }
                _ => return outcome,
            }
        }
    };
    within(deciding).await
}

async fn append(
    stream: &dyn Stream,
    after: u64,
    text: &str,
) -> Result<StreamSequence, AppendError> {
    append_record(stream, after, record(text)).await
}

async fn fill(stream: &dyn Stream, count: u64) {
    for number in 1..=count {
        let text = format!("record {number}");
        assert_eq!(append(stream, number - 1, &text).await, Ok(at(number)));
    }
}

/// Reads `from..=to`, and checks what [`fill`] has written.
async fn read(stream: &dyn Stream, from: u64, to: u64) {
    let mut reader = within(stream.read(at(from))).await.unwrap();
    for number in from..=to {
        let (sequence, bytes) = within(reader.next()).await.unwrap();
        assert_eq!((sequence, bytes), (at(number), record(&format!("record {number}"))));
    }
}

/// Returns the record at `number`, which is stored. A replica may be behind for a moment.
async fn stored(stream: &dyn Stream, number: u64) -> Bytes {
    within(async {
        loop {
            if let Some(bytes) = stream.get(at(number)).await.unwrap() {
                return bytes;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

async fn a_record_is_stored_after_the_last_one_and_nowhere_else(stream: &dyn Stream) {
    assert_eq!(within(stream.tail()).await, Ok(at(0)));
    assert_eq!(within(stream.first()).await, Ok(at(1)));
    assert_eq!(within(stream.get(at(1))).await, Ok(None));
    assert_eq!(append(stream, 1, "too far").await, Err(AppendError::Fenced));
    fill(stream, 3).await;
    for after in [0, 1, 2, 4, 1_000] {
        assert_eq!(append(stream, after, "elsewhere").await, Err(AppendError::Fenced), "{after}");
    }
    assert_eq!(within(stream.tail()).await, Ok(at(3)));
    assert_eq!(within(stream.first()).await, Ok(at(1)));
    assert_eq!(append(stream, 3, "record 4").await, Ok(at(4)), "refusals take no sequence");
    for number in 1..=4 {
        assert_eq!(stored(stream, number).await, record(&format!("record {number}")));
    }
    assert_eq!(within(stream.get(at(5))).await, Ok(None));
}

async fn what_was_stored_is_read_from_any_place_and_followed(stream: &dyn Stream) {
    let mut waiting = within(stream.read(at(1))).await.unwrap();
    let mut far = within(stream.read(at(12))).await.unwrap();
    fill(stream, 10).await;
    for from in [1, 2, 9, 10] {
        read(stream, from, 10).await;
    }
    for number in 1..=10 {
        let (sequence, bytes) = within(waiting.next()).await.unwrap();
        assert_eq!((sequence, bytes), (at(number), record(&format!("record {number}"))));
    }
    let mut follows = within(stream.read(at(11))).await.unwrap();
    for number in 11..=13_u64 {
        append(stream, number - 1, &format!("record {number}")).await.unwrap();
        for reader in [&mut waiting, &mut follows] {
            assert_eq!(within(reader.next()).await.unwrap().0, at(number));
        }
    }
    assert_eq!(within(far.next()).await.unwrap().0, at(12), "a reader waits for its first record");
}

/// Goal: two who believe that they lead never both go on.
async fn of_writers_with_the_same_fence_one_wins(stream: Arc<dyn Stream>) {
    for round in 0..20 {
        let writers = (0..4).map(|writer| {
            let stream = stream.clone();
            let text = format!("{round} of {writer}");
            tokio::spawn(async move { append(&*stream, round, &text).await.map(|_| text) })
        });
        let writers: Vec<_> = writers.collect();
        let mut said_stored = Vec::new();
        for writer in writers {
            match within(writer).await.unwrap() {
                Ok(text) => said_stored.push(text),
                Err(error) => assert_eq!(error, AppendError::Fenced),
            }
        }
        let [winner] = &said_stored[..] else { panic!("one wins: {said_stored:?}") };
        assert_eq!(stored(&*stream, round + 1).await, record(winner));
    }
    assert_eq!(within(stream.tail()).await, Ok(at(20)));
}

async fn a_record_that_is_sent_twice_is_stored_once(stream: &dyn Stream) {
    fill(stream, 2).await;
    let both = async {
        let first = stream.append(at(2), record("twice"));
        let second = stream.append(at(2), record("twice"));
        tokio::join!(first, second)
    };
    let (first, second) = within(both).await;
    let said_stored = [&first, &second].into_iter().filter(|outcome| outcome.is_ok()).count();
    assert!(said_stored <= 1, "{first:?}, {second:?}");
    assert!(matches!(append(stream, 2, "twice").await, Ok(_) | Err(AppendError::Fenced)));
    assert_eq!(stored(stream, 3).await, record("twice"));
    assert_eq!(append(stream, 3, "record 4").await, Ok(at(4)));
    assert_eq!(within(stream.tail()).await, Ok(at(4)));
}

async fn records_have_a_largest_size_and_a_least(stream: &dyn Stream) {
    let largest = Bytes::from(vec![7; MAX_RECORD_BYTES]);
    let larger = Bytes::from(vec![7; MAX_RECORD_BYTES + 1]);
    for wrong in [larger, Bytes::new()] {
        let refused = within(stream.append(at(0), wrong)).await;
        assert!(matches!(refused, Err(AppendError::Refused(_))), "{refused:?}");
    }
    // Every byte may be in a record.
    let bytes = Bytes::from((0..=255).cycle().take(1_000).collect::<Vec<u8>>());
    for (after, record) in [(0, &largest), (1, &bytes)] {
        let appended = append_record(stream, after, record.clone()).await;
        assert!(matches!(appended, Ok(_) | Err(AppendError::Fenced)), "{appended:?}");
    }
    assert_eq!(stored(stream, 1).await, largest);
    let mut reader = within(stream.read(at(1))).await.unwrap();
    assert_eq!(within(reader.next()).await, Ok((at(1), largest)));
    assert_eq!(within(reader.next()).await, Ok((at(2), bytes)));
}

async fn what_is_trimmed_is_gone_and_the_rest_stays(stream: &dyn Stream) {
    fill(stream, 10).await;
    for (below, first) in [(0, 1), (1, 1), (5, 5), (3, 5), (5, 5), (10, 10)] {
        within(stream.trim(at(below))).await.unwrap();
        assert_eq!(within(stream.first()).await, Ok(at(first)), "below {below}");
        assert_eq!(within(stream.tail()).await, Ok(at(10)), "below {below}");
        read(stream, first, 10).await;
        if first > 1 {
            assert_eq!(within(stream.get(at(first - 1))).await, Ok(None));
            let told = match within(stream.read(at(first - 1))).await {
                Ok(mut reader) => within(reader.next()).await.map(drop),
                Err(error) => Err(error),
            };
            assert_eq!(told, Err(StreamError::Trimmed { first: at(first) }));
        }
    }
    within(stream.trim(at(11))).await.unwrap();
    assert_eq!(within(stream.first()).await, Ok(at(11)), "all are gone");
    assert_eq!(within(stream.tail()).await, Ok(at(10)), "sequences are never given again");
    assert_eq!(append(stream, 0, "early").await, Err(AppendError::Fenced));
    assert_eq!(append(stream, 10, "record 11").await, Ok(at(11)));
    read(stream, 11, 11).await;
}

async fn a_read_that_is_given_up_loses_nothing(stream: Arc<dyn Stream>) {
    const COUNT: u64 = 50;
    let mut reader = within(stream.read(at(1))).await.unwrap();
    let writer = tokio::spawn(async move { fill(&*stream, COUNT).await });
    let mut next = 1;
    within(async {
        while next <= COUNT {
            let given_up = tokio::time::timeout(Duration::from_millis(1), reader.next()).await;
            if let Ok(found) = given_up {
                assert_eq!(found.unwrap().0, at(next));
                next += 1;
            }
        }
    })
    .await;
    within(writer).await.unwrap();
}
