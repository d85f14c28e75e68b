//! Speculation against plain decoding: the same tokens, events and usage, whoever guesses.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use proptest::prelude::*;
use yantra_engine::{
    Constraint, Engine, EngineConfig, EngineError, EngineHandle, FinishReason, Grammar, Request, SamplingParams,
    Speculation, SpeculationMethod,
    scheduler::SequenceKey,
    speculation::{Draft, DraftModel, Drafter},
};

use crate::fake::{Answer, Bytes, EOS, FakeModel, Pending, Rng, VOCAB, assert_idle, greedy, logits_of, random_config};

/// Guesses right or wrong at random, or in no way at all.
struct Guesser {
    rng: Rng,
    /// How often a guess is what a greedy model would say, in percent.
    right: usize,
    free: bool,
    asked: Arc<std::sync::atomic::AtomicUsize>,
}

impl Guesser {
    fn new(seed: u64, right: usize, free: bool) -> Self {
        Self { rng: Rng(seed), right, free, asked: Arc::default() }
    }
}

impl Drafter for Guesser {
    fn is_free(&self) -> bool {
        self.free
    }

    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> Result<usize, EngineError> {
        self.asked.fetch_add(drafts.len(), SeqCst);
        for draft in drafts {
            assert!(draft.most > 0 && draft.tokens.is_empty());
            let mut history = draft.history.to_vec();
            for _ in 0..draft.most {
                let token = if self.rng.chance(self.right) {
                    let logits = logits_of(&history);
                    (0..VOCAB).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
                } else {
                    self.rng.below(VOCAB + 2) as u32
                };
                history.push(token);
                draft.tokens.push(token);
            }
        }
        Ok(0)
    }

    fn forget(&mut self, _: SequenceKey) {}
}

fn spawn(model: FakeModel, drafter: Option<Box<dyn Drafter>>, config: EngineConfig) -> EngineHandle {
    Engine::spawn_with(Box::new(model), Some(Arc::new(Bytes)), config, drafter, None).unwrap()
}

/// A model whose steps take about as long whatever they compute, so that all that is right pays.
fn slow(page_tokens: usize, num_pages: usize) -> FakeModel {
    let mut model = FakeModel::new(page_tokens, num_pages);
    model.hook = Some(Box::new(|_| {
        std::thread::sleep(std::time::Duration::from_millis(2));
        None
    }));
    model
}

fn off() -> EngineConfig {
    EngineConfig { speculation: Speculation::OFF, ..EngineConfig::default() }
}

fn random_request(rng: &mut Rng) -> Request {
    let sampling = if rng.chance(50) {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    } else {
        SamplingParams {
            temperature: 0.1 + rng.below(10) as f32 / 10.0,
            top_k: rng.below(10),
            repetition_penalty: 1.0 + rng.below(3) as f32 / 10.0,
            presence_penalty: rng.below(2) as f32 / 2.0,
            logit_bias: vec![(rng.below(200) as u32, 1.5)],
            seed: Some(rng.next()),
            ..SamplingParams::default()
        }
    };
    let prompt_len = 1 + rng.below(40);
    // Texts of the fake are bytes: one in eight is one of these stops.
    let stops = ["a", "b", "cd", "\u{1}", "~"];
    Request {
        prompt: rng.tokens(prompt_len, 2),
        n: if rng.chance(20) { 1 + rng.below(4) } else { 1 },
        max_tokens: Some(rng.below(24)),
        stop: (0..rng.below(4)).map(|_| stops[rng.below(stops.len())].to_owned()).collect(),
        include_stop: rng.chance(50),
        stop_tokens: (0..rng.below(8)).map(|_| rng.below(VOCAB) as u32).collect(),
        ignore_eos: rng.chance(50),
        sampling,
        logprobs: rng.chance(20).then(|| rng.below(4)),
        prompt_logprobs: rng.chance(10),
        priority: rng.below(3) as i32,
        max_draft: rng.chance(20).then(|| rng.below(4)),
        ..Request::default()
    }
}

/// Grammars with few ways, with many, and with stretches that leave none.
fn grammars(engine: &EngineHandle) -> Vec<Grammar> {
    let schema = serde_json::json!({"type": "object", "properties": {"ab": {"type": "integer"}, "cd": {"enum": ["ab", "cd"]}},
        "required": ["ab", "cd"], "additionalProperties": false});
    let constraints = [
        Constraint::JsonSchema(schema),
        Constraint::Regex("(ab|cd){2,9}".to_owned()),
        Constraint::Regex("[^a]*".to_owned()),
        Constraint::Choice(vec!["abcdefgh".to_owned(), "abcd".to_owned(), "~".to_owned()]),
        Constraint::Lark("start: \"(\" start \")\" | \"always the same\"".to_owned()),
    ];
    constraints.iter().map(|constraint| engine.compile(constraint).unwrap()).collect()
}

/// Answers without what depends on the order in which requests came.
fn comparable(mut answer: Answer) -> Answer {
    if let Some(usage) = &mut answer.usage {
        usage.cached_prompt_tokens = 0;
    }
    answer.logprobs.sort_by_key(|score| (score.id, score.logprob.to_bits()));
    answer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_that_of_plain_decoding(seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let (page_tokens, num_pages) = (1 + rng.below(6), 24 + rng.below(30));
        let speculation = Speculation { method: SpeculationMethod::Lookup, max_draft: 1 + rng.below(12) };
        let config = EngineConfig { speculation, ..random_config(&mut rng) };
        let drafter = Guesser::new(rng.next(), rng.below(101), rng.chance(50));
        let context = page_tokens * num_pages;
        let model = || FakeModel { context: context.min(60), ..FakeModel::new(page_tokens, num_pages) };
        let speculating = spawn(model(), Some(Box::new(drafter)), config.clone());
        let plain = spawn(model(), None, EngineConfig { speculation: Speculation::OFF, ..config });
        let grammars = grammars(&speculating);
        let mut kept = Vec::new();
        for _ in 0..120 {
            let mut request = random_request(&mut rng);
            request.grammar = rng.chance(40).then(|| grammars[rng.below(grammars.len())].clone());
            request.prompt.truncate(context.min(60) - 1);
            match rng.below(10) {
                0 => {
                    let pending = Pending::submit(&speculating, request);
                    speculating.cancel(pending.id);
                }
                1 => drop(Pending::submit_listening(&speculating, request, rng.below(6))),
                _ => kept.push((Pending::submit(&speculating, request.clone()), request)),
            }
        }
        for (pending, request) in kept {
            let expected = comparable(Pending::submit(&plain, request.clone()).wait());
            prop_assert_eq!(comparable(pending.wait()), expected, "{:?}", request);
        }
        assert_idle(&speculating);
        let stats = speculating.stats();
        prop_assert_eq!(stats.requests_accepted, stats.requests_completed + stats.requests_cancelled);
        prop_assert!(stats.accepted_draft_tokens <= stats.draft_tokens);
    }
}

#[test]
fn every_limit_ends_an_answer_within_a_draft() {
    let prompt = [5, 6, 7];
    for max_tokens in 1..20 {
        let answer = |drafter: Option<Box<dyn Drafter>>| {
            let config = if drafter.is_some() { EngineConfig::default() } else { off() };
            let engine = spawn(slow(4, 64), drafter, config);
            let answer = Pending::submit(&engine, greedy(&prompt, max_tokens)).wait();
            assert_idle(&engine);
            (answer, engine.stats())
        };
        let (expected, plain) = answer(None);
        let (found, stats) = answer(Some(Box::new(Guesser::new(1, 100, true))));
        assert_eq!(found, expected);
        assert_eq!(stats.generated_tokens, plain.generated_tokens);
        assert_eq!(stats.accepted_draft_tokens, stats.draft_tokens, "all guesses were right");
        assert!(max_tokens < 6 || stats.steps < plain.steps, "{stats:?}");
        assert_eq!(stats.steps + stats.accepted_draft_tokens, plain.steps);
    }
}

#[test]
fn an_answer_that_ends_by_itself_ends_within_a_draft() {
    // The answer repeats the prompt, then ends.
    let passage: Vec<u32> = (b'a'..=b'y').map(u32::from).collect();
    let script: Vec<u32> = [&passage[1..], &[0], &passage[..20], &[EOS]].concat();
    let engine = |config| FakeModel { script: Some(script.clone()), ..slow(4, 64) }.spawn(config);
    let request = Request { ignore_eos: false, ..greedy(&[&passage[..], &[0], &passage[..3]].concat(), 60) };
    for stop in ["", "jk", "n", "st"] {
        let stop = if stop.is_empty() { Vec::new() } else { vec![stop.to_owned()] };
        let request = Request { stop, ..request.clone() };
        let (plain, speculating) = (engine(off()), engine(EngineConfig::default()));
        let expected = Pending::submit(&plain, request.clone()).wait();
        assert_eq!(Pending::submit(&speculating, request).wait(), expected);
        assert!(speculating.stats().accepted_draft_tokens >= 4, "{:?}", speculating.stats());
        assert!(expected.reasons[&0] != FinishReason::Length);
        assert_idle(&speculating);
    }
}

#[test]
fn later_prompts_find_only_right_tokens_in_the_prefix_cache() {
    let engine = spawn(slow(4, 64), Some(Box::new(Guesser::new(3, 70, true))), EngineConfig::default());
    let mut prompt = vec![1, 2, 3];
    // A conversation: every answer becomes part of the next prompt. The fake model reads back every page it is given.
    for _ in 0..8 {
        let answer = Pending::submit(&engine, greedy(&prompt, 17)).wait();
        assert_eq!(answer.tokens[&0], crate::fake::expected_tokens(&prompt, 17, &greedy(&prompt, 17).sampling, 0));
        prompt.extend(&answer.tokens[&0]);
        prompt.push(9);
    }
    let stats = engine.stats();
    assert!(stats.prefix_hit_tokens > 0 && stats.accepted_draft_tokens > 0, "{stats:?}");
    assert!(stats.draft_tokens > stats.accepted_draft_tokens, "{stats:?}");
    assert_idle(&engine);
}

#[test]
fn a_model_drafts_for_itself_without_a_miss() {
    let drafter = DraftModel::new(Box::new(FakeModel::new(4, 200)), 64);
    let engine = spawn(FakeModel::new(4, 200), Some(Box::new(drafter)), EngineConfig::default());
    let requests: Vec<Request> = (0..5).map(|i| greedy(&[i, 1, 2], 100)).collect();
    let pending: Vec<_> = requests.iter().map(|request| Pending::submit(&engine, request.clone())).collect();
    for (pending, request) in pending.into_iter().zip(&requests) {
        let expected = crate::fake::expected_tokens(&request.prompt, 100, &request.sampling, 0);
        assert_eq!(pending.wait().tokens[&0], expected);
    }
    let stats = engine.stats();
    assert!(stats.draft_tokens > 0, "{stats:?}");
    assert_eq!(stats.accepted_draft_tokens, stats.draft_tokens);
    assert_idle(&engine);
}

#[test]
fn a_draft_model_with_little_room_guesses_less_and_no_worse() {
    // 12 pages of 4 tokens for eight sequences of 50.
    let drafter = DraftModel::new(Box::new(FakeModel::new(4, 12)), 8);
    let engine = spawn(FakeModel::new(4, 200), Some(Box::new(drafter)), EngineConfig::default());
    let requests: Vec<Request> = (0..8).map(|i| greedy(&[i; 20], 30)).collect();
    let pending: Vec<_> = requests.iter().map(|request| Pending::submit(&engine, request.clone())).collect();
    for (pending, request) in pending.into_iter().zip(&requests) {
        let expected = crate::fake::expected_tokens(&request.prompt, 30, &request.sampling, 0);
        assert_eq!(pending.wait().tokens[&0], expected);
    }
    let stats = engine.stats();
    assert_eq!(stats.accepted_draft_tokens, stats.draft_tokens);
    assert_idle(&engine);
}

#[test]
fn a_drafter_that_is_always_wrong_is_hardly_listened_to() {
    for free in [true, false] {
        let drafter = Guesser::new(1, 0, free);
        let asked = Arc::clone(&drafter.asked);
        let engine = spawn(FakeModel::new(4, 200), Some(Box::new(drafter)), EngineConfig::default());
        let request = greedy(&[1, 2, 3], 700);
        let answer = Pending::submit(&engine, request.clone()).wait();
        assert_eq!(answer.tokens[&0].len(), 700);
        let stats = engine.stats();
        assert!(stats.draft_tokens < 60, "free: {free}, {stats:?}");
        assert!(free || asked.load(SeqCst) < 60, "{asked:?}");
    }
}

/// Fails or panics when asked.
struct Broken(bool);

impl Drafter for Broken {
    fn is_free(&self) -> bool {
        true
    }

    fn draft(&mut self, _: &mut [Draft<'_>]) -> Result<usize, EngineError> {
        assert!(!self.0, "as told");
        Err(EngineError::Forward { message: "as told".to_owned() })
    }

    fn forget(&mut self, _: SequenceKey) {}
}

#[test]
fn a_broken_drafter_breaks_nothing_else() {
    for panics in [true, false] {
        let engine = spawn(FakeModel::new(4, 64), Some(Box::new(Broken(panics))), EngineConfig::default());
        let answer = Pending::submit(&engine, greedy(&[1, 2], 20)).wait();
        assert_eq!((answer.ends, answer.tokens[&0].len()), (1, 20));
        assert_eq!(engine.stats().draft_tokens, 0);
        assert_idle(&engine);
    }
}

#[test]
fn a_request_can_do_without() {
    let engine = spawn(FakeModel::new(4, 64), Some(Box::new(Guesser::new(1, 100, true))), EngineConfig::default());
    Pending::submit(&engine, Request { max_draft: Some(0), ..greedy(&[1, 2], 20) }).wait();
    assert_eq!(engine.stats().draft_tokens, 0);
}

#[test]
fn a_draft_model_must_be_given() {
    let speculation = Speculation { method: SpeculationMethod::DraftModel, max_draft: 4 };
    let config = EngineConfig { speculation, ..EngineConfig::default() };
    let refused = Engine::spawn(Box::new(FakeModel::new(4, 64)), None, config);
    assert!(matches!(refused, Err(EngineError::Config { field: "speculation", .. })));
}
