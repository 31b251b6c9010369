//! A broker that is a node of a fleet, as `serve` opens it, and its stream, as `cluster check`
//! looks at it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use leftoff::Broker;
use leftoff::cluster::nats::NatsOpenError;
use leftoff::cluster::{
    AwaitedNatsStream, FleetNode, JoiningState, JoiningStep, NodeOpenError, open_in,
};
use leftoff::config::Config;
use leftoff::server::Shutdown;
use tokio::sync::watch;

use super::failure::{CliError, CliResult, ExitReason};

/// The time within which a node is usually open.
const SOON: Duration = Duration::from_secs(1);

/// How often the log of the process says how far the node is.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Opens the broker as a node of the fleet of the settings. A node whose log is empty waits until
/// the engine of the fleet answers. One whose records the stream does not have any more, or whose
/// log is damaged, loads a backup of another node. If that takes long, the addresses of the node
/// say meanwhile how far it is.
///
/// # Errors
///
/// The settings are wrong, the engine's stream cannot be used, the log cannot be opened, or nothing
/// can listen at the addresses.
pub(super) async fn open_node(config: &Config) -> CliResult<(Broker, FleetNode)> {
    let state = watch::Sender::new(JoiningState::default());
    let is_open = Shutdown::default();
    let telling = tell(config, state.subscribe(), is_open.clone());
    let opening = async {
        let opened = open(config, &state).await;
        is_open.start();
        opened
    };
    // When both have ended, the addresses are free for the node.
    let (opened, ()) = tokio::try_join!(opening, telling)?;
    Ok(opened)
}

async fn open(
    config: &Config,
    state: &watch::Sender<JoiningState>,
) -> CliResult<(Broker, FleetNode)> {
    let node = config.fleet.node_config()?; // A file that is missing is told before NATS is asked.
    let stream = AwaitedNatsStream::open(config.fleet.nats_config()?, &config.fleet.name).await;
    let stream = stream.map_err(of_stream)?;
    let (directory, open_config) = (&config.data_dir, config.open_config());
    let opened = open_in(directory, Arc::new(stream), node, &open_config, state).await;
    opened.map_err(|error| match error {
        NodeOpenError::Broker(error) => error.into(),
        NodeOpenError::Damaged { .. } => CliError::new(ExitReason::Damage, error.to_string()),
        error => CliError::new(ExitReason::Other, error.to_string()),
    })
}

/// Serves how far the node is, from the time on at which it turns out to take long, until it is
/// open.
async fn tell(
    config: &Config,
    state: watch::Receiver<JoiningState>,
    is_open: Shutdown,
) -> CliResult {
    let mut watched = state.clone();
    let takes_long =
        watched.wait_for(|it| !matches!(it.step, JoiningStep::Opening | JoiningStep::Open));
    tokio::select! {
        biased;
        () = is_open.started() => return Ok(()),
        _ = takes_long => {}
        () = tokio::time::sleep(SOON) => {}
    }
    let server = config.joining_server(state.clone())?.bind().await?;
    tokio::select! {
        () = server.run(is_open) => Ok(()),
        never = say(state) => match never {},
    }
}

/// Says in the log of the process how far the node is.
async fn say(state: watch::Receiver<JoiningState>) -> Infallible {
    loop {
        tokio::time::sleep(SAY_EVERY).await;
        let state = state.borrow().to_string();
        tracing::info!(state, "this node does not serve yet");
    }
}

/// Returns the failure for a stream that cannot be opened.
pub(super) fn of_stream(error: NatsOpenError) -> CliError {
    let reason = match error {
        NatsOpenError::Away(_) => ExitReason::Unreachable,
        NatsOpenError::Settings(_) | NatsOpenError::Unusable { .. } => ExitReason::Refused,
    };
    CliError::new(reason, format!("the fleet's stream: {error}"))
}
