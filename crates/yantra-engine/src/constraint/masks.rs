//! Threads that work out masks while forward passes run.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, channel},
    },
    time::{Duration, Instant},
};

use llguidance::{Matcher, toktrie::SimpleVob};

/// A parser that has met a token, or begins.
pub(crate) struct Job {
    pub(crate) matcher: Box<Matcher>,
    pub(crate) done: SyncSender<Worked>,
}

/// The parser back, with what may come next.
pub(crate) struct Worked {
    pub(crate) matcher: Box<Matcher>,
    pub(crate) mask: Result<SimpleVob, String>,
    pub(crate) took: Duration,
}

/// Threads that end when the sender of their jobs does.
pub(crate) struct MaskThreads {
    jobs: Sender<Job>,
}

impl MaskThreads {
    /// Starts `count` of them; those that can not be started are done without.
    pub(crate) fn start(count: usize) -> Option<Self> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let start = |_| {
            let queue = Arc::clone(&queue);
            let named = std::thread::Builder::new().name("yantra-masks".to_owned());
            named.spawn(move || work(&queue)).inspect_err(|error| tracing::warn!(%error, "no thread for masks")).is_ok()
        };
        (0..count).filter(|&number| start(number)).count().gt(&0).then_some(Self { jobs })
    }

    /// Has a mask worked out; a job that no thread takes is lost, which its receiver notices.
    pub(crate) fn send(&self, job: Job) {
        let _ = self.jobs.send(job);
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { matcher, done }) = job else { return };
        // Whoever wanted it may be gone.
        let _ = done.send(mask_of(matcher));
    }
}

/// What may come next.
pub(crate) fn mask_of(mut matcher: Box<Matcher>) -> Worked {
    let started = Instant::now();
    let mask = matcher.compute_mask_or_eos().map_err(|error| format!("{error:#}"));
    Worked { matcher, mask, took: started.elapsed() }
}
