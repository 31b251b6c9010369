//! Changes of consumers that are under way when the leader is lost.

use super::*;

/// Goal: a change that was stored, and whose answer was lost with the leader, is told as one that
/// may be stored, to a caller of the leader and to one of another node. To repeat it when another
/// node leads is right: nothing is done twice, and no event is leased twice.
#[tokio::test]
async fn changes_whose_answer_was_lost_are_told_so_and_can_be_repeated() {
    for leader in [0, 1] {
        let nodes = Nodes::new(2, &ConsumersConfig::default()).await;
        nodes.publish("a", 9).await;
        nodes.lead(leader).await;
        let (asked, user) = (&nodes.consumers[0], of_owner("u"));
        let shared = ConsumerSettings::default().shared(WorkSettings::default());
        asked.put(id("a"), shared, None).await.unwrap();
        asked.put(user.clone(), ConsumerSettings::default(), None).await.unwrap();
        let lost = async |error: Error| {
            assert!(error.outcome_unknown(), "{leader} led: {error}");
            nodes.lead(1 - nodes.leader()).await;
        };

        let to = Checkpoint::at(nodes.cursor(3));
        nodes.fleet.lose_answer();
        lost(asked.checkpoint(&user, to.clone()).await.unwrap_err()).await;
        let again = asked.checkpoint(&user, to).await.unwrap();
        assert_eq!((again.moved, again.checkpoint), (false, Some(nodes.cursor(3))));

        let marks = named(&[5]).mark(Mark::Read);
        nodes.fleet.lose_answer();
        lost(asked.mark(&user, marks.clone(), "me").await.unwrap_err()).await;
        assert!(!asked.mark(&user, marks, "me").await.unwrap().changed);

        let queue = asked.work(&id("a"));
        let pull = async || queue.pull(PullRequest::new("w").limit(2)).await;
        let first = pull().await.unwrap();
        let failed = || Settlement::default().and_nack(Nack::new(first[0].lease, "it failed"));
        nodes.fleet.lose_answer();
        lost(queue.settle(failed()).await.unwrap_err()).await;
        assert_eq!(queue.settle(failed()).await.unwrap().nack, [SettleOutcome::Done]);
        let second = pull().await.unwrap();
        let told = |leased: &[Leased]| -> Vec<(u64, u32)> {
            leased.iter().map(|it| (it.event.sequence.get(), it.tries)).collect()
        };
        assert_eq!((told(&first), told(&second)), (vec![(1, 1), (2, 1)], vec![(1, 2), (3, 1)]));

        nodes.fleet.lose_answer();
        lost(pull().await.unwrap_err()).await;
        assert_eq!(told(&pull().await.unwrap()), [(6, 1), (7, 1)], "nobody has the other leases");
        nodes.close().await;
    }
}

/// Goal: what a node has asked of a leader that stores nothing more is told as lost there. It can
/// be repeated at the next leader, and the former one does not do it later. What a caller of the
/// former leader asks is decided by the next one.
#[tokio::test]
async fn what_a_lost_leader_was_asked_by_another_node_is_repeated_there_and_not_done_later() {
    let nodes = Nodes::new(3, &ConsumersConfig::default()).await;
    nodes.publish("a", 9).await;
    let to = |sequence| Checkpoint::at(nodes.cursor(sequence)).forced();
    let (asked, user, own) = (&nodes.consumers[2], of_owner("u"), of_owner("own"));
    asked.checkpoint(&user, to(1)).await.unwrap();
    nodes.fleet.depose();
    nodes.way.lost.notify_one();
    let lost = asked.checkpoint(&user, to(8)).await.unwrap_err();
    assert!(matches!(lost, Error::LeaderLost(_)) && lost.outcome_unknown(), "{lost}");
    let next = async {
        nodes.lead(1).await;
        for sequence in [8, 2] {
            assert!(asked.checkpoint(&user, to(sequence)).await.unwrap().moved, "{sequence}");
        }
    };
    let (of_own, ()) = tokio::join!(nodes.consumers[0].checkpoint(&own, to(4)), next);
    assert!(of_own.unwrap().moved);
    nodes.lead(0).await;
    nodes.check_same("another leads").await;
    for consumers in &nodes.consumers {
        let at = |id| consumers.get(id).unwrap().checkpoint;
        assert_eq!((at(&user), at(&own)), (Some(nodes.cursor(2)), Some(nodes.cursor(4))));
    }
    nodes.close().await;
}
