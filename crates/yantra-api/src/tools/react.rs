//! Thought, Action, Action Input, Observation, Final Answer: one section after another, each begun by its name at the
//! start of a line.

use super::reader::Out;

/// The sections' names.
const MARKERS: [(&str, Section); 5] = [
    ("Thought:", Section::Thought),
    ("Action Input:", Section::Input),
    ("Action:", Section::Action),
    ("Observation:", Section::Observation),
    ("Final Answer:", Section::Answer),
];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Section {
    /// Before the first name: what is said there is said.
    #[default]
    Plain,
    Thought,
    Action,
    Input,
    /// What the model imagines a tool to have said: nobody's.
    Observation,
    Answer,
}

/// Takes such an answer apart.
#[derive(Debug, Clone, Default)]
pub(super) struct React {
    section: Section,
    /// What may become a section's name; only at the start of a line.
    held: String,
    in_line: bool,
    /// White space that something may follow.
    blank: String,
    /// Whether the section has begun to say something.
    said: bool,
    name: String,
}

impl React {
    pub(super) fn push(&mut self, c: char, out: &mut Out) {
        if self.in_line {
            return self.say(c, out);
        }
        self.held.push(c);
        if let Some((_, section)) = MARKERS.iter().find(|(marker, _)| *marker == self.held) {
            self.held.clear();
            self.begin(*section, out);
        } else if !MARKERS.iter().any(|(marker, _)| marker.starts_with(self.held.as_str())) {
            let held = std::mem::take(&mut self.held);
            self.in_line = true;
            held.chars().for_each(|c| self.say(c, out));
        }
    }

    pub(super) fn finish(&mut self, out: &mut Out) {
        let held = std::mem::take(&mut self.held);
        held.chars().for_each(|c| self.say(c, out));
        self.end(out);
    }

    fn begin(&mut self, section: Section, out: &mut Out) {
        if self.section != Section::Action || section != Section::Input {
            self.end(out);
        }
        let before = std::mem::replace(&mut self.section, section);
        (self.in_line, self.said) = (true, false);
        self.blank.clear();
        match section {
            Section::Action => self.name.clear(),
            Section::Input if out.knows(&self.name) => out.call(&std::mem::take(&mut self.name)),
            // No tool: what the model says of it is all there is.
            Section::Input => {
                self.section = before;
                self.end(out);
                out.content("\nAction Input: ");
                self.section = Section::Answer;
            }
            _ => {}
        }
    }

    /// A section is over. An action without input is said, not done.
    fn end(&mut self, out: &mut Out) {
        match self.section {
            Section::Plain => out.content(&std::mem::take(&mut self.blank)),
            Section::Action if !self.name.is_empty() => {
                out.content(&format!("Action: {}", std::mem::take(&mut self.name)))
            }
            _ => {}
        }
    }

    fn say(&mut self, c: char, out: &mut Out) {
        if c == '\n' {
            self.in_line = false;
        }
        if c.is_whitespace() {
            if self.said || self.section == Section::Plain {
                self.blank.push(c);
            }
            return;
        }
        self.said = true;
        let mut text = std::mem::take(&mut self.blank);
        text.push(c);
        match self.section {
            Section::Plain | Section::Answer => out.content(&text),
            Section::Thought => out.reasoning(&text),
            Section::Action => self.name.push_str(&text),
            Section::Input => out.arguments(&text),
            Section::Observation => {}
        }
    }
}
