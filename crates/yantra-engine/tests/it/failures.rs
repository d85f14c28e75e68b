//! Models that fail, sinks that misbehave, engines that stop.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, mpsc::channel},
    time::Duration,
};

use yantra_engine::{Batch, EngineConfig, EngineError, EngineHandle, Event, FinishReason, SubmitError};

use crate::fake::{Failure, FakeModel, Gate, Pending, assert_idle, expected_tokens, greedy};

type Failures = Arc<Mutex<VecDeque<Option<Failure>>>>;

/// An engine whose next forward passes fail as listed.
fn failing(failures: impl IntoIterator<Item = Option<Failure>>) -> EngineHandle {
    let failures: Failures = Arc::new(Mutex::new(failures.into_iter().collect()));
    let hook = Box::new(move |_: &Batch<'_>| failures.lock().unwrap().pop_front().flatten());
    FakeModel { hook: Some(hook), ..FakeModel::new(4, 64) }.spawn(EngineConfig::default())
}

#[test]
fn a_failed_pass_fails_its_requests_only() {
    let cases = [
        (Failure::Error, EngineError::Forward { message: "as told".to_owned() }),
        (Failure::Panic, EngineError::Panicked { message: "as told".to_owned() }),
        (Failure::ShortLogits, EngineError::LogitsShape { given: 1, expected: 300 }),
        (Failure::NanLogits, EngineError::NonFiniteLogits { position: 4 }),
    ];
    for (failure, expected) in cases {
        let engine = failing([None, Some(failure)]);
        let answer = Pending::submit(&engine, greedy(&[1, 2, 3], 9)).wait();
        assert_eq!((answer.ends, answer.error), (1, Some(expected)));
        assert_eq!(answer.tokens[&0].len(), 1);
        let request = greedy(&[1, 2, 3], 9);
        let next = Pending::submit(&engine, request.clone()).wait();
        assert_eq!(next.tokens[&0], expected_tokens(&request.prompt, 9, &request.sampling, 0));
        assert_idle(&engine);
        assert!(engine.stats().healthy);
    }
}

#[test]
fn three_failures_in_a_row_are_unhealthy_until_a_success() {
    let engine = failing((0..3).map(|_| Some(Failure::Panic)));
    for healthy in [true, true, false, true] {
        Pending::submit(&engine, greedy(&[1], 1)).wait();
        assert_eq!(engine.stats().healthy, healthy);
    }
    assert_idle(&engine);
    assert_eq!((engine.stats().failed_steps, engine.stats().requests_failed), (3, 3));
}

#[test]
fn a_sink_that_panics_counts_as_gone() {
    let engine = failing([]);
    engine.submit(greedy(&[1], 5), Box::new(|_: Event| -> bool { panic!("sink") })).unwrap();
    assert_eq!(Pending::submit(&engine, greedy(&[2], 5)).wait().ends, 1);
    assert_idle(&engine);
    assert_eq!(engine.stats().requests_cancelled, 1);
}

#[test]
fn the_queue_is_bounded() {
    let gate = Arc::new(Gate::default());
    let model = FakeModel { gate: Some(Arc::clone(&gate)), ..FakeModel::new(4, 64) };
    let engine = model.spawn(EngineConfig { max_queue: 3, ..EngineConfig::default() });
    let pending: Vec<_> = (0..3).map(|i| Pending::submit(&engine, greedy(&[i], 2))).collect();
    let refused = engine.submit(greedy(&[9], 2), Box::new(|_: Event| true));
    assert_eq!(refused, Err(SubmitError::QueueFull { queued: 3, retry_after: Duration::from_secs(1) }));
    gate.open();
    for pending in pending {
        assert_eq!(pending.wait().ends, 1);
    }
    assert_idle(&engine);
    assert_eq!(engine.stats().requests_refused, 1);
}

#[test]
fn a_step_that_does_not_end_can_be_seen() {
    let gate = Arc::new(Gate::default());
    let model = FakeModel { gate: Some(Arc::clone(&gate)), ..FakeModel::new(4, 64) };
    let engine = model.spawn(EngineConfig::default());
    assert_eq!(engine.stats().step_running_seconds, 0.0);
    let pending = Pending::submit(&engine, greedy(&[1], 2));
    std::thread::sleep(Duration::from_millis(100));
    let first = engine.stats().step_running_seconds;
    std::thread::sleep(Duration::from_millis(100));
    let second = engine.stats().step_running_seconds;
    assert!(first > 0.0 && second >= first + 0.1, "{first} and then {second} seconds");
    gate.open();
    assert_eq!(pending.wait().ends, 1);
    assert_idle(&engine);
    assert_eq!(engine.stats().step_running_seconds, 0.0);
}

#[test]
fn draining_finishes_what_runs_and_refuses_the_rest() {
    let engine = failing([]);
    let pending = Pending::submit(&engine, greedy(&[1, 2], 50));
    assert!(engine.drain(Duration::from_secs(60)));
    assert_eq!(pending.wait().reasons[&0], FinishReason::Length);
    assert_eq!(engine.submit(greedy(&[1], 1), Box::new(|_: Event| true)), Err(SubmitError::ShuttingDown));
    assert!(!engine.is_accepting());
    engine.shutdown();
}

#[test]
fn draining_cancels_after_the_deadline() {
    let engine = FakeModel { context: 100_000, ..FakeModel::new(64, 2000) }.spawn(EngineConfig::default());
    let pending = Pending::submit(&engine, greedy(&[1, 2], 99_000));
    assert!(!engine.drain(Duration::ZERO));
    assert_eq!(pending.wait().reasons[&0], FinishReason::Cancelled);
}

#[test]
fn shutting_down_or_dropping_the_handle_ends_every_request() {
    for drop_only in [false, true] {
        let gate = Arc::new(Gate::default());
        let model = FakeModel { gate: Some(Arc::clone(&gate)), ..FakeModel::new(4, 64) };
        let engine = model.spawn(EngineConfig { max_sequences: 2, ..EngineConfig::default() });
        let pending: Vec<_> = (0..6).map(|i| Pending::submit(&engine, greedy(&[i], 200))).collect();
        gate.open();
        if drop_only {
            drop(engine);
        } else {
            engine.shutdown();
        }
        for pending in pending {
            assert_eq!(pending.wait().ends, 1);
        }
    }
}

#[test]
fn a_sink_may_hold_the_last_handle() {
    let engine = failing([]);
    let (sender, receiver) = channel();
    let held = engine.clone();
    let sink = move |event| {
        let _ = held.stats();
        sender.send(event).is_ok()
    };
    engine.submit(greedy(&[1], 3), Box::new(sink)).unwrap();
    drop(engine);
    assert!(receiver.iter().any(|event| matches!(event, Event::Done { .. })));
}
