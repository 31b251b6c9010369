//! The messages of a WebSocket about shared work, and the workers of one connection.
//!
//! ```text
//! ▶ {"type":"work","ref":1,"work":"w","topic":"jobs","consumer":"mailers","worker":"m-3",
//!    "credit":10,"release":true}
//! ◀ {"type":"working","ref":1,"work":"w"}
//! ◀ {"type":"leased","work":"w","leases":[{"lease":"z-7-1e-1","tries":1,"until":"…","event":{…}}]}
//! ▶ {"type":"settle","ref":2,"work":"w","ack":["z-7-1e-1"]}
//! ◀ {"type":"settled","ref":2,"ack":[{"outcome":"done"}]}
//! ▶ {"type":"credit","ref":3,"work":"w","credit":0}
//! ◀ {"type":"credited","ref":3,"work":"w","credit":0}
//! ▶ {"type":"stop","ref":4,"work":"w"}
//! ◀ {"type":"stopped","ref":4,"work":"w"}
//! ◀ {"type":"ended","work":"w","error":{…}}
//! ```

use std::collections::HashMap;
use std::pin::Pin;

use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::keeping::KeepAnswer;
use super::reference::Reference;
use crate::consumers::{LeaseId, Leased};
use crate::edge::mounting::EdgeConsumers;
use crate::edge::permit::Permit;
use crate::edge::status;
use crate::edge::subscriptions::asked::name;
use crate::edge::subscriptions::subscription::message;
use crate::edge::work::answers;
use crate::edge::work::asking::PermittedQueue;
use crate::edge::work::requests::{ExtendJson, NackJson, SettleJson};
use crate::edge::work::worker::{StreamWorker, WorkerHandle, WorkerWish};
use crate::error::{Error, Result};
use crate::polls;
use crate::topic::TopicPattern;

/// A request about shared work.
#[derive(Debug)]
pub(super) struct WorkMessage {
    pub(super) reference: Option<Reference>,
    /// The client's name for the worker.
    work: String,
    asked: AskedWork,
}

#[derive(Debug)]
enum AskedWork {
    Start { consumer: String, selection: TopicPattern, wish: WorkerWish },
    Settle(SettleJson),
    Credit(u32),
    Stop,
}

/// A request about shared work that is checked as far as it can be without the connection's
/// workers.
pub(super) enum HeardWork {
    Start(Box<StreamWorker>),
    Settle(SettleJson),
    Credit(u32),
    Stop,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StartMessage<'a> {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    work: String,
    topic: TopicPattern,
    consumer: String,
    worker: String,
    credit: u32,
    #[serde(default)]
    release: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleMessage<'a> {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    work: String,
    #[serde(default)]
    ack: Vec<LeaseId>,
    #[serde(default)]
    nack: Vec<NackJson>,
    #[serde(default)]
    extend: Vec<ExtendJson>,
    #[serde(default)]
    release: Vec<LeaseId>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreditMessage<'a> {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    work: String,
    credit: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StopMessage<'a> {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    work: String,
}

impl WorkMessage {
    /// Reads a message of the type `work`, `settle`, `credit` or `stop`; `None` for another type.
    ///
    /// # Errors
    ///
    /// Those of serde, for JSON that is no such message; then [`Error::Invalid`] for an invalid
    /// name or reference.
    pub(super) fn read(kind: &str, text: &str) -> Option<serde_json::Result<Result<Self>>> {
        Some(match kind {
            "work" => serde_json::from_str(text).map(|read: StartMessage<'_>| {
                let StartMessage { topic: selection, consumer, worker, credit, .. } = read;
                let wish = WorkerWish { worker, credit, releases: read.release };
                let asked = AskedWork::Start { consumer, selection, wish };
                Self::of(read.reference, read.work, asked)
            }),
            "settle" => serde_json::from_str(text).map(|read: SettleMessage<'_>| {
                let SettleMessage { ack, nack, extend, release, .. } = read;
                let settle = SettleJson { ack, nack, extend, release };
                Self::of(read.reference, read.work, AskedWork::Settle(settle))
            }),
            "credit" => serde_json::from_str(text).map(|read: CreditMessage<'_>| {
                Self::of(read.reference, read.work, AskedWork::Credit(read.credit))
            }),
            "stop" => serde_json::from_str(text)
                .map(|read: StopMessage<'_>| Self::of(read.reference, read.work, AskedWork::Stop)),
            _ => return None,
        })
    }

    fn of(reference: Option<&RawValue>, work: String, asked: AskedWork) -> Result<Self> {
        let reference = reference.map(Reference::read).transpose()?;
        Ok(Self { reference, work: name("work", work)?, asked })
    }

    /// Whether the message opens a stream of leases.
    pub(super) fn is_start(&self) -> bool {
        matches!(self.asked, AskedWork::Start { .. })
    }

    /// Finds what the message names. Returns it with the client's name for the worker.
    ///
    /// # Errors
    ///
    /// As [`PermittedQueue::find`] and [`StreamWorker::new`].
    pub(super) async fn heard(
        self,
        permit: &Permit,
        kept: Option<&EdgeConsumers>,
    ) -> Result<(String, HeardWork)> {
        let heard = match self.asked {
            AskedWork::Start { consumer, selection, wish } => {
                let queue = PermittedQueue::find(&consumer, selection, permit, kept).await?;
                let worker = StreamWorker::new(queue, wish)?;
                HeardWork::Start(Box::new(worker))
            }
            AskedWork::Settle(settle) => HeardWork::Settle(settle),
            AskedWork::Credit(credit) => HeardWork::Credit(credit),
            AskedWork::Stop => HeardWork::Stop,
        };
        Ok((self.work, heard))
    }
}

/// What one worker was given, or why it is given nothing more.
pub(super) struct WorkTurn {
    work: String,
    worker: Box<StreamWorker>,
    outcome: Result<Vec<Leased>>,
}

type WaitingWorker = Abortable<Pin<Box<dyn Future<Output = WorkTurn> + Send>>>;

/// The workers of one connection, by the client's names for them. Each waits for leases, and none
/// is given more before what it was given is written.
#[derive(Default)]
pub(super) struct Workers {
    handles: HashMap<String, (WorkerHandle, AbortHandle)>,
    waiting: FuturesUnordered<WaitingWorker>,
}

impl Workers {
    /// Returns the number of workers.
    pub(super) fn len(&self) -> usize {
        self.handles.len()
    }

    /// Does what a message asks for. Returns the answer, which may come later.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the client has no worker of this name, or has one already.
    /// [`Error::OverLimit`]: there are `limit` already, or the credit is too large.
    pub(super) fn go_on(
        &mut self,
        work: String,
        heard: HeardWork,
        limit: usize,
    ) -> Result<KeepAnswer> {
        let told = |kind: &str, work: &str| {
            let mut message = message(kind);
            message.insert("work".to_owned(), json!(work));
            message
        };
        let answer = match heard {
            HeardWork::Start(worker) => {
                if self.handles.contains_key(&work) {
                    let problem = format!("{work:?} works already; stop it, or take another name");
                    return Err(Error::invalid("work", problem));
                }
                if self.len() >= limit {
                    return Err(Error::over("workers on one connection", limit + 1, limit));
                }
                let answer = told("working", &work);
                self.wait(work, worker);
                answer
            }
            HeardWork::Settle(settle) => {
                let (handle, settlement) = (self.of(&work)?.0.clone(), settle.settlement()?);
                return Ok(Box::pin(async move {
                    let settled = handle.settle(settlement).await?;
                    let mut answer = message("settled");
                    answer.extend(answers::settled(&settled));
                    Ok(answer)
                }));
            }
            HeardWork::Credit(credit) => {
                self.of(&work)?.0.set_credit(credit)?;
                let mut answer = told("credited", &work);
                answer.insert("credit".to_owned(), json!(credit));
                answer
            }
            HeardWork::Stop => {
                self.of(&work)?.1.abort();
                self.handles.remove(&work);
                told("stopped", &work)
            }
        };
        Ok(Box::pin(async move { Ok(answer) }))
    }

    fn of(&self, work: &str) -> Result<&(WorkerHandle, AbortHandle)> {
        let unknown =
            || Error::invalid("work", format!("{work:?} is no worker of this connection"));
        self.handles.get(work).ok_or_else(unknown)
    }

    fn wait(&mut self, work: String, mut worker: Box<StreamWorker>) {
        let (abort, registration) = AbortHandle::new_pair();
        self.handles.insert(work.clone(), (worker.handle(), abort));
        let wait = async move {
            let outcome = worker.next().await;
            WorkTurn { work, worker, outcome }
        };
        self.waiting.push(Abortable::new(Box::pin(wait), registration));
    }

    /// Waits for what one of the workers is given. Never ready if there is none.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> WorkTurn {
        loop {
            match self.waiting.next().await {
                Some(Ok(turn)) => return turn,
                Some(Err(_stopped)) => {}
                None => return std::future::pending().await,
            }
        }
    }

    /// Returns the message that tells a worker's turn. [`Self::told`] comes after it is written.
    pub(super) async fn text(turn: &WorkTurn) -> Option<String> {
        let name = Value::from(turn.work.as_str());
        let leased = match &turn.outcome {
            Ok(leased) => leased,
            Err(Error::ShuttingDown) => return None, // The connection is closed soon.
            Err(error) => {
                let mut ended: Map<String, Value> = message("ended");
                ended.insert("work".to_owned(), name);
                ended.insert("error".to_owned(), status::problem_json(error));
                return Some(Value::Object(ended).to_string());
            }
        };
        let mut bytes = format!(r#"{{"type":"leased","work":{name},"leases":["#).into_bytes();
        for (index, leased) in leased.iter().enumerate() {
            if index > 0 {
                bytes.push(b',');
            }
            answers::write_lease(leased, &mut bytes);
            polls::rest().await;
        }
        bytes.extend_from_slice(b"]}");
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Goes on after a turn that was told: the worker waits for more, unless it has ended.
    pub(super) fn told(&mut self, turn: WorkTurn) {
        let WorkTurn { work, worker, outcome } = turn;
        if !self.handles.contains_key(&work) {
            return; // It was stopped meanwhile.
        }
        match outcome {
            Ok(_) => self.wait(work, worker),
            Err(_) => drop(self.handles.remove(&work)),
        }
    }
}
