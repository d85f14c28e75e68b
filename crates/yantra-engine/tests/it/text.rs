//! Text, stop conditions and log-probabilities, on a model that answers as scripted.

use yantra_engine::{EngineConfig, FinishReason, Request};

use crate::fake::{Answer, EOS, FakeModel, Pending, VOCAB, assert_idle, greedy, logits_of};

/// The answer of a model that says `script` whatever it is asked.
fn answer(script: &[u32], change: impl FnOnce(&mut Request)) -> Answer {
    let engine = FakeModel { script: Some(script.to_vec()), ..FakeModel::new(4, 64) }.spawn(EngineConfig::default());
    let mut request = Request { ignore_eos: false, ..greedy(&[1], 100) };
    change(&mut request);
    let answer = Pending::submit(&engine, request).wait();
    assert_idle(&engine);
    answer
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn check(script: &[u32], change: impl FnOnce(&mut Request), text: &str, reason: FinishReason, tokens: usize) {
    let answer = answer(script, change);
    assert_eq!((answer.texts[&0].as_str(), &answer.reasons[&0]), (text, &reason));
    assert_eq!(answer.usage.unwrap().completion_tokens, tokens);
}

#[test]
fn answers_end_where_they_should() {
    let stop = |stops: &'static [&str]| {
        move |request: &mut Request| request.stop = stops.iter().map(|&stop| stop.to_owned()).collect()
    };
    let found = |stop: &str| FinishReason::StopString(stop.to_owned());
    let hello = bytes("hello world");
    check(&hello, |_| {}, "hello world", FinishReason::Stop, 12);
    check(&hello, |request| request.max_tokens = Some(5), "hello", FinishReason::Length, 5);
    check(&hello, stop(&["o w"]), "hell", found("o w"), 7);
    check(&hello, stop(&["xyz", "world!"]), "hello world", FinishReason::Stop, 12);
    check(&hello, stop(&["lo", "llo"]), "he", found("llo"), 5);
    let keep = |request: &mut Request| {
        request.stop = vec!["lo".to_owned()];
        request.include_stop = true;
    };
    check(&hello, keep, "hello", found("lo"), 5);
    check(&hello, |request| request.stop_tokens = vec![32], "hello", FinishReason::StopToken(32), 6);
    let ignore = |request: &mut Request| (request.ignore_eos, request.max_tokens) = (true, Some(14));
    check(&hello, ignore, "hello world", FinishReason::Length, 14);
    // A held-back beginning of a stop string comes out when the answer ends otherwise.
    let held = |request: &mut Request| {
        request.stop = vec!["lost".to_owned()];
        request.max_tokens = Some(5);
    };
    check(&hello, held, "hello", FinishReason::Length, 5);
}

#[test]
fn characters_are_never_cut() {
    let script = bytes("नमस्ते 🙏 é");
    check(&script, |_| {}, "नमस्ते 🙏 é", FinishReason::Stop, script.len() + 1);
    check(&script, |request| request.max_tokens = Some(4), "न\u{fffd}", FinishReason::Length, 4);
    check(&script, |request| request.stop = vec!["🙏".to_owned()], "नमस्ते ", FinishReason::StopString("🙏".into()), 23);
}

#[test]
fn no_tokens_wanted_none_given() {
    let none = |request: &mut Request| (request.max_tokens, request.n) = (Some(0), 3);
    let answer = answer(&[EOS], none);
    assert_eq!((answer.reasons.len(), answer.ends, answer.tokens.len()), (3, 1, 0));
    assert_eq!(answer.usage.unwrap().completion_tokens, 0);
}

/// Natural-log probabilities, by the definition.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - total.ln()).collect()
}

#[test]
fn log_probabilities_are_the_models_own() {
    let engine = FakeModel::new(4, 64).spawn(EngineConfig { max_scored_rows: 3, ..EngineConfig::default() });
    let prompt: Vec<u32> = (0..21).collect();
    let mut request = greedy(&prompt, 4);
    request.prompt_logprobs = true;
    request.logprobs = Some(64);
    // They must not show in what is reported.
    request.sampling.temperature = 1.7;
    request.sampling.top_k = 3;
    request.sampling.repetition_penalty = 1.5;
    request.sampling.seed = Some(1);
    for _ in 0..2 {
        let answer = Pending::submit(&engine, request.clone()).wait();
        let history = [&prompt[..], &answer.tokens[&0]].concat();
        assert_eq!((answer.prompt_logprobs.len(), answer.prompt_logprobs[0].is_none()), (21, true));
        let scores = answer.prompt_logprobs.iter().skip(1).flatten().chain(&answer.logprobs);
        assert_eq!(scores.clone().count(), history.len() - 1);
        for (position, score) in (1..).zip(scores) {
            let expected = log_softmax(&logits_of(&history[..position]));
            let mut ids: Vec<usize> = (0..VOCAB).collect();
            ids.sort_by(|&a, &b| expected[b].total_cmp(&expected[a]));
            assert_eq!(score.id, history[position]);
            assert!((f64::from(score.logprob) - expected[score.id as usize]).abs() < 1e-5);
            assert_eq!(score.top.len(), 64);
            for (top, &id) in score.top.iter().zip(&ids) {
                assert!((f64::from(top.logprob) - expected[id]).abs() < 1e-5, "{top:?}, {id} expected");
            }
        }
    }
    assert_idle(&engine);
}
