//! Compiles grammars, and remembers those compiled last.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use llguidance::{Matcher, ParserFactory};

use super::{Constraint, ConstraintError, Grammar, MAX_GRAMMAR_BYTES, schema, vocabulary};
use crate::{TextDecoder, stats::Counters};

/// Grammars remembered.
const CAPACITY: usize = 64;

/// How often a remembered grammar is handed out. What its lexer learns is kept with it and grows; now and then it begins
/// anew.
const MAX_USES: usize = 4096;

struct Remembered {
    constraint: Constraint,
    grammar: Grammar,
    uses: usize,
}

/// Makes the grammars of one model.
pub(crate) struct GrammarCompiler {
    decoder: Option<Arc<dyn TextDecoder>>,
    /// Made when the first grammar is: it takes a while, and most models never see one.
    factory: OnceLock<Result<ParserFactory, ConstraintError>>,
    /// The last used is last.
    remembered: Mutex<Vec<Remembered>>,
}

impl GrammarCompiler {
    pub(crate) fn new(decoder: Option<Arc<dyn TextDecoder>>) -> Self {
        Self { decoder, factory: OnceLock::new(), remembered: Mutex::default() }
    }

    /// The grammar of a constraint, from memory if it was wanted before.
    pub(crate) fn compile(&self, constraint: &Constraint, counters: &Counters) -> Result<Grammar, ConstraintError> {
        if let Some(grammar) = self.recall(constraint) {
            counters.grammars_reused.add(1);
            return Ok(grammar);
        }
        let started = Instant::now();
        let grammar = self.compile_anew(constraint)?;
        counters.grammars_compiled.add(1);
        counters.grammar_compile_seconds.record(started.elapsed().as_secs_f64());
        self.remember(constraint, &grammar);
        Ok(grammar)
    }

    fn compile_anew(&self, constraint: &Constraint) -> Result<Grammar, ConstraintError> {
        let meant = match constraint {
            Constraint::After(_, then) => then,
            constraint => constraint,
        };
        let invalid = |message: String| match meant {
            Constraint::JsonSchema(schema) => ConstraintError::Invalid { message: schema::explain(schema, &message) },
            _ => ConstraintError::Invalid { message },
        };
        let bytes = constraint.len();
        if bytes > MAX_GRAMMAR_BYTES {
            return Err(invalid(format!("{bytes} bytes given, at most {MAX_GRAMMAR_BYTES} expected")));
        }
        let factory = self.factory.get_or_init(|| self.factory()).as_ref().map_err(Clone::clone)?;
        let parser = factory.create_parser(constraint.grammar(factory.tok_env().tok_trie())?);
        let parser = parser.map_err(|error| invalid(format!("{error:#}")))?;
        let mut start = Matcher::new(Ok(parser));
        // A grammar can be well-formed and still too large to begin with, or allow no text at all.
        start.compute_mask_or_eos().map_err(|error| invalid(format!("{error:#}")))?;
        Ok(Grammar { start: Arc::new(start) })
    }

    fn factory(&self) -> Result<ParserFactory, ConstraintError> {
        let decoder = self.decoder.as_ref().ok_or(ConstraintError::NoVocabulary)?;
        let environment = vocabulary::environment(decoder)?;
        let factory = ParserFactory::new_simple(&environment);
        let mut factory = factory.map_err(|error| ConstraintError::Invalid { message: error.to_string() })?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(factory)
    }

    fn recall(&self, constraint: &Constraint) -> Option<Grammar> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let at = remembered.iter().position(|entry| entry.constraint == *constraint)?;
        let mut entry = remembered.remove(at);
        entry.uses += 1;
        if entry.uses > MAX_USES {
            return None;
        }
        let grammar = entry.grammar.clone();
        remembered.push(entry);
        Some(grammar)
    }

    fn remember(&self, constraint: &Constraint, grammar: &Grammar) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= CAPACITY {
            remembered.remove(0);
        }
        remembered.push(Remembered { constraint: constraint.clone(), grammar: grammar.clone(), uses: 1 });
    }
}
