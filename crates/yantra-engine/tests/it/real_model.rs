//! Two hundred random requests on SmolLM2 in a KV cache that is too small for them: nothing leaks, nothing is lost, and
//! every answer that was not cut off is the answer the same request gets alone.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use yantra_engine::{
    EngineConfig, EngineHandle, Event, FinishReason, Request, SamplingParams, Speculation, SpeculationMethod,
    load::{LoadOptions, LoadedModel, ModelKind, load},
    spill::SpillStore,
};
use yantra_kernels::Compute;

const REQUESTS: usize = 200;

pub(crate) fn model() -> Option<PathBuf> {
    let cache = std::env::var_os("YANTRA_MODELS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        Some(cache?.join("yantra/models"))
    })?;
    let path = cache.join("smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        eprintln!("SKIPPED: {} is not there", path.display());
    }
    path.exists().then_some(path)
}

/// A generator good enough to vary tests, the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }
}

/// What a request does besides running to its end.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Runs,
    /// The client goes away after so many events.
    Disconnects(usize),
    /// The request is cancelled so long after it was submitted.
    Cancelled(Duration),
}

struct Case {
    request: Request,
    fate: Fate,
    /// How long after the one before it comes.
    pause: Duration,
}

fn case(random: &mut Random) -> Case {
    // A third of the prompts share their beginning.
    let shared = if random.below(3) == 0 { 70 } else { 0 };
    let own = 1 + random.below(90);
    let prompt = (0..shared).map(|i| 300 + i).chain((0..own).map(|_| 20 + random.below(40_000) as u32)).collect();
    let sampling = if random.below(2) == 0 {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    } else {
        let (top_p, seed) = (0.9, Some(random.below(1000) as u64));
        SamplingParams { temperature: 0.8, top_p, seed, repetition_penalty: 1.1, ..SamplingParams::default() }
    };
    let request = Request {
        prompt,
        n: if random.below(4) == 0 { 2 } else { 1 },
        max_tokens: Some(1 + random.below(16)),
        sampling,
        priority: random.below(3) as i32,
        ignore_eos: random.below(2) == 0,
        ..Request::default()
    };
    let fate = match random.below(5) {
        0 => Fate::Disconnects(random.below(8)),
        1 => Fate::Cancelled(Duration::from_millis(random.below(800) as u64)),
        _ => Fate::Runs,
    };
    Case { request, fate, pause: Duration::from_millis(random.below(20) as u64) }
}

/// The tokens of each choice of a request that came to its end; `None` if it was cut off.
type Answer = Option<BTreeMap<usize, Vec<u32>>>;

fn submit(engine: &EngineHandle, case: &Case) -> mpsc::Receiver<Event> {
    let (events, received) = mpsc::channel();
    let mut left = match case.fate {
        Fate::Disconnects(after) => after,
        Fate::Runs | Fate::Cancelled(_) => usize::MAX,
    };
    let sink = move |event| {
        left = left.saturating_sub(1);
        left > 0 && events.send(event).is_ok()
    };
    let id = engine.submit(case.request.clone(), Box::new(sink)).unwrap();
    if let Fate::Cancelled(after) = case.fate {
        let engine = engine.clone();
        std::thread::spawn(move || {
            std::thread::sleep(after);
            engine.cancel(id);
        });
    }
    received
}

fn answer(events: &mpsc::Receiver<Event>) -> Answer {
    let mut tokens = BTreeMap::<usize, Vec<u32>>::new();
    let mut cancelled = false;
    loop {
        match events.recv_timeout(Duration::from_secs(300)) {
            Ok(Event::Token { index, id, .. }) => tokens.entry(index).or_default().push(id),
            Ok(Event::Finished { reason, .. }) => cancelled |= reason == FinishReason::Cancelled,
            Ok(Event::Done { .. }) => return (!cancelled).then_some(tokens),
            Ok(Event::Error(error)) => panic!("{error}"),
            Ok(Event::PromptLogprobs(_)) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("a request was lost"),
        }
    }
}

fn load_engine(kv_memory_bytes: u64, method: SpeculationMethod) -> Option<(LoadedModel, EngineHandle)> {
    load_engine_with(kv_memory_bytes, method, None)
}

fn load_engine_with(
    kv_memory_bytes: u64,
    method: SpeculationMethod,
    spill: Option<Arc<SpillStore>>,
) -> Option<(LoadedModel, EngineHandle)> {
    let speculation = Speculation { method, ..Speculation::default() };
    let engine = EngineConfig { max_sequences: 16, max_queue: REQUESTS, speculation, ..EngineConfig::default() };
    let draft_model = if method == SpeculationMethod::DraftModel { model() } else { None };
    let kv_memory_bytes = Some(kv_memory_bytes);
    let options =
        LoadOptions { context: Some(256), kv_memory_bytes, draft_model, engine, spill, ..LoadOptions::default() };
    let loaded = load(&model()?, &Arc::new(Compute::new(2)), &options, |_| {}).unwrap();
    let ModelKind::Generate(engine) = &loaded.kind else { panic!("SmolLM2 generates") };
    let engine = engine.clone();
    Some((loaded, engine))
}

#[test]
fn random_requests_leak_nothing_lose_nothing_and_answer_as_if_alone() {
    // About 20 pages: two or three sequences fit, so that sequences wait, are preempted and evict one another's pages.
    let Some((_loaded, engine)) = load_engine(16 << 20, SpeculationMethod::Lookup) else { return };
    let mut random = Random(7);
    let cases: Vec<Case> = (0..REQUESTS).map(|_| case(&mut random)).collect();
    let arrive = |case| {
        let events = submit(&engine, case);
        std::thread::sleep(case.pause);
        events
    };
    let running: Vec<_> = cases.iter().map(arrive).collect();
    let together: Vec<Answer> = running.iter().map(answer).collect();

    let deadline = Instant::now() + Duration::from_secs(30);
    while engine.stats().running_sequences + engine.stats().waiting_sequences > 0 {
        assert!(Instant::now() < deadline, "sequences are left: {:?}", engine.stats());
        std::thread::sleep(Duration::from_millis(10));
    }
    let stats = engine.stats();
    assert_eq!(stats.pages_used, 0, "pages leaked: {stats:?}");
    assert_eq!(stats.requests_completed + stats.requests_cancelled, REQUESTS as u64, "{stats:?}");
    assert!(stats.prefix_hit_tokens > 0, "no prefix was shared: {stats:?}");
    assert!(stats.preemptions > 0, "nobody was preempted: {stats:?}");
    assert!(stats.requests_cancelled > 20, "hardly any was cancelled: {stats:?}");

    // Alone: one at a time, in a fresh engine with room to spare.
    let Some((_loaded, alone)) = load_engine(64 << 20, SpeculationMethod::None) else { return };
    let mut finished = 0;
    for (case, together) in cases.iter().zip(&together) {
        match together {
            None => assert!(case.fate != Fate::Runs, "a request that nobody cancelled was cut off"),
            Some(tokens) => {
                finished += 1;
                let undisturbed = Case { request: case.request.clone(), fate: Fate::Runs, pause: case.pause };
                assert_eq!(answer(&submit(&alone, &undisturbed)).as_ref(), Some(tokens));
            }
        }
    }
    assert!(finished > REQUESTS / 3, "only {finished} requests were left to compare");
}

#[test]
fn pages_from_disk_give_the_bits_of_pages_computed() {
    let directory = tempfile::tempdir().unwrap();
    let store = || Arc::new(SpillStore::open(directory.path(), 1 << 30).unwrap());
    let prompt: Vec<u32> = (0..230).map(|i| 300 + i * 7).collect();
    let sampling = SamplingParams { temperature: 0.9, seed: Some(5), ..SamplingParams::default() };
    let request =
        Request { prompt, max_tokens: Some(12), ignore_eos: true, logprobs: Some(3), sampling, ..Request::default() };
    let mut answers = Vec::new();
    for start in 0..3 {
        let spill = (start > 0).then(store);
        let Some((_loaded, engine)) = load_engine_with(16 << 20, SpeculationMethod::None, spill.clone()) else {
            return;
        };
        let (events, received) = mpsc::channel();
        engine.submit(request.clone(), Box::new(move |event| events.send(event).is_ok())).unwrap();
        let mut tokens = Vec::new();
        let usage = loop {
            match received.recv_timeout(Duration::from_secs(100)).unwrap() {
                Event::Token { id, logprob, .. } => tokens.push((id, logprob.unwrap())),
                Event::Done { usage, .. } => break usage,
                Event::Error(error) => panic!("{error}"),
                Event::Finished { .. } | Event::PromptLogprobs(_) => {}
            }
        };
        assert_eq!(usage.cached_prompt_tokens, if start == 2 { 224 } else { 0 }, "start {start}");
        answers.push(tokens);
        let deadline = Instant::now() + Duration::from_secs(60);
        while spill.as_ref().is_some_and(|store| store.stats().pages < 7) {
            assert!(Instant::now() < deadline, "an idle engine writes its pages");
            std::thread::sleep(Duration::from_millis(10));
        }
        engine.shutdown();
    }
    assert_eq!(answers[0], answers[1], "keeping pages changes nothing");
    assert_eq!(answers[0], answers[2], "loading them neither");
}

/// A prompt that an answer repeats, of one token per word or so.
fn repetitive(random: &mut Random) -> Vec<u32> {
    let passage: Vec<u32> = (0..20).map(|_| 300 + random.below(2000) as u32).collect();
    passage.repeat(3)
}

#[test]
fn speculation_changes_no_token() {
    let Some((_loaded, plain)) = load_engine(64 << 20, SpeculationMethod::None) else { return };
    let mut random = Random(11);
    let requests: Vec<Request> = (0..24)
        .map(|i| {
            let temperature = if i % 2 == 0 { 0.0 } else { 0.6 };
            let repetition_penalty = if i % 5 == 0 { 1.1 } else { 1.0 };
            let seed = Some(i as u64);
            let prompt = if i % 3 == 0 { case(&mut random).request.prompt } else { repetitive(&mut random) };
            let sampling = SamplingParams { temperature, seed, repetition_penalty, ..SamplingParams::default() };
            Request { prompt, max_tokens: Some(40), ignore_eos: true, sampling, ..Request::default() }
        })
        .collect();
    let run = |engine: &EngineHandle, request: &Request| {
        let pause = Duration::ZERO;
        submit(engine, &Case { request: request.clone(), fate: Fate::Runs, pause })
    };
    let expected: Vec<Answer> = requests.iter().map(|request| answer(&run(&plain, request))).collect();
    for method in [SpeculationMethod::Lookup, SpeculationMethod::DraftModel] {
        let Some((_loaded, engine)) = load_engine(96 << 20, method) else { return };
        let together: Vec<_> = requests.iter().map(|request| run(&engine, request)).collect();
        let together: Vec<Answer> = together.iter().map(answer).collect();
        assert_eq!(together, expected, "{method:?}");
        let stats = engine.stats();
        assert!(stats.accepted_draft_tokens > 20, "{method:?}: {stats:?}");
        // Greedy answers of the model itself are never wrong; sampled ones may be.
        let is_greedy = |request: &Request| request.sampling.temperature == 0.0;
        let certain = |request: &Request| is_greedy(request) && request.sampling.repetition_penalty == 1.0;
        for (request, expected) in requests.iter().zip(&expected).filter(|(request, _)| certain(request)) {
            assert_eq!(answer(&run(&engine, request)), *expected);
        }
        let after = engine.stats();
        let (drafted, accepted) =
            (after.draft_tokens - stats.draft_tokens, after.accepted_draft_tokens - stats.accepted_draft_tokens);
        assert!(method == SpeculationMethod::Lookup || drafted == accepted, "{drafted} {accepted}");
        assert!(accepted > 20, "{method:?}: {after:?}");
    }
}
