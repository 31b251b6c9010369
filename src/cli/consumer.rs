//! `leftoff consumer`: lists, shows, counts, sets and deletes consumers.

use std::io::Write;

use clap::{Args, Subcommand};
use leftoff::TopicPattern;
use leftoff::edge::proto::{self, ConsumerRef};
use leftoff::event::Timestamp;
use serde_json::{Value, json};

use super::client::{ServerArgs, ServerClient, failed};
use super::failure::{CliError, CliResult, ExitReason};

/// Lists, shows, counts, sets or deletes consumers
///
/// A consumer is a name under which the broker keeps the place of a reader and its marks, for one
/// topic or one pattern of topics.
#[derive(Debug, Args)]
pub(super) struct ConsumerCommand {
    #[command(subcommand)]
    action: ConsumerAction,
}

#[derive(Debug, Subcommand)]
enum ConsumerAction {
    /// Lists consumers, a line of JSON for each
    List {
        /// Only those of this topic or pattern
        #[arg(long, value_name = "TOPIC")]
        topic: Option<TopicPattern>,
        /// The caller whose consumers they are, for administrators
        #[arg(long, value_name = "CALLER")]
        owner: Option<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Shows a consumer, as JSON
    Get {
        #[command(flatten)]
        consumer: ConsumerArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Sets the cursor up to which all is finished, and prints the present one
    ///
    /// The checkpoint moves forward only.
    Checkpoint {
        #[command(flatten)]
        consumer: ConsumerArgs,
        /// The cursor, such as `42-9f3c2a1b`
        #[arg(long, value_name = "CURSOR")]
        cursor: String,
        /// Move it back, too
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Counts the events of a consumer, as JSON
    Counts {
        #[command(flatten)]
        consumer: ConsumerArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Deletes a consumer with its checkpoint and its marks
    Delete {
        #[command(flatten)]
        consumer: ConsumerArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, Args)]
struct ConsumerArgs {
    /// The topic or the pattern that the consumer reads
    topic: TopicPattern,
    /// The name of the consumer
    name: String,
    /// The caller whose consumer it is, for administrators
    #[arg(long, value_name = "CALLER")]
    owner: Option<String>,
    /// The consumer is one of shared work, common to all callers
    #[arg(long)]
    shared: bool,
}

impl ConsumerArgs {
    fn message(self) -> Option<ConsumerRef> {
        let Self { topic, name, owner, shared } = self;
        let owner = owner.unwrap_or_default();
        Some(ConsumerRef { topic: topic.to_string(), consumer: name, owner, shared })
    }
}

impl ConsumerCommand {
    pub(super) async fn run(self) -> CliResult {
        match self.action {
            ConsumerAction::List { topic, owner, server } => {
                list(server.connect().await?, topic, owner).await
            }
            ConsumerAction::Get { consumer, server } => {
                let request = proto::GetConsumerRequest { consumer: consumer.message() };
                let mut client = server.connect().await?;
                let answer = client.consumers.get_consumer(request).await;
                let consumer = answer.map_err(|s| failed(&s))?.into_inner().consumer;
                print(&shown(&consumer.ok_or_else(no_consumer)?))
            }
            ConsumerAction::Checkpoint { consumer, cursor, force, server } => {
                let consumer = consumer.message();
                let request =
                    proto::SetCheckpointRequest { consumer, cursor, force, expected: None };
                let mut client = server.connect().await?;
                let answer = client.consumers.set_checkpoint(request).await;
                let answer = answer.map_err(|s| failed(&s))?.into_inner();
                print(&json!({
                    "checkpoint": given(&answer.checkpoint),
                    "moved": answer.moved,
                    "revision": answer.revision,
                }))
            }
            ConsumerAction::Counts { consumer, server } => {
                let consumer = consumer.message();
                let wanted = proto::ConsumerCounts { consumer, filters: Vec::new() };
                let request = proto::CountEventsRequest { consumers: vec![wanted] };
                let mut client = server.connect().await?;
                let answer = client.consumers.count_events(request).await;
                let answer = answer.map_err(|s| failed(&s))?.into_inner();
                let counted = answer.consumers.into_iter().flat_map(|it| it.counts).next();
                print(&counts(&counted.ok_or_else(no_consumer)?))
            }
            ConsumerAction::Delete { consumer, server } => {
                let request = proto::DeleteConsumerRequest { consumer: consumer.message() };
                let mut client = server.connect().await?;
                client.consumers.delete_consumer(request).await.map_err(|s| failed(&s))?;
                Ok(())
            }
        }
    }
}

fn no_consumer() -> CliError {
    CliError::new(ExitReason::Other, "the server answered without a consumer".to_owned())
}

async fn list(
    mut client: ServerClient,
    topic: Option<TopicPattern>,
    owner: Option<String>,
) -> CliResult {
    let topic = topic.map(|topic| topic.to_string()).unwrap_or_default();
    let owner = owner.unwrap_or_default();
    let mut page_token = String::new();
    loop {
        let (topic, owner) = (topic.clone(), owner.clone());
        let request = proto::ListConsumersRequest { topic, owner, page_size: 0, page_token };
        let page = client.consumers.list_consumers(request).await;
        let page = page.map_err(|s| failed(&s))?.into_inner();
        let mut output = std::io::stdout().lock();
        for consumer in &page.consumers {
            writeln!(output, "{}", shown(consumer))?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

fn print(line: &Value) -> CliResult {
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn shown(consumer: &proto::Consumer) -> Value {
    let time = |ms: u64| (ms > 0).then(|| Timestamp::from_ms(ms).to_string());
    json!({
        "consumer": consumer.consumer,
        "topic": consumer.topic,
        "owner": given(&consumer.owner),
        "checkpoint": given(&consumer.checkpoint),
        "revision": consumer.revision,
        "created": time(consumer.created_ms),
        "updated": time(consumer.updated_ms),
    })
}

fn counts(counts: &proto::Counts) -> Value {
    json!({
        "total": counts.total,
        "unfinished": counts.unfinished,
        "lost": counts.lost,
        "inbox": counts.inbox,
        "unseen": counts.unseen,
        "unread": counts.unread,
        "archived": counts.archived,
        "snoozed": counts.snoozed,
        "more_than": counts.more_than,
        "lost_more_than": counts.lost_more_than,
        "position": counts.position,
        "revision": counts.revision,
    })
}
