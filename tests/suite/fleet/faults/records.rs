//! The records of a fleet's stream, read from the engine and decoded here once more, by their
//! documented form: `record.rs` and `group_form.rs` in `src/cluster`, `src/log/block_header.rs`.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::broken_fleet::{FLEET, HEAL_TIMEOUT};

/// The kinds of records.
const ANNOUNCE: u8 = 2;
const GROUP: u8 = 4;

const RECORD_HEAD_BYTES: usize = 30;
const GROUP_HEAD_BYTES: usize = 6;
const ENTRY_HEAD_BYTES: usize = 9;

/// The entry of a group that is an appended block.
const APPENDED: u8 = 4;

/// The most records that are asked for at a time.
const ASKED: usize = 32;

/// A block of events that the stream has.
#[derive(Debug, Clone)]
struct SentBlock {
    sequences: RangeInclusive<u64>,
    positions: RangeInclusive<u64>,
}

/// What the stream has.
#[derive(Debug, Default)]
pub(super) struct FleetRecords {
    /// The payloads, each with the blocks in which it is.
    payloads: HashMap<String, Vec<SentBlock>>,
    pub(super) terms: u64,
    pub(super) groups: usize,
}

impl FleetRecords {
    /// Reads all records, and checks that each follows the one before, so that one node alone has
    /// led in each term.
    pub(super) async fn read(servers: &[String]) -> Self {
        let client = async_nats::connect(servers).await.unwrap();
        let stream = format!("LEFTOFF_{FLEET}");
        let info = ask(&client, &format!("STREAM.INFO.{stream}"), json!({})).await;
        let (first, last) =
            (info["state"]["first_seq"].as_u64(), info["state"]["last_seq"].as_u64());
        assert_eq!(first, Some(1), "nothing is trimmed within an hour: {info}");
        let subject = format!("STREAM.MSG.GET.{stream}");
        let get = |number: u64| {
            let (client, subject) = (client.clone(), &subject);
            async move {
                let told = ask(&client, subject, json!({ "seq": number })).await;
                let data = told["message"]["data"].as_str().expect("a record");
                STANDARD.decode(data).unwrap()
            }
        };
        let records = futures_util::stream::iter(1..=last.unwrap()).map(get).buffered(ASKED);
        let mut taken = Self::default();
        let mut before = RecordBefore::default();
        let mut records = std::pin::pin!(records);
        while let Some(record) = records.next().await {
            taken.take(&record, &mut before);
        }
        taken
    }

    fn take(&mut self, record: &[u8], before: &mut RecordBefore) {
        let (kind, term, number) = (record[5], u64_at(record, 6), u64_at(record, 14));
        assert_eq!(u32_at(record, 0), crc32fast::hash(&record[4..]), "a record is damaged");
        assert_eq!(u32_at(record, 22), before.crc, "a record in term {term} is not in the chain");
        let next = match kind {
            ANNOUNCE => (before.term + 1, 0),
            _ if before.crc == 0 => (0, 0),
            _ => (before.term, before.number + 1),
        };
        assert_eq!((term, number), next, "a record of the kind {kind} does not follow");
        (before.crc, before.term, before.number) = (u32_at(record, 0), term, number);
        self.terms = term;
        let (part, parts) = (u16_at(record, 26), u16_at(record, 28));
        if kind != GROUP || part == 1 {
            before.group.clear(); // Its rest never came.
        }
        if kind == GROUP {
            before.group.extend_from_slice(&record[RECORD_HEAD_BYTES..]);
            if part == parts {
                self.groups += 1;
                self.take_group(&std::mem::take(&mut before.group));
            }
        }
    }

    fn take_group(&mut self, group: &[u8]) {
        let mut entries = &group[GROUP_HEAD_BYTES..];
        while !entries.is_empty() {
            let (kind, length) = (entries[0], u32_at(entries, 5) as usize);
            let content = &entries[ENTRY_HEAD_BYTES..ENTRY_HEAD_BYTES + length];
            if kind == APPENDED {
                let block = SentBlock {
                    sequences: u64_at(content, 14)..=u64_at(content, 22),
                    positions: u64_at(content, 30)..=u64_at(content, 38),
                };
                for payload in payloads_in(content) {
                    self.payloads.entry(payload).or_default().push(block.clone());
                }
            }
            entries = &entries[ENTRY_HEAD_BYTES + length..];
        }
    }

    /// Checks that the stream has a payload once, and that an event at this sequence and position
    /// is in that block.
    pub(super) fn assert_has_once(&self, payload: &str, (sequence, position): (u64, u64)) {
        let found = self.payloads.get(payload).map_or(&[][..], |blocks| blocks);
        let [block] = found else { panic!("{payload} is in the stream in {found:?}") };
        let fits = block.sequences.contains(&sequence) && block.positions.contains(&position);
        assert!(fits, "{payload} was acked at {sequence}, @{position}: {block:?}");
    }
}

/// What the next record must follow.
#[derive(Debug, Default)]
struct RecordBefore {
    crc: u32,
    term: u64,
    number: u64,
    /// The parts of a group so far.
    group: Vec<u8>,
}

/// Returns the payloads of publishers in a block: a digit, a hyphen, digits and a semicolon.
fn payloads_in(block: &[u8]) -> impl Iterator<Item = String> {
    let ends = block.iter().enumerate().filter(|(_, byte)| **byte == b';');
    ends.filter_map(|(end, _)| {
        let digits = block[..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let begin = end.checked_sub(digits + 2)?;
        let fits = block[begin].is_ascii_digit() && block[begin + 1] == b'-' && digits > 0;
        fits.then(|| String::from_utf8_lossy(&block[begin..=end]).into_owned())
    })
}

/// Asks for something until it is told: an engine that was broken may need a while.
async fn ask(client: &async_nats::Client, what: &str, how: Value) -> Value {
    let deadline = Instant::now() + HEAL_TIMEOUT;
    loop {
        let asked = client.request(format!("$JS.API.{what}"), how.to_string().into()).await;
        let told = asked.map(|told| serde_json::from_slice::<Value>(&told.payload).unwrap());
        match told {
            Ok(told) if told["error"].is_null() => return told,
            told => assert!(Instant::now() < deadline, "{what}: {told:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}
