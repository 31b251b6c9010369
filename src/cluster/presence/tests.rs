//! Tests of members at other nodes: messages that are lost, bounds, and nodes that fall silent.

use std::time::Duration;

use super::members_message::{MembersMessage, ToldMember};
use super::other_members::{MEMBERS_PER_STEP, OtherMembers};
use crate::broker::{Broker, Member, OpenConfig, Present};
use crate::{Delivery, NewEvent, OnGap, StartPoint};

const ROOM: &str = "rooms.7";

/// A node that tells of its members.
struct Teller {
    incarnation: u64,
    number: u64,
    pass: u64,
}

impl Teller {
    fn new(incarnation: u64) -> Self {
        Self { incarnation, number: 0, pass: 0 }
    }

    /// Returns a message with these members and their subscriptions.
    fn tells(&mut self, members: &[(&str, u32)]) -> MembersMessage {
        let mut message = MembersMessage::new(self.incarnation, self.number, self.pass);
        self.number += 1;
        let topic = ROOM.parse().unwrap();
        message.members.extend(members.iter().map(|(id, subscriptions)| {
            let (member, subscriptions) = (Member::new(*id), *subscriptions);
            ToldMember::new(&topic, Present { member, since_ms: 1_000, subscriptions })
        }));
        message
    }

    /// Returns the messages of a pass, one for each list of members.
    fn pass(&mut self, pages: &[&[(&str, u32)]]) -> Vec<MembersMessage> {
        self.pass += 1;
        let mut messages: Vec<_> = pages.iter().map(|page| self.tells(page)).collect();
        messages.first_mut().unwrap().begins = true;
        messages.last_mut().unwrap().ends = true;
        messages
    }
}

struct Heard {
    broker: Broker,
    others: OtherMembers,
}

impl Heard {
    fn new(max_members: usize) -> Self {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        Self { others: OtherMembers::new(broker.clone(), max_members), broker }
    }

    async fn hear(&mut self, messages: impl IntoIterator<Item = MembersMessage>, second: u64) {
        for message in messages {
            self.others.hear(message, Duration::from_secs(second)).await;
        }
    }

    /// Returns the members with their subscriptions.
    fn shown(&self) -> Vec<(String, u32)> {
        let present = self.broker.presence(&ROOM.parse().unwrap(), "", usize::MAX);
        present.into_iter().map(|present| (present.member.id, present.subscriptions)).collect()
    }
}

fn are(members: &[(&str, u32)]) -> Vec<(String, u32)> {
    members.iter().map(|(id, subscriptions)| ((*id).to_owned(), *subscriptions)).collect()
}

/// Goal: a member counts once, with its subscriptions at all nodes, whichever of them go first.
#[tokio::test]
async fn a_member_at_several_nodes_is_one_with_all_its_subscriptions() {
    let mut heard = Heard::new(100);
    let (mut one, mut other) = (Teller::new(1), Teller::new(2));
    let here = heard.broker.join(&[ROOM.parse().unwrap()], Member::new("ann")).await.unwrap();
    heard.hear(one.pass(&[&[("ann", 2), ("bob", 1)]]), 1).await;
    heard.hear(other.pass(&[&[("ann", 4)]]), 1).await;
    assert_eq!(heard.shown(), are(&[("ann", 7), ("bob", 1)]));
    heard.hear([one.tells(&[("ann", 1), ("bob", 0)])], 1).await;
    assert_eq!(heard.shown(), are(&[("ann", 6)]));
    drop(here);
    while heard.shown() != are(&[("ann", 5)]) {
        tokio::task::yield_now().await;
    }
    heard.hear([other.tells(&[("ann", 0)]), one.tells(&[("ann", 0)])], 1).await;
    assert_eq!(heard.shown(), []);
}

/// Goal: what a member tells of itself last is shown, also while another node repeats what it told
/// before.
#[tokio::test]
async fn what_a_node_repeats_hides_nothing_newer() {
    let mut heard = Heard::new(100);
    let mut teller = Teller::new(1);
    let mut tells = |text: &str| {
        let mut message = teller.tells(&[("ann", 1)]);
        message.members[0].member = Member::new("ann").with("is", text);
        message
    };
    let room = [ROOM.parse().unwrap()];
    let shown = |heard: &Heard| heard.broker.presence(&room[0], "", 9)[0].member.clone();
    heard.hear([tells("old")], 1).await;
    let _here = heard.broker.join(&room, Member::new("ann").with("is", "new")).await.unwrap();
    heard.hear([tells("old")], 1).await;
    assert_eq!(shown(&heard), Member::new("ann").with("is", "new"));
    heard.hear([tells("newest")], 1).await;
    assert_eq!(shown(&heard), Member::new("ann").with("is", "newest"));
}

/// Goal: what a whole pass does not name is gone. A pass of which a message was lost, or that was
/// heard from its middle on, takes nobody out.
#[tokio::test]
async fn a_lost_message_takes_nobody_out_and_the_next_pass_mends_what_it_hid() {
    let mut heard = Heard::new(100);
    let mut teller = Teller::new(1);
    let all: [&[(&str, u32)]; 3] = [&[("a", 1)], &[("b", 1)], &[("c", 1)]];
    for lost in 0..3 {
        heard.hear(teller.pass(&all), 1).await;
        let mut pass = teller.pass(&all);
        pass.remove(lost);
        heard.hear(pass, 1).await;
        assert_eq!(heard.shown(), are(&[("a", 1), ("b", 1), ("c", 1)]), "{lost}");
    }
    let _lost = teller.tells(&[("a", 0)]);
    heard.hear([teller.tells(&[("d", 1)])], 1).await;
    assert_eq!(heard.shown(), are(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
    // A member that joins in the middle of a pass, on a page that was told already, stays.
    let mut pass = teller.pass(&[&[("b", 1)], &[]]);
    let mut end = pass.pop().unwrap();
    heard.hear(pass, 1).await;
    let mut joined = teller.tells(&[("aa", 1)]);
    std::mem::swap(&mut joined.number, &mut end.number);
    heard.hear([joined, end], 1).await;
    assert_eq!(heard.shown(), are(&[("aa", 1), ("b", 1)]));
}

/// Goal: a node that falls silent has no members any more, also if it has many, and the others
/// keep theirs.
#[tokio::test]
async fn a_silent_node_has_no_members() {
    let mut heard = Heard::new(10_000);
    let ids: Vec<String> = (0..10 * MEMBERS_PER_STEP).map(|id| format!("m{id:04}")).collect();
    let many: Vec<_> = ids.iter().map(|id| (&**id, 1)).collect();
    heard.hear(Teller::new(1).pass(&[&many]), 1).await;
    heard.hear(Teller::new(2).pass(&[&[("ann", 1)]]), 3).await;
    assert_eq!((heard.shown().len(), heard.others.count()), (many.len() + 1, many.len() + 1));
    heard.others.forget_silent(Duration::from_secs(2)).await;
    assert_eq!((heard.shown(), heard.others.count()), (are(&[("ann", 1)]), 1));
}

/// Goal: members beyond the bound, and what no node of this version tells, change nothing but a
/// count.
#[tokio::test]
async fn members_beyond_the_bound_are_counted_and_not_shown() {
    let mut heard = Heard::new(2);
    let (room, start) = (ROOM.parse().unwrap(), StartPoint::Latest);
    let mut follower = heard.broker.subscribe(&room, start, OnGap::Fail).await.unwrap();
    let mut teller = Teller::new(1);
    heard.hear(teller.pass(&[&[("a", 1), ("b", 1), ("c", 1)]]), 1).await;
    assert_eq!((heard.shown(), heard.others.cut()), (are(&[("a", 1), ("b", 1)]), 1));
    heard.hear([teller.tells(&[("a", 0), ("", 1), ("d", 1)])], 1).await;
    assert_eq!((heard.shown(), heard.others.cut()), (are(&[("b", 1), ("d", 1)]), 2));
    heard.broker.publish_ephemeral(&room, vec![NewEvent::new("").with_key("end")]).unwrap();
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "end") {
        if let Delivery::Ephemeral(event) = follower.next().await.unwrap().unwrap() {
            told.push(event.event.key.clone());
        }
    }
    assert_eq!(told, ["a", "b", "a", "d", "end"], "of those that are shown, and of no other");
    let mut far = teller.tells(&[("b", u32::MAX)]);
    far.number = u64::MAX;
    heard.hear([far], 1).await;
    assert_eq!((heard.shown(), heard.others.cut()), (are(&[("b", 1), ("d", 1)]), 3));
    let mut bad = teller.tells(&[("b", 5)]);
    bad.members[0].topic = "no name".to_owned();
    heard.hear([bad], 1).await;
    assert_eq!(heard.shown(), are(&[("b", 1), ("d", 1)]));
}
