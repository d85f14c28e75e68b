//! What regular expressions find: e-mail addresses and the like, and what the configuration adds.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use regex::Regex;

use super::config::{RawPattern, RawRedaction};
use super::redact::Redactor;

/// Most that are given.
const MAX_PATTERNS: usize = 64;

/// Which parts of what an expression has found are meant: of the text, and the place in it.
type Meant = fn(&str, Range<usize>) -> Vec<Range<usize>>;

/// Name, expression, which parts are meant.
const KNOWN: &[(&str, &str, Meant)] = &[
    ("email", r"[\p{L}\p{N}._%+'-]+@[\p{L}\p{N}-]+(?:\.[\p{L}\p{N}-]+)+", whole),
    // As written internationally, in North America and, for mobiles, in India.
    (
        "phone",
        r"\+[0-9][0-9 ().\-/]{6,}[0-9]|(?:\([0-9]{3}\) ?|\b[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}\b|\b0?[6-9][0-9]{4}[ -]?[0-9]{5}\b",
        phones,
    ),
    ("credit_card", r"[0-9](?:[ -]?[0-9]){12,}", cards),
    ("ip", r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*[0-9A-Fa-f:]", addresses),
    (
        "api_key",
        concat!(
            r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}|\byk_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}",
            r"|\bglpat-[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{30,}|\bxox[a-z]-[A-Za-z0-9-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
            r"|\bAIza[A-Za-z0-9_-]{35}|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}|(?i:\bbearer )[A-Za-z0-9._~+/=-]{16,}",
        ),
        whole,
    ),
];

/// Those that are configured, one applied after the other.
#[derive(Debug, Default)]
pub(super) struct Patterns(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    /// What is written in the place of what is found.
    mark: String,
    regex: Regex,
    meant: Meant,
}

/// By what they find and what they write; for comparing configurations.
impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Pattern, &Pattern)| a.mark == b.mark && a.regex.as_str() == b.regex.as_str();
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl Patterns {
    /// Ready for use, or what is wrong with them.
    pub(super) fn compile(raw: &[RawRedaction]) -> Result<Self, String> {
        if raw.len() > MAX_PATTERNS {
            return Err(format!("{} given, at most {MAX_PATTERNS} expected", raw.len()));
        }
        raw.iter().map(Pattern::compile).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Pattern {
    fn compile(raw: &RawRedaction) -> Result<Self, String> {
        let (name, pattern, meant) = match raw {
            RawRedaction::Known(name) => {
                let known = KNOWN.iter().find(|(known, ..)| known == name);
                *known.ok_or_else(|| {
                    let names: Vec<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
                    let names = names.join(", ");
                    format!("'{name}' given, one of {names} expected, or {{ name = \"…\", pattern = \"…\" }}")
                })?
            }
            RawRedaction::Own(RawPattern { name, pattern }) => (name.as_str(), pattern.as_str(), whole as Meant),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-')) {
            return Err(format!("the name '{name}' given, letters, digits, '_' and '-' expected"));
        }
        let regex = Regex::new(pattern).map_err(|error| format!("the pattern of '{name}' can not be read: {error}"))?;
        if regex.is_match("") {
            return Err(format!("the pattern of '{name}' matches nothing at all, which is everywhere"));
        }
        Ok(Self { mark: format!("[redacted:{name}]"), regex, meant })
    }

    fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let found = self.regex.find_iter(text).flat_map(|found| (self.meant)(text, found.range()));
        let (mut redacted, mut copied) = (String::new(), 0);
        for Range { start, end } in found {
            redacted.push_str(&text[copied..start]);
            redacted.push_str(&self.mark);
            copied = end;
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        redacted.push_str(&text[copied..]);
        Cow::Owned(redacted)
    }
}

impl Redactor for Patterns {
    fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.0.iter().fold(Cow::Borrowed(text), |text, pattern| match pattern.apply(&text) {
            Cow::Owned(redacted) => Cow::Owned(redacted),
            Cow::Borrowed(_) => text,
        })
    }
}

fn whole(_: &str, found: Range<usize>) -> Vec<Range<usize>> {
    vec![found]
}

/// Those with as many digits as telephone numbers have (E.164).
fn phones(text: &str, found: Range<usize>) -> Vec<Range<usize>> {
    let digits = text[found.clone()].bytes().filter(u8::is_ascii_digit).count();
    if (8..=15).contains(&digits) { vec![found] } else { Vec::new() }
}

/// Of digits in groups, the sequences of groups that are a card's number: 13 to 19 digits, the first of them that of a
/// network, with the check digit of ISO/IEC 7812.
fn cards(text: &str, found: Range<usize>) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let starts = found.clone().filter(|&at| is_digit(at) && (at == 0 || !is_digit(at - 1)));
    let ends: Vec<usize> = (found.start + 1..=found.end).filter(|&at| is_digit(at - 1) && !is_digit(at)).collect();
    let (mut cards, mut behind) = (Vec::new(), found.start);
    for start in starts {
        if start < behind || !matches!(bytes[start], b'2'..=b'6') {
            continue;
        }
        let end = ends.iter().rev().find(|&&end| end > start && is_card(&bytes[start..end]));
        if let Some(&end) = end {
            cards.push(start..end);
            behind = end;
        }
    }
    cards
}

fn is_card(bytes: &[u8]) -> bool {
    let digits: Vec<u32> =
        bytes.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| u32::from(byte - b'0')).collect();
    let weighted = |(place, &digit): (usize, &u32)| match place % 2 {
        0 => digit,
        _ => digit * 2 / 10 + digit * 2 % 10,
    };
    (13..=19).contains(&digits.len()) && digits.iter().rev().enumerate().map(weighted).sum::<u32>() % 10 == 0
}

/// What is an address of the internet, and not a part of a longer number or of a program's path.
fn addresses(text: &str, found: Range<usize>) -> Vec<Range<usize>> {
    let goes_on = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let (before, mut behind) = (text[..found.start].chars().next_back(), text[found.end..].chars());
    let next = behind.next();
    let is_version = next == Some('.') && behind.next().is_some_and(|c| c.is_ascii_digit());
    let is_cut = before.is_some_and(|c| goes_on(c) || c == '.') || next.is_some_and(goes_on) || is_version;
    let given = &text[found.clone()];
    // Without digits it may be a path: `dead::beef`.
    let is_v6 = || given.bytes().any(|byte| byte.is_ascii_digit()) && given.parse::<Ipv6Addr>().is_ok();
    if !is_cut && (given.parse::<Ipv4Addr>().is_ok() || is_v6()) { vec![found] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(name: &str, text: &str, expected: &str) {
        let patterns = Patterns::compile(&[RawRedaction::Known(name.to_owned())]).unwrap();
        assert_eq!(patterns.redact(text).replace(&format!("[redacted:{name}]"), "█"), expected, "{name}");
    }

    #[test]
    fn known_things_are_found_and_others_are_not() {
        check("email", "Write to a.b+c@example.org, or to ü@bücher.example.", "Write to █, or to █.");
        check("email", "a@b, @user, 5 @ 3.50, user@localhost", "a@b, @user, 5 @ 3.50, user@localhost");
        check("phone", "Call +49 (0)30 1234-5678 or (555) 123-4567, 555.123.4567, 98765 43210!", "Call █ or █, █, █!");
        check(
            "phone",
            "2026-11-28, 12345, 3.14159265, +5, 1764288000",
            "2026-11-28, 12345, 3.14159265, +5, 1764288000",
        );
        // Test numbers of the networks: Visa, Mastercard, American Express.
        check("credit_card", "4111 1111 1111 1111, 5555-5555-5555-4444; 378282246310005.", "█, █; █.");
        check("credit_card", "room 12 4111 1111 1111 1111 35", "room 12 █ 35");
        check("credit_card", "4111 1111 1111 1112 and 17642880001234", "4111 1111 1111 1112 and 17642880001234");
        check("credit_card", "004111111111111111", "004111111111111111");
        check("ip", "From 192.168.0.1 to 2001:db8::1, ::1 and ::ffff:10.0.0.1.", "From █ to █, █ and █.");
        let others = "1.2.3.4.5, 999.1.1.1, 12:30:45, std::net, a::b, dead::beef, x1::2, 10:30, ::";
        check("ip", others, others);
        check("api_key", "sk-proj-abcdefghijklmnop1234 and yk_0123456789abcdef0123", "█ and █");
        check("api_key", "Authorization: Bearer abcdefghijklmnop.qrst", "Authorization: █");
        check("api_key", "AKIAIOSFODNN7EXAMPLE ghp_0123456789abcdefghij0123456789ABCDEF", "█ █");
        check(
            "api_key",
            "sk-8 task-management-and-more skiing bearer of news",
            "sk-8 task-management-and-more skiing bearer of news",
        );
    }

    #[test]
    fn own_patterns_are_checked_and_applied_in_order() {
        let own = |name: &str, pattern: &str| {
            RawRedaction::Own(RawPattern { name: name.to_owned(), pattern: pattern.to_owned() })
        };
        let patterns = Patterns::compile(&[own("ticket", r"TK-\d+"), RawRedaction::Known("email".to_owned())]).unwrap();
        assert_eq!(patterns.redact("TK-17 of a@b.c"), "[redacted:ticket] of [redacted:email]");
        assert!(matches!(patterns.redact("नमस्ते"), Cow::Borrowed(_)));
        let wrong = |raw: RawRedaction, part: &str| {
            let error = Patterns::compile(&[raw]).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        wrong(RawRedaction::Known("mail".to_owned()), "one of email, phone, credit_card, ip, api_key expected");
        wrong(own("x", "("), "the pattern of 'x' can not be read");
        wrong(own("x", "a*"), "matches nothing at all");
        wrong(own("a b", "a"), "the name 'a b' given");
        assert!(Patterns::compile(&vec![own("x", "a"); MAX_PATTERNS + 1]).is_err());
    }
}
