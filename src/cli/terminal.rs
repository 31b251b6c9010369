//! Texts from others, made safe to show on a terminal.
//!
//! # Why
//!
//! A terminal obeys what it is shown: an escape sequence in a payload can clear the screen, set the
//! title, write to the clipboard, or draw a line that looks like another event. A file or a pipe
//! gets the bytes as they are.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};

/// `text`, to be printed on standard output as one line: where that is a terminal, with all that
/// would steer it made visible.
pub(super) fn line(text: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() { visible(text, steers) } else { text.into() }
}

/// `text`, to be said on standard error: as [`line()`], but for the ends of lines.
pub(super) fn message(text: &str) -> Cow<'_, str> {
    let steers = |character| character != '\n' && steers(character);
    if io::stderr().is_terminal() { visible(text, steers) } else { text.into() }
}

/// Whether a character does something else to a terminal than to stand there: controls, and marks
/// that turn the direction of what is around them.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Writes such characters as JSON does, so that JSON stays the same.
fn visible(text: &str, steers: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&steers) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            character if !steers(character) => shown.push(character),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            character => shown.push_str(&format!("\\u{:04x}", u32::from(character))),
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_made_visible_and_all_else_stays() {
        for (text, shown) in [
            ("plain, Grüße, 日本, 🦀", "plain, Grüße, 日本, 🦀"),
            ("\u{1b}]0;title\u{7}\u{1b}[2J", "\\u001b]0;title\\u0007\\u001b[2J"),
            ("\u{9b}2J\u{7f}", "\\u009b2J\\u007f"),
            ("a\r\nb\tc\0", "a\\r\\nb\\tc\\u0000"),
            ("abc\u{202e}fed\u{2066}", "abc\\u202efed\\u2066"),
        ] {
            assert_eq!(visible(text, steers), shown);
        }
        let json = "{\"a\":\"\u{9b}\u{202e}\"}";
        let parsed: serde_json::Value = serde_json::from_str(json).unwrap();
        let shown: serde_json::Value = serde_json::from_str(&visible(json, steers)).unwrap();
        assert_eq!(parsed, shown);
    }
}
