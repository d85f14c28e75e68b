//! Which characters may begin, extend and follow parts of a grammar.

use super::{Choice, Item};

const LAST: u32 = char::MAX as u32;

/// A set of characters as ranges, in order and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chars(Vec<(u32, u32)>);

impl Chars {
    fn of_class(ranges: &[(char, char)], is_negated: bool) -> Self {
        let mut chars = Self::default();
        for (first, last) in ranges {
            chars.add(&Self(vec![(u32::from(*first), u32::from(*last))]));
        }
        if is_negated { chars.others() } else { chars }
    }

    fn others(&self) -> Self {
        let mut next = 0;
        let mut ranges = Vec::new();
        for &(first, last) in &self.0 {
            if first > next {
                ranges.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= LAST {
            ranges.push((next, LAST));
        }
        Self(ranges)
    }

    /// Adds others; whether that made a difference.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        let mut all: Vec<(u32, u32)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        let changed = joined != self.0;
        self.0 = joined;
        changed
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
    }
}

/// What is known of a rule.
#[derive(Debug, Clone, Default)]
struct Known {
    is_nullable: bool,
    first: Chars,
    /// What may come after a whole text of it that is still one of it.
    extends: Chars,
    /// All its characters.
    chars: Chars,
    follow: Chars,
}

/// What is known of a grammar's rules.
#[derive(Debug)]
pub(super) struct Sets(Vec<Known>);

impl Sets {
    pub(super) fn of(rules: &[Choice]) -> Self {
        let mut sets = Self(vec![Known::default(); rules.len()]);
        loop {
            let mut changed = false;
            for (number, rule) in rules.iter().enumerate() {
                let (is_nullable, first) = (sets.choice_is_nullable(rule), sets.first_of_choice(rule));
                let (extends, chars) = (sets.extends_choice(rule), sets.chars_of_choice(rule));
                let known = &mut sets.0[number];
                changed |= std::mem::replace(&mut known.is_nullable, is_nullable) != is_nullable;
                changed |= known.first.add(&first) | known.extends.add(&extends) | known.chars.add(&chars);
            }
            if !changed {
                break;
            }
        }
        loop {
            let mut changed = false;
            for (number, rule) in rules.iter().enumerate() {
                let follow = sets.0[number].follow.clone();
                changed |= sets.follow_in_choice(rule, &follow);
            }
            if !changed {
                return sets;
            }
        }
    }

    /// What may follow a rule.
    pub(super) fn follow(&self, rule: usize) -> &Chars {
        &self.0[rule].follow
    }

    fn choice_is_nullable(&self, choice: &Choice) -> bool {
        choice.iter().any(|sequence| self.is_nullable(sequence))
    }

    /// Whether a sequence may be empty.
    pub(super) fn is_nullable(&self, sequence: &[Item]) -> bool {
        sequence.iter().all(|item| match item {
            Item::Text(text) => text.is_empty(),
            Item::Class { .. } => false,
            Item::Rule(rule) => self.0[*rule].is_nullable,
            Item::Group(choice) => self.choice_is_nullable(choice),
            Item::Repeat(item, least, _) => *least == 0 || self.is_nullable(std::slice::from_ref(item)),
        })
    }

    fn first_of_choice(&self, choice: &Choice) -> Chars {
        let mut first = Chars::default();
        for sequence in choice {
            first.add(&self.first(sequence, &Chars::default()));
        }
        first
    }

    /// What may begin a sequence that `follow` comes after.
    pub(super) fn first(&self, sequence: &[Item], follow: &Chars) -> Chars {
        let mut first = Chars::default();
        for item in sequence {
            first.add(&match item {
                Item::Text(text) => {
                    Chars(text.chars().next().map(|c| (u32::from(c), u32::from(c))).into_iter().collect())
                }
                Item::Class { ranges, is_negated } => Chars::of_class(ranges, *is_negated),
                Item::Rule(rule) => self.0[*rule].first.clone(),
                Item::Group(choice) => self.first_of_choice(choice),
                Item::Repeat(item, ..) => self.first(std::slice::from_ref(item), &Chars::default()),
            });
            if !self.is_nullable(std::slice::from_ref(item)) {
                return first;
            }
        }
        first.add(follow);
        first
    }

    fn chars_of_choice(&self, choice: &Choice) -> Chars {
        let mut chars = Chars::default();
        for item in choice.iter().flatten() {
            chars.add(&match item {
                Item::Text(text) => {
                    let mut all = Chars::default();
                    for c in text.chars() {
                        all.add(&Chars(vec![(u32::from(c), u32::from(c))]));
                    }
                    all
                }
                Item::Class { ranges, is_negated } => Chars::of_class(ranges, *is_negated),
                Item::Rule(rule) => self.0[*rule].chars.clone(),
                Item::Group(choice) => self.chars_of_choice(choice),
                Item::Repeat(item, ..) => self.chars_of_choice(&vec![vec![Item::clone(item)]]),
            });
        }
        chars
    }

    /// What may extend one of several ways. Where two begin alike, one may be the beginning of the other.
    fn extends_choice(&self, choice: &Choice) -> Chars {
        let mut extends = Chars::default();
        let firsts: Vec<Chars> = choice.iter().map(|sequence| self.first(sequence, &Chars::default())).collect();
        let are_alike =
            firsts.iter().enumerate().any(|(at, first)| firsts[..at].iter().any(|other| first.meets(other)));
        if are_alike {
            extends.add(&self.chars_of_choice(choice));
        }
        // An empty one is the beginning of all others.
        if self.choice_is_nullable(choice) {
            firsts.iter().for_each(|first| {
                extends.add(first);
            });
        }
        for sequence in choice {
            extends.add(&self.extends(sequence));
        }
        extends
    }

    /// What may come after a whole text of a sequence that is still one of it.
    pub(super) fn extends(&self, sequence: &[Item]) -> Chars {
        let mut extends = Chars::default();
        for item in sequence.iter().rev() {
            let item = std::slice::from_ref(item);
            match &item[0] {
                Item::Text(_) | Item::Class { .. } => {}
                Item::Rule(rule) => {
                    extends.add(&self.0[*rule].extends);
                }
                Item::Group(choice) => {
                    extends.add(&self.extends_choice(choice));
                }
                Item::Repeat(inner, least, most) => {
                    extends.add(&self.extends(std::slice::from_ref(inner)));
                    if *most != Some(*least) || self.is_nullable(std::slice::from_ref(inner)) {
                        extends.add(&self.first(item, &Chars::default()));
                    }
                }
            }
            if !self.is_nullable(item) {
                break;
            }
            // What may be left out may also come.
            extends.add(&self.first(item, &Chars::default()));
        }
        extends
    }

    /// Notes what follows the rules in a choice that `follow` comes after; whether that was news.
    fn follow_in_choice(&mut self, choice: &Choice, follow: &Chars) -> bool {
        let mut changed = false;
        for sequence in choice {
            for (at, item) in sequence.iter().enumerate() {
                let after = self.first(&sequence[at + 1..], follow);
                changed |= self.follow_in_item(item, &after);
            }
        }
        changed
    }

    fn follow_in_item(&mut self, item: &Item, follow: &Chars) -> bool {
        match item {
            Item::Text(_) | Item::Class { .. } => false,
            Item::Rule(rule) => self.0[*rule].follow.add(follow),
            Item::Group(choice) => self.follow_in_choice(choice, follow),
            Item::Repeat(inner, ..) => {
                let again = self.first(std::slice::from_ref(inner), follow);
                let mut after = again;
                after.add(follow);
                self.follow_in_item(inner, &after)
            }
        }
    }
}
