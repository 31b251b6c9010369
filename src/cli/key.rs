//! `leftoff key`: makes and lists the static keys of services.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use leftoff::access::KeyConfig;
use toml::Value;

use super::failure::{CliError, CliResult, ExitReason};
use super::settings::load;

/// Makes and lists the static keys of services
#[derive(Debug, Args)]
pub(super) struct KeyCommand {
    #[command(subcommand)]
    action: KeyAction,
}

#[derive(Debug, Subcommand)]
enum KeyAction {
    Create(CreateKey),
    List(ListKeys),
}

/// Makes a key, and prints the lines for the broker's file, which have only its hash
///
/// The key itself is printed once, to standard error, or written into a new file that nobody else
/// can read. It is kept nowhere else.
#[derive(Debug, Args)]
struct CreateKey {
    /// The id of the caller; several keys may have the same name, so that they can be rotated
    #[arg(long, value_name = "NAME")]
    name: String,
    /// A pattern of topics to publish to; can be repeated
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// A pattern of topics to follow, to read, and to be present in; can be repeated
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<String>,
    /// A pattern of topics to create, change, purge and delete; can be repeated
    #[arg(long, value_name = "PATTERN")]
    manage: Vec<String>,
    /// Let it administer the broker, and manage all topics
    #[arg(long)]
    admin: bool,
    /// Let it read the topic of the audit
    #[arg(long)]
    audit: bool,
    /// A new file for the key, in place of standard error
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// Lists the keys of the broker's settings: names, times and rights
#[derive(Debug, Args)]
struct ListKeys {
    /// The TOML file with the broker's settings
    #[arg(long, value_name = "FILE", env = "LEFTOFF_CONFIG")]
    config: Option<PathBuf>,
}

impl KeyCommand {
    pub(super) fn run(self) -> CliResult {
        match self.action {
            KeyAction::Create(create) => create.run(),
            KeyAction::List(list) => list.run(),
        }
    }
}

impl CreateKey {
    fn run(self) -> CliResult {
        let mut config = KeyConfig::default();
        config.name = self.name;
        (config.publish, config.subscribe) = (self.publish, self.subscribe);
        config.manage = self.manage;
        (config.admin, config.audit) = (self.admin, self.audit);
        let (key, config) = config.with_new_key()?;
        match &self.key_file {
            Some(file) => write_key(file, &key)?,
            None => writeln!(std::io::stderr(), "{key}")?,
        }
        std::io::stdout().write_all(table(&config).as_bytes())?;
        Ok(())
    }
}

impl ListKeys {
    fn run(self) -> CliResult {
        let config = load(self.config.as_deref(), &[])?;
        let mut out = std::io::stdout().lock();
        for key in &config.access.keys {
            let created = if key.created.is_empty() { "-" } else { &key.created };
            // The beginning of the hash tells keys of one name apart.
            let hash = key.hash.get(..15).unwrap_or(&key.hash);
            writeln!(out, "{}\t{created}\t{hash}\t{}", key.name, rights(key))?;
        }
        Ok(())
    }
}

/// Writes the key into a new file, which its owner alone can read.
fn write_key(file: &Path, key: &str) -> CliResult {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let written = opened.and_then(|mut opened| writeln!(opened, "{key}"));
    written.map_err(|error| {
        CliError::new(ExitReason::Other, format!("--key-file {}: {error}", file.display()))
    })
}

/// Returns the lines for the broker's file.
fn table(config: &KeyConfig) -> String {
    let text = |value: &str| Value::from(value).to_string();
    let list = |list: &[String]| Value::from(list.to_vec()).to_string();
    let mut lines = vec![
        "[[access.keys]]".to_owned(),
        format!("name = {}", text(&config.name)),
        format!("hash = {}", text(&config.hash)),
        format!("created = {}", text(&config.created)),
    ];
    for (name, patterns) in lists(config) {
        if !patterns.is_empty() {
            lines.push(format!("{name} = {}", list(patterns)));
        }
    }
    for (name, is_set) in [("admin", config.admin), ("audit", config.audit)] {
        if is_set {
            lines.push(format!("{name} = true"));
        }
    }
    lines.join("\n") + "\n\n"
}

fn lists(config: &KeyConfig) -> [(&'static str, &[String]); 3] {
    [("publish", &config.publish), ("subscribe", &config.subscribe), ("manage", &config.manage)]
}

fn rights(config: &KeyConfig) -> String {
    let lists = lists(config).into_iter().filter(|(_, patterns)| !patterns.is_empty());
    let mut words: Vec<_> =
        lists.map(|(name, patterns)| format!("{name} {}", patterns.join(" "))).collect();
    words.extend(config.admin.then(|| "admin".to_owned()));
    words.extend(config.audit.then(|| "audit".to_owned()));
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_for_the_file_are_the_settings_of_the_key_and_never_the_key() {
        let mut config = KeyConfig::default();
        config.name = "a \"quoted\" name".to_owned();
        config.publish = vec!["orders.>".to_owned(), "b".to_owned()];
        config.audit = true;
        let (key, config) = config.with_new_key().unwrap();
        let text = table(&config);
        assert!(!text.contains(&key));
        let parsed: toml::Table = text.parse().unwrap();
        let read: KeyConfig = parsed["access"]["keys"][0].clone().try_into().unwrap();
        assert_eq!(read, config);
        assert_eq!(rights(&read), "publish orders.> b, audit");
        assert_eq!(rights(&KeyConfig::default()), "nothing");
    }
}
