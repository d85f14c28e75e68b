//! A model whose logits are a hash of the whole sequence, read back through the page table, and a decoder of bytes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use yantra_engine::{
    Batch, Detokenizer, Engine, EngineConfig, EngineError, EngineHandle, Event, FinishReason, PageBytes, Request,
    RequestId, SamplingParams, StepModel, TextDecoder, Timeline, TokenLogprobs, Usage, Vocabulary,
    sampling::{Sampler, SamplingScratch},
};

pub(crate) const VOCAB: usize = 300;
/// The end-of-sequence token of [`Bytes`].
pub(crate) const EOS: u32 = 299;

/// SplitMix64: random numbers for tests.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn tokens(&mut self, len: usize, kinds: usize) -> Vec<u32> {
        (0..len).map(|_| self.below(kinds) as u32).collect()
    }
}

/// The logits after a sequence of tokens.
pub(crate) fn logits_of(history: &[u32]) -> Vec<f32> {
    let hash = history.iter().fold(7u64, |hash, &token| Rng(hash ^ (u64::from(token) << 20)).next());
    (0..VOCAB as u64).map(|id| (Rng(hash ^ (id << 40)).next() >> 40) as f32 / (1u64 << 21) as f32 - 4.0).collect()
}

/// The tokens a lone sequence would get.
pub(crate) fn expected_tokens(prompt: &[u32], count: usize, params: &SamplingParams, choice: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(params, prompt, choice, 0);
    let mut scratch = SamplingScratch::default();
    let mut history = prompt.to_vec();
    for _ in 0..count {
        let id = sampler.sample(&mut logits_of(&history), history.len(), &mut scratch).unwrap();
        history.push(id);
    }
    history.split_off(prompt.len())
}

/// A door that a model waits at.
#[derive(Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let _open = self.changed.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap();
    }
}

pub(crate) enum Failure {
    Error,
    Panic,
    ShortLogits,
    NanLogits,
}

type Hook = Box<dyn FnMut(&Batch<'_>) -> Option<Failure> + Send>;

pub(crate) struct FakeModel {
    pub(crate) context: usize,
    pub(crate) page_tokens: usize,
    pub(crate) num_pages: usize,
    /// `(token, position)` per slot.
    pub(crate) kv: Vec<(u32, u32)>,
    /// Bytes that a page has outside of memory besides its slots.
    pub(crate) page_padding: usize,
    /// The answer to every prompt instead of the hash's.
    pub(crate) script: Option<Vec<u32>>,
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) hook: Option<Hook>,
    /// Tokens computed.
    pub(crate) computed: Arc<AtomicUsize>,
}

impl FakeModel {
    pub(crate) fn new(page_tokens: usize, num_pages: usize) -> Self {
        Self {
            context: 1000,
            page_tokens,
            num_pages,
            kv: vec![(u32::MAX, u32::MAX); page_tokens * num_pages],
            page_padding: 0,
            script: None,
            gate: None,
            hook: None,
            computed: Arc::default(),
        }
    }

    pub(crate) fn spawn(self, config: EngineConfig) -> EngineHandle {
        Engine::spawn(Box::new(self), Some(Arc::new(Bytes)), config).unwrap()
    }

    /// Stores the batch and returns the history of each wanted row, read through the page table.
    fn store_and_read(&mut self, batch: &Batch<'_>) -> Vec<Vec<u32>> {
        for (i, &slot) in batch.slots.iter().enumerate() {
            self.kv[slot as usize] = (batch.tokens[i], batch.positions[i]);
        }
        let mut histories = Vec::new();
        let mut next = 0;
        for sequence in batch.sequences {
            assert_eq!(sequence.query_start, next, "spans cover the tokens in order");
            next += sequence.query_len;
            let slot_of = |position: usize| {
                sequence.pages[position / self.page_tokens] as usize * self.page_tokens + position % self.page_tokens
            };
            let history: Vec<u32> = (0..sequence.context_len)
                .map(|position| {
                    let (token, stored_position) = self.kv[slot_of(position)];
                    assert_eq!(stored_position as usize, position, "the page holds another position");
                    token
                })
                .collect();
            for &row in batch.logit_rows {
                let offset = (row as usize).wrapping_sub(sequence.query_start);
                if offset < sequence.query_len {
                    histories.push(history[..sequence.context_len - sequence.query_len + offset + 1].to_vec());
                }
            }
        }
        assert_eq!(next, batch.tokens.len());
        histories
    }
}

impl StepModel for FakeModel {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_context(&self) -> usize {
        self.context
    }

    fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    fn num_pages(&self) -> usize {
        self.num_pages
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to) = (from as usize * self.page_tokens, to as usize * self.page_tokens);
        self.kv.copy_within(from..from + self.page_tokens, to);
    }

    fn page_bytes(&mut self) -> Option<&mut dyn PageBytes> {
        Some(self)
    }

    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), EngineError> {
        if let Some(gate) = &self.gate {
            gate.wait();
        }
        self.computed.fetch_add(batch.tokens.len(), SeqCst);
        let failure = self.hook.as_mut().and_then(|hook| hook(batch));
        logits.clear();
        for history in self.store_and_read(batch) {
            match &self.script {
                Some(script) => {
                    let wanted = script.get(history.len() - 1).copied().unwrap_or(EOS) as usize;
                    logits.extend((0..VOCAB).map(|id| if id == wanted { 10.0 } else { 0.0 }));
                }
                None => logits.extend(logits_of(&history)),
            }
        }
        match failure {
            None => {}
            Some(Failure::Error) => return Err(EngineError::Forward { message: "as told".to_owned() }),
            Some(Failure::Panic) => panic!("as told"),
            Some(Failure::ShortLogits) => logits.truncate(1),
            Some(Failure::NanLogits) => logits.fill(f32::NAN),
        }
        Ok(())
    }
}

impl PageBytes for FakeModel {
    fn bytes_per_page(&self) -> usize {
        8 * self.page_tokens + self.page_padding
    }

    fn export(&self, page: u32, bytes: &mut Vec<u8>) {
        bytes.clear();
        let start = page as usize * self.page_tokens;
        let slots = &self.kv[start..start + self.page_tokens];
        slots.iter().for_each(|(token, position)| {
            bytes.extend_from_slice(&token.to_le_bytes());
            bytes.extend_from_slice(&position.to_le_bytes());
        });
        bytes.resize(bytes.len() + self.page_padding, 0);
    }

    fn import(&mut self, page: u32, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.bytes_per_page());
        let start = page as usize * self.page_tokens;
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        for (slot, pair) in self.kv[start..start + self.page_tokens].iter_mut().zip(bytes.chunks_exact(8)) {
            *slot = (number(&pair[..4]), number(&pair[4..]));
        }
    }
}

/// Token ids are bytes; 256 and above have no text.
pub(crate) struct Bytes;

impl TextDecoder for Bytes {
    fn stream(&self, _skip_special: bool) -> Box<dyn Detokenizer + Send> {
        Box::new(ByteStream::default())
    }

    fn eos_ids(&self) -> &[u32] {
        &[EOS]
    }

    fn vocabulary(&self) -> Option<&dyn Vocabulary> {
        Some(self)
    }
}

impl Vocabulary for Bytes {
    fn num_tokens(&self) -> usize {
        VOCAB
    }

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        u8::try_from(id).map(|byte| vec![byte]).unwrap_or_default()
    }

    fn special_name(&self, id: u32) -> Option<String> {
        (id == EOS).then(|| "<|end|>".to_owned())
    }

    fn encode(&self, text: &str) -> Option<Vec<u32>> {
        Some(text.bytes().map(u32::from).collect())
    }
}

#[derive(Default)]
struct ByteStream {
    incomplete: Vec<u8>,
    text: String,
}

impl Detokenizer for ByteStream {
    fn push(&mut self, id: u32) -> &str {
        self.text.clear();
        self.incomplete.extend(u8::try_from(id).ok());
        match std::str::from_utf8(&self.incomplete) {
            Ok(text) => {
                self.text.push_str(text);
                self.incomplete.clear();
            }
            Err(error) if error.error_len().is_some() => {
                self.text = String::from_utf8_lossy(&self.incomplete).into_owned();
                self.incomplete.clear();
            }
            Err(_) => {}
        }
        &self.text
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.incomplete)).into_owned()
    }
}

/// What one request got.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) tokens: BTreeMap<usize, Vec<u32>>,
    pub(crate) texts: BTreeMap<usize, String>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    pub(crate) prompt_logprobs: Vec<Option<TokenLogprobs>>,
    pub(crate) reasons: BTreeMap<usize, FinishReason>,
    pub(crate) usage: Option<Usage>,
    pub(crate) error: Option<EngineError>,
    /// Last events seen; 1 unless the sink went away.
    pub(crate) ends: usize,
}

/// A request whose answer is collected.
pub(crate) struct Pending {
    pub(crate) id: RequestId,
    events: Receiver<Event>,
}

impl Pending {
    /// Submits with a sink that goes away after `listen_for` events.
    pub(crate) fn submit_listening(engine: &EngineHandle, request: Request, listen_for: usize) -> Self {
        let (sender, events) = channel();
        let mut left = listen_for;
        let sink = move |event| {
            if left == 0 {
                return false;
            }
            left -= 1;
            sender.send(event).is_ok()
        };
        Self { id: engine.submit(request, Box::new(sink)).unwrap(), events }
    }

    pub(crate) fn submit(engine: &EngineHandle, request: Request) -> Self {
        Self::submit_listening(engine, request, usize::MAX)
    }

    /// Waits until the sink is dropped and returns all that came.
    pub(crate) fn wait(self) -> Answer {
        self.wait_for_all().0
    }

    /// As [`Self::wait`], of a request that does not fail.
    pub(crate) fn wait_for_timeline(self) -> Box<Timeline> {
        self.wait_for_all().1.unwrap()
    }

    fn wait_for_all(self) -> (Answer, Option<Box<Timeline>>) {
        let (mut answer, mut told) = (Answer::default(), None);
        while let Ok(event) = self.events.recv_timeout(Duration::from_secs(60)) {
            assert_eq!(answer.ends, 0, "nothing comes after the last event, but {event:?} did");
            match event {
                Event::PromptLogprobs(scores) => answer.prompt_logprobs = scores,
                Event::Token { index, id, text, logprob } => {
                    assert!(!answer.reasons.contains_key(&index), "a finished choice got a token");
                    answer.tokens.entry(index).or_default().push(id);
                    answer.texts.entry(index).or_default().push_str(&text);
                    answer.logprobs.extend(logprob);
                }
                Event::Finished { index, reason, text } => {
                    answer.texts.entry(index).or_default().push_str(&text);
                    assert!(answer.reasons.insert(index, reason).is_none(), "a choice finished twice");
                }
                Event::Done { usage, timeline, .. } => {
                    answer.usage = Some(usage);
                    told = Some(timeline);
                    answer.ends += 1;
                }
                Event::Error(error) => {
                    answer.error = Some(error);
                    answer.ends += 1;
                }
            }
        }
        (answer, told)
    }
}

/// An engine of random size, most of them small.
pub(crate) fn random_config(rng: &mut Rng) -> EngineConfig {
    let max_sequences = 1 + rng.below(8);
    EngineConfig {
        max_sequences,
        token_budget: max_sequences + rng.below(24),
        max_queue: 1000,
        prefix_cache: !rng.chance(20),
        max_scored_rows: 1 + rng.below(8),
        ..EngineConfig::default()
    }
}

/// A greedy request.
pub(crate) fn greedy(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        ..Request::default()
    }
}

/// Drains the engine and checks that nothing is left in it, no page above all.
pub(crate) fn assert_idle(engine: &EngineHandle) {
    assert!(engine.drain(Duration::from_secs(60)), "requests were left");
    let stats = engine.stats();
    let left = stats.running_sequences + stats.waiting_sequences + stats.queued_requests + stats.pages_used;
    assert_eq!(left, 0, "something is left in the engine: {stats:?}");
}
