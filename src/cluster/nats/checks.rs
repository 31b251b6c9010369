//! What of the engine is unsafe, and what that means for what the fleet acknowledges.
//!
//! # What cannot be known
//!
//! A client sees its own server and the stream. It does not see, without rights on the system
//! account (`$SYS.REQ.SERVER.PING.VARZ`) or the monitoring port (`/varz`):
//! - `sync_interval`, so whether an acknowledged record was synced. It is told as unknown, always.
//! - the versions of the other servers: only the one is looked at that the node is connected to.
//! - whether two replicas are on one machine, or on one disk.
//! - who else may publish to the stream's subject. The fence notices each such message, and the
//!   fleet stops at it as at damage: the account should be the fleet's own.

use std::fmt;

use async_nats::ServerInfo;

use super::api::{AccountInfo, StreamInfo, StreamSettings};
use super::settings::LARGEST_MESSAGE_BYTES;

/// The oldest version that is supported: the first whose consumers have names.
const OLDEST: Version = Version(2, 9, 0);
/// The first version with `sync_interval`.
/// Source: the server's release notes of 2.10.0.
const WITH_SYNC_INTERVAL: Version = Version(2, 10, 0);
/// The first version that syncs also blocks that it has compacted.
/// Source: nats-server#8456.
const SYNCS_COMPACTED: Version = Version(2, 14, 6);

/// The smallest limit in bytes that leaves time to load a backup: some hundred of the largest
/// records.
const SMALL_LIMIT_BYTES: i64 = 256 << 20;

/// Something about the engine that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFinding {
    /// What it is about.
    pub kind: FindingKind,
    /// How bad it is.
    pub grade: FindingGrade,
    /// What was found, with the values.
    pub found: String,
    /// What it means for the fleet, and what to do.
    pub meaning: &'static str,
}

/// How bad a finding is; the worst sorts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingGrade {
    /// Acknowledged events may be lost when one machine or disk is.
    Unsafe,
    /// Acknowledged events may be lost in rarer cases, or the fleet may come to a stop.
    Weak,
    /// Worth knowing.
    Note,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// Fewer than three replicas.
    Replicas,
    /// The stream is kept in memory.
    Storage,
    /// A replica is offline or behind.
    ReplicaAway,
    /// Whether records are synced before they are acknowledged.
    Sync,
    /// The server's version has known faults.
    Version,
    /// The stream drops records by limits of its own.
    Limits,
    /// The account's limits.
    Account,
    /// Single records can be deleted, or are missing.
    Deletion,
    /// The fleet cannot trim the stream.
    Trimming,
}

impl fmt::Display for EngineFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.found, self.meaning)
    }
}

/// A server's version. What cannot be read is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    fn of(text: &str) -> Self {
        let mut parts = text.trim_start_matches('v').splitn(3, '.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        let mut part = || parts.next().flatten();
        match (part(), part(), part()) {
            (Some(major), Some(minor), Some(patch)) => Self(major, minor, patch),
            _ => Self(u32::MAX, 0, 0),
        }
    }
}

/// Says whether a fleet can use this server at all.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn server_is_usable(server: &ServerInfo) -> Result<(), String> {
    if Version::of(&server.version) < OLDEST {
        return Err(format!("NATS {} is too old: 2.9 or newer is needed", server.version));
    }
    let needed = LARGEST_MESSAGE_BYTES;
    if server.max_payload < needed {
        return Err(format!(
            "NATS takes messages of {} bytes: set max_payload to {needed} or more",
            server.max_payload
        ));
    }
    Ok(())
}

/// Says why a fleet cannot use a stream of these settings; `None` if it can.
pub(super) fn unusable(settings: &StreamSettings, subject: &str) -> Option<String> {
    let needed = LARGEST_MESSAGE_BYTES;
    let too_small = usize::try_from(settings.max_msg_size).is_ok_and(|size| size < needed);
    let own_messages = settings.mirror.is_some()
        || settings.sources.is_some()
        || settings.subject_transform.is_some()
        || settings.subject_delete_marker_ttl.is_some_and(|ttl| ttl > 0)
        || settings.allow_msg_ttl
        || settings.allow_msg_schedules
        || settings.allow_msg_counter
        || settings.allow_rollup_hdrs;
    let asynchronous = settings.persist_mode.as_deref() == Some("async");
    Some(if settings.subjects != [subject] {
        format!("its subjects are {:?}, not {subject:?}", settings.subjects)
    } else if settings.retention != "limits" {
        format!("its retention is {:?}, not \"limits\"", settings.retention)
    } else if settings.discard != "old" {
        format!("it discards {:?} records when it is full, not \"old\" ones", settings.discard)
    } else if too_small {
        format!("its max_msg_size is {}, below {needed}", settings.max_msg_size)
    } else if settings.sealed {
        "it is sealed".to_owned()
    } else if settings.no_ack || asynchronous {
        "it acknowledges nothing, or before it is stored (no_ack, persist_mode)".to_owned()
    } else if own_messages {
        "it mirrors, transforms, expires, schedules or rolls up messages, which changes what a \
         fleet stored or its sequences"
            .to_owned()
    } else {
        return None;
    })
}

/// Returns what is unsafe, the worst first.
pub(super) fn findings(
    server: &ServerInfo,
    info: &StreamInfo,
    account: Option<&AccountInfo>,
) -> Vec<EngineFinding> {
    let mut findings = Vec::new();
    replicas(info, &mut findings);
    version(&server.version, info.config.num_replicas, &mut findings);
    limits(info, account, &mut findings);
    findings.sort_by_key(|finding: &EngineFinding| finding.grade);
    findings
}

fn replicas(info: &StreamInfo, findings: &mut Vec<EngineFinding>) {
    use FindingGrade::{Unsafe, Weak};
    let mut find = |kind, grade, found, meaning| {
        findings.push(EngineFinding { kind, grade, found, meaning });
    };
    let count = info.config.num_replicas.max(1);
    if count < 3 {
        let is_clustered = info.cluster.as_ref().is_some_and(|cluster| !cluster.name.is_empty());
        let cause = if is_clustered { "" } else { " (its server is in no cluster)" };
        find(
            FindingKind::Replicas,
            Unsafe,
            format!("the stream {} has {count} of at least 3 replicas{cause}", info.config.name),
            "acknowledged means that it has as many. While a server with a replica is away nothing \
             can be published, and what its disk loses is lost. Use three servers in a cluster of \
             NATS, and give the stream three replicas: nats stream edit NAME --replicas 3",
        );
    }
    if info.config.storage != "file" {
        find(
            FindingKind::Storage,
            Unsafe,
            format!("the stream's storage is {:?}", info.config.storage),
            "acknowledged events are lost when the servers restart together. Create the stream \
             anew, with file storage",
        );
    }
    for replica in info.cluster.iter().flat_map(|cluster| &cluster.replicas) {
        if replica.offline || !replica.current {
            let state = if replica.offline { "offline" } else { "behind" };
            find(
                FindingKind::ReplicaAway,
                Weak,
                format!(
                    "the replica on {:?} is {state}, by {} operations",
                    replica.name, replica.lag
                ),
                "until it is back, publishing stops when one more server is lost",
            );
        }
    }
}

fn version(version: &str, replicas: u64, findings: &mut Vec<EngineFinding>) {
    use FindingGrade::{Note, Unsafe, Weak};
    let known = Version::of(version);
    let mut find = |kind, grade, found, meaning| {
        findings.push(EngineFinding { kind, grade, found, meaning });
    };
    if known < WITH_SYNC_INTERVAL {
        find(
            FindingKind::Version,
            if replicas > 1 { Unsafe } else { Note },
            format!("NATS {version} may lose records when the leader of its replicas changes"),
            "seen with 2.9.10: a record that was acknowledged is replaced by another one after a \
             server with a replica was killed or stood still. The nodes notice, and stop. Use \
             NATS 2.15",
        );
        find(
            FindingKind::Sync,
            Weak,
            format!("NATS {version} syncs its files every two minutes, and cannot do it earlier"),
            "acknowledged events of that time are lost if most of the servers lose power together; \
             one that loses it alone may come back with less than it confirmed. Use NATS 2.15 with \
             sync_interval: always",
        );
        return;
    }
    find(
        FindingKind::Sync,
        Note,
        "whether the servers sync before they acknowledge cannot be seen from here".to_owned(),
        "without jetstream { sync_interval: always } on each server, acknowledged events of up to \
         two minutes are lost if most of the servers lose power together. Look at their \
         configuration, or at sync_always in what their monitoring port answers to /varz",
    );
    if known < SYNCS_COMPACTED {
        find(
            FindingKind::Version,
            Weak,
            format!("NATS {version} does not sync blocks that it has compacted, not even always"),
            "acknowledged events that were stored long ago may be lost in a power cut. Use NATS \
             2.14.6 or newer",
        );
    }
}

fn limits(info: &StreamInfo, account: Option<&AccountInfo>, findings: &mut Vec<EngineFinding>) {
    use FindingGrade::{Note, Weak};
    let mut find = |kind, grade, found, meaning| {
        findings.push(EngineFinding { kind, grade, found, meaning });
    };
    let settings = &info.config;
    let small = (1..SMALL_LIMIT_BYTES).contains(&settings.max_bytes);
    if small || settings.max_age > 0 || settings.max_msgs > 0 || settings.max_msgs_per_subject > 0 {
        find(
            FindingKind::Limits,
            if small { Weak } else { Note },
            format!(
                "the stream drops its oldest records: max_bytes {}, max_age {} ns, max_msgs {}, \
                 max_msgs_per_subject {}",
                settings.max_bytes,
                settings.max_age,
                settings.max_msgs,
                settings.max_msgs_per_subject
            ),
            "a node that is away for longer than they last loads a backup of another node before \
             it serves. Nothing acknowledged is lost while one node has it",
        );
    }
    if settings.deny_purge {
        find(
            FindingKind::Trimming,
            Weak,
            "the stream denies purging".to_owned(),
            "the fleet cannot remove what all nodes have, so that the stream grows to its limits",
        );
    }
    if !settings.deny_delete {
        find(
            FindingKind::Deletion,
            Note,
            "single records of the stream may be deleted".to_owned(),
            "a node that misses one stops. Set deny_delete",
        );
    }
    if info.state.num_deleted > 0 {
        find(
            FindingKind::Deletion,
            Weak,
            format!("{} records are missing within the stream", info.state.num_deleted),
            "a node that has not read past them stops there, and needs a backup of another node",
        );
    }
    let storage = account.map_or(-1, |account| account.limits.max_storage);
    let replicas = i64::try_from(settings.num_replicas.max(1)).unwrap_or(1);
    if (0..SMALL_LIMIT_BYTES * replicas).contains(&storage) {
        find(
            FindingKind::Account,
            Weak,
            format!("the account may store {storage} bytes, with all replicas together"),
            "publishing stops when they are full. Raise max_storage, or give the stream max_bytes",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::opening::settings_of_new;
    use super::super::settings::StreamNames;
    use super::*;

    fn server(version: &str) -> ServerInfo {
        ServerInfo { version: version.to_owned(), max_payload: 1 << 20, ..ServerInfo::default() }
    }

    fn info(replicas: u8) -> StreamInfo {
        let names = StreamNames::of("f").unwrap();
        let settings = json!(settings_of_new(&names, replicas, None));
        serde_json::from_value(json!({ "config": settings, "state": {} })).unwrap()
    }

    fn kinds(findings: &[EngineFinding]) -> Vec<(FindingKind, FindingGrade)> {
        findings.iter().map(|finding| (finding.kind, finding.grade)).collect()
    }

    #[test]
    fn a_new_stream_on_three_new_servers_leaves_only_the_syncing_open() {
        let found = findings(&server("2.15.1"), &info(3), None);
        assert_eq!(kinds(&found), [(FindingKind::Sync, FindingGrade::Note)]);
    }

    #[test]
    fn what_is_unsafe_comes_first() {
        let mut one = info(1);
        one.config.max_bytes = 1 << 20;
        one.config.deny_delete = false;
        one.state.num_deleted = 2;
        let account = serde_json::from_value(json!({ "limits": { "max_storage": 5 } })).unwrap();
        let found = findings(&server("2.9.10"), &one, Some(&account));
        assert_eq!(
            kinds(&found),
            [
                (FindingKind::Replicas, FindingGrade::Unsafe),
                (FindingKind::Sync, FindingGrade::Weak),
                (FindingKind::Limits, FindingGrade::Weak),
                (FindingKind::Deletion, FindingGrade::Weak),
                (FindingKind::Account, FindingGrade::Weak),
                (FindingKind::Version, FindingGrade::Note),
                (FindingKind::Deletion, FindingGrade::Note),
            ]
        );
        let found = findings(&server("2.9.10"), &info(3), None);
        assert_eq!(kinds(&found)[0], (FindingKind::Version, FindingGrade::Unsafe));
        let found = findings(&server("2.12.1"), &info(3), None);
        assert_eq!(found[0].kind, FindingKind::Version);
    }

    #[test]
    fn a_stream_that_stores_by_itself_or_refuses_is_not_used() {
        let subject = "leftoff.fleet.f.records";
        let usable = info(3).config;
        assert_eq!(unusable(&usable, subject), None);
        assert!(unusable(&usable, "other").is_some());
        let changes: [fn(&mut StreamSettings); 9] = [
            |settings| settings.retention = "interest".to_owned(),
            |settings| settings.discard = "new".to_owned(),
            |settings| settings.max_msg_size = 1000,
            |settings| settings.sealed = true,
            |settings| settings.no_ack = true,
            |settings| settings.sources = Some(json!([])),
            |settings| settings.allow_msg_ttl = true,
            |settings| settings.allow_msg_schedules = true,
            |settings| settings.persist_mode = Some("async".to_owned()),
        ];
        for change in changes {
            let mut changed = usable.clone();
            change(&mut changed);
            assert!(unusable(&changed, subject).is_some(), "{changed:?}");
        }
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        server_is_usable(&server("2.9.10")).unwrap();
        server_is_usable(&server("2.15.0-RC.1")).unwrap();
        server_is_usable(&server("2.8.4")).unwrap_err();
        let small = ServerInfo { max_payload: 65_536, ..server("2.15.1") };
        server_is_usable(&small).unwrap_err();
        assert!(Version::of("v2.9.10") < Version::of("2.14.6"));
        assert_eq!(Version::of("2.15.0-RC.1"), Version(2, 15, 0));
    }
}
