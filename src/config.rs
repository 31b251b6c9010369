//! The configuration of `leftoff serve`. A setting comes from a flag, then from an environment
//! variable, then from a TOML file, then from its default: the first that has a value wins. The
//! whole configuration is checked once, before anything is opened.
//!
//! # Where a setting goes
//!
//! 1. The setting goes into the `*Config` of the layer that uses it, beside that layer's code, with
//!    its default. Its comment says the unit, the default and the bounds. A layer never sees the
//!    settings of another layer.
//! 2. The setting's bounds go into the `validate` of that struct. Bounds that depend on another
//!    section go into [`Config::validate`] here. The message has the name, the value and the
//!    bounds.
//! 3. A new section goes into [`Config`], too. Flags, variables and the file need nothing more: the
//!    names of all settings are taken from the defaults.
//! 4. A row goes on the page of settings, `src/docs/settings.md`. A test compares names and
//!    defaults.
//! 5. If the setting is a bound, a line goes into `tests/suite/bounds.txt`, with the test that
//!    reaches the bound.
//!
//! A setting of a single topic goes into `topic_config.rs` instead.

mod problem;
mod setting;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
#[cfg(feature = "fleet")]
use tokio::sync::watch;
use tracing::warn;

use self::setting::Setting;
use crate::access::AccessConfig;
#[cfg(feature = "fleet")]
use crate::access::AccessMode;
use crate::broker::{
    Broker, BrokerConfig, DedupConfig, LimitsConfig, LogConfig, MaintenanceConfig, OpenConfig,
    TopicDefaults,
};
#[cfg(feature = "fleet")]
use crate::cluster::{FleetConfig, FleetLeader, JoiningState};
use crate::consumers::ConsumersConfig;
use crate::edge::{FollowConfig, RatesConfig};
use crate::error::{Error, Result};
use crate::section;
use crate::server::{Server, ServerBuilder, ServerConfig};
#[cfg(feature = "webhooks")]
use crate::webhooks::WebhooksConfig;

/// The prefix of every environment variable: `LEFTOFF_DATA_DIR`, and
/// `LEFTOFF_BROKER__MAX_QUEUE_BYTES` for `max_queue_bytes` in `[broker]`.
const ENVIRONMENT_PREFIX: &str = "LEFTOFF_";

/// Variables with the prefix that are no settings: the command line reads them.
const OTHER_VARIABLES: [&str; 4] = ["server", "config", "log_filter", "token"];

/// The longest stop of a server that says how far a node is, in milliseconds.
#[cfg(feature = "fleet")]
const JOINING_SHUTDOWN_MS: u64 = 500;

/// The section whose names are topic patterns. They are not known in advance.
const PATTERNS_SECTION: &str = "topics.";

/// All settings of the broker and its server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Directory of the log. Default: `./leftoff-data`.
    pub data_dir: PathBuf,
    /// The server's addresses, limits and timeouts.
    #[serde(deserialize_with = "section::one")]
    pub server: ServerConfig,
    /// The web pages that may use the broker, and the names by which it is reached.
    #[serde(deserialize_with = "section::one")]
    pub access: AccessConfig,
    /// The fleet that the broker is a node of.
    #[cfg(feature = "fleet")]
    #[serde(deserialize_with = "section::one")]
    pub fleet: FleetConfig,
    /// The rate limits of each caller.
    #[serde(deserialize_with = "section::one")]
    pub rates: RatesConfig,
    /// The settings of live subscriptions.
    #[serde(deserialize_with = "section::one")]
    pub follow: FollowConfig,
    /// What is kept for readers by name.
    #[serde(deserialize_with = "section::one")]
    pub consumers: ConsumersConfig,
    /// The settings of ordering, grouping and serving events.
    #[serde(deserialize_with = "section::one")]
    pub broker: BrokerConfig,
    /// The limits on events and publishes.
    #[serde(deserialize_with = "section::one")]
    pub limits: LimitsConfig,
    /// The settings that decide how far back a repeated publish is recognised.
    #[serde(deserialize_with = "section::one")]
    pub dedup: DedupConfig,
    /// The settings of webhooks.
    #[cfg(feature = "webhooks")]
    #[serde(deserialize_with = "section::one")]
    pub webhooks: WebhooksConfig,
    /// The log's use of the disk.
    #[serde(deserialize_with = "section::one")]
    pub log: LogConfig,
    /// The settings of the tasks that drop expired and superseded events.
    #[serde(deserialize_with = "section::one")]
    pub maintenance: MaintenanceConfig,
    /// Settings of topics by patterns of their names.
    pub topics: TopicDefaults,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("leftoff-data"),
            server: ServerConfig::default(),
            access: AccessConfig::default(),
            #[cfg(feature = "fleet")]
            fleet: FleetConfig::default(),
            rates: RatesConfig::default(),
            follow: FollowConfig::default(),
            consumers: ConsumersConfig::default(),
            broker: BrokerConfig::default(),
            limits: LimitsConfig::default(),
            dedup: DedupConfig::default(),
            #[cfg(feature = "webhooks")]
            webhooks: WebhooksConfig::default(),
            log: LogConfig::default(),
            maintenance: MaintenanceConfig::default(),
            topics: TopicDefaults::default(),
        }
    }
}

impl Config {
    /// Loads the configuration. `flags` are pairs of a name, like `broker.max_queue_bytes`, and a
    /// value.
    ///
    /// An environment variable with the prefix that names no setting is ignored with a warning,
    /// because the platform may have set it. Kubernetes describes a service named `leftoff` to
    /// every pod as `LEFTOFF_PORT=tcp://…`, `LEFTOFF_SERVICE_HOST` and so on.
    ///
    /// # Errors
    ///
    /// A sentence for people that names the file, the key, the value and the expected value.
    pub fn load(file: Option<&Path>, flags: &[(String, String)]) -> Result<Self, String> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            if !file.is_file() {
                return Err(format!("there is no configuration file {}", file.display()));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        let known = Self::known()?;
        for setting in environment(&known)? {
            figment = figment.merge(setting);
        }
        for (name, value) in flags {
            let is_text = default_of(&known, name).is_some_and(serde_json::Value::is_string);
            figment = figment.merge(Setting::new(name, value, is_text, "on the command line"));
        }
        let config: Self = figment.extract().map_err(|error| problem::all(error, &figment))?;
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }

    /// Returns all settings that have a default, with their defaults.
    fn known() -> Result<serde_json::Value, String> {
        serde_json::to_value(Self::default()).map_err(|error| error.to_string())
    }

    /// Checks the bounds of all settings, including bounds that depend on other settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the key, the value and the bounds.
    pub fn validate(&self) -> Result<()> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(Error::invalid("data_dir", "is empty; name a directory"));
        }
        self.open_config().validate()?;
        self.access.validate()?;
        #[cfg(feature = "fleet")]
        self.validate_fleet()?;
        self.rates.validate()?;
        self.follow.validate()?;
        self.consumers.validate()?;
        #[cfg(feature = "webhooks")]
        self.webhooks.validate()?;
        self.server.validate(&self.limits)
    }

    #[cfg(feature = "fleet")]
    fn validate_fleet(&self) -> Result<()> {
        self.fleet.validate()?;
        let needs_secret = self.access.mode == AccessMode::Required && !self.fleet.is_alone();
        if needs_secret && !self.fleet.has_secret() {
            let problem = "is needed in a fleet with access.mode = \"required\": the nodes prove \
                by it who they are. Give all the same, or name its file in fleet.secret_file";
            return Err(Error::invalid("fleet.secret", problem));
        }
        Ok(())
    }

    /// Returns the builder of a server of `broker`, with the settings of this configuration. A host
    /// adds its own parts to it.
    pub fn server_of(&self, broker: Broker) -> ServerBuilder {
        let builder = Server::builder(broker)
            .config(self.server.clone())
            .access(self.access.clone())
            .consumers_config(self.consumers.clone())
            .rates(self.rates.clone())
            .follow(self.follow.clone());
        #[cfg(feature = "webhooks")]
        let builder = builder.webhooks(self.webhooks.clone());
        builder
    }

    /// Returns a server for the time in which the node is opened, at the addresses of the settings.
    /// It says how the node is, by `/readyz`, `/v1/cluster` and `/metrics`, and refuses all else
    /// for now.
    ///
    /// # Errors
    ///
    /// As [`Broker::in_memory`].
    #[cfg(feature = "fleet")]
    pub fn joining_server(&self, state: watch::Receiver<JoiningState>) -> Result<ServerBuilder> {
        let broker = Broker::in_memory(&self.open_config())?;
        let (node, address) = (self.fleet.node.clone(), self.fleet.advertise.clone());
        let node = FleetLeader { node, incarnation: 0, address };
        // The addresses are soon needed for the node itself.
        let shutdown_ms = self.server.shutdown_ms.min(JOINING_SHUTDOWN_MS);
        let server = self.server.clone().with(|server| server.shutdown_ms = shutdown_ms);
        let builder = Server::builder(broker)
            .config(server)
            .access(self.access.clone())
            .rates(self.rates.clone());
        Ok(builder.joining(self.fleet.name.clone(), node, state))
    }

    /// Returns the settings with which a broker is opened.
    pub fn open_config(&self) -> OpenConfig {
        OpenConfig {
            log: self.log.clone(),
            broker: self.broker.clone(),
            limits: self.limits.clone(),
            dedup: self.dedup.clone(),
            maintenance: self.maintenance.clone(),
            topics: self.topics.clone(),
        }
    }
}

/// Returns the default of a setting by its name, like `broker.max_queue_bytes`.
fn default_of<'a>(known: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    known.pointer(&format!("/{}", name.replace('.', "/")))
}

/// Returns the settings in the environment.
///
/// # Errors
///
/// A sentence that names the variable whose value is not UTF-8.
fn environment(known: &serde_json::Value) -> Result<Vec<Setting>, String> {
    let mut settings = Vec::new();
    for (variable, value) in std::env::vars_os() {
        let Some(variable) = variable.to_str() else { continue };
        let Some(name) = setting_name(variable) else { continue };
        let default = default_of(known, &name);
        let is_setting = default.is_some_and(|default| !default.is_object());
        if !is_setting && !name.starts_with(PATTERNS_SECTION) {
            warn!(variable, "no setting has this name: the variable is not used");
            continue;
        }
        let text = value.to_str().ok_or_else(|| format!("{variable}: its value is not UTF-8"))?;
        let is_text = default.is_some_and(serde_json::Value::is_string);
        settings.push(Setting::new(&name, text, is_text, variable));
    }
    Ok(settings)
}

/// Returns the name of the setting for a variable; `None` if the variable cannot be a setting.
fn setting_name(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix(ENVIRONMENT_PREFIX)?.to_lowercase();
    (!OTHER_VARIABLES.contains(&rest.as_str())).then(|| rest.replace("__", "."))
}
