//! The value that all edges are mounted from: the broker, the settings, the hooks, the counters.

use std::fmt;
use std::sync::Arc;

use super::config::FollowConfig;
use super::counters::Counters;
use super::fleet::NodeOfFleet;
use super::hooks::Hooks;
use super::overview::topic_table::TopicTables;
use super::pace::Pace;
use crate::broker::Broker;
use crate::consumers::Consumers;
use crate::error::Result;
use crate::event::Timestamp;

/// The broker with the settings and the hooks of its edges. Cheap to clone; all clones count
/// together.
#[derive(Clone)]
pub struct Edge {
    pub(crate) broker: Broker,
    pub(in crate::edge) config: FollowConfig,
    pub(in crate::edge) counters: Arc<Counters>,
    /// The table of all topics, for those who operate the broker.
    pub(in crate::edge) topic_tables: Arc<tokio::sync::Mutex<TopicTables>>,
    /// What is kept for readers by name, if it is.
    consumers: Option<EdgeConsumers>,
    /// The hooks of the host. Without them everything is permitted.
    pub(in crate::edge) hooks: Option<Arc<dyn Hooks>>,
    /// Whether the hooks are the broker's own access control, which has operations of its own.
    has_access_control: bool,
    /// Whether the console is served, and the first page that leads to it.
    has_console: bool,
    /// The server's webhooks, if it has some: they have operations of their own.
    webhooks: Option<Arc<dyn ShownWebhooks>>,
    /// The fleet, if the broker is a node of one.
    fleet: Option<Arc<dyn NodeOfFleet>>,
}

/// What the edge shows of the server's webhooks.
pub(crate) trait ShownWebhooks: Send + Sync {
    /// Returns the metrics in Prometheus' format.
    fn metrics(&self) -> String;

    /// Returns the webhooks that are paused.
    fn paused(&self) -> Vec<PausedWebhook>;
}

/// A webhook that is paused.
#[derive(Debug)]
pub(crate) struct PausedWebhook {
    pub(crate) name: String,
    pub(crate) since: Timestamp,
    /// The last failure, in words; empty if somebody has asked for the pause.
    pub(crate) problem: String,
}

/// The consumers of an edge, and the counters of what clients do with them.
#[derive(Debug, Clone)]
pub(crate) struct EdgeConsumers {
    pub(in crate::edge) consumers: Consumers,
    pub(in crate::edge) counters: Arc<Counters>,
}

impl EdgeConsumers {
    /// Returns the consumers of one connection or stream, whose changes are decided in the order in
    /// which they are begun.
    pub(in crate::edge) fn in_order(&self) -> Self {
        Self { consumers: self.consumers.in_order(), counters: self.counters.clone() }
    }

    /// Returns the consumers.
    #[cfg(feature = "webhooks")]
    pub(crate) fn all(&self) -> &Consumers {
        &self.consumers
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge")
            .field("broker", &self.broker)
            .field("config", &self.config)
            .field("has_hooks", &self.hooks.is_some())
            .finish_non_exhaustive()
    }
}

impl Edge {
    /// Returns the edges of `broker`, with the default settings.
    pub fn new(broker: Broker) -> Self {
        let (config, counters) = (FollowConfig::default(), Arc::default());
        Self {
            broker,
            config,
            counters,
            topic_tables: Arc::default(),
            consumers: None,
            hooks: None,
            has_access_control: false,
            has_console: false,
            webhooks: None,
            fleet: None,
        }
    }

    /// Sets the settings of live readers.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) with the setting, the value and the bounds.
    pub fn follow(mut self, config: FollowConfig) -> Result<Self> {
        config.validate()?;
        self.config = config;
        Ok(self)
    }

    /// Sets the consumers, which readers may name. They must be those of the same broker. Without
    /// them there are no routes of consumers, and a reader that names one is refused.
    #[must_use]
    pub fn consumers(self, consumers: Consumers) -> Self {
        let counters = self.counters.clone();
        Self { consumers: Some(EdgeConsumers { consumers, counters }), ..self }
    }

    /// Returns the consumers, if there are any.
    pub(crate) fn consumers_if_any(&self) -> Option<&EdgeConsumers> {
        self.consumers.as_ref()
    }

    /// Sets the hooks, which say who may do what, and see each event.
    #[must_use]
    pub fn hooks(mut self, hooks: impl Hooks) -> Self {
        self.hooks = Some(Arc::new(hooks));
        self
    }

    /// Says that the hooks are the broker's own access control.
    pub(crate) fn with_access_control(self) -> Self {
        Self { has_access_control: true, ..self }
    }

    /// Says whether the console is served. A host that mounts the routes in a server of its own has
    /// first pages of its own.
    pub(crate) fn with_console(self, has_console: bool) -> Self {
        Self { has_console, ..self }
    }

    /// Returns whether the console is served.
    pub(in crate::edge) fn has_console(&self) -> bool {
        self.has_console
    }

    /// Returns whether the hooks are the broker's own access control.
    pub(crate) fn has_access_control(&self) -> bool {
        self.has_access_control
    }

    /// Says that the server has these webhooks.
    #[cfg(feature = "webhooks")]
    pub(crate) fn with_webhooks(self, shown: impl ShownWebhooks + 'static) -> Self {
        Self { webhooks: Some(Arc::new(shown)), ..self }
    }

    /// Returns the webhooks that are paused.
    pub(in crate::edge) fn paused_webhooks(&self) -> Vec<PausedWebhook> {
        self.webhooks.as_ref().map(|hooks| hooks.paused()).unwrap_or_default()
    }

    /// Returns whether the server has webhooks.
    pub(in crate::edge) fn has_webhooks(&self) -> bool {
        self.webhooks.is_some()
    }

    /// Returns the metrics of webhooks.
    pub(in crate::edge) fn webhook_metrics(&self) -> String {
        self.webhooks.as_ref().map(|hooks| hooks.metrics()).unwrap_or_default()
    }

    /// Says that the broker is a node of this fleet.
    #[cfg(feature = "fleet")]
    pub(crate) fn with_fleet(self, node: impl NodeOfFleet + 'static) -> Self {
        Self { fleet: Some(Arc::new(node)), ..self }
    }

    /// Returns the node of a fleet that the broker is, if it is one.
    pub(crate) fn fleet(&self) -> Option<&Arc<dyn NodeOfFleet>> {
        self.fleet.as_ref()
    }

    /// Returns whether the host has hooks.
    pub(crate) fn has_hooks(&self) -> bool {
        self.hooks.is_some()
    }

    /// Returns the broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Returns the counters of all that is mounted from this value.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Returns the limits on the speed of a body.
    pub(crate) fn pace(&self) -> Pace {
        Pace::new(&self.config, self.counters.clone())
    }
}
