//! One choice's way through its grammar.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use llguidance::{Matcher, toktrie::SimpleVob};

use super::{
    Grammar,
    masks::{Job, MaskThreads, Worked, mask_of},
};

/// Where the parser is.
enum Parser {
    Here(Box<Matcher>),
    /// With the threads that work out masks.
    Away,
}

/// A choice's place in its grammar: the parser, which is ahead of the choice by the tokens that are forced.
pub(crate) struct Following {
    parser: Parser,
    /// What may come next, if it has been worked out.
    mask: Option<SimpleVob>,
    /// Tokens that must come next; the parser has met them.
    forced: VecDeque<u32>,
    /// The grammar ends after the forced tokens.
    ended: bool,
    done: SyncSender<Worked>,
    worked: Receiver<Worked>,
    /// Time spent on masks so far.
    pub(crate) time: Duration,
    /// How long steps waited for masks.
    pub(crate) waited: Duration,
    /// How long the last mask took, until it is asked for.
    last_mask: Option<Duration>,
}

impl Following {
    /// At the grammar's start.
    pub(crate) fn new(grammar: &Grammar) -> Result<Self, String> {
        let (done, worked) = sync_channel(1);
        let mut following = Self {
            parser: Parser::Here(Box::new(grammar.matcher())),
            mask: None,
            forced: VecDeque::new(),
            ended: false,
            done,
            worked,
            time: Duration::ZERO,
            waited: Duration::ZERO,
            last_mask: None,
        };
        following.force()?;
        Ok(following)
    }

    /// The tokens that must come next; none when there is a choice.
    pub(crate) fn forced(&self) -> &VecDeque<u32> {
        &self.forced
    }

    /// Takes the next token if there is no choice.
    pub(crate) fn next_forced(&mut self) -> Option<u32> {
        self.forced.pop_front()
    }

    /// Whether nothing may follow.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended && self.forced.is_empty()
    }

    /// Has the mask of the next token that is chosen worked out meanwhile.
    pub(crate) fn prepare(&mut self, threads: Option<&MaskThreads>) {
        if self.ended || self.mask.is_some() {
            return;
        }
        let Some(threads) = threads else { return };
        if let Parser::Here(matcher) = std::mem::replace(&mut self.parser, Parser::Away) {
            threads.send(Job { matcher, done: self.done.clone() });
        }
    }

    /// What may come next, waiting for it if need be.
    pub(crate) fn mask(&mut self) -> Result<SimpleVob, String> {
        if let Some(mask) = self.mask.take() {
            return Ok(mask);
        }
        let worked = match std::mem::replace(&mut self.parser, Parser::Away) {
            Parser::Here(matcher) => {
                let worked = mask_of(matcher);
                self.waited += worked.took;
                worked
            }
            Parser::Away => self.wait_for_mask()?,
        };
        let Worked { matcher, mask, took } = worked;
        self.parser = Parser::Here(matcher);
        self.time += took;
        self.last_mask = Some(took);
        mask
    }

    fn wait_for_mask(&mut self) -> Result<Worked, String> {
        if let Ok(worked) = self.worked.try_recv() {
            return Ok(worked);
        }
        let started = Instant::now();
        let worked = self.worked.recv().map_err(|_| "the parser was lost".to_owned())?;
        self.waited += started.elapsed();
        Ok(worked)
    }

    /// How long the mask took that was got last; told once.
    pub(crate) fn take_last_mask_time(&mut self) -> Option<Duration> {
        self.last_mask.take()
    }

    /// Goes on with the token that was chosen.
    pub(crate) fn push(&mut self, id: u32) -> Result<(), String> {
        if self.ended {
            return Ok(());
        }
        let Parser::Here(matcher) = &mut self.parser else { return Err("the parser is away".to_owned()) };
        matcher.consume_token(id).map_err(|error| format!("{error:#}"))?;
        self.force()
    }

    /// Has the parser meet the tokens that must come.
    fn force(&mut self) -> Result<(), String> {
        let Parser::Here(matcher) = &mut self.parser else { return Ok(()) };
        if !matcher.is_stopped() {
            self.forced.extend(matcher.consume_ff_tokens());
        }
        if let Some(error) = matcher.get_error() {
            return Err(error);
        }
        self.ended = matcher.is_stopped();
        Ok(())
    }
}
