//! Writes the rules of a GBNF grammar in Lark.

use serde_json::Value;

use super::{
    Choice, Item,
    first::{Chars, Sets},
};

struct Writer {
    sets: Sets,
    /// Whether a rule does not contain itself, and so can be a terminal.
    is_flat: Vec<bool>,
    text: String,
    /// Terminals that parts of rules have become.
    parts: usize,
}

/// The grammar, of which the first rule is the start.
pub(super) fn written(rules: &[Choice]) -> String {
    let sets = Sets::of(rules);
    let mut writer = Writer { sets, is_flat: flat(rules), text: String::new(), parts: 0 };
    for (number, rule) in rules.iter().enumerate() {
        if writer.is_flat[number] {
            let terminal = writer.terminal_choice(rule);
            writer.text += &format!("T{number}: {terminal}\n");
            let loose = writer.loose_choice(rule);
            writer.text += &format!("x{number}: {loose}\n");
        } else {
            let follow = writer.sets.follow(number).clone();
            let body = writer.choice(rule, &follow);
            writer.text += &format!("r{number}: {body}\n");
        }
    }
    let root = if writer.is_flat[0] { "T0" } else { "r0" };
    format!("start: {root}\n{}", writer.text)
}

/// Which rules do not contain themselves, whichever way.
fn flat(rules: &[Choice]) -> Vec<bool> {
    let mut flat = vec![false; rules.len()];
    loop {
        let next: Vec<bool> = rules.iter().map(|rule| rule.iter().flatten().all(|item| is_flat(item, &flat))).collect();
        if next == flat {
            return flat;
        }
        flat = next;
    }
}

fn is_flat(item: &Item, flat: &[bool]) -> bool {
    match item {
        Item::Text(_) | Item::Class { .. } => true,
        Item::Rule(rule) => flat[*rule],
        Item::Group(choice) => choice.iter().flatten().all(|item| is_flat(item, flat)),
        Item::Repeat(item, ..) => is_flat(item, flat),
    }
}

impl Writer {
    /// Ways that are not terminals as a whole, followed by one of `follow`.
    fn choice(&mut self, choice: &Choice, follow: &Chars) -> String {
        let ways: Vec<String> = choice.iter().map(|sequence| self.sequence(sequence, follow)).collect();
        ways.join(" | ")
    }

    fn sequence(&mut self, sequence: &[Item], follow: &Chars) -> String {
        let mut written = Vec::new();
        let mut at = 0;
        while at < sequence.len() {
            let run = sequence[at..].iter().take_while(|item| is_flat(item, &self.is_flat)).count();
            let end = at + run.max(1);
            let after = self.sets.first(&sequence[end..], follow);
            written.push(if run > 0 { self.run(&sequence[at..end], &after) } else { self.item(&sequence[at], &after) });
            at = end;
        }
        if written.is_empty() { "\"\"".to_owned() } else { written.join(" ") }
    }

    fn item(&mut self, item: &Item, follow: &Chars) -> String {
        match item {
            Item::Rule(rule) => format!("r{rule}"),
            Item::Group(choice) => format!("({})", self.choice(choice, follow)),
            Item::Repeat(inner, least, most) => {
                let inner_slice = std::slice::from_ref(&**inner);
                let mut after = self.sets.first(inner_slice, follow);
                after.add(follow);
                format!("({}){}", self.sequence(inner_slice, &after), operator(*least, *most))
            }
            // All else is flat.
            Item::Text(_) | Item::Class { .. } => self.loose(item),
        }
    }

    /// A flat part of a rule: one terminal, up to where it could go on with what follows it.
    fn run(&mut self, run: &[Item], follow: &Chars) -> String {
        let is_apart = |writer: &Self, at: usize| {
            let after = writer.sets.first(&run[at..], follow);
            !writer.sets.extends(&run[..at]).meets(&after)
        };
        let whole = (0..=run.len()).rev().find(|at| is_apart(self, *at)).unwrap_or(0);
        let mut written = Vec::new();
        if whole > 0 {
            written.push(self.part(&run[..whole]));
        }
        written.extend(run[whole..].iter().map(|item| self.loose(item)));
        written.join(" ")
    }

    /// A terminal of its own, or nothing if it may be empty, which no lexeme is.
    fn part(&mut self, items: &[Item]) -> String {
        let name = format!("P{}", self.parts);
        self.parts += 1;
        let terminal = self.terminal(items);
        if self.sets.is_nullable(items) {
            self.text += &format!("{name}: ({terminal}) & /(?s:.+)/\n");
            return format!("{name}?");
        }
        self.text += &format!("{name}: {terminal}\n");
        name
    }

    fn terminal_choice(&self, choice: &Choice) -> String {
        choice.iter().map(|sequence| self.terminal(sequence)).collect::<Vec<_>>().join(" | ")
    }

    fn terminal(&self, sequence: &[Item]) -> String {
        let one = |item: &Item| match item {
            Item::Rule(rule) => format!("T{rule}"),
            Item::Group(choice) => format!("({})", self.terminal_choice(choice)),
            Item::Repeat(item, least, most) => {
                format!("({}){}", self.terminal(std::slice::from_ref(item)), operator(*least, *most))
            }
            Item::Text(_) | Item::Class { .. } => character(item),
        };
        if sequence.is_empty() { "\"\"".to_owned() } else { sequence.iter().map(one).collect::<Vec<_>>().join(" ") }
    }

    fn loose_choice(&self, choice: &Choice) -> String {
        let way = |sequence: &Vec<Item>| match sequence.is_empty() {
            true => "\"\"".to_owned(),
            false => sequence.iter().map(|item| self.loose(item)).collect::<Vec<_>>().join(" "),
        };
        choice.iter().map(way).collect::<Vec<_>>().join(" | ")
    }

    /// A flat item in characters and texts, none of which can be longer than it is.
    fn loose(&self, item: &Item) -> String {
        match item {
            Item::Rule(rule) => format!("x{rule}"),
            Item::Group(choice) => format!("({})", self.loose_choice(choice)),
            Item::Repeat(item, least, most) => format!("({}){}", self.loose(item), operator(*least, *most)),
            Item::Text(_) | Item::Class { .. } => character(item),
        }
    }
}

fn operator(least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => "*".to_owned(),
        (1, None) => "+".to_owned(),
        (0, Some(1)) => "?".to_owned(),
        (least, None) => format!("{{{least},}}"),
        (least, Some(most)) => format!("{{{least},{most}}}"),
    }
}

/// A text, or a character of a class.
fn character(item: &Item) -> String {
    match item {
        // JSON lets DEL be, Lark does not.
        Item::Text(text) => Value::from(text.as_str()).to_string().replace('\u{7f}', "\\u007f"),
        Item::Class { ranges, .. } if ranges.is_empty() => "/(?s:.)/".to_owned(),
        Item::Class { ranges, is_negated } => {
            let escaped = |c: char| format!("\\x{{{:x}}}", u32::from(c));
            let range = |(first, last): &(char, char)| format!("{}-{}", escaped(*first), escaped(*last));
            let ranges: String = ranges.iter().map(range).collect();
            format!("/[{}{ranges}]/", if *is_negated { "^" } else { "" })
        }
        Item::Rule(_) | Item::Group(_) | Item::Repeat(..) => String::new(),
    }
}
