//! Between the engine and the disk: pages forgotten go to the spill store, pages wanted again come from it.
//!
//! A waiting sequence whose next pages are on disk is held back while they are read, a few at a time, and put into the
//! prefix tree between steps; others go on meanwhile. That is done only while it pays: the time a page took to load and
//! the time its tokens take to compute are measured as they happen, and a sequence that waits longer for the disk than
//! computing would take is let go.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, RecvError, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant, SystemTime},
};

use super::{Core, record::DiskNote};
use crate::{
    EngineError, Scheduler, StepModel,
    handle::Message,
    kv::SpilledPage,
    scheduler::{LookUp, SequenceKey, StepPlan},
    spill::{PageIdentity, ReadDone, ReadRequest, Spill, SpillStore},
    stats::SpillCounters,
};

/// Pages read at once.
const MAX_READ_PAGES: usize = 16;
/// Reads under way per sequence: while the pages of one are taken in, the other goes on.
const READS_PER_JOB: usize = 2;
/// Sequences whose pages are read at the same time.
const MAX_JOBS: usize = 2;
/// Bytes of pages read at once.
const READ_BYTES: usize = SpillStore::READ_AHEAD_BYTES / (MAX_JOBS * READS_PER_JOB);
/// Of so many sequences that would not gain from the disk, one has a page read all the same, to learn how fast it is now.
const PROBE_EVERY: u32 = 16;
/// The job of reads whose pages nobody wants.
const PROBE: u64 = 0;
/// How long a read may take while nobody knows how long computing would.
const PATIENCE: Duration = Duration::from_secs(2);
/// No read is given up before.
const MIN_PATIENCE: Duration = Duration::from_millis(50);
/// Weight of a new measurement in the running means.
const LEARNING_RATE: f64 = 0.25;
/// Pause between pages written while there is nothing else to do.
const IDLE_PAUSE: Duration = Duration::from_millis(50);
/// How long the engine looks away from its messages for a read.
const DISK_WAIT: Duration = Duration::from_millis(5);

/// How long things take, in seconds; `None` before it was measured.
#[derive(Debug, Default)]
struct Rates {
    load_page: Option<f64>,
    compute_token: Option<f64>,
}

impl Rates {
    fn note(mean: &mut Option<f64>, value: f64) {
        *mean = Some(mean.map_or(value, |mean| mean + LEARNING_RATE * (value - mean)));
    }

    /// Whether a page is loaded sooner than computed; what was never measured is tried.
    fn loading_pays(&self, page_tokens: usize) -> bool {
        match (self.load_page, self.compute_token) {
            (Some(load_page), Some(compute_token)) => load_page < compute_token * page_tokens as f64,
            _ => true,
        }
    }

    /// How long so many tokens may be waited for.
    fn patience(&self, tokens: usize) -> Duration {
        let compute = self.compute_token.map(|seconds| Duration::from_secs_f64(seconds * tokens as f64));
        compute.unwrap_or(PATIENCE).max(MIN_PATIENCE)
    }
}

/// A sequence whose pages are being read.
struct Job {
    id: u64,
    wanted: LookUp,
    /// The pages on disk, from `wanted.first` on.
    pages: Vec<PageIdentity>,
    asked: SystemTime,
    /// How many of `pages` were asked for.
    requested: usize,
    /// How many came and were put into the tree.
    loaded: usize,
    /// When to give up, unless a read ends before.
    deadline: Instant,
    /// Sequences that want the same pages.
    followers: Vec<SequenceKey>,
}

/// The engine's side of a spill store.
pub(super) struct Spilling {
    store: Arc<SpillStore>,
    page_tokens: usize,
    page_bytes: usize,
    read_pages: usize,
    rates: Rates,
    jobs: Vec<Job>,
    last_job: u64,
    declined: u32,
    reply: Sender<ReadDone>,
    done: Receiver<ReadDone>,
    /// Received while waiting.
    arrived: VecDeque<ReadDone>,
    /// Scratch.
    pages: Vec<SpilledPage>,
    restored: Vec<(usize, u32)>,
    /// What befell sequences since the last time somebody asked.
    pub(super) notes: Vec<(SequenceKey, DiskNote)>,
}

impl Spilling {
    /// Checks that the model's pages can be spilled to this store.
    pub(super) fn new(spill: &Spill, model: &mut dyn StepModel) -> Result<Self, EngineError> {
        let fail = |message| Err(EngineError::Config { field: "kv_spill", message });
        let page_tokens = model.page_tokens();
        let Some(page_bytes) = model.page_bytes().map(|pages| pages.bytes_per_page()) else {
            return fail("the pages of this model can not be spilled".to_owned());
        };
        if let Err(error) = spill.store.check_page(page_tokens, page_bytes) {
            return fail(error.to_string());
        }
        let (reply, done) = channel();
        Ok(Self {
            store: Arc::clone(&spill.store),
            page_tokens,
            page_bytes,
            read_pages: (READ_BYTES / page_bytes.max(1)).clamp(1, MAX_READ_PAGES),
            rates: Rates::default(),
            jobs: Vec::new(),
            last_job: PROBE,
            declined: 0,
            reply,
            done,
            arrived: VecDeque::new(),
            pages: Vec::new(),
            restored: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// Takes in what was read and asks for more, for the same sequences and for others.
    fn restore(&mut self, scheduler: &mut Scheduler, model: &mut dyn StepModel, counters: &SpillCounters) {
        while let Some(done) = self.arrived.pop_front().or_else(|| self.done.try_recv().ok()) {
            self.take_in(done, scheduler, model, counters);
        }
        let now = Instant::now();
        while let Some(late) = self.jobs.iter().position(|job| job.deadline < now) {
            counters.sequences_abandoned.add(1);
            self.end_job(late, scheduler);
        }
        while self.jobs.len() < MAX_JOBS
            && let Some(wanted) = scheduler.next_to_look_up()
        {
            self.look_up(wanted, scheduler, counters);
        }
        counters.load_page_seconds.set(self.rates.load_page);
        counters.compute_page_seconds.set(self.rates.compute_token.map(|seconds| seconds * self.page_tokens as f64));
    }

    /// Starts to read what a sequence lacks, if it is there and that is faster than computing it.
    fn look_up(&mut self, wanted: LookUp, scheduler: &mut Scheduler, counters: &SpillCounters) {
        let mut pages: Vec<PageIdentity> = Vec::new();
        for tokens in wanted.tokens.chunks_exact(self.page_tokens).skip(wanted.first) {
            let parent = pages.last().map_or(wanted.parent, |page| page.key);
            let page = PageIdentity::after(parent, tokens);
            if !self.store.is_on_disk(&page.key) {
                break;
            }
            pages.push(page);
        }
        let Some(first) = pages.first() else { return };
        if let Some(job) = self.jobs.iter_mut().find(|job| job.pages.iter().any(|page| page.key == first.key)) {
            job.followers.push(wanted.key);
            self.notes.push((wanted.key, DiskNote::Begun));
            return scheduler.begin_restoring(wanted.key);
        }
        if !self.rates.loading_pays(self.page_tokens) {
            counters.sequences_declined.add(1);
            self.declined += 1;
            if self.declined.is_multiple_of(PROBE_EVERY) {
                self.request(PROBE, 0, vec![first.clone()], SystemTime::now());
            }
            return;
        }
        counters.sequences_restored.add(1);
        self.store.touch(&pages);
        scheduler.begin_restoring(wanted.key);
        self.notes.push((wanted.key, DiskNote::Begun));
        self.last_job += 1;
        let deadline = Instant::now() + self.rates.patience(pages.len() * self.page_tokens);
        let (id, asked) = (self.last_job, SystemTime::now());
        self.jobs.push(Job { id, wanted, pages, asked, requested: 0, loaded: 0, deadline, followers: Vec::new() });
        let at = self.jobs.len() - 1;
        (0..READS_PER_JOB).for_each(|_| self.request_more(at));
    }

    fn request_more(&mut self, at: usize) {
        let job = &mut self.jobs[at];
        let next = job.requested..(job.requested + self.read_pages).min(job.pages.len());
        if !next.is_empty() {
            job.requested = next.end;
            let (id, first, asked) = (job.id, job.wanted.first + next.start, job.asked);
            let pages = job.pages[next].to_vec();
            self.request(id, first, pages, asked);
        }
    }

    fn request(&self, job: u64, first: usize, pages: Vec<PageIdentity>, asked: SystemTime) {
        let (num_bytes, reply) = (self.page_bytes, self.reply.clone());
        self.store.read(ReadRequest { job, first, pages, asked, num_bytes, reply });
    }

    /// Puts pages that were read into the cache.
    fn take_in(
        &mut self,
        done: ReadDone,
        scheduler: &mut Scheduler,
        model: &mut dyn StepModel,
        counters: &SpillCounters,
    ) {
        let ReadDone { job, first, pages, complete, took } = done;
        let (start, count) = (Instant::now(), pages.len());
        let at = self.jobs.iter().position(|known| known.id == job);
        let mut in_tree = 0;
        if let Some(at) = at {
            in_tree = scheduler.restore(&self.jobs[at].wanted, first, count, &mut self.restored);
            self.write_evicted(scheduler, model, counters);
            counters.pages_loaded.add(self.restored.len());
            self.jobs[at].loaded += self.restored.len();
            if let Some(bytes) = model.page_bytes() {
                self.restored.drain(..).for_each(|(index, page)| bytes.import(page, &pages[index - first]));
            }
        }
        pages.into_iter().for_each(|page| self.store.recycle(page));
        if count > 0 {
            let seconds = (took + start.elapsed()).as_secs_f64();
            Rates::note(&mut self.rates.load_page, seconds / count as f64);
        }
        let Some(at) = at else { return };
        let job = &mut self.jobs[at];
        let left = (job.wanted.first + job.pages.len()).saturating_sub(first + count);
        if left == 0 || !complete || in_tree < first + count || !self.rates.loading_pays(self.page_tokens) {
            return self.end_job(at, scheduler);
        }
        job.deadline = Instant::now() + self.rates.patience(left * self.page_tokens);
        self.request_more(at);
    }

    fn end_job(&mut self, at: usize, scheduler: &mut Scheduler) {
        let job = self.jobs.swap_remove(at);
        let ended = DiskNote::Ended { pages: job.loaded };
        self.notes.push((job.wanted.key, ended));
        scheduler.end_restoring(job.wanted.key, false);
        for key in job.followers {
            self.notes.push((key, ended));
            scheduler.end_restoring(key, true);
        }
    }

    /// Queues the pages that were forgotten since the last call, before anything overwrites them.
    fn write_evicted(&mut self, scheduler: &mut Scheduler, model: &mut dyn StepModel, counters: &SpillCounters) {
        scheduler.take_evicted(&mut self.pages);
        self.write_pages(model, counters);
    }

    fn write_pages(&mut self, model: &mut dyn StepModel, counters: &SpillCounters) {
        let Some(content) = model.page_bytes() else { return };
        for SpilledPage { page, identity } in self.pages.drain(..) {
            if self.store.contains(&identity.key) {
                self.store.touch(&[identity]);
                continue;
            }
            let mut is_queued = false;
            if self.store.has_room_to_wait(self.page_bytes) {
                let mut bytes = self.store.buffer();
                content.export(page, &mut bytes);
                is_queued = self.store.write(identity, bytes);
            }
            let counter = if is_queued { &counters.pages_spilled } else { &counters.pages_dropped };
            counter.add(1);
        }
    }

    /// Learns from a forward pass, if it was mostly of prompts.
    fn note_forward(&mut self, tokens: usize, took: Duration) {
        if tokens >= 2 * self.page_tokens {
            Rates::note(&mut self.rates.compute_token, took.as_secs_f64() / tokens as f64);
        }
    }
}

impl Core {
    /// Before a step is scheduled: pages from disk.
    pub(super) fn restore_pages(&mut self) {
        let Self { spilling, scheduler, model, shared, .. } = self;
        if let (Some(spilling), Some(counters)) = (spilling, &shared.counters.spill) {
            spilling.restore(scheduler, &mut **model, counters);
        }
    }

    /// After a step is scheduled, before it is computed: pages to disk.
    pub(super) fn spill_evicted(&mut self) {
        let Self { spilling, scheduler, model, shared, .. } = self;
        if let (Some(spilling), Some(counters)) = (spilling, &shared.counters.spill) {
            spilling.write_evicted(scheduler, &mut **model, counters);
        }
    }

    pub(super) fn learn_speed(&mut self, plan: &StepPlan, took: Duration) {
        if let Some(spilling) = &mut self.spilling {
            spilling.note_forward(plan.tokens().len(), took);
        }
    }

    /// With nothing to compute, waits a moment for a read, if one is under way.
    pub(super) fn wait_for_disk(&mut self) -> bool {
        let Some(spilling) = self.spilling.as_mut().filter(|spilling| !spilling.jobs.is_empty()) else { return false };
        spilling.arrived.extend(spilling.done.recv_timeout(DISK_WAIT));
        true
    }

    /// The next message when there is nothing to do; until it comes, cached pages are written ahead of being forgotten, so
    /// that a restart finds them and forgetting costs nothing.
    pub(super) fn next_message_when_idle(&mut self) -> Result<Message, RecvError> {
        while self.spilling.is_some() {
            match self.messages.recv_timeout(IDLE_PAUSE) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Disconnected) => return Err(RecvError),
                Err(RecvTimeoutError::Timeout) if self.spill_ahead() => {}
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        self.messages.recv()
    }

    /// Writes some cached pages; `false` when there are none left or no space for them.
    fn spill_ahead(&mut self) -> bool {
        let Self { spilling, scheduler, model, shared, .. } = self;
        let (Some(spilling), Some(counters)) = (spilling, &shared.counters.spill) else { return false };
        let bytes = spilling.read_pages * spilling.page_bytes;
        if !spilling.store.has_room_to_wait(bytes) {
            return true;
        }
        if !spilling.store.has_free_space(bytes) {
            return false;
        }
        scheduler.offer_cached(spilling.read_pages, &mut spilling.pages);
        let any = !spilling.pages.is_empty();
        spilling.write_pages(&mut **model, counters);
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_is_tried_and_then_done_only_while_it_is_faster() {
        let mut rates = Rates::default();
        assert!(rates.loading_pays(32), "nothing is known");
        assert_eq!(rates.patience(32), PATIENCE);
        Rates::note(&mut rates.compute_token, 0.001);
        assert!(rates.loading_pays(32), "the disk is not known");
        assert_eq!((rates.patience(1000), rates.patience(1)), (Duration::from_secs(1), MIN_PATIENCE));
        Rates::note(&mut rates.load_page, 0.04);
        assert!(!rates.loading_pays(32), "a page is computed in 32 ms");
        (0..3).for_each(|_| Rates::note(&mut rates.load_page, 0.001));
        assert!(rates.loading_pays(32), "the disk has become faster: {rates:?}");
    }
}
