//! The embedding thread with a model that counts: order, fairness, cancelling, failures, limits.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
    mpsc::{Receiver, Sender, channel},
};
use std::time::Duration;

use yantra_engine::{EmbedError, EmbedModel, EmbedSink, EmbedText, EmbedderHandle, EncoderText, EngineError};

/// Embeds a text as its first token and its length; waits for a word before every slice; fails or panics on told tokens.
struct Counting {
    go: Receiver<()>,
    slices: Arc<Mutex<Vec<Vec<u32>>>>,
}

const FAILS: u32 = 666;
const PANICS: u32 = 667;

impl EmbedModel for Counting {
    fn context_length(&self) -> usize {
        5000
    }

    fn dimensions(&self) -> usize {
        2
    }

    fn embed(&mut self, texts: &[EncoderText<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        let firsts: Vec<u32> = texts.iter().map(|text| text.tokens[0]).collect();
        if firsts.contains(&PANICS) {
            panic!("as told");
        }
        if firsts.contains(&FAILS) {
            return Err(EngineError::Forward { message: "as told".to_owned() });
        }
        // When the test is over nobody waits for slices any more.
        let _ = self.go.recv();
        self.slices.lock().unwrap().push(firsts);
        Ok(texts.iter().map(|text| vec![text.tokens[0] as f32, text.tokens.len() as f32]).collect())
    }
}

struct Sink {
    wanted: Arc<AtomicBool>,
    answer: Sender<Result<Vec<Vec<f32>>, EmbedError>>,
}

impl EmbedSink for Sink {
    fn is_wanted(&self) -> bool {
        self.wanted.load(SeqCst)
    }

    fn finish(self: Box<Self>, answer: Result<Vec<Vec<f32>>, EmbedError>) {
        let _ = self.answer.send(answer);
    }
}

struct Bench {
    embedder: EmbedderHandle,
    go: Sender<()>,
    slices: Arc<Mutex<Vec<Vec<u32>>>>,
}

struct Pending {
    wanted: Arc<AtomicBool>,
    answer: Receiver<Result<Vec<Vec<f32>>, EmbedError>>,
}

impl Pending {
    fn wait(&self) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.answer.recv_timeout(Duration::from_secs(30)).expect("an answer")
    }
}

impl Bench {
    fn new(max_queue: usize) -> Self {
        let (go, waits) = channel();
        let slices = Arc::<Mutex<Vec<Vec<u32>>>>::default();
        let model = Counting { go: waits, slices: Arc::clone(&slices) };
        Self { embedder: EmbedderHandle::spawn(Box::new(model), max_queue).unwrap(), go, slices }
    }

    /// `count` texts of `len` tokens that begin with `first`.
    fn submit(&self, first: u32, count: usize, len: usize) -> Result<Pending, EmbedError> {
        let (sender, answer) = channel();
        let wanted = Arc::new(AtomicBool::new(true));
        let mut text = vec![1; len];
        text[0] = first;
        let sink = Sink { wanted: Arc::clone(&wanted), answer: sender };
        self.embedder.submit(vec![EmbedText::from(text); count], Box::new(sink))?;
        Ok(Pending { wanted, answer })
    }

    /// Submits something that keeps the thread busy until the next word.
    fn occupy(&self) -> Pending {
        let pending = self.submit(0, 1, 1).unwrap();
        while self.embedder.stats().running_requests == 0 {
            std::thread::yield_now();
        }
        pending
    }

    fn let_go(&self, slices: usize) {
        (0..slices).for_each(|_| self.go.send(()).unwrap());
    }
}

#[test]
fn large_requests_do_not_hold_up_small_ones() {
    let bench = Bench::new(10);
    bench.occupy();
    // 20 slices of 4,096 tokens.
    let large = bench.submit(7, 160, 512).unwrap();
    let small = bench.submit(8, 1, 3).unwrap();
    bench.let_go(2);
    assert_eq!(small.wait().unwrap(), [[8.0, 3.0]]);
    assert_eq!(bench.slices.lock().unwrap().len(), 2, "the first slice after the one under way");
    bench.let_go(40);
    assert_eq!(large.wait().unwrap(), vec![vec![7.0, 512.0]; 160]);
    let stats = bench.embedder.stats();
    assert_eq!((stats.requests_completed, stats.tokens), (3, 160 * 512 + 3 + 1));
    assert_eq!((stats.queued_requests, stats.request_seconds.count), (0, 3));
    assert!(bench.slices.lock().unwrap().iter().all(|slice| slice.len() <= 9), "slices are bounded");
}

#[test]
fn what_is_not_wanted_is_skipped_begun_or_not() {
    let bench = Bench::new(10);
    let first = bench.occupy();
    let begun = bench.submit(7, 100, 4096).unwrap();
    bench.let_go(2);
    first.wait().unwrap();
    let waiting = bench.submit(8, 5, 10).unwrap();
    begun.wanted.store(false, SeqCst);
    waiting.wanted.store(false, SeqCst);
    let last = bench.submit(9, 1, 1).unwrap();
    bench.let_go(5);
    assert_eq!(last.wait().unwrap(), [[9.0, 1.0]]);
    let stats = bench.embedder.stats();
    assert_eq!((stats.requests_cancelled, stats.requests_completed), (2, 2));
    let slices = bench.slices.lock().unwrap();
    assert!(slices.len() <= 4 && !slices.iter().flatten().any(|&first| first == 8), "{slices:?}");
}

#[test]
fn a_faulty_request_fails_alone() {
    let bench = Bench::new(10);
    bench.occupy();
    let good = bench.submit(1, 2, 2).unwrap();
    let (fails, panics) = (bench.submit(FAILS, 1, 2).unwrap(), bench.submit(PANICS, 1, 2).unwrap());
    let also_good = bench.submit(2, 1, 2).unwrap();
    bench.let_go(10);
    assert_eq!((good.wait().unwrap().len(), also_good.wait().unwrap().len()), (2, 1));
    assert!(matches!(fails.wait(), Err(EmbedError::Model(EngineError::Forward { .. }))));
    assert!(matches!(panics.wait(), Err(EmbedError::Model(EngineError::Panicked { .. }))));
    assert_eq!(bench.embedder.stats().requests_failed, 2);
}

#[test]
fn a_full_queue_refuses() {
    let bench = Bench::new(2);
    bench.occupy();
    // The thread is in the model: these wait.
    let pending = [bench.submit(1, 1, 1).unwrap(), bench.submit(2, 1, 1).unwrap()];
    assert!(matches!(bench.submit(3, 1, 1), Err(EmbedError::Overloaded { queued: 2, .. })));
    assert!(matches!(bench.embedder.check_queue(), Err(EmbedError::Overloaded { .. })));
    bench.let_go(5);
    pending.iter().for_each(|pending| drop(pending.wait().unwrap()));
    bench.embedder.check_queue().unwrap();
    assert_eq!(bench.embedder.stats().requests_refused, 2);
    assert_eq!(bench.embedder.embed(vec![vec![5, 5]]).unwrap(), [[5.0, 2.0]]);
}
