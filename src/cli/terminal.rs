//! Texts from outside, made safe for a terminal.
//!
//! # Why
//!
//! A terminal obeys escape sequences in its input: one in a payload can clear the screen, set the
//! title, write to the clipboard, or draw a line that looks like another event. A file or a pipe
//! gets the bytes unchanged.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};

/// Returns `text` for one line on standard output. If that is a terminal, the characters that would
/// control it are made visible.
pub(super) fn line(text: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() { visible(text, steers) } else { text.into() }
}

/// Returns `text` for standard error, as [`line()`] does, except that line ends stay.
pub(super) fn message(text: &str) -> Cow<'_, str> {
    let steers = |character| character != '\n' && steers(character);
    if io::stderr().is_terminal() { visible(text, steers) } else { text.into() }
}

/// Whether a character controls a terminal instead of being shown: a control character, or a mark
/// that changes the direction of the text around it.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Replaces such characters by JSON's escapes, so that JSON keeps its meaning.
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
