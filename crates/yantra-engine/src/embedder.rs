//! Text embedding on its own thread: requests of all callers are joined into batches of whole texts.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};
use yantra_kernels::Compute;
use yantra_model::{Encoder, ModelError};

/// Tokens after which a batch takes no further text.
const BATCH_TOKENS: usize = 4096;
/// Requests that may wait.
const MAX_QUEUE: usize = 1024;

/// Why texts were not embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// Too many requests wait already.
    #[error("{waiting} embedding requests are waiting already")]
    Overloaded {
        /// Requests waiting.
        waiting: usize,
    },
    /// The texts do not fit the model, or it failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model's thread could not be started.
    #[error("could not start the embedding thread: {0}")]
    Spawn(std::io::Error),
    /// The model's thread has ended.
    #[error("the embedding thread has stopped")]
    Stopped,
}

struct Job {
    texts: Vec<Vec<u32>>,
    reply: SyncSender<Result<Vec<Vec<f32>>, EmbedError>>,
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
    pub fn spawn(encoder: Encoder, compute: Arc<Compute>) -> Result<Self, EmbedError> {
        let (queue, jobs) = sync_channel(MAX_QUEUE);
        let context_length = encoder.spec().context_length;
        let dimensions = encoder.spec().hidden_size;
        let run = move || serve(&encoder, &compute, &jobs);
        let thread = thread::Builder::new().name("embedder".to_owned());
        thread.spawn(run).map_err(EmbedError::Spawn)?;
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
    pub fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, EmbedError> {
        let (reply, answer) = sync_channel(1);
        self.queue.try_send(Job { texts, reply }).map_err(|error| match error {
            TrySendError::Full(_) => EmbedError::Overloaded { waiting: MAX_QUEUE },
            TrySendError::Disconnected(_) => EmbedError::Stopped,
        })?;
        answer.recv().map_err(|_| EmbedError::Stopped)?
    }
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
fn embed(encoder: &Encoder, compute: &Compute, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EmbedError> {
    let mut vectors = Vec::with_capacity(texts.len());
    let mut rest = texts;
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = rest.iter().take_while(|text| {
            sum += text.len();
            sum <= BATCH_TOKENS
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        vectors.extend(encoder.embed(compute, now)?);
        rest = later;
    }
    Ok(vectors)
}
