//! The checker of a simulation: it hears what every node applies, and what every publisher is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cluster::group_form;
use crate::error::{Error, Result};
use crate::log::{Applied, Group};

/// Everything that was told and applied.
#[derive(Debug, Clone, Default)]
pub(super) struct FleetChecker(Arc<Mutex<FleetHeard>>);

#[derive(Debug, Default)]
struct FleetHeard {
    next_id: u64,
    /// The groups in their order, as the first node to apply each of them did.
    groups: Vec<(Applied, Vec<u8>)>,
    acknowledged: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    /// The node that has acknowledged in each term.
    leaders: BTreeMap<u64, usize>,
    violations: Vec<String>,
    has_ended: bool,
}

/// What a simulation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The groups that were acknowledged.
    pub(super) acknowledged: usize,
    /// The groups that were surely not stored.
    pub(super) refused: usize,
    /// The groups of which nobody was told.
    pub(super) unknown: usize,
    /// The terms in which something was acknowledged.
    pub(super) terms: usize,
}

impl FleetChecker {
    fn heard(&self) -> MutexGuard<'_, FleetHeard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of a new group; `None` when nothing more is published.
    pub(super) fn next_id(&self) -> Option<u64> {
        let mut heard = self.heard();
        heard.next_id += u64::from(!heard.has_ended);
        (!heard.has_ended).then_some(heard.next_id)
    }

    /// Lets nobody publish any more.
    pub(super) fn end(&self) {
        self.heard().has_ended = true;
    }

    /// Returns the number of acknowledged groups.
    pub(super) fn acknowledged(&self) -> usize {
        self.heard().acknowledged.len()
    }

    /// Notes what must never happen.
    pub(super) fn violation(&self, problem: String) {
        self.heard().violations.push(problem);
    }

    /// Hears that `node` has applied `group` as its group number `index`, from 0.
    pub(super) fn applied(&self, node: usize, index: usize, applied: Applied, group: &Group) {
        let bytes = group_form::encode(group).expect("a small group").to_vec();
        let mut heard = self.heard();
        match heard.groups.get(index) {
            Some(known) if *known == (applied, bytes.clone()) => {}
            Some((other, _)) => {
                let problem = format!(
                    "group {index} of node {node} is {applied:?}, and of another node {other:?}"
                );
                heard.violations.push(problem);
            }
            None => {
                let sequence =
                    group.appended.first().map(|(_, block)| block.first_sequence().get());
                if sequence != Some(index as u64 + 1) {
                    let problem = format!("group {index} of node {node} has event {sequence:?}");
                    heard.violations.push(problem);
                }
                heard.groups.push((applied, bytes));
            }
        }
    }

    /// Hears what the publisher of the group `id` is told.
    pub(super) fn told(&self, node: usize, term: u64, id: u64, outcome: &Result<()>) {
        let mut heard = self.heard();
        match outcome {
            Ok(()) => {
                heard.acknowledged.insert(id);
                let leader = *heard.leaders.entry(term).or_insert(node);
                if leader != node {
                    let problem = format!("nodes {leader} and {node} acknowledged in term {term}");
                    heard.violations.push(problem);
                }
            }
            Err(Error::NotWritten(_) | Error::NotLeading) => {
                heard.refused.insert(id);
            }
            Err(Error::OutcomeUnknown(_)) => {}
            Err(error) => heard.violations.push(format!("a publisher was told: {error}")),
        }
    }

    /// Checks the whole, once every node has had time to apply everything.
    ///
    /// # Errors
    ///
    /// The first violations.
    pub(super) fn finish(&self, applied: &[usize]) -> std::result::Result<Outcome, String> {
        let mut heard = self.heard();
        let FleetHeard { next_id, groups, acknowledged, refused, leaders, violations, .. } =
            &mut *heard;
        for (node, count) in applied.iter().enumerate() {
            if *count != groups.len() {
                violations.push(format!("node {node} has {count} of {} groups", groups.len()));
            }
        }
        let mut stored = BTreeMap::new();
        for (_, bytes) in groups.iter() {
            let group = group_form::decode(&bytes.clone().into()).expect("it was encoded");
            let event = group.appended[0].1.events().next().expect("an event");
            let id: [u8; 8] = event.payload[..8].try_into().expect("a number");
            *stored.entry(u64::from_be_bytes(id)).or_insert(0) += 1;
        }
        for (id, times) in stored.iter().filter(|(_, times)| **times > 1) {
            violations.push(format!("group {id} is stored {times} times"));
        }
        for id in acknowledged.iter().filter(|id| !stored.contains_key(*id)) {
            violations.push(format!("group {id} was acknowledged, and is lost"));
        }
        for id in refused.iter().filter(|id| stored.contains_key(*id)) {
            violations.push(format!("group {id} was told to be not stored, and is"));
        }
        if violations.is_empty() {
            let (acknowledged, refused) = (acknowledged.len(), refused.len());
            let unknown = *next_id as usize - acknowledged - refused;
            Ok(Outcome { acknowledged, refused, unknown, terms: leaders.len() })
        } else {
            violations.truncate(5);
            Err(violations.join("; "))
        }
    }
}
