//! The keeper on a node of a fleet that another node leads: sends commands to the leader, and
//! applies the records as they come.
//!
//! ```text
//! callers ──▶ queue ──▶ one batch at a time ──▶ leader: decides, stores ──▶ answer ──┐
//!                                                       │ the fleet's stream         ▼
//!                       view, followers ◀── records ◀── log ─────── reached ──▶ callers
//! ```
//!
//! # Why
//!
//! One batch is under way at a time, so the leader decides the commands of a node in their order,
//! and while one batch travels, the next one grows. A caller is answered when this node has read
//! what the answer rests on: whoever changes a consumer here sees the change here.
//!
//! A node that has led loads everything anew: of its last batch it may not know whether it is
//! stored.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::aside::{self, Aside};
use super::keeper::Keeper;
use super::keeper_command::KeeperCommand;
use super::led_keeper::{AnsweredBatch, AskedBatch, LedKeeper};
use super::loading::{self, LoadedConsumers};
use super::to_leader::{ChangeAnswers, MAX_WAIT, change_request, changes_of};
use crate::error::{Error, Result};
use crate::own_topics::NextOwn;

/// The most commands of one batch, and the room that they may have in the queue, in bytes.
const MAX_ASKED: usize = 1_024;
const MAX_ASKED_BYTES: usize = 1 << 20;

/// The longest wait for this node to read what an answer of the leader rests on.
const MAX_BEHIND: Duration = Duration::from_secs(10);

/// The longest wait for an answer of the former leader once this node leads.
const MAX_LAST_ANSWER: Duration = Duration::from_secs(1);

/// The pause after a failed read.
const RETRY: Duration = Duration::from_secs(1);

/// What a keeper that follows has waited for.
enum LedStep {
    LeadershipChanged,
    Read(Result<NextOwn>),
    Answered(Result<Bytes>),
    Queued(usize),
    Due,
}

impl Keeper {
    /// Follows for as long as another node leads. Returns whether to go on after that.
    pub(super) async fn follow(&mut self) -> bool {
        let mut queued = Vec::new();
        loop {
            if (self.led.is_behind || self.led.records.is_none())
                && let Err(error) = self.load().await
            {
                return self.cannot_read(error).await;
            }
            self.answer_reached();
            self.ask_some();
            match self.wait(&mut queued).await {
                LedStep::LeadershipChanged => return true,
                LedStep::Read(Ok(NextOwn::These(run))) => {
                    if let Err(error) = self.apply_run(&run).await {
                        return self.cannot_read(error).await;
                    }
                }
                LedStep::Read(Ok(NextOwn::None)) | LedStep::Due => {}
                LedStep::Read(Ok(NextOwn::Missing)) => self.led.is_behind = true,
                LedStep::Read(Ok(NextOwn::End)) => {
                    return self.cannot_read(Error::ShuttingDown).await;
                }
                LedStep::Read(Err(error)) => return self.cannot_read(error).await,
                LedStep::Answered(answer) => {
                    if let Some(asked) = self.led.asked.take() {
                        self.answered(asked.commands, answer);
                    }
                }
                LedStep::Queued(0) => return false,
                LedStep::Queued(_) => self.take_in(&mut queued),
            }
        }
    }

    /// Waits for something to do.
    async fn wait(&mut self, queued: &mut Vec<KeeperCommand>) -> LedStep {
        let Self { leadership, commands, taken, led, .. } = self;
        let LedKeeper { records, asked, answered, .. } = led;
        let due = answered.front().map(|first| first.until);
        let next = async {
            match records {
                Some(records) => records.next().await,
                None => std::future::pending().await,
            }
        };
        let answer = async {
            match asked {
                Some(asked) => flat((&mut asked.answer).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = leadership.changed() => LedStep::LeadershipChanged,
            next = next => LedStep::Read(next),
            answer = answer => LedStep::Answered(answer),
            count = commands.recv_many(queued, MAX_ASKED), if taken.is_empty() => {
                LedStep::Queued(count)
            }
            () = sleep_until(due) => LedStep::Due,
        }
    }

    /// Takes commands that were queued. Those that another node has sent here are not for this one.
    fn take_in(&mut self, queued: &mut Vec<KeeperCommand>) {
        for command in queued.drain(..) {
            match command.is_of_another_node {
                true => command.refuse(Error::NotLeading),
                false => self.taken.push_back(command),
            }
        }
    }

    /// Sends a batch of commands to the leader, if none is under way.
    fn ask_some(&mut self) {
        if self.led.asked.is_some() {
            return;
        }
        let (mut commands, mut bytes) = (Vec::new(), 0);
        while commands.len() < MAX_ASKED
            && bytes < MAX_ASKED_BYTES
            && let Some(command) = self.taken.pop_front()
        {
            if command.is_of_another_node {
                command.refuse(Error::NotLeading);
            } else if !command.answer.is_closed() {
                bytes += command.space.num_permits();
                commands.push(command);
            }
        }
        if commands.is_empty() {
            return;
        }
        match change_request(&commands) {
            Ok(request) => {
                let answer = self.led.to_leader.ask_patiently(&self.broker, request);
                let answer = AbortOnDropHandle::new(tokio::spawn(answer));
                self.led.asked = Some(AskedBatch { commands, answer });
            }
            Err(error) => commands.into_iter().for_each(|it| it.refuse(error.clone())),
        }
    }

    /// Takes the leader's answer to a batch.
    fn answered(&mut self, commands: Vec<KeeperCommand>, answer: Result<Bytes>) {
        let answers = answer.and_then(|answer| changes_of(&answer, commands.len()));
        match answers {
            Ok(ChangeAnswers { reached, answers }) => {
                // The leader may have changed between two of them.
                let (again, answers) =
                    commands.into_iter().zip(answers).partition(|(command, it)| {
                        matches!(it, Err(Error::NotLeading)) && command.queued.elapsed() < MAX_WAIT
                    });
                let again: Vec<(KeeperCommand, Result<bool>)> = again;
                again.into_iter().rev().for_each(|(command, _)| self.taken.push_front(command));
                let until = Instant::now() + MAX_BEHIND;
                self.led.answered.push_back(AnsweredBatch { reached, until, answers });
            }
            // This node leads.
            Err(Error::NotLeading) if self.broker.leads() => {
                commands.into_iter().rev().for_each(|command| self.taken.push_front(command));
            }
            Err(error) => commands.into_iter().for_each(|it| it.refuse(error.clone())),
        }
    }

    /// Answers the commands whose answers rest on what this node has read.
    fn answer_reached(&mut self) {
        let (reached, now) = (self.reached.load(Ordering::Acquire), Instant::now());
        let is_due = |first: &AnsweredBatch| first.reached <= reached || first.until <= now;
        while self.led.answered.front().is_some_and(is_due) {
            let Some(AnsweredBatch { reached: wanted, answers, .. }) =
                self.led.answered.pop_front()
            else {
                return;
            };
            for (command, answer) in answers {
                match wanted <= reached {
                    true => self.answer(command, answer),
                    false => {
                        command.refuse(unknown("the leader has stored it, and it is not here"))
                    }
                }
            }
        }
    }

    fn answer(&self, command: KeeperCommand, answer: Result<bool>) {
        let entry = self.read().get(&command.id).cloned();
        command.answer(answer, || entry);
    }

    /// Brings the view to the newest record, now that nobody else writes any, and ends what was
    /// asked of the former leader.
    ///
    /// # Errors
    ///
    /// As [`loading::load`].
    pub(super) async fn catch_up(&mut self) -> Result<()> {
        if let Some(AskedBatch { commands, answer }) = self.led.asked.take() {
            let answer = tokio::time::timeout(MAX_LAST_ANSWER, answer).await;
            let answer = answer.map_or_else(|_| Err(lost("it is gone")), flat);
            self.answered(commands, answer);
        }
        loop {
            if self.led.is_behind {
                self.load().await?;
            }
            let Some(records) = &mut self.led.records else { break };
            match records.next_ready().await? {
                NextOwn::These(run) => self.apply_run(&run).await?,
                NextOwn::None => break,
                NextOwn::Missing => self.led.is_behind = true,
                NextOwn::End => return Err(Error::ShuttingDown),
            }
        }
        self.led.records = None;
        self.answer_reached();
        for AnsweredBatch { answers, .. } in std::mem::take(&mut self.led.answered) {
            let refuse = |(command, _): (KeeperCommand, _)| {
                command.refuse(lost("another node leads"));
            };
            answers.into_iter().for_each(refuse);
        }
        Ok(())
    }

    /// Loads all records anew.
    async fn load(&mut self) -> Result<()> {
        let LoadedConsumers { view, work, reader } =
            loading::load(&self.broker, &self.topic).await?;
        let reached = reader.reached();
        aside::replace(&self.view, view);
        let before = self.work.with_records(|records| std::mem::replace(records, work));
        drop(Aside::new(before)); // Without the lock, which all dispatchers take.
        let revision = |text: &str| self.read().of_text(text).map_or(0, |entry| entry.revision);
        self.followers.tell_anew(revision, self.broker.last_position());
        self.reached.store(reached.get(), Ordering::Release);
        (self.led.records, self.led.is_behind) = (Some(reader), false);
        self.broker.note_unread(&self.topic, None);
        Ok(())
    }

    /// Answers all that waits with the error for which the records cannot be read, and waits a
    /// while. Returns whether to try it again.
    pub(super) async fn cannot_read(&mut self, error: Error) -> bool {
        self.led.is_behind = true;
        self.taken.drain(..).for_each(|command| command.refuse(error.clone()));
        if matches!(error, Error::ShuttingDown) {
            while let Some(command) = self.commands.recv().await {
                command.refuse(Error::ShuttingDown);
            }
            return false;
        }
        error!(%error, "the records of consumers cannot be read; retrying");
        self.broker.note_unread(&self.topic, Some(error.to_string()));
        while let Ok(command) = self.commands.try_recv() {
            command.refuse(error.clone());
        }
        tokio::time::sleep(RETRY).await;
        true
    }
}

/// Returns what a task has returned.
fn flat(outcome: Result<Result<Bytes>, JoinError>) -> Result<Bytes> {
    outcome.unwrap_or_else(|ended| Err(Error::OutcomeUnknown(std::io::Error::other(ended).into())))
}

fn unknown(problem: &'static str) -> Error {
    Error::OutcomeUnknown(std::io::Error::other(problem).into())
}

fn lost(why: &'static str) -> Error {
    Error::LeaderLost(std::io::Error::other(why).into())
}

/// Waits until a time, or for ever without one.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
