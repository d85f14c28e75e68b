//! Many requests at once against what each would get alone.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use proptest::prelude::*;
use yantra_engine::{EngineConfig, Event, FinishReason, Request, SamplingParams};

use crate::fake::{FakeModel, Gate, Pending, Rng, assert_idle, expected_tokens, greedy, random_config};

pub(crate) fn random_request(rng: &mut Rng, context: usize) -> Request {
    let prompt_len = 1 + rng.below(context / 2);
    let sampling = if rng.chance(50) {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    } else {
        SamplingParams {
            temperature: 0.5 + rng.below(10) as f32 / 5.0,
            top_k: rng.below(40),
            top_p: 1.0 - rng.below(5) as f32 / 10.0,
            min_p: rng.below(3) as f32 / 20.0,
            repetition_penalty: 1.0 + rng.below(3) as f32 / 10.0,
            presence_penalty: rng.below(3) as f32 / 2.0,
            frequency_penalty: rng.below(3) as f32 / 4.0,
            logit_bias: vec![(rng.below(200) as u32, 1.5)],
            seed: Some(rng.next()),
        }
    };
    Request {
        prompt: rng.tokens(prompt_len, 2),
        n: if rng.chance(15) { 1 + rng.below(4) } else { 1 },
        max_tokens: Some(1 + rng.below(20)),
        sampling,
        ignore_eos: true,
        prompt_logprobs: rng.chance(10),
        logprobs: rng.chance(10).then(|| rng.below(4)),
        priority: rng.below(3) as i32,
        cache_salt: rng.chance(10).then(|| "salt".to_owned()),
        ..Request::default()
    }
}

pub(crate) fn check_answer(request: &Request, answer: &crate::fake::Answer, context: usize) {
    assert_eq!((answer.ends, &answer.error), (1, &None), "{request:?}");
    let count = request.max_tokens.unwrap().min(context - request.prompt.len());
    for index in 0..request.n {
        let expected = expected_tokens(&request.prompt, count, &request.sampling, index);
        assert_eq!(answer.tokens[&index], expected, "choice {index} of {request:?}");
        assert_eq!(answer.reasons[&index], FinishReason::Length);
    }
    let usage = answer.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (request.prompt.len(), count * request.n));
    let scores = if request.prompt_logprobs { request.prompt.len() } else { 0 };
    assert_eq!(answer.prompt_logprobs.len(), scores);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_what_the_request_gets_alone(seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let (page_tokens, num_pages) = (1 + rng.below(6), 14 + rng.below(20));
        let context = (page_tokens * num_pages).min(1000);
        let engine = FakeModel::new(page_tokens, num_pages).spawn(random_config(&mut rng));
        let mut kept = Vec::new();
        let mut cancelled = Vec::new();
        for _ in 0..220 {
            let request = random_request(&mut rng, context);
            match rng.below(10) {
                0 => cancelled.push(Pending::submit(&engine, request)),
                1 => drop(Pending::submit_listening(&engine, request, rng.below(6))),
                _ => kept.push((Pending::submit(&engine, request.clone()), request)),
            }
            if rng.chance(10) && let Some(pending) = cancelled.last() {
                engine.cancel(pending.id);
            }
        }
        for pending in cancelled {
            engine.cancel(pending.id);
            let answer = pending.wait();
            prop_assert_eq!(answer.ends, 1);
            prop_assert!(answer.error.is_none());
        }
        for (pending, request) in kept {
            check_answer(&request, &pending.wait(), context);
        }
        assert_idle(&engine);
        let stats = engine.stats();
        prop_assert_eq!(stats.requests_accepted, stats.requests_completed + stats.requests_cancelled);
        engine.shutdown();
    }
}

#[test]
fn clients_that_share_a_system_prompt_compute_it_once() {
    let gate = Arc::new(Gate::default());
    let model = FakeModel { gate: Some(Arc::clone(&gate)), ..FakeModel::new(32, 256) };
    let computed = Arc::clone(&model.computed);
    let engine = model.spawn(EngineConfig::default());
    let system = Rng(1).tokens(400, 200);
    let prompts: Vec<Vec<u32>> = (0..16).map(|client| [&system[..], &[client, 7, client]].concat()).collect();
    let pending: Vec<_> = prompts.iter().map(|prompt| Pending::submit(&engine, greedy(prompt, 1))).collect();
    gate.open();
    for (pending, prompt) in pending.into_iter().zip(&prompts) {
        let answer = pending.wait();
        assert_eq!(answer.tokens[&0], expected_tokens(prompt, 1, &greedy(prompt, 1).sampling, 0));
    }
    assert_idle(&engine);
    // 403 tokens once, and for the others what lies beyond 12 full pages.
    assert_eq!(computed.load(SeqCst), 403 + 15 * (403 - 384));
    assert_eq!(engine.stats().prefix_hit_tokens, 15 * 384);
}

#[test]
fn choices_share_the_prompt_and_differ() {
    let model = FakeModel::new(8, 64);
    let computed = Arc::clone(&model.computed);
    let engine = model.spawn(EngineConfig::default());
    let mut request = greedy(&Rng(2).tokens(45, 200), 5);
    request.n = 8;
    request.sampling = SamplingParams { seed: Some(3), ..SamplingParams::default() };
    let answer = Pending::submit(&engine, request.clone()).wait();
    check_answer(&request, &answer, 500);
    let distinct: std::collections::HashSet<_> = answer.tokens.values().collect();
    assert!(distinct.len() > 4, "{distinct:?}");
    // The first computes 45 tokens, the others share five full pages, copy the sixth and compute their last token; then 4
    // more tokens each.
    assert_eq!(computed.load(SeqCst), 45 + 7 + 8 * 4);
}

#[test]
fn seeds_repeat_and_their_absence_does_not() {
    let engine = FakeModel::new(8, 64).spawn(EngineConfig::default());
    let request = |seed| Request {
        prompt: vec![1, 2, 3],
        max_tokens: Some(12),
        ignore_eos: true,
        sampling: SamplingParams { seed, ..SamplingParams::default() },
        ..Request::default()
    };
    let tokens = |seed| Pending::submit(&engine, request(seed)).wait().tokens;
    assert_eq!(tokens(Some(5)), tokens(Some(5)));
    assert_ne!(tokens(Some(5)), tokens(Some(6)));
    assert_ne!(tokens(None), tokens(None));
}

#[test]
fn preempted_sequences_finish_unchanged() {
    let gate = Arc::new(Gate::default());
    let model = FakeModel { gate: Some(Arc::clone(&gate)), ..FakeModel::new(4, 12) };
    let engine = model.spawn(EngineConfig { max_sequences: 4, prefix_cache: false, ..EngineConfig::default() });
    let requests: Vec<Request> = (0..4).map(|i| greedy(&[i, 1, 2], 30)).collect();
    let pending: Vec<_> = requests.iter().map(|request| Pending::submit(&engine, request.clone())).collect();
    gate.open();
    for (pending, request) in pending.into_iter().zip(&requests) {
        check_answer(request, &pending.wait(), 48);
    }
    assert_idle(&engine);
    assert!(engine.stats().preemptions > 0);
}

#[test]
fn a_cancelled_request_is_gone_after_one_step() {
    let gate = Arc::new(Gate::default());
    let model = FakeModel { gate: Some(Arc::clone(&gate)), ..FakeModel::new(4, 64) };
    let computed = Arc::clone(&model.computed);
    let engine = model.spawn(EngineConfig::default());
    let mut request = greedy(&[1, 2, 3], 200);
    request.n = 3;
    let pending = Pending::submit(&engine, request);
    engine.cancel(pending.id);
    gate.open();
    let answer = pending.wait();
    assert!(computed.load(SeqCst) <= 3, "at most the step that was under way");
    assert!(answer.reasons.values().all(|reason| *reason == FinishReason::Cancelled));
    assert_eq!((answer.reasons.len(), answer.ends), (3, 1));
    assert_idle(&engine);
}

#[test]
fn waiting_ends_when_the_first_step_is_scheduled() {
    let mut model = FakeModel::new(4, 64);
    model.hook = Some(Box::new(|_| {
        std::thread::sleep(Duration::from_millis(200));
        None
    }));
    let engine = model.spawn(EngineConfig::default());
    let (sender, events) = std::sync::mpsc::channel();
    engine.submit(greedy(&[1, 2], 1), Box::new(move |event| sender.send(event).is_ok())).unwrap();
    let timings = events.iter().find_map(|event| match event {
        Event::Done { timings, .. } => Some(timings),
        _ => None,
    });
    let timings = timings.unwrap();
    assert!(timings.queue_ms < 150.0, "the step itself is no waiting: {timings:?}");
    assert!(timings.time_to_first_token_ms.unwrap() >= 200.0, "{timings:?}");
    assert!(engine.stats().queue_seconds.mean().unwrap() < 0.15);
}
