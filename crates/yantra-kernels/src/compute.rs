//! Where operations run: the instruction-set level and the thread pool, passed to every operation.
//!
//! The pool exists because a decoded token forks and joins some 150 times: a fork must cost a cache line, not a futex.
//! Workers spin for a while after each task set, then park; a fork on a hot pool is one store, a join one load loop.

use crate::{CpuLevel, KernelError};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long an idle worker spins before it parks: longer than the gaps inside a step, shorter than an idle server.
const SPIN: Duration = Duration::from_micros(200);

type Task = dyn Fn(usize) + Sync;

/// The task set being run, erased of its lifetime; only touched between a fork and its join.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task,
    num_tasks: usize,
}

struct Shared {
    /// Counts forks; a change tells workers that `job` holds a new task set.
    generation: AtomicUsize,
    job: std::cell::UnsafeCell<Option<Job>>,
    next_task: AtomicUsize,
    /// Workers that have not yet finished the current generation.
    running: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the forking thread only while `running` is zero, and read by workers only after they saw
// the `generation` store that follows (release/acquire), until they decrement `running`.
#[expect(unsafe_code, reason = "the job cell is published by release/acquire on `generation`")]
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is only dereferenced while the forking thread keeps the task alive.
#[expect(unsafe_code, reason = "the job pointer outlives its use, see `Compute::run`")]
unsafe impl Send for Shared {}

impl Shared {
    fn work(&self, job: Job) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next_task.fetch_add(1, Ordering::Relaxed);
                if index >= job.num_tasks {
                    break;
                }
                // SAFETY: `Compute::run` does not return before every worker has left this function.
                #[expect(unsafe_code, reason = "lifetime erased by `Compute::run`")]
                unsafe {
                    (*job.task)(index);
                }
            }
        }));
        if let Err(payload) = result {
            self.next_task.store(job.num_tasks, Ordering::Relaxed);
            if let Ok(mut slot) = self.panic.lock() {
                slot.get_or_insert(payload);
            }
        }
    }

    fn worker(&self) {
        let mut seen = 0;
        while let Some(generation) = self.await_generation(seen) {
            seen = generation;
            // SAFETY: the acquire load of `generation` makes the forking thread's write visible.
            #[expect(unsafe_code, reason = "published by `generation`")]
            let job = unsafe { *self.job.get() };
            if let Some(job) = job {
                self.work(job);
            }
            self.running.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until `generation` differs from `seen`: spinning first, then parked. `None` when the pool is dropped.
    fn await_generation(&self, seen: usize) -> Option<usize> {
        let started = Instant::now();
        loop {
            for _ in 0..64 {
                let generation = self.generation.load(Ordering::Acquire);
                if generation != seen {
                    return (!self.stop.load(Ordering::Acquire)).then_some(generation);
                }
                std::hint::spin_loop();
            }
            if started.elapsed() > SPIN {
                thread::park();
            }
        }
    }
}

/// The thread pool and instruction-set level that operations run on. One fork at a time: `run` takes turns.
pub struct Compute {
    level: CpuLevel,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

impl Compute {
    /// A pool of `num_threads` threads (at least one: the caller) at the fastest level of this processor.
    pub fn new(num_threads: usize) -> Self {
        Self::spawn(num_threads, CpuLevel::detect())
    }

    /// A pool of `num_threads` threads at a given level, for tests and comparisons.
    ///
    /// # Errors
    /// If this processor does not support the level.
    pub fn with_level(num_threads: usize, level: CpuLevel) -> Result<Self, KernelError> {
        if level.is_supported() {
            Ok(Self::spawn(num_threads, level))
        } else {
            Err(KernelError::UnsupportedCpuLevel { given: level, fastest: CpuLevel::detect() })
        }
    }

    fn spawn(num_threads: usize, level: CpuLevel) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            job: std::cell::UnsafeCell::new(None),
            next_task: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let spawn_worker = |index: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("compute-{index}")).spawn(move || shared.worker()).ok()
        };
        let workers = (1..num_threads).map_while(spawn_worker).collect();
        Self { level, shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that take part in [`Compute::run`], the caller included.
    pub fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction-set level operations use.
    pub fn level(&self) -> CpuLevel {
        self.level
    }

    /// Runs `task(i)` for every `i` below `num_tasks` over the pool, claimed one by one; returns when all are done.
    ///
    /// A panic in a task is raised again here after all threads have stopped. Must not be called from inside a task.
    pub fn run(&self, num_tasks: usize, task: &Task) {
        if num_tasks <= 1 || self.workers.is_empty() {
            (0..num_tasks).for_each(task);
            return;
        }
        let turn = self.turn.lock();
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased; this function returns after `running` is zero, when no worker holds it.
        #[expect(unsafe_code, reason = "scoped task, joined below")]
        let task: &'static Task = unsafe { std::mem::transmute::<&Task, &'static Task>(task) };
        let job = Job { task, num_tasks };
        // SAFETY: `running` is zero: no worker reads the cell until the `generation` store below.
        #[expect(unsafe_code, reason = "exclusive between join and fork")]
        unsafe {
            *shared.job.get() = Some(job);
        }
        shared.next_task.store(0, Ordering::Relaxed);
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        shared.generation.fetch_add(1, Ordering::Release);
        self.workers.iter().for_each(|worker| worker.thread().unpark());
        shared.work(job);
        while shared.running.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
        }
        let panic = shared.panic.lock().ok().and_then(|mut slot| slot.take());
        drop(turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.generation.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker never panics: tasks are caught.
            let _ = worker.join();
        }
    }
}
