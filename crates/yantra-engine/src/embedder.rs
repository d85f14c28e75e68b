//! Text embedding on its own thread: requests of all callers are joined into batches of whole texts.

use crate::EngineError;
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};
use yantra_kernels::Compute;
use yantra_model::Encoder;

/// Tokens after which a batch takes no further text.
const BATCH_TOKENS: usize = 4096;
/// Requests that may wait.
const MAX_QUEUE: usize = 1024;

struct Job {
    texts: Vec<Vec<u32>>,
    reply: SyncSender<Result<Vec<Vec<f32>>, EngineError>>,
}

/// A running embedding model; clones share it. The thread ends when the last clone is dropped.
#[derive(Clone)]
pub struct EmbedderHandle {
    queue: SyncSender<Job>,
    context_length: usize,
    dimensions: usize,
}

impl EmbedderHandle {
    /// Starts the model's thread.
    ///
    /// # Errors
    /// If the thread can not be started.
    pub fn spawn(encoder: Encoder, compute: Arc<Compute>) -> Result<Self, EngineError> {
        let (queue, jobs) = sync_channel(MAX_QUEUE);
        let context_length = encoder.spec().context_length;
        let dimensions = encoder.spec().hidden_size;
        let run = move || serve(&encoder, &compute, &jobs);
        let thread = thread::Builder::new().name("embedder".to_owned());
        thread.spawn(run).map_err(|error| EngineError::Model(format!("could not start a thread: {error}")))?;
        Ok(Self { queue, context_length, dimensions })
    }

    /// Longest text, in tokens with the special ones.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Length of an embedding.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Embeds texts given as token ids, one vector of [`EmbedderHandle::dimensions`] per text. Blocks until done.
    ///
    /// # Errors
    /// If the queue is full, or a text is empty, too long or has a token outside the vocabulary.
    pub fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, EngineError> {
        let (reply, answer) = sync_channel(1);
        self.queue.try_send(Job { texts, reply }).map_err(|error| match error {
            TrySendError::Full(_) => EngineError::Overloaded { waiting: MAX_QUEUE },
            TrySendError::Disconnected(_) => stopped(),
        })?;
        answer.recv().map_err(|_| stopped())?
    }
}

fn stopped() -> EngineError {
    EngineError::Model("the embedding thread has stopped".to_owned())
}

fn serve(encoder: &Encoder, compute: &Compute, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        while tokens(&batch) < BATCH_TOKENS {
            match jobs.try_recv() {
                Ok(job) => batch.push(job),
                Err(_) => break,
            }
        }
        run(encoder, compute, batch);
    }
}

fn tokens(batch: &[Job]) -> usize {
    batch.iter().flat_map(|job| &job.texts).map(Vec::len).sum()
}

/// Runs all jobs as one batch; if that fails, each on its own, so that only the faulty one does.
fn run(encoder: &Encoder, compute: &Compute, batch: Vec<Job>) {
    let texts: Vec<&[u32]> = batch.iter().flat_map(|job| &job.texts).map(Vec::as_slice).collect();
    match embed(encoder, compute, &texts) {
        Ok(vectors) => {
            let mut vectors = vectors.into_iter();
            for job in &batch {
                // A caller that has gone away is no error.
                let _ = job.reply.send(Ok(vectors.by_ref().take(job.texts.len()).collect()));
            }
        }
        Err(error) if batch.len() == 1 => {
            let _ = batch[0].reply.send(Err(error));
        }
        Err(_) => batch.into_iter().for_each(|job| run(encoder, compute, vec![job])),
    }
}

/// Embeds in slices of about [`BATCH_TOKENS`], so that one large request needs no large buffers.
fn embed(encoder: &Encoder, compute: &Compute, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut vectors = Vec::with_capacity(texts.len());
    let mut rest = texts;
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = rest.iter().take_while(|text| {
            sum += text.len();
            sum <= BATCH_TOKENS
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        let embedded = encoder.embed(compute, now).map_err(|error| EngineError::Model(error.to_string()))?;
        vectors.extend(embedded);
        rest = later;
    }
    Ok(vectors)
}
