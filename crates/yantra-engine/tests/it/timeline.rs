//! What requests are told of their way through the engine.

use std::{
    sync::{Arc, Mutex, mpsc::channel},
    time::Duration,
};

use yantra_engine::{Constraint, Engine, EngineConfig, Event, Request, Speculation, Timeline, speculation};

use crate::fake::{Bytes, FakeModel, Gate, Pending, Rng, assert_idle, greedy};

/// Steps of a millisecond and more, so that times have an order.
fn slow(page_tokens: usize, num_pages: usize, gate: &Arc<Gate>) -> FakeModel {
    let mut model = FakeModel { gate: Some(Arc::clone(gate)), ..FakeModel::new(page_tokens, num_pages) };
    model.hook = Some(Box::new(|_| {
        std::thread::sleep(Duration::from_millis(1));
        None
    }));
    model
}

/// What holds of every timeline of a request with one choice.
fn check_order(timeline: &Timeline) {
    let (admitted, first) = (timeline.admitted_us.unwrap(), timeline.first_token_us.unwrap());
    assert!(admitted < first && first <= timeline.ended_us, "{timeline:?}");
    assert!(timeline.chunks.is_sorted_by_key(|chunk| chunk.at_us));
    assert_eq!(timeline.chunks[0].at_us, admitted);
    assert_eq!(timeline.decode.took_us, timeline.gaps.iter().map(|gap| u64::from(gap.us)).sum::<u64>());
    assert!(first + timeline.decode.took_us <= timeline.ended_us + timeline.gaps.len() as u64, "{timeline:?}");
}

#[test]
fn queue_chunks_and_gaps_are_told() {
    let gate = Arc::new(Gate::default());
    let config = EngineConfig { max_sequences: 2, token_budget: 8, ..EngineConfig::default() };
    let engine = slow(4, 64, &gate).spawn(config);
    let first = Pending::submit(&engine, greedy(&Rng(1).tokens(20, 200), 12));
    let second = Pending::submit(&engine, greedy(&Rng(1).tokens(21, 200), 3));
    let third = Pending::submit(&engine, greedy(&[9], 1));
    gate.open();
    let [first, second, third] = [first, second, third].map(|pending| pending.wait_for_timeline());
    [&first, &second, &third].into_iter().for_each(|timeline| check_order(timeline));

    let chunks = |timeline: &Timeline| timeline.chunks.iter().map(|it| (it.from, it.tokens)).collect::<Vec<_>>();
    assert_eq!(chunks(&first), [(0, 8), (8, 8), (16, 4)]);
    assert_eq!((first.prefill.tokens, first.prefill.tokens_again, first.prefill.chunks), (20, 0, 3));
    assert_eq!(first.decode.gaps, 11);
    // The second finds what the first has computed, and its steps are shared.
    assert_eq!((second.chunks[0].from, second.prefill.tokens), (20, 1));
    assert!(first.gaps.iter().any(|gap| gap.sequences == 2), "{:?}", first.gaps);
    // It comes into the first one's third step.
    assert!(third.admitted_us.unwrap() >= 2000 && third.chunks[0].other_tokens == 4, "{third:?}");
    assert_eq!(third.running_at_arrival + third.waiting_at_arrival, 2);
    assert_eq!((first.num_preemptions, first.drafted_tokens, first.mask_us), (0, 0, 0));
    assert_idle(&engine);
}

#[test]
fn steps_that_others_have_prompts_in_are_told() {
    let gate = Arc::new(Gate::default());
    let engine = slow(4, 64, &gate).spawn(EngineConfig { token_budget: 600, ..EngineConfig::default() });
    let (sender, begun) = channel();
    let (answer, mut tokens) = (Arc::new(Mutex::new(None)), 0);
    let kept = Arc::clone(&answer);
    let sink = move |event| {
        match event {
            Event::Token { .. } if tokens == 0 => sender.send(()).unwrap(),
            Event::Done { timeline, .. } => *kept.lock().unwrap() = Some(timeline),
            _ => {}
        }
        tokens += 1;
        true
    };
    engine.submit(greedy(&[1, 2], 30), Box::new(sink)).unwrap();
    gate.open();
    begun.recv().unwrap();
    Pending::submit(&engine, greedy(&Rng(1).tokens(50, 200), 1)).wait();
    assert_idle(&engine);
    let timeline = answer.lock().unwrap().take().unwrap();
    let shared: Vec<_> = timeline.gaps.iter().filter(|gap| gap.prompt_tokens > 0).collect();
    assert_eq!(shared.iter().map(|gap| (gap.sequences, gap.prompt_tokens)).collect::<Vec<_>>(), [(2, 50)]);
    assert_eq!(timeline.decode.step_tokens, 29 + 50);
}

#[test]
fn preemptions_are_told_with_what_they_cost() {
    let gate = Arc::new(Gate::default());
    let config = EngineConfig { max_sequences: 4, prefix_cache: false, ..EngineConfig::default() };
    let engine = slow(4, 12, &gate).spawn(config);
    let requests: Vec<Request> = (0..4).map(|i| greedy(&[i, 1, 2], 30)).collect();
    let pending: Vec<_> = requests.iter().map(|request| Pending::submit(&engine, request.clone())).collect();
    gate.open();
    let timelines: Vec<_> = pending.into_iter().map(|pending| pending.wait_for_timeline()).collect();
    assert_idle(&engine);
    let count: usize = timelines.iter().map(|timeline| timeline.num_preemptions).sum();
    assert_eq!(count as u64, engine.stats().preemptions);
    assert!(count > 0);
    for timeline in &timelines {
        check_order(timeline);
        assert_eq!(timeline.preemptions.len(), timeline.num_preemptions);
        assert_eq!(timeline.chunks.len(), 1 + timeline.num_preemptions, "computed again once each: {timeline:?}");
        assert_eq!(timeline.prefill.tokens_again > 0, timeline.num_preemptions > 0);
        for (lost, chunk) in timeline.preemptions.iter().zip(&timeline.chunks[1..]) {
            assert_eq!(lost.at_us + lost.took_us, chunk.at_us);
            assert!(lost.took_us >= 1000 && chunk.from == 0 && chunk.tokens == chunk.tokens_again + 1, "{timeline:?}");
        }
    }
    assert_eq!(timelines[0].num_preemptions, 0, "the first to come stays");
}

#[test]
fn cancelled_requests_have_one_too_though_nobody_listens() {
    let gate = Arc::new(Gate::default());
    let engine = slow(4, 64, &gate).spawn(EngineConfig::default());
    let (sender, last) = channel();
    let mut left = 3;
    let sink = move |event| {
        if let Event::Done { timeline, .. } = event {
            sender.send(timeline).unwrap();
        }
        left -= 1;
        left > 0
    };
    engine.submit(greedy(&[1, 2, 3], 100), Box::new(sink)).unwrap();
    let never_began = Pending::submit(&engine, greedy(&[1], 1));
    engine.cancel(never_began.id);
    gate.open();
    let timeline = last.recv_timeout(Duration::from_secs(10)).unwrap();
    check_order(&timeline);
    assert_eq!((timeline.prefill.tokens, timeline.decode.gaps), (3, 2));
    assert!(last.recv().is_err(), "once");
    assert_eq!(never_began.wait_for_timeline().admitted_us, None);
    assert_idle(&engine);
}

#[test]
fn guesses_and_masks_are_told() {
    let repeated: Vec<u32> = [5, 6, 7, 8].into_iter().cycle().take(80).collect();
    let gate = Arc::new(Gate::default());
    gate.open();
    let model = FakeModel { script: Some(repeated[1..].to_vec()), ..slow(4, 64, &gate) };
    let drafter = Box::new(speculation::PromptLookup::default());
    let config = EngineConfig { speculation: Speculation::default(), ..EngineConfig::default() };
    let engine = Engine::spawn_with(Box::new(model), Some(Arc::new(Bytes)), config, Some(drafter), None).unwrap();
    let timeline = Pending::submit(&engine, greedy(&repeated[..20], 40)).wait_for_timeline();
    let stats = engine.stats();
    assert_eq!(timeline.drafted_tokens as u64, stats.draft_tokens);
    assert_eq!(timeline.accepted_tokens as u64, stats.accepted_draft_tokens);
    assert!(timeline.accepted_tokens > 0);
    assert_eq!(timeline.decode.gaps, 39 - timeline.accepted_tokens, "tokens of one step have no gap between them");

    let grammar = engine.compile(&Constraint::Regex("[a-z]{20}".to_owned())).unwrap();
    let request = Request { grammar: Some(grammar), ignore_eos: false, ..greedy(&[1, 2], 30) };
    let timeline = Pending::submit(&engine, request).wait_for_timeline();
    assert!(timeline.mask_us > 0, "{timeline:?}");
    assert_idle(&engine);
}
