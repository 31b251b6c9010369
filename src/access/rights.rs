//! Rights: the patterns of topics that settings and claims give to callers, and the permission that
//! comes of them.

use crate::consumers;
use crate::error::{Error, Result};
use crate::own_topics;
use crate::permission::{Action, Permission, Permitted};
use crate::topic::{OWN_PREFIX, TopicPattern};

/// The topics that administrators read: what is kept for readers, and what happens to webhooks. No
/// pattern of a rule can name them.
const KEPT_TOPICS: [&str; 2] = [consumers::TOPIC, own_topics::WEBHOOKS_STATUS];

/// The topic of the audit, which alone the right `audit` opens.
pub(super) const AUDIT_TOPIC: &str = "$audit";

/// The most patterns of one action that one caller may have. Source: the most topics that one
/// subscription may name.
pub(super) const MAX_PATTERNS: usize = 1_024;

/// Rights as they are written: in the settings, or in a claim.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WrittenRights<'a> {
    pub(super) publish: &'a [String],
    pub(super) subscribe: &'a [String],
    pub(super) manage: &'a [String],
    pub(super) admin: bool,
    pub(super) audit: bool,
}

/// The rights of one caller, or those that one rule gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) publish: Vec<TopicPattern>,
    pub(super) subscribe: Vec<TopicPattern>,
    pub(super) manage: Vec<TopicPattern>,
    /// Whether the caller administers the broker, and manages all topics. By that it reads none but
    /// what the broker keeps for readers.
    pub(super) admin: bool,
    /// Whether the caller reads the topic of the audit.
    pub(super) audit: bool,
}

impl<'a> WrittenRights<'a> {
    /// Returns the lists of patterns, with their names.
    pub(super) fn lists(&self) -> [(&'static str, &'a [String]); 3] {
        [("publish", self.publish), ("subscribe", self.subscribe), ("manage", self.manage)]
    }

    /// Returns the rights, if all of them are well written.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the list in `place`, the pattern and the reason.
    pub(super) fn parse(&self, place: &str) -> Result<Rights> {
        let mut lists = self.lists().into_iter().map(|(name, list)| {
            let field = if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
            check_count(&field, list.len())?;
            list.iter().map(|text| pattern(&field, text)).collect::<Result<Vec<_>>>()
        });
        let mut next = || lists.next().unwrap_or_else(|| Ok(Vec::new()));
        let (publish, subscribe, manage) = (next()?, next()?, next()?);
        Ok(Rights { publish, subscribe, manage, admin: self.admin, audit: self.audit })
    }
}

impl Rights {
    /// Adds the rights of another rule.
    pub(super) fn add(&mut self, other: Self) {
        self.publish.extend(other.publish);
        self.subscribe.extend(other.subscribe);
        self.manage.extend(other.manage);
        self.admin |= other.admin;
        self.audit |= other.audit;
    }

    /// Checks that no action has more patterns than one caller may have.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub(super) fn check_counts(&self) -> Result<()> {
        for (name, list) in
            [("publish", &self.publish), ("subscribe", &self.subscribe), ("manage", &self.manage)]
        {
            check_count(name, list.len())?;
        }
        Ok(())
    }

    /// Returns the permission of a caller with an id of its own. Whoever reads a topic may be
    /// present in it.
    pub(super) fn permission(self) -> Permission {
        let presence = permitted(self.subscribe.clone());
        self.permission_without_presence().permitting(Action::Presence, presence)
    }

    /// Returns the permission of callers without an id, who are present nowhere: their id would be
    /// any that they like.
    pub(super) fn permission_without_presence(mut self) -> Permission {
        if self.audit {
            self.subscribe.extend(TopicPattern::new(AUDIT_TOPIC));
        }
        if self.admin {
            self.manage.extend(TopicPattern::new(">"));
            self.subscribe.extend(KEPT_TOPICS.iter().flat_map(|topic| TopicPattern::new(topic)));
        }
        let permission = Permission::default()
            .permitting(Action::Publish, permitted(self.publish))
            .permitting(Action::Subscribe, permitted(self.subscribe))
            .permitting(Action::Manage, permitted(self.manage));
        if self.admin { permission.administering() } else { permission }
    }
}

fn permitted(mut patterns: Vec<TopicPattern>) -> Permitted {
    patterns.sort_unstable();
    patterns.dedup();
    if patterns.is_empty() { Permitted::None } else { Permitted::Patterns(patterns) }
}

fn check_count(field: &str, count: usize) -> Result<()> {
    if count > MAX_PATTERNS {
        return Err(Error::over(format!("patterns in {field}"), count, MAX_PATTERNS));
    }
    Ok(())
}

/// Returns a pattern that a rule may name.
///
/// # Errors
///
/// [`Error::Invalid`]: no pattern; a topic of the broker's own, which `audit` alone opens; or a
/// placeholder, which only roles have.
fn pattern(field: &str, text: &str) -> Result<TopicPattern> {
    check_own(field, text)?;
    if text.contains(['{', '}']) {
        let problem =
            format!("{text:?} holds a brace; {{sub}} stands in the patterns of roles only");
        return Err(Error::invalid(field, problem));
    }
    TopicPattern::new(text).map_err(|error| Error::invalid(field, error.to_string()))
}

/// Checks that a pattern is not of the broker's own topics.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn check_own(field: &str, text: &str) -> Result<()> {
    if text.starts_with(OWN_PREFIX) {
        let problem = format!(
            "{text:?} begins with {OWN_PREFIX:?}: the broker's own topics are opened by no \
             pattern; audit = true opens that of the audit"
        );
        return Err(Error::invalid(field, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::Verdict;
    use crate::topic::TopicName;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn verdict(permission: &Permission, action: Action, topic: &str) -> Verdict {
        permission.of(action).verdict(&TopicName::new(topic).unwrap())
    }

    #[test]
    fn whoever_reads_a_topic_is_present_there_and_an_administrator_reads_what_is_kept_for_readers()
    {
        let (publish, subscribe) = (texts(&["a"]), texts(&["b.>"]));
        let written = WrittenRights { publish: &publish, subscribe: &subscribe, ..<_>::default() };
        let permission = written.parse("x").unwrap().permission();
        assert_eq!(verdict(&permission, Action::Publish, "a"), Verdict::Yes);
        assert_eq!(verdict(&permission, Action::Publish, "b.c"), Verdict::No);
        assert_eq!(verdict(&permission, Action::Subscribe, "b.c"), Verdict::Yes);
        assert_eq!(verdict(&permission, Action::Presence, "b.c"), Verdict::Yes);
        assert_eq!(verdict(&permission, Action::Subscribe, "a"), Verdict::No);
        assert_eq!(permission.of(Action::Manage), &Permitted::None);
        assert!(!permission.administers());

        let admin = WrittenRights { admin: true, ..<_>::default() }.parse("x").unwrap();
        let permission = admin.permission();
        assert!(permission.administers());
        assert_eq!(verdict(&permission, Action::Manage, "a.b"), Verdict::Yes);
        for topic in ["$consumers", "$webhooks.status"] {
            assert_eq!(verdict(&permission, Action::Subscribe, topic), Verdict::Yes);
            assert_eq!(verdict(&permission, Action::Publish, topic), Verdict::No);
        }
        for topic in ["a", "a.b", "$audit", "$revocations", "$webhooks", "$tickets"] {
            assert_eq!(verdict(&permission, Action::Subscribe, topic), Verdict::No);
        }
        assert_eq!(permission.of(Action::Presence), &Permitted::None);
        assert_eq!(permission.of(Action::Publish), &Permitted::None);
    }

    #[test]
    fn the_audit_is_opened_by_its_own_right_and_by_no_pattern() {
        let audit = WrittenRights { audit: true, ..<_>::default() }.parse("x").unwrap();
        let permission = audit.permission();
        assert_eq!(verdict(&permission, Action::Subscribe, "$audit"), Verdict::Yes);
        assert_eq!(verdict(&permission, Action::Subscribe, "$revocations"), Verdict::No);
        assert_eq!(permission.of(Action::Presence), &Permitted::None);
        let all = texts(&[">"]);
        let reader = WrittenRights { subscribe: &all, ..<_>::default() }.parse("x").unwrap();
        assert_eq!(verdict(&reader.permission(), Action::Subscribe, "$audit"), Verdict::No);

        for (list, problem) in [
            (["$audit"], "begins with '$'"),
            (["$>"], "begins with '$'"),
            (["a..b"], "empty token"),
            (["users.{sub}"], "holds a brace"),
        ] {
            let list = texts(&list);
            for written in [
                WrittenRights { subscribe: &list, ..<_>::default() },
                WrittenRights { publish: &list, ..<_>::default() },
                WrittenRights { manage: &list, ..<_>::default() },
            ] {
                let refused = written.parse("access.keys[0]").unwrap_err().to_string();
                assert!(refused.starts_with("access.keys[0]."), "{refused}");
                assert!(refused.contains(problem), "{refused}");
            }
        }
    }

    #[test]
    fn the_patterns_of_a_caller_are_bounded() {
        let most = vec!["a".to_owned(); MAX_PATTERNS];
        let written = WrittenRights { subscribe: &most, ..<_>::default() };
        let mut rights = written.parse("x").unwrap();
        rights.check_counts().unwrap();
        rights.add(rights.clone());
        rights.check_counts().unwrap_err();
        let more = vec!["a".to_owned(); MAX_PATTERNS + 1];
        WrittenRights { subscribe: &more, ..<_>::default() }.parse("x").unwrap_err();
    }
}
