//! `leftoff topic`: creates, changes, shows, purges and deletes a topic.

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};
use leftoff::TopicName;
use leftoff::edge::proto::{self, Topic as TopicMessage};
use serde_json::json;

use super::client::{ServerArgs, ServerClient, failed};
use super::failure::{CliError, CliResult, ExitReason};

/// Creates, changes, shows, purges or deletes a topic
#[derive(Debug, Args)]
pub(super) struct TopicCommand {
    #[command(subcommand)]
    action: TopicAction,
}

#[derive(Debug, Subcommand)]
enum TopicAction {
    /// Creates a topic with settings of its own
    Create {
        topic: TopicName,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Changes the settings that are given; the others stay as they are
    Update {
        topic: TopicName,
        #[command(flatten)]
        settings: Settings,
        /// Remove this setting from the topic's own, such as `max_age_ms`
        #[arg(long, value_name = "NAME")]
        unset: Vec<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Shows a topic and its settings
    Show {
        topic: TopicName,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Drops events from the front of a topic
    Purge {
        topic: TopicName,
        /// Drop the events below this sequence [default: all]
        #[arg(long, value_name = "SEQUENCE")]
        before: Option<u64>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Deletes a topic with its events and its settings
    ///
    /// A topic that is created again goes on with the sequence after its last one.
    Delete {
        topic: TopicName,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, Args)]
struct Settings {
    /// The age past which events are dropped, such as `7days`; `0s` is no limit
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_age: Option<std::time::Duration>,
    /// The number of newest events that are kept; 0 is no limit
    #[arg(long, value_name = "EVENTS")]
    max_events: Option<u64>,
    /// The bytes of newest events that are kept; 0 is no limit
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Whether only the latest events of each key are kept
    #[arg(long, value_name = "true|false")]
    compact: Option<bool>,
    /// The number of latest events of each key that are kept
    #[arg(long, value_name = "EVENTS")]
    max_events_per_key: Option<u64>,
    /// The time for which tombstones are kept, such as `1day`
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    tombstone_grace: Option<std::time::Duration>,
    /// The failures that an acknowledged event survives
    #[arg(long, value_enum)]
    durability: Option<DurabilityArg>,
    /// Whether a header of each event, `leftoff-publisher`, names its publisher
    #[arg(long, value_name = "true|false")]
    stamp_publisher: Option<bool>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DurabilityArg {
    /// A crash of the process, of the system, and a loss of power
    Fsync,
    /// A crash of the process
    Process,
}

impl Settings {
    /// Returns the settings as a message, and the names of the given ones.
    fn message(&self) -> (proto::TopicConfig, Vec<String>) {
        let ms = |duration: std::time::Duration| duration.as_millis() as u64;
        let durability = self.durability.map(|durability| match durability {
            DurabilityArg::Fsync => proto::Durability::Fsync,
            DurabilityArg::Process => proto::Durability::Process,
        });
        let config = proto::TopicConfig {
            max_age_ms: self.max_age.map(ms),
            max_events: self.max_events,
            max_bytes: self.max_bytes,
            compact: self.compact,
            max_events_per_key: self.max_events_per_key,
            tombstone_grace_ms: self.tombstone_grace.map(ms),
            durability: durability.map_or(0, Into::into),
            stamp_publisher: self.stamp_publisher,
        };
        let given = [
            ("max_age_ms", config.max_age_ms.is_some()),
            ("max_events", config.max_events.is_some()),
            ("max_bytes", config.max_bytes.is_some()),
            ("compact", config.compact.is_some()),
            ("max_events_per_key", config.max_events_per_key.is_some()),
            ("tombstone_grace_ms", config.tombstone_grace_ms.is_some()),
            ("durability", durability.is_some()),
            ("stamp_publisher", config.stamp_publisher.is_some()),
        ];
        let names = given.iter().filter(|(_, is_given)| *is_given);
        (config, names.map(|(name, _)| (*name).to_owned()).collect())
    }
}

impl TopicCommand {
    pub(super) async fn run(self) -> CliResult {
        match self.action {
            TopicAction::Create { topic, settings, server } => {
                let config = Some(settings.message().0);
                let request = proto::CreateTopicRequest { topic: topic.to_string(), config };
                let created = connect(&server).await?.admin.create_topic(request).await;
                print(created.map_err(|status| failed(&status))?.into_inner().topic)
            }
            TopicAction::Update { topic, settings, unset, server } => {
                let (config, mut paths) = settings.message();
                paths.extend(unset);
                if paths.is_empty() {
                    let message = "nothing to change: name a setting, or one to --unset";
                    return Err(CliError::new(ExitReason::Refused, message));
                }
                let request = proto::UpdateTopicRequest {
                    topic: topic.to_string(),
                    config: Some(config),
                    update_mask: Some(prost_types::FieldMask { paths }),
                };
                let updated = connect(&server).await?.admin.update_topic(request).await;
                print(updated.map_err(|status| failed(&status))?.into_inner().topic)
            }
            TopicAction::Show { topic, server } => {
                let request = proto::GetTopicRequest { topic: topic.to_string() };
                let found = connect(&server).await?.subscriber.get_topic(request).await;
                print(found.map_err(|status| failed(&status))?.into_inner().topic)
            }
            TopicAction::Purge { topic, before, server } => {
                let request = proto::PurgeTopicRequest { topic: topic.to_string(), before };
                let purged = connect(&server).await?.admin.purge_topic(request).await;
                print(purged.map_err(|status| failed(&status))?.into_inner().topic)
            }
            TopicAction::Delete { topic, server } => {
                let request = proto::DeleteTopicRequest { topic: topic.to_string() };
                let deleted = connect(&server).await?.admin.delete_topic(request).await;
                deleted.map(|_| ()).map_err(|status| failed(&status))
            }
        }
    }
}

async fn connect(server: &ServerArgs) -> CliResult<ServerClient> {
    server.connect().await
}

/// Prints a topic as JSON.
fn print(topic: Option<TopicMessage>) -> CliResult {
    let topic = topic.unwrap_or_default();
    let config = |config: Option<proto::TopicConfig>| {
        let config = config.unwrap_or_default();
        let durability = match config.durability() {
            proto::Durability::Unspecified => None,
            known => Some(known.as_str_name().trim_start_matches("DURABILITY_").to_lowercase()),
        };
        json!({
            "max_age_ms": config.max_age_ms,
            "max_events": config.max_events,
            "max_bytes": config.max_bytes,
            "compact": config.compact,
            "max_events_per_key": config.max_events_per_key,
            "tombstone_grace_ms": config.tombstone_grace_ms,
            "durability": durability,
            "stamp_publisher": config.stamp_publisher,
        })
    };
    let line = json!({
        "name": topic.name,
        "earliest": topic.earliest,
        "tail": topic.tail,
        "events": topic.events,
        "size_bytes": topic.size_bytes,
        "config": config(topic.config),
        "effective_config": config(topic.effective_config),
    });
    writeln!(std::io::stdout().lock(), "{line:#}")?;
    Ok(())
}
