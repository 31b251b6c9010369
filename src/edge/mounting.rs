//! The value that all edges are mounted from: the broker, the settings, and the counters.

use std::sync::Arc;

use super::config::FollowConfig;
use super::counters::Counters;
use super::pace::Pace;
use crate::broker::Broker;
use crate::error::Result;

/// The broker with the settings of its edges. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Edge {
    pub(crate) broker: Broker,
    pub(in crate::edge) config: FollowConfig,
    pub(in crate::edge) counters: Arc<Counters>,
}

impl Edge {
    /// Returns the edges of `broker`, with the default settings.
    pub fn new(broker: Broker) -> Self {
        Self { broker, config: FollowConfig::default(), counters: Arc::default() }
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
