//! A broker that is a node of a fleet, as `serve` opens it, and its stream, as `cluster check`
//! looks at it.

use std::sync::Arc;

use leftoff::Broker;
use leftoff::cluster::nats::NatsOpenError;
use leftoff::cluster::{AwaitedNatsStream, FleetNode, JoiningState, NodeOpenError, open_in};
use leftoff::config::Config;
use tokio::sync::watch;

use super::failure::{CliError, CliResult, ExitReason};

/// Opens the broker as a node of the fleet of the settings. A node whose log is empty waits until
/// the engine of the fleet answers. One whose records the stream does not have any more loads a
/// backup of another node.
///
/// # Errors
///
/// The settings are wrong, the engine's stream cannot be used, or the log cannot be opened.
pub(super) async fn open_node(config: &Config) -> CliResult<(Broker, FleetNode)> {
    let stream = AwaitedNatsStream::open(config.fleet.nats_config()?, &config.fleet.name).await;
    let stream = stream.map_err(of_stream)?;
    let node = config.fleet.node_config()?;
    let state = watch::Sender::new(JoiningState::default());
    let (directory, open_config) = (&config.data_dir, config.open_config());
    let opened = open_in(directory, Arc::new(stream), node, &open_config, &state).await;
    opened.map_err(|error| match error {
        NodeOpenError::Broker(error) => error.into(),
        error => CliError::new(ExitReason::Other, error.to_string()),
    })
}

/// Returns the failure for a stream that cannot be opened.
pub(super) fn of_stream(error: NatsOpenError) -> CliError {
    let reason = match error {
        NatsOpenError::Away(_) => ExitReason::Unreachable,
        NatsOpenError::Settings(_) | NatsOpenError::Unusable { .. } => ExitReason::Refused,
    };
    CliError::new(reason, format!("the fleet's stream: {error}"))
}
