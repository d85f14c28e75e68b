//! Reads GBNF.

use std::collections::BTreeMap;

use super::{Choice, Item, MAX_DEPTH, MAX_REPEAT};

/// The rule that a grammar begins with.
const ROOT: &str = "root";

struct Reader {
    text: Vec<char>,
    at: usize,
    depth: usize,
    /// Rules by name, with where they were first spoken of.
    names: BTreeMap<String, (usize, usize)>,
}

/// The rules of a grammar; `root` is the first. Or what is wrong, and in which line and column.
pub(super) fn rules(text: &str) -> Result<Vec<Choice>, String> {
    let mut reader =
        Reader { text: text.chars().collect(), at: 0, depth: 0, names: BTreeMap::from([(ROOT.to_owned(), (0, 0))]) };
    let mut rules: BTreeMap<usize, Choice> = BTreeMap::new();
    reader.space(true);
    while reader.at < reader.text.len() {
        let start = reader.at;
        let name = reader.name()?;
        let number = reader.number_of(&name, start);
        reader.space(false);
        if !reader.takes("::=") {
            return Err(reader.error("'::=' expected"));
        }
        reader.space(true);
        let body = reader.choice(false)?;
        if rules.insert(number, body).is_some() {
            return Err(reader.error_at(start, &format!("a second rule '{name}'")));
        }
        if reader.peek().is_some_and(|c| c != '\n' && c != '\r') {
            return Err(reader.error("the end of the rule expected"));
        }
        reader.space(true);
    }
    let missing = reader.names.iter().find(|(_, (number, _))| !rules.contains_key(number));
    match missing {
        Some((name, _)) if name == ROOT => Err("the grammar has no rule 'root'".to_owned()),
        Some((name, (_, at))) => Err(reader.error_at(*at, &format!("there is no rule '{name}'"))),
        None => Ok(rules.into_values().collect()),
    }
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn takes(&mut self, word: &str) -> bool {
        let is_there = word.chars().enumerate().all(|(index, c)| self.text.get(self.at + index) == Some(&c));
        if is_there {
            self.at += word.chars().count();
        }
        is_there
    }

    fn error(&self, message: &str) -> String {
        self.error_at(self.at, message)
    }

    fn error_at(&self, at: usize, message: &str) -> String {
        let before = &self.text[..at.min(self.text.len())];
        let line = before.iter().filter(|c| **c == '\n').count() + 1;
        let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
        format!("line {line}, column {column} of the grammar: {message}")
    }

    /// White space and comments; with new lines where a rule can not end.
    fn space(&mut self, with_lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                ' ' | '\t' => self.at += 1,
                '\n' | '\r' if with_lines => self.at += 1,
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let is_of_name = |c: &&char| c.is_ascii_alphanumeric() || matches!(**c, '-' | '_');
        let name: String = self.text[self.at..].iter().take_while(is_of_name).collect();
        if name.is_empty() {
            return Err(self.error("a rule's name expected"));
        }
        self.at += name.len();
        Ok(name)
    }

    fn number_of(&mut self, name: &str, at: usize) -> usize {
        let next = self.names.len();
        self.names.entry(name.to_owned()).or_insert((next, at)).0
    }

    fn choice(&mut self, is_nested: bool) -> Result<Choice, String> {
        let mut choice = vec![self.sequence(is_nested)?];
        while self.takes("|") {
            self.space(true);
            choice.push(self.sequence(is_nested)?);
        }
        Ok(choice)
    }

    fn sequence(&mut self, is_nested: bool) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        while let Some(c) = self.peek() {
            let item = match c {
                '"' => Item::Text(self.literal()?),
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    Item::Class { ranges: Vec::new(), is_negated: true }
                }
                '(' => self.group()?,
                '<' | '!' => return Err(self.error("tokens can not be named in GBNF here; Lark can")),
                c if c.is_ascii_alphanumeric() => {
                    let start = self.at;
                    let name = self.name()?;
                    Item::Rule(self.number_of(&name, start))
                }
                '*' | '+' | '?' | '{' => return Err(self.error(&format!("'{c}' with nothing before it"))),
                _ => break,
            };
            items.push(self.repeated(item, is_nested)?);
        }
        Ok(items)
    }

    fn group(&mut self) -> Result<Item, String> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(&format!("groups nested deeper than {MAX_DEPTH}")));
        }
        self.space(true);
        let choice = self.choice(true)?;
        if !self.takes(")") {
            return Err(self.error("')' expected"));
        }
        self.depth -= 1;
        Ok(Item::Group(choice))
    }

    fn repeated(&mut self, mut item: Item, is_nested: bool) -> Result<Item, String> {
        loop {
            self.space(is_nested);
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    let counts = self.counts()?;
                    item = Item::Repeat(Box::new(item), counts.0, counts.1);
                    continue;
                }
                _ => return Ok(item),
            };
            self.at += 1;
            item = Item::Repeat(Box::new(item), least, most);
        }
    }

    /// `{m}`, `{m,}` or `{m,n}`.
    fn counts(&mut self) -> Result<(u32, Option<u32>), String> {
        self.at += 1;
        let least = self.count()?;
        let most = if self.takes(",") {
            self.space(false);
            if self.peek() == Some('}') { None } else { Some(self.count()?) }
        } else {
            Some(least)
        };
        if !self.takes("}") {
            return Err(self.error("'}' expected"));
        }
        match most {
            Some(most) if most < least => Err(self.error(&format!("at least {least} and at most {most}"))),
            most => Ok((least, most)),
        }
    }

    fn count(&mut self) -> Result<u32, String> {
        self.space(false);
        let digits: String = self.text[self.at..].iter().take_while(|c| c.is_ascii_digit()).collect();
        let count = digits.parse().ok().filter(|count| *count <= MAX_REPEAT);
        let count = count.ok_or_else(|| self.error(&format!("a number of at most {MAX_REPEAT} expected")))?;
        self.at += digits.len();
        self.space(false);
        Ok(count)
    }

    fn literal(&mut self) -> Result<String, String> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return Err(self.error_at(start, "a text that does not end")),
                Some('"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(_) => text.push(self.character()?),
            }
        }
    }

    fn class(&mut self) -> Result<Item, String> {
        let start = self.at;
        self.at += 1;
        let is_negated = self.takes("^");
        let mut ranges = Vec::new();
        loop {
            match self.peek() {
                None | Some('\n') => return Err(self.error_at(start, "a character class that does not end")),
                Some(']') => break,
                Some(_) => {}
            }
            let first = self.character()?;
            let is_range = self.peek() == Some('-') && self.text.get(self.at + 1).is_some_and(|c| *c != ']');
            let last = if is_range {
                self.at += 1;
                self.character()?
            } else {
                first
            };
            if last < first {
                return Err(self.error(&format!("a range from {first:?} to {last:?}")));
            }
            ranges.push((first, last));
        }
        self.at += 1;
        if ranges.is_empty() && !is_negated {
            return Err(self.error_at(start, "a character class of no characters"));
        }
        Ok(Item::Class { ranges, is_negated })
    }

    /// A character, or what a backslash makes of those after it.
    fn character(&mut self) -> Result<char, String> {
        let start = self.at;
        let next = |reader: &mut Self| {
            let c = reader.peek();
            reader.at += 1;
            c
        };
        let Some(c) = next(self) else { return Err(self.error_at(start, "a character expected")) };
        if c != '\\' {
            return Ok(c);
        }
        let digits = match next(self) {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => {
                return Err(self.error_at(
                    start,
                    "an unknown escape; \\n, \\r, \\t, \\\\, \\\", \\[, \\], \\x, \\u, \\U expected",
                ));
            }
        };
        let hex: String = self.text[self.at.min(self.text.len())..].iter().take(digits).collect();
        self.at += digits;
        let code = (hex.len() == digits).then(|| u32::from_str_radix(&hex, 16).ok()).flatten().and_then(char::from_u32);
        code.ok_or_else(|| self.error_at(start, &format!("an escape of {digits} hexadecimal digits expected")))
    }
}
