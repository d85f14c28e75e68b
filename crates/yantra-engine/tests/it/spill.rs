//! Pages that go to disk and come back: the same answers, fewer tokens computed.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use yantra_engine::{
    Engine, EngineConfig, EngineError, EngineHandle, Request, SpillStats,
    spill::{PageKey, Spill, SpillStore},
};

use crate::{
    engine::{check_answer, random_request},
    fake::{Answer, Bytes, FakeModel, Gate, Pending, Rng, assert_idle, expected_tokens, greedy},
};

const PAGE_TOKENS: usize = 4;
const FINGERPRINT: PageKey = PageKey([3; 32]);

/// A model that takes this long per token, so that no disk is slower.
fn slow(num_pages: usize, per_token: Duration) -> FakeModel {
    let mut model = FakeModel::new(PAGE_TOKENS, num_pages);
    model.hook = Some(Box::new(move |batch| {
        std::thread::sleep(per_token * batch.tokens.len() as u32);
        None
    }));
    model
}

fn store(directory: &Path) -> Arc<SpillStore> {
    Arc::new(SpillStore::open(directory, 1 << 30).unwrap())
}

fn spawn(model: FakeModel, store: &Arc<SpillStore>, fingerprint: PageKey) -> EngineHandle {
    let spill = Spill { store: Arc::clone(store), fingerprint };
    Engine::spawn_with(Box::new(model), Some(Arc::new(Bytes)), EngineConfig::default(), None, Some(spill)).unwrap()
}

fn stats(engine: &EngineHandle) -> SpillStats {
    engine.stats().spill.unwrap()
}

/// Asks for a few tokens after `prompt`, checks them, and tells how many prompt tokens were cached.
fn ask(engine: &EngineHandle, request: &Request) -> usize {
    let answer = Pending::submit(engine, request.clone()).wait();
    check(request, &answer)
}

fn check(request: &Request, answer: &Answer) -> usize {
    let expected = expected_tokens(&request.prompt, request.max_tokens.unwrap(), &request.sampling, 0);
    assert_eq!((&answer.error, &answer.tokens[&0]), (&None, &expected));
    answer.usage.unwrap().cached_prompt_tokens
}

fn prompt(first: u32) -> Vec<u32> {
    (0..40).map(|i| first + i).collect()
}

/// Waits until so many pages are on disk.
fn wait_for_pages(store: &SpillStore, pages: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while store.stats().pages < pages {
        assert!(Instant::now() < deadline, "{pages} pages were expected on disk: {:?}", store.stats());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_evicted_prompt_is_loaded_and_not_computed() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let model = slow(16, Duration::from_millis(1));
    let computed = Arc::clone(&model.computed);
    let engine = spawn(model, &store, FINGERPRINT);
    let first = greedy(&prompt(10), 2);
    assert_eq!(ask(&engine, &first), 0);
    for other in [60, 110, 160] {
        assert_eq!(ask(&engine, &greedy(&prompt(other), 2)), 0);
    }
    assert!(store.flush(Duration::from_secs(30)));
    let before = computed.load(SeqCst);
    assert_eq!(ask(&engine, &first), 36, "all full pages but that of the last token");
    assert_eq!(computed.load(SeqCst) - before, 4 + 1, "the last page and one more token are computed");
    let stats = stats(&engine);
    assert!(stats.pages_loaded >= 9 && stats.sequences_restored == 1, "{stats:?}");
    assert_eq!((stats.sequences_declined, stats.store.read_failures), (0, 0), "{stats:?}");
    assert!(stats.load_page_seconds.unwrap() < stats.compute_page_seconds.unwrap(), "{stats:?}");
    assert_idle(&engine);
}

#[test]
fn idle_engines_write_ahead_and_a_restart_finds_the_pages() {
    let directory = tempfile::tempdir().unwrap();
    let first = greedy(&prompt(10), 2);
    {
        let store = store(directory.path());
        let engine = spawn(slow(40, Duration::from_millis(1)), &store, FINGERPRINT);
        assert_eq!(ask(&engine, &first), 0);
        wait_for_pages(&store, 10);
        engine.shutdown();
    }
    let store = store(directory.path());
    // Another model, and another scope of the same, find nothing.
    let stranger = spawn(slow(40, Duration::from_millis(1)), &store, PageKey([4; 32]));
    assert_eq!(ask(&stranger, &first), 0);
    let engine = spawn(slow(40, Duration::from_millis(1)), &store, FINGERPRINT);
    assert_eq!(ask(&engine, &Request { cache_salt: Some("tenant".to_owned()), ..first.clone() }), 0);
    assert_eq!(stats(&engine).pages_loaded + stats(&stranger).pages_loaded, 0);
    assert_eq!(ask(&engine, &first), 36);
    let branch: Vec<u32> = prompt(10)[..22].iter().copied().chain(200..220).collect();
    assert_eq!(ask(&engine, &greedy(&branch, 2)), 22, "and what is in memory is shared as ever, to the token");
    assert_idle(&engine);
}

#[test]
fn requests_for_the_same_pages_load_them_once() {
    let directory = tempfile::tempdir().unwrap();
    let first = greedy(&prompt(10), 2);
    let store = store(directory.path());
    let engine = spawn(slow(40, Duration::from_millis(1)), &store, FINGERPRINT);
    ask(&engine, &first);
    wait_for_pages(&store, 10);
    engine.shutdown();
    let gate = Arc::new(Gate::default());
    let mut model = slow(60, Duration::from_millis(1));
    model.gate = Some(Arc::clone(&gate));
    let engine = spawn(model, &store, FINGERPRINT);
    let other = greedy(&prompt(200), 2);
    let running = Pending::submit(&engine, other.clone());
    std::thread::sleep(Duration::from_millis(20));
    let same: Vec<_> = (0..3).map(|_| Pending::submit(&engine, first.clone())).collect();
    gate.open();
    assert_eq!(check(&other, &running.wait()), 0);
    for pending in same {
        assert_eq!(check(&first, &pending.wait()), 36);
    }
    let stats = stats(&engine);
    assert_eq!((stats.pages_loaded, stats.sequences_restored), (9, 1), "{stats:?}");
    assert_idle(&engine);
}

#[test]
fn broken_files_are_computed_again() {
    let directory = tempfile::tempdir().unwrap();
    let first = greedy(&prompt(10), 2);
    let store = store(directory.path());
    let engine = spawn(slow(40, Duration::from_millis(1)), &store, FINGERPRINT);
    ask(&engine, &first);
    wait_for_pages(&store, 10);
    engine.shutdown();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        if let Some(last) = content.len().checked_sub(10) {
            content[last] ^= 1;
            std::fs::write(&path, content).unwrap();
        }
    }
    let engine = spawn(slow(40, Duration::from_millis(1)), &store, FINGERPRINT);
    assert_eq!(ask(&engine, &first), 0);
    let stats = stats(&engine);
    assert_eq!((stats.pages_loaded, stats.store.read_failures), (0, 1), "{stats:?}");
    assert_idle(&engine);
}

#[test]
fn what_is_computed_faster_is_not_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut model = FakeModel::new(PAGE_TOKENS, 16);
    // Four tokens are computed in microseconds, four megabytes are not read in them.
    model.page_padding = 4 << 20;
    let engine = spawn(model, &store, FINGERPRINT);
    let requests: Vec<Request> = [10, 60, 110].map(|first| greedy(&prompt(first), 2)).into();
    for _ in 0..4 {
        for request in &requests {
            ask(&engine, request);
            assert!(store.flush(Duration::from_secs(60)));
        }
    }
    let stats = stats(&engine);
    assert!(stats.sequences_declined > 0 && stats.sequences_restored <= 2, "{stats:?}");
    assert!(stats.load_page_seconds.unwrap() > stats.compute_page_seconds.unwrap(), "{stats:?}");
    assert_idle(&engine);
}

#[test]
fn random_requests_get_what_they_get_alone() {
    let mut loaded = 0;
    for seed in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let mut rng = Rng(seed);
        let num_pages = 14 + rng.below(20);
        let context = PAGE_TOKENS * num_pages;
        let engine = spawn(slow(num_pages, Duration::from_micros(150)), &store, FINGERPRINT);
        // Few prompts, many of them again, so that what was forgotten is wanted.
        let known: Vec<Request> = (0..12).map(|_| random_request(&mut rng, context)).collect();
        let mut kept = Vec::new();
        for _ in 0..80 {
            let request = known[rng.below(known.len())].clone();
            match rng.below(8) {
                0 => engine.cancel(Pending::submit(&engine, request).id),
                1 => drop(Pending::submit_listening(&engine, request, rng.below(6))),
                _ => kept.push((Pending::submit(&engine, request.clone()), request)),
            }
            std::thread::sleep(Duration::from_millis(rng.below(4) as u64));
        }
        for (pending, request) in kept {
            check_answer(&request, &pending.wait(), context);
        }
        let stats = stats(&engine);
        assert!(stats.pages_spilled > 0, "{stats:?}");
        loaded += stats.pages_loaded;
        assert_idle(&engine);
    }
    assert!(loaded > 0, "nothing was ever loaded");
}

#[test]
fn what_can_not_be_spilled_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let check = |model: FakeModel, limit: u64, config: EngineConfig, part: &str| {
        let store = Arc::new(SpillStore::open(directory.path(), limit).unwrap());
        let spill = Spill { store, fingerprint: FINGERPRINT };
        let error = Engine::spawn_with(Box::new(model), None, config, None, Some(spill)).unwrap_err();
        assert!(matches!(&error, EngineError::Config { field: "kv_spill", .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    let model = || FakeModel::new(PAGE_TOKENS, 16);
    check(model(), 100, EngineConfig::default(), "a limit of 100 bytes for spilled pages is less than one page");
    let config = EngineConfig { prefix_cache: false, ..EngineConfig::default() };
    check(model(), 1 << 20, config, "needs the prefix cache");
}
