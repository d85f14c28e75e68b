//! Where operations run: the instruction-set level and the thread pool, passed to every operation.
//!
//! The pool exists because a decoded token forks and joins some 150 times: a fork must cost a cache line, not a futex.
//! Workers spin for a while after each task set, then park. The caller takes part, and at the end waits only for
//! workers that have entered the task set: one that the operating system has not scheduled yet delays nobody. Threads
//! begin with neighbouring tasks of their own, whose data the processor fetches ahead, and then take what others left.

use crate::{CpuLevel, KernelError};
use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long an idle worker spins before it parks: longer than the gaps inside a step, shorter than an idle server.
const SPIN: Duration = Duration::from_micros(200);

/// Spins of the joining caller before it offers its processor to the thread it may be waiting for.
const SPINS_BEFORE_YIELD: u32 = 20_000;

/// Most ranges that tasks are shared out in; threads beyond share a range.
const MAX_RANGES: usize = 8;

/// `Shared::state`: number of the task set, whether it can be entered, how many workers are inside.
const EPOCH: u64 = 1 << 16;
const OPEN: u64 = 1 << 15;
const INSIDE: u64 = OPEN - 1;

/// `Next`: number of the task set, next task.
const MAX_TASKS: usize = 1 << 24;
const SET: u64 = MAX_TASKS as u64;

thread_local! {
    /// Whether this thread is running a task: a nested `run` is then done by this thread alone.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// The task set being run, erased of its lifetime; only touched between a fork and its join.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    num_tasks: usize,
    num_ranges: usize,
    epoch: u64,
}

/// The next task of a range and the set it is one of. On a cache line of its own, and the next one, which comes along.
#[repr(align(128))]
struct Next(AtomicU64);

impl Next {
    /// Claims a task of the range `index` of the set.
    fn claim(&self, job: &Job, index: usize) -> Option<usize> {
        let bound = |index: usize| index * job.num_tasks / job.num_ranges;
        let set = job.epoch.wrapping_mul(SET);
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            // What an earlier set left means that nobody has claimed a task of this one.
            let task = if seen / SET == set / SET { (seen % SET) as usize } else { bound(index) };
            if task >= bound(index + 1) {
                return None;
            }
            let next = set + task as u64 + 1;
            match self.0.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(task),
                Err(changed) => seen = changed,
            }
        }
    }
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    ranges: [Next; MAX_RANGES],
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the forking thread only while the set is closed and nobody is inside; workers read it only
// after they entered by a compare-exchange on `state` that found the set open (acquire), until they leave (release).
#[expect(unsafe_code, reason = "the job cell is guarded by `state`")]
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is only dereferenced while the forking thread keeps the task alive.
#[expect(unsafe_code, reason = "the job pointer outlives its use, see `Compute::run`")]
unsafe impl Send for Shared {}

impl Shared {
    /// Runs tasks of the thread's own range, then of the others, until none is left.
    fn work(&self, job: Job, thread: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            for range in (thread..thread + job.num_ranges).map(|range| range % job.num_ranges) {
                while let Some(index) = self.ranges[range].claim(&job, range) {
                    // SAFETY: `Compute::run` does not return before everybody has left this function.
                    #[expect(unsafe_code, reason = "lifetime erased by `Compute::run`")]
                    unsafe {
                        (*job.task)(index);
                    }
                }
            }
        }));
        if let Err(payload) = result {
            for range in &self.ranges {
                range.0.store(job.epoch.wrapping_mul(SET) + job.num_tasks as u64, Ordering::Relaxed);
            }
            if let Ok(mut slot) = self.panic.lock() {
                slot.get_or_insert(payload);
            }
        }
    }

    fn worker(&self, thread: usize) {
        IN_TASK.set(true);
        let mut seen = 0;
        while let Some(epoch) = self.enter(seen) {
            seen = epoch;
            // SAFETY: this thread is inside an open set, see `Sync for Shared`.
            #[expect(unsafe_code, reason = "guarded by `state`")]
            let job = unsafe { *self.job.get() };
            if let Some(job) = job {
                self.work(job, thread);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Enters the next open task set after `seen`: spinning first, then parked. `None` when the pool is dropped.
    fn enter(&self, seen: u64) -> Option<u64> {
        let started = Instant::now();
        loop {
            for _ in 0..64 {
                let state = self.state.load(Ordering::Acquire);
                let epoch = state / EPOCH;
                let can_enter = epoch != seen && state & OPEN != 0;
                if can_enter
                    && self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    return Some(epoch);
                }
                std::hint::spin_loop();
            }
            if self.stop.load(Ordering::Acquire) {
                return None;
            }
            if started.elapsed() > SPIN {
                thread::park();
            }
        }
    }

    /// Closes the task set and waits until every worker has left it.
    fn join(&self) {
        let mut spins = 0_u32;
        let mut state = self.state.fetch_and(!OPEN, Ordering::AcqRel);
        while state & INSIDE != 0 {
            spins += 1;
            if spins > SPINS_BEFORE_YIELD {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
            state = self.state.load(Ordering::Acquire);
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
    ///
    /// When the operating system refuses a thread, the pool has fewer; see [`Compute::num_threads`].
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
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            ranges: [const { Next(AtomicU64::new(0)) }; MAX_RANGES],
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let spawn_worker = |index: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("compute-{index}")).spawn(move || shared.worker(index)).ok()
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
    /// A panic in a task is raised again here after all threads have stopped; tasks not yet claimed are then skipped.
    /// Called from inside a task, it runs the nested tasks on that thread, one after another.
    ///
    /// # Panics
    /// If there are 2^24 tasks or more.
    pub fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if num_tasks <= 1 || self.workers.is_empty() || IN_TASK.get() {
            (0..num_tasks).for_each(task);
            return;
        }
        assert!(num_tasks < MAX_TASKS, "{num_tasks} tasks, more than can be counted");
        // A poisoned turn guards nothing: the pool is consistent after a panic.
        let turn = self.turn.lock();
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased; this function returns after the join, when no worker holds the task.
        #[expect(unsafe_code, reason = "scoped task, joined below")]
        let task = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(task)
        };
        let epoch = (shared.state.load(Ordering::Relaxed) / EPOCH).wrapping_add(1);
        let num_ranges = num_tasks.min(self.num_threads()).min(MAX_RANGES);
        let job = Job { task, num_tasks, num_ranges, epoch };
        // SAFETY: the set is closed and nobody is inside (the join of the previous run saw to it).
        #[expect(unsafe_code, reason = "exclusive between join and fork")]
        unsafe {
            *shared.job.get() = Some(job);
        }
        shared.state.store(epoch.wrapping_mul(EPOCH) | OPEN, Ordering::Release);
        self.workers.iter().take(num_tasks - 1).for_each(|worker| worker.thread().unpark());
        IN_TASK.set(true);
        shared.work(job, 0);
        IN_TASK.set(false);
        shared.join();
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
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker never panics: tasks are caught.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn counts(cx: &Compute, num_tasks: usize) -> Vec<u32> {
        let counts: Vec<AtomicU32> = (0..num_tasks).map(|_| AtomicU32::new(0)).collect();
        cx.run(num_tasks, &|index| {
            counts[index].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicU32::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once() {
        for num_threads in [0, 1, 2, 5] {
            let cx = Compute::new(num_threads);
            assert_eq!(cx.num_threads(), num_threads.max(1));
            for num_tasks in [0, 1, 2, 3, 100] {
                assert_eq!(counts(&cx, num_tasks), vec![1; num_tasks]);
            }
        }
    }

    #[test]
    fn many_short_runs_see_their_own_task() {
        let cx = Compute::new(3);
        for round in 0..20_000_u32 {
            let total = AtomicU32::new(0);
            cx.run(4, &|_| {
                total.fetch_add(round, Ordering::Relaxed);
            });
            assert_eq!(total.into_inner(), round * 4);
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let cx = Compute::new(2);
        for _ in 0..5 {
            thread::sleep(SPIN * 5);
            // Both tasks wait for each other: only two threads can finish them.
            let arrived = AtomicU32::new(0);
            cx.run(2, &|_| {
                arrived.fetch_add(1, Ordering::AcqRel);
                while arrived.load(Ordering::Acquire) < 2 {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let cx = Compute::new(3);
        for bad in [0, 7] {
            let result = catch_unwind(AssertUnwindSafe(|| cx.run(20, &|index| assert_ne!(index, bad, "task {bad}"))));
            assert!(result.is_err());
            assert_eq!(counts(&cx, 50), vec![1; 50]);
        }
    }

    #[test]
    fn a_nested_run_is_done_by_the_task_itself() {
        let cx = Compute::new(3);
        let total = AtomicU32::new(0);
        cx.run(6, &|_| {
            cx.run(5, &|_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 30);
        assert_eq!(counts(&cx, 10), vec![1; 10]);
    }

    #[test]
    fn threads_take_turns() {
        let cx = Compute::new(2);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..500).for_each(|_| assert_eq!(counts(&cx, 3), [1, 1, 1])));
            }
        });
    }

    #[test]
    fn a_dropped_pool_stops_its_threads() {
        for _ in 0..20 {
            let cx = Compute::new(4);
            counts(&cx, 8);
        }
    }

    #[test]
    fn refuses_a_level_the_processor_lacks() {
        for level in [CpuLevel::Neon, CpuLevel::Avx512Bf16, CpuLevel::Avx512Vnni, CpuLevel::Avx2] {
            assert_eq!(Compute::with_level(1, level).is_ok(), level.is_supported());
        }
    }
}
