//! What is refused, and with which words.

use yantra_engine::{Engine, EngineConfig, EngineError, Event, Request, SamplingParams, Speculation, SubmitError};

use crate::fake::{FakeModel, Pending, VOCAB, greedy};

fn check(change: impl FnOnce(&mut Request), field: &str) {
    let engine = FakeModel::new(4, 64).spawn(EngineConfig::default());
    let mut request = greedy(&[1, 2], 5);
    change(&mut request);
    match engine.submit(request.clone(), Box::new(|_: Event| panic!("a refused request's sink is not used"))) {
        Err(SubmitError::Invalid { field: named, message }) => {
            assert_eq!(named, field);
            assert!(message.contains("given"), "{message}");
        }
        other => panic!("{other:?} for {request:?}"),
    }
}

#[test]
fn fields_out_of_range_are_named() {
    check(|request| request.prompt.clear(), "prompt");
    check(|request| request.prompt.push(VOCAB as u32), "prompt");
    check(|request| request.n = 0, "n");
    check(|request| request.n = 129, "n");
    check(|request| request.logprobs = Some(65), "logprobs");
    check(|request| request.stop = vec![String::new()], "stop");
    check(|request| request.stop = vec!["x".to_owned(); 17], "stop");
    check(|request| request.stop_tokens = vec![1; 65], "stop_tokens");
    check(|request| request.cache_salt = Some("x".repeat(257)), "cache_salt");
    check(|request| request.sampling.temperature = -0.1, "temperature");
    check(|request| request.sampling.temperature = f32::NAN, "temperature");
    check(|request| request.sampling.top_p = 0.0, "top_p");
    check(|request| request.sampling.min_p = 1.1, "min_p");
    check(|request| request.sampling.repetition_penalty = 0.0, "repetition_penalty");
    check(|request| request.sampling.presence_penalty = 2.1, "presence_penalty");
    check(|request| request.sampling.frequency_penalty = -2.1, "frequency_penalty");
    check(|request| request.sampling.logit_bias = vec![(VOCAB as u32, 1.0)], "logit_bias");
    check(|request| request.sampling.logit_bias = vec![(1, f32::INFINITY)], "logit_bias");
}

#[test]
fn a_prompt_must_leave_room_for_an_answer() {
    let engine = FakeModel { context: 10, ..FakeModel::new(4, 64) }.spawn(EngineConfig::default());
    let submit = |len: usize, max_tokens| {
        let request = Request { max_tokens, sampling: SamplingParams::default(), ..greedy(&vec![1; len], 0) };
        engine.submit(request, Box::new(|_: Event| true)).map(|_| ())
    };
    assert_eq!(submit(10, None), Err(SubmitError::PromptTooLong { tokens: 10, limit: 9 }));
    assert_eq!(submit(11, Some(0)), Err(SubmitError::PromptTooLong { tokens: 11, limit: 10 }));
    assert_eq!((submit(9, Some(100)), submit(10, Some(0))), (Ok(()), Ok(())));
    let answer = Pending::submit(&engine, Request { max_tokens: None, ..greedy(&[1; 7], 0) }).wait();
    assert_eq!(answer.tokens[&0].len(), 3, "the context's end ends the answer");
}

#[test]
fn settings_out_of_range_are_named() {
    let spawn = |config| Engine::spawn(Box::new(FakeModel::new(4, 64)), None, config).map(|_| ());
    let default = EngineConfig::default;
    let cases = [
        (EngineConfig { max_sequences: 0, ..default() }, "max_sequences"),
        (EngineConfig { token_budget: 15, ..default() }, "token_budget"),
        (EngineConfig { max_queue: 0, ..default() }, "max_queue"),
        (EngineConfig { max_scored_rows: 0, ..default() }, "max_scored_rows"),
        (EngineConfig { speculation: Speculation { max_draft: 0, ..Speculation::OFF }, ..default() }, "max_draft"),
    ];
    for (config, name) in cases {
        let Err(EngineError::Config { field, .. }) = spawn(config) else { panic!("{name} was accepted") };
        assert_eq!(field, name);
    }
}
