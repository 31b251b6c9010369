//! Tests of nodes of neighbouring versions on one stream.

use bytes::Bytes;

use super::joining::{begun_stream, publish_all};
use super::*;
use crate::cluster::chain::{Assembler, StreamPlace};
use crate::cluster::record::{FORMAT, RecordBody};

/// Returns the place of the stream's last record.
async fn last_place(stream: &SimulatedStream) -> StreamPlace {
    let mut assembler = Assembler::after(StreamPlace::START);
    while let Some(record) = stream.get(assembler.place().stream.next()).await.unwrap() {
        assembler.take(assembler.place().stream.next(), &record).unwrap();
    }
    assembler.place()
}

/// Returns a record as a later version may write it, with another byte and its right checksum.
fn altered(record: &[u8], at: usize, byte: u8) -> Bytes {
    let mut bytes = record.to_vec();
    bytes[at] = byte;
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// Goal: a record that a later version adds to inform is passed over; one that every node must
/// understand stops an older node with what to do, and changes nothing of its log, also after a
/// restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_node_skips_what_informs_and_stops_before_what_it_must_understand() {
    for (at, byte) in [(4, FORMAT + 1), (5, 77)] {
        let (stream, log) = (begun_stream(), Arc::new(MemoryLog::default()));
        let open = || open_node(log.clone(), Arc::new(stream.another_link()), 1, LEASE);
        for round in 0..2 {
            let node = open().await.unwrap();
            wait_for(|| node.leads().then_some(())).await;
            publish_all(&node.broker, round * 5..round * 5 + 5).await;
            node.close().await;
            let place = last_place(&stream).await;
            let (informs, _) = place.following(&RecordBody::Skipped);
            stream.append(place.stream, informs).await.unwrap();
        }
        let place = last_place(&stream).await;
        let (later, _) = place.following(&RecordBody::Heartbeat);
        stream.append(place.stream, altered(&later, at, byte)).await.unwrap();
        let before = content(&*log);
        for _ in 0..2 {
            let node = open().await.unwrap();
            let stopped = wait_for(|| {
                let status = node.node.status().borrow().clone();
                (status.role == NodeRole::Stopped).then_some(status)
            });
            let problem = stopped.await.problem.unwrap();
            assert!(problem.ends_with("update this node"), "{problem}");
            assert_eq!(ids(&node.broker, "a").await.len(), 10, "it serves its readers");
            node.close().await;
        }
        assert_eq!(content(&*log), before);
    }
}
