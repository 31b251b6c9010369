//! Permissions: what a caller may do with which topics. Plain types, which know no protocol.

use crate::error::Result;
use crate::topic::{TopicName, TopicPattern};

/// An action on topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Follow topics, read their events and their state, and see them in lists.
    Subscribe,
    /// Publish events, stored and ephemeral.
    Publish,
    /// Be present in topics as a member, list members, and be told when members come and go.
    Presence,
    /// Create, change, purge and delete topics, and see their settings and numbers.
    Manage,
}

impl Action {
    /// Returns the word for the action in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe to",
            Self::Publish => "publish to",
            Self::Presence => "be present in",
            Self::Manage => "manage",
        }
    }
}

/// The topics with which an action is permitted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Permitted {
    /// None.
    #[default]
    None,
    /// All, those that are created later included.
    All,
    /// The topics whose names match one of these patterns, those that are created later included.
    Patterns(Vec<TopicPattern>),
    /// Those that whoever gave the permission names when it is asked about a topic.
    Ask,
}

/// The decision about a topic that a permission gives by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yes,
    No,
    /// The giver of the permission must be asked.
    Ask,
}

impl Permitted {
    /// Returns the verdict on a topic.
    pub(crate) fn verdict(&self, topic: &TopicName) -> Verdict {
        match self {
            Self::None => Verdict::No,
            Self::All => Verdict::Yes,
            Self::Patterns(patterns) if patterns.iter().any(|it| it.matches(topic)) => Verdict::Yes,
            Self::Patterns(_) => Verdict::No,
            Self::Ask => Verdict::Ask,
        }
    }

    /// Returns the part of `pattern` that is permitted, as patterns.
    pub(crate) fn part_of(&self, pattern: &TopicPattern) -> Vec<TopicPattern> {
        match self {
            Self::None => Vec::new(),
            Self::All | Self::Ask => vec![pattern.clone()],
            Self::Patterns(patterns) => {
                let mut parts = Vec::new();
                for part in patterns.iter().filter_map(|it| it.intersection(pattern)) {
                    if part == *pattern {
                        return vec![part]; // All of it is permitted, whatever the others say.
                    }
                    if !parts.contains(&part) {
                        parts.push(part);
                    }
                }
                parts
            }
        }
    }
}

/// What a caller may do: nothing, unless it is said.
///
/// ```
/// use leftoff::permission::{Action, Permission, Permitted};
///
/// let permission = Permission::default()
///     .with(Action::Publish, ["orders.*"])?
///     .with(Action::Subscribe, ["orders.>", "news"])?;
/// assert_eq!(permission.of(Action::Manage), &Permitted::None);
/// # Ok::<(), leftoff::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permission {
    subscribe: Permitted,
    publish: Permitted,
    presence: Permitted,
    manage: Permitted,
    administers: bool,
}

impl Permission {
    /// Returns the permission for everything.
    pub fn all() -> Self {
        let (subscribe, publish) = (Permitted::All, Permitted::All);
        let (presence, manage) = (Permitted::All, Permitted::All);
        Self { subscribe, publish, presence, manage, administers: true }
    }

    /// Returns this permission with `action` permitted for the topics that match `patterns`, and
    /// for no others.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) names the first pattern that is none.
    pub fn with<'a>(
        self,
        action: Action,
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        let patterns = patterns.into_iter().map(TopicPattern::new).collect::<Result<_>>()?;
        Ok(self.permitting(action, Permitted::Patterns(patterns)))
    }

    /// Returns this permission with `action` permitted for these topics, and for no others.
    #[must_use]
    pub fn permitting(mut self, action: Action, permitted: Permitted) -> Self {
        *match action {
            Action::Subscribe => &mut self.subscribe,
            Action::Publish => &mut self.publish,
            Action::Presence => &mut self.presence,
            Action::Manage => &mut self.manage,
        } = permitted;
        self
    }

    /// Returns this permission with the one for maintenance, backups, metrics, and the list of
    /// connections.
    #[must_use]
    pub fn administering(mut self) -> Self {
        self.administers = true;
        self
    }

    /// Returns the topics with which `action` is permitted.
    pub fn of(&self, action: Action) -> &Permitted {
        match action {
            Action::Subscribe => &self.subscribe,
            Action::Publish => &self.publish,
            Action::Presence => &self.presence,
            Action::Manage => &self.manage,
        }
    }

    /// Returns whether maintenance, backups, metrics and the list of connections are permitted.
    pub fn administers(&self) -> bool {
        self.administers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_cut_down_to_what_is_permitted() {
        let of = |texts: &[&str]| {
            let patterns = texts.iter().map(|text| TopicPattern::new(text).unwrap()).collect();
            Permitted::Patterns(patterns)
        };
        let part = |permitted: &Permitted, pattern: &str| {
            let parts = permitted.part_of(&TopicPattern::new(pattern).unwrap());
            parts.iter().map(|part| part.as_str().to_owned()).collect::<Vec<_>>()
        };
        let orders = of(&["orders.*", "news"]);
        assert_eq!(part(&orders, ">"), ["orders.*", "news"]);
        assert_eq!(part(&orders, "*"), ["news"]);
        assert_eq!(part(&orders, "*.new"), ["orders.new"]);
        assert_eq!(part(&of(&["a.b", ">", "a.*"]), "a.>"), ["a.>"]);
        assert_eq!(part(&of(&["a.*", "*.b"]), "a.b"), ["a.b"]);
        assert_eq!(part(&of(&["a.*", "a.b", "a.*"]), ">"), ["a.*", "a.b"]);
        assert_eq!(part(&orders, "orders.new.eu"), [""; 0]);
        assert_eq!(part(&Permitted::None, "a"), [""; 0]);
        assert_eq!(part(&Permitted::All, "a.>"), ["a.>"]);
        let topic = |name: &str| TopicName::new(name).unwrap();
        assert_eq!(orders.verdict(&topic("orders.new")), Verdict::Yes);
        assert_eq!(orders.verdict(&topic("orders")), Verdict::No);
        assert_eq!(Permitted::Ask.verdict(&topic("orders")), Verdict::Ask);
    }
}
