//! Parts of a state's text that change between visits, masked before comparing.
//!
//! A clock or a request number makes every state unique, and then nothing is
//! compared with anything. Named rules instead of regular expressions: four cover
//! what occurs, run at memory speed and cannot be written wrong; whoever needs
//! another rewrites the anchors before handing them over.
//! May depend on `options` alone.

use crate::options::{OptionValue, Value};

/// Length of the rule's match at the start of the bytes; 0 where there is none. The
/// byte before, if any, comes first.
type Match = fn(Option<u8>, &[u8]) -> usize;

/// Name, match, and whether a match can start with a letter from a to f instead of a digit.
type Rule = (&'static str, Match, bool);

/// Every rule. Where several are asked for, the earlier wins.
const RULES: [Rule; 4] = [
    ("uuid", uuid, true),
    ("iso_time", iso_time, false),
    ("hex", hex, true),
    ("digits", digits, false),
];

/// Which parts of a text are masked: any of the rules, each match replaced by `0`.
///
/// - `uuid`: 8-4-4-4-12 hexadecimal digits.
/// - `iso_time`: `2026-01-31`, `2026-01-31T08:00:00.5Z`, `2026-01-31 08:00+01:00`, `08:00:00`.
/// - `hex`: a word of at least 8 hexadecimal digits, at least one of them 0 to 9; `0x` before it.
/// - `digits`: a run of digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyMask([bool; RULES.len()]);

impl KeyMask {
    fn rules(self) -> impl Iterator<Item = Rule> {
        RULES.into_iter().zip(self.0).filter(|(_, on)| *on).map(|(rule, _)| rule)
    }

    /// The text with each match replaced by `0`.
    pub fn apply(&self, text: &str) -> String {
        let letters = self.rules().any(|(_, _, letters)| letters);
        let may_start = |b: &u8| b.is_ascii_digit() || letters && b.is_ascii_hexdigit();
        let bytes = text.as_bytes();
        let mut out = String::with_capacity(text.len());
        let (mut at, mut copied) = (0, 0);
        while let Some(skipped) = bytes[at..].iter().position(may_start) {
            at += skipped;
            let before = at.checked_sub(1).map(|i| bytes[i]);
            let mut lengths = self.rules().map(|(_, rule, _)| rule(before, &bytes[at..]));
            let length = lengths.find(|&length| length > 0).unwrap_or(0);
            if length > 0 {
                // Matches begin and end with ASCII, so both cuts are between characters.
                out.push_str(&text[copied..at]);
                out.push('0');
                copied = at + length;
            }
            at += length.max(1);
        }
        out.push_str(&text[copied..]);
        out
    }
}

impl OptionValue for KeyMask {
    type Literal = Self;
    fn literal(value: Self) -> Self {
        value
    }
    /// Names of rules with commas between them.
    fn parse(value: &Value) -> Option<Self> {
        let Value::Text(names) = value else { return None };
        let mut mask = Self::default();
        for name in names.split(',') {
            mask.0[RULES.iter().position(|rule| rule.0 == name.trim())?] = true;
        }
        Some(mask)
    }
    fn show(&self) -> Value {
        Value::Text(self.rules().map(|rule| rule.0).collect::<Vec<_>>().join(","))
    }
    fn expected() -> String {
        format!("a text of {} with commas between", RULES.map(|rule| rule.0).join(", "))
    }
}

fn run(bytes: &[u8], test: fn(&u8) -> bool) -> usize {
    bytes.iter().position(|b| !test(b)).unwrap_or(bytes.len())
}

/// Length of the match of a picture: `9` stands for a digit, `f` for a hexadecimal one.
fn picture(bytes: &[u8], picture: &str) -> usize {
    let fits = |(&b, p): (&u8, u8)| match p {
        b'9' => b.is_ascii_digit(),
        b'f' => b.is_ascii_hexdigit(),
        _ => b == p,
    };
    let whole = bytes.len() >= picture.len() && bytes.iter().zip(picture.bytes()).all(fits);
    if whole { picture.len() } else { 0 }
}

fn starts_word(before: Option<u8>) -> bool {
    !before.is_some_and(|b| b.is_ascii_alphanumeric())
}

fn ends_word(after: &[u8]) -> bool {
    !after.first().is_some_and(u8::is_ascii_alphanumeric)
}

fn digits(_: Option<u8>, bytes: &[u8]) -> usize {
    run(bytes, u8::is_ascii_digit)
}

fn uuid(before: Option<u8>, bytes: &[u8]) -> usize {
    let length = picture(bytes, "ffffffff-ffff-ffff-ffff-ffffffffffff");
    if starts_word(before) && ends_word(&bytes[length..]) { length } else { 0 }
}

fn hex(before: Option<u8>, bytes: &[u8]) -> usize {
    let prefix = if bytes.starts_with(b"0x") { 2 } else { 0 };
    let word = run(&bytes[prefix..], u8::is_ascii_hexdigit);
    let (number, after) = bytes[prefix..].split_at(word);
    let fits = word >= 8 && number.iter().any(u8::is_ascii_digit);
    if fits && starts_word(before) && ends_word(after) { prefix + word } else { 0 }
}

fn iso_time(before: Option<u8>, bytes: &[u8]) -> usize {
    if !starts_word(before) {
        return 0;
    }
    let date = picture(bytes, "9999-99-99");
    let gap = usize::from(date > 0 && matches!(bytes.get(date), Some(b'T' | b't' | b' ')));
    let time = match clock(&bytes[date + gap..], date > 0) {
        0 => 0,
        time => gap + time,
    };
    let length = date + time;
    if ends_word(&bytes[length..]) { length } else { 0 }
}

/// `08:00:00`, with a fraction and a zone where they follow; after a date `08:00` as well.
fn clock(bytes: &[u8], short: bool) -> usize {
    let seconds = picture(bytes, "99:99:99");
    let minutes = if short { picture(bytes, "99:99") } else { 0 };
    let mut length = seconds.max(minutes);
    if length == 0 {
        return 0;
    }
    if seconds > 0 && matches!(bytes.get(length), Some(b'.' | b',')) {
        match run(&bytes[length + 1..], u8::is_ascii_digit) {
            0 => {}
            fraction => length += 1 + fraction,
        }
    }
    let zone = &bytes[length..];
    length
        + match zone.first() {
            Some(b'Z' | b'z') => 1,
            Some(b'+' | b'-') => {
                match picture(&zone[1..], "99:99").max(picture(&zone[1..], "9999")) {
                    0 => 0,
                    hours => hours + 1,
                }
            }
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(rules: &str, text: &str) -> String {
        KeyMask::parse(&Value::Text(rules.into())).unwrap().apply(text)
    }

    #[test]
    fn each_rule_masks_what_it_names() {
        assert_eq!(masked("digits", "step 17 of 30é42"), "step 0 of 0é0");
        let id = "id 123e4567-e89b-12d3-a456-426614174000.";
        assert_eq!(masked("uuid", id), "id 0.");
        assert_eq!(
            masked("uuid", "123e4567-e89b-12d3-a456-4266141740001"),
            "123e4567-e89b-12d3-a456-4266141740001"
        );
        assert_eq!(
            masked("hex", "at 0x7ffe01234 commit 8ca3a467 defaced deadbeef"),
            "at 0 commit 0 defaced deadbeef"
        );
        for time in [
            "2026-01-31",
            "2026-01-31T08:00:00Z",
            "2026-01-31 08:00",
            "08:00:59.25",
            "2026-01-31T08:00:00.123456+01:00",
            "2026-01-31T08:00:00-0500",
        ] {
            assert_eq!(masked("iso_time", &format!("now {time}, go 7")), "now 0, go 7", "{time}");
        }
        assert_eq!(masked("iso_time", "08:00 12026-01-31"), "08:00 12026-01-31");
        assert_eq!(masked("iso_time", "08:00:00-x"), "0-x");
    }

    #[test]
    fn rules_combine_and_unknown_ones_are_refused() {
        assert_eq!(masked("digits, iso_time", "at 2026-01-31 see 5 cups"), "at 0 see 0 cups");
        assert_eq!(KeyMask::parse(&Value::Text("digit".into())), None);
        let both = KeyMask::parse(&Value::Text("digits,uuid".into())).unwrap();
        assert_eq!(both.show(), Value::Text("uuid,digits".into()));
        assert_eq!(masked("hex", ""), "");
    }
}
