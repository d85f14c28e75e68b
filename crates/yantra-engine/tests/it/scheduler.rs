//! The scheduler simulated without model or thread: random requests over a tiny page pool, audited at every step.

use std::{collections::HashMap, sync::Arc};

use proptest::prelude::*;
use yantra_engine::{
    Scheduler,
    kv::CacheScope,
    scheduler::{NewSequence, SchedulerConfig, SequenceKey, StepPlan},
    spill::PageKey,
};

use crate::fake::Rng;

struct Live {
    want: usize,
    scores: bool,
    scored: usize,
    prompt: Vec<u32>,
    scope: Arc<CacheScope>,
    decodes: bool,
}

struct Simulation {
    rng: Rng,
    config: SchedulerConfig,
    scheduler: Scheduler,
    kv: Vec<Option<(u32, u32)>>,
    live: HashMap<SequenceKey, Live>,
    arrivals: u64,
    spills: bool,
    /// Held back for pages from elsewhere.
    restoring: Option<SequenceKey>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let max_sequences = 1 + rng.below(6);
        let config = SchedulerConfig {
            max_sequences,
            token_budget: max_sequences + rng.below(20),
            max_scored_rows: 1 + rng.below(8),
            page_tokens: 1 + rng.below(5),
            num_pages: 12 + rng.below(30),
            prefix_cache: !rng.chance(20),
        };
        let mut scheduler = Scheduler::new(config.clone());
        let spills = rng.chance(50);
        if spills {
            scheduler.keep_evicted(PageKey([1; 32]));
        }
        Self {
            kv: vec![None; config.num_pages * config.page_tokens],
            scheduler,
            rng,
            config,
            live: HashMap::new(),
            arrivals: 0,
            spills,
            restoring: None,
        }
    }

    /// Brings back some pages of a waiting sequence, filled with what they must hold; whoever was held back goes on.
    fn restore_some(&mut self) {
        if let Some(key) = self.restoring.take() {
            self.scheduler.end_restoring(key, self.rng.chance(20));
        }
        let Some(wanted) = self.scheduler.next_to_look_up() else { return };
        let page_tokens = self.config.page_tokens;
        let mut restored = Vec::new();
        let count = self.rng.below(wanted.hashes.len() - wanted.first + 1);
        let reached = self.scheduler.restore(&wanted, wanted.first, count, &mut restored);
        assert!(reached <= wanted.first + count && restored.len() <= count);
        for (index, page) in restored {
            for offset in 0..page_tokens {
                let position = index * page_tokens + offset;
                self.kv[page as usize * page_tokens + offset] = Some((wanted.tokens[position], position as u32));
            }
        }
        self.scheduler.audit().unwrap();
        let mut evicted = Vec::new();
        self.scheduler.take_evicted(&mut evicted);
        let offered = self.scheduler.pages().cached();
        self.scheduler.offer_cached(offered, &mut evicted);
        // Held back only while others run, so that every step has something to do.
        if self.rng.chance(50) && self.scheduler.num_running() > 0 {
            self.scheduler.begin_restoring(wanted.key);
            self.restoring = Some(wanted.key);
        }
    }

    fn add(&mut self) {
        let limit = self.config.num_pages * self.config.page_tokens;
        let prompt_len = 1 + self.rng.below((limit - 1).min(30));
        // Few kinds of tokens: many shared prefixes.
        let mut prompt = self.rng.tokens(prompt_len, 2);
        let scores = self.rng.chance(15);
        let salt = self.rng.chance(20).then(|| "salt".to_owned());
        let adapter = [None, None, Some([1; 32]), Some([2; 32])][self.rng.below(4)];
        let mut scope = Arc::new(CacheScope { salt, adapter });
        let twin = self.rng.chance(40).then(|| self.any_key()).flatten();
        if let Some(twin) = twin.filter(|_| !self.rng.chance(10)) {
            (prompt, scope) = (self.live[&twin].prompt.clone(), Arc::clone(&self.live[&twin].scope));
        }
        let tenant: Option<Arc<str>> = [None, Some("a".into()), Some("b".into())][self.rng.below(3)].clone();
        let want = 1 + self.rng.below((limit - prompt.len()).clamp(1, 15));
        self.arrivals += 1;
        let key = self.scheduler.add(NewSequence {
            prompt: &prompt,
            scope: Arc::clone(&scope),
            priority: self.rng.below(3) as i32,
            arrival: self.arrivals,
            tenant: tenant.as_ref(),
            weight: 1 + self.rng.below(3) as u32,
            score_prompt: scores,
            twin,
        });
        self.live.insert(key, Live { want, scores, scored: 0, prompt, scope, decodes: false });
    }

    fn any_key(&mut self) -> Option<SequenceKey> {
        let mut keys: Vec<_> = self.live.keys().copied().collect();
        keys.sort_unstable();
        (!keys.is_empty()).then(|| keys[self.rng.below(keys.len())])
    }

    fn remove_one(&mut self) {
        let Some(key) = self.any_key() else { return };
        self.live.remove(&key);
        self.scheduler.remove(key);
        self.scheduler.remove(key);
    }

    fn step(&mut self, plan: &mut StepPlan) {
        let preemptions = self.scheduler.counts().preemptions;
        self.propose();
        if self.spills {
            self.restore_some();
        }
        self.scheduler.schedule(plan);
        self.scheduler.audit().unwrap();
        assert_eq!(plan.is_empty(), self.live.is_empty(), "there is always something to do");
        assert!(plan.tokens().len() <= self.config.token_budget);
        let drafted: usize = plan.entries().iter().map(|entry| entry.draft_len).sum();
        assert!(plan.logit_rows().len() <= self.config.max_sequences + self.config.max_scored_rows + drafted);
        if self.scheduler.counts().preemptions == preemptions {
            let planned: Vec<_> = plan.entries().iter().map(|entry| entry.key).collect();
            let starved = self.live.iter().find(|(key, live)| live.decodes && !planned.contains(key));
            assert!(starved.is_none(), "a decoding sequence was left out");
        }
        // Whoever gets a token in this step decodes in the next; the others wait or have been preempted.
        self.live.values_mut().for_each(|live| live.decodes = false);
        self.check_kv(plan);
        self.scheduler.advance(plan);
        self.scheduler.audit().unwrap();
        self.commit(plan);
        self.scheduler.audit().unwrap();
    }

    /// Gives some decoding sequences drafts.
    fn propose(&mut self) {
        let decoding: Vec<_> = self.scheduler.decoding().collect();
        for key in decoding {
            let len = self.rng.below(6).min(self.live[&key].want - 1);
            let draft = self.rng.tokens(len, 2);
            self.scheduler.set_draft(key, &draft);
        }
    }

    /// Stores the step's tokens and checks that every sequence finds its own tokens through its pages.
    fn check_kv(&mut self, plan: &StepPlan) {
        for &(from, to) in plan.copies() {
            let page_tokens = self.config.page_tokens;
            let (from, to) = (from as usize * page_tokens, to as usize * page_tokens);
            self.kv.copy_within(from..from + page_tokens, to);
        }
        let mut slots = plan.slots().to_vec();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), plan.slots().len(), "two tokens share a slot");
        for (i, &slot) in plan.slots().iter().enumerate() {
            self.kv[slot as usize] = Some((plan.tokens()[i], plan.positions()[i]));
        }
        let mut spans = Vec::new();
        self.scheduler.spans(plan, &mut spans);
        for (entry, span) in plan.entries().iter().zip(&spans) {
            let draft = &plan.tokens()[entry.query_start + entry.query_len - entry.draft_len..][..entry.draft_len];
            let tokens = &self.scheduler.tokens(entry.key)[..span.context_len - entry.draft_len];
            for (position, &token) in tokens.iter().chain(draft).enumerate() {
                let page = span.pages[position / self.config.page_tokens] as usize;
                let slot = page * self.config.page_tokens + position % self.config.page_tokens;
                assert_eq!(self.kv[slot], Some((token, position as u32)), "page {page} at {position}");
            }
        }
    }

    fn commit(&mut self, plan: &StepPlan) {
        for entry in plan.entries() {
            let live = self.live.get_mut(&entry.key).unwrap();
            if live.scores && !entry.scored_positions.is_empty() {
                assert_eq!(entry.scored_positions.start, live.scored, "positions are scored once and in order");
                live.scored = entry.scored_positions.end;
            }
            if entry.sample_row.is_none() {
                continue;
            }
            assert!(!live.scores || live.scored == live.prompt.len() - 1, "a token before all scores");
            live.decodes = true;
            let draft = &plan.tokens()[entry.query_start + entry.query_len - entry.draft_len..][..entry.draft_len];
            for guess in draft.iter().map(Some).chain([None]) {
                live.want -= 1;
                if live.want == 0 {
                    self.live.remove(&entry.key);
                    self.scheduler.remove(entry.key);
                    break;
                }
                let token = self.rng.below(2) as u32;
                if guess != Some(&token) {
                    self.scheduler.push_token(entry.key, token);
                    break;
                }
                self.scheduler.push_computed(entry.key, token);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_page_is_lost_and_no_sequence_forgotten(seed in any::<u64>()) {
        let mut simulation = Simulation::new(seed);
        let mut plan = StepPlan::default();
        let mut steps = 0;
        while simulation.arrivals < 220 || !simulation.live.is_empty() {
            for _ in 0..simulation.rng.below(4) {
                if simulation.arrivals < 220 && simulation.live.len() < 30 {
                    simulation.add();
                }
            }
            if simulation.rng.chance(5) && !simulation.live.is_empty() {
                simulation.remove_one();
            }
            simulation.step(&mut plan);
            steps += 1;
            prop_assert!(steps < 100_000, "no progress");
        }
        prop_assert!(simulation.scheduler.is_empty());
        prop_assert_eq!(simulation.scheduler.pages().used(), 0);
        prop_assert_eq!(simulation.scheduler.pages().available(), simulation.config.num_pages);
    }
}

fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_sequences: 4,
        token_budget: 64,
        max_scored_rows: 8,
        page_tokens: 4,
        num_pages: 32,
        prefix_cache: true,
    }
}

fn add(scheduler: &mut Scheduler, prompt: &[u32], priority: i32, arrival: u64) -> SequenceKey {
    let scope = Arc::new(CacheScope::default());
    scheduler.add(NewSequence {
        prompt,
        scope,
        priority,
        arrival,
        tenant: None,
        weight: 1,
        score_prompt: false,
        twin: None,
    })
}

/// Plans and advances one step; returns (key, tokens computed) per sequence.
fn step(scheduler: &mut Scheduler) -> Vec<(SequenceKey, usize)> {
    let mut plan = StepPlan::default();
    scheduler.schedule(&mut plan);
    scheduler.advance(&plan);
    for entry in plan.entries() {
        if entry.sample_row.is_some() {
            scheduler.push_token(entry.key, 1);
        }
    }
    scheduler.audit().unwrap();
    plan.entries().iter().map(|entry| (entry.key, entry.query_len)).collect()
}

#[test]
fn decoding_goes_before_prompts_and_prompts_are_chunked() {
    let mut scheduler = Scheduler::new(SchedulerConfig { token_budget: 8, ..config() });
    let short = add(&mut scheduler, &[1, 2], 0, 1);
    assert_eq!(step(&mut scheduler), [(short, 2)]);
    let long = add(&mut scheduler, &(10..30).collect::<Vec<_>>(), 0, 2);
    assert_eq!(step(&mut scheduler), [(short, 1), (long, 7)]);
    assert_eq!(step(&mut scheduler), [(short, 1), (long, 7)]);
    assert_eq!(step(&mut scheduler), [(short, 1), (long, 6)]);
    assert_eq!(step(&mut scheduler), [(short, 1), (long, 1)]);
}

#[test]
fn a_prefix_being_computed_is_waited_for_and_then_shared() {
    let mut scheduler = Scheduler::new(SchedulerConfig { token_budget: 8, ..config() });
    let prompt: Vec<u32> = (0..14).collect();
    let (first, second) = (add(&mut scheduler, &prompt, 0, 1), add(&mut scheduler, &prompt, 0, 2));
    assert_eq!(step(&mut scheduler), [(first, 8)]);
    assert_eq!(step(&mut scheduler), [(first, 6)], "the second waits for the first's third page");
    assert_eq!(step(&mut scheduler), [(first, 1), (second, 2)], "and then computes the part that is no full page");
    assert_eq!(scheduler.counts().prefix_hit_tokens, 12);
    let other = CacheScope { salt: Some("other".to_owned()), adapter: None };
    let scope = Arc::new(other);
    let salted = scheduler.add(NewSequence {
        prompt: &prompt,
        scope,
        priority: 0,
        arrival: 3,
        tenant: None,
        weight: 1,
        score_prompt: false,
        twin: None,
    });
    assert_eq!(step(&mut scheduler)[2], (salted, 6), "another salt shares nothing");
}

#[test]
fn the_last_prompt_token_is_always_computed() {
    let mut scheduler = Scheduler::new(config());
    let prompt: Vec<u32> = (0..8).collect();
    let first = add(&mut scheduler, &prompt, 0, 1);
    step(&mut scheduler);
    scheduler.remove(first);
    assert_eq!(scheduler.pages().cached(), 2);
    let second = add(&mut scheduler, &prompt, 0, 2);
    assert_eq!(step(&mut scheduler), [(second, 1)], "one page is taken over, the other copied");
    assert_eq!(scheduler.counts().prefix_hit_tokens, 7);
}

#[test]
fn where_prompts_part_within_a_page_it_is_copied() {
    let mut scheduler = Scheduler::new(config());
    let first = add(&mut scheduler, &[0, 1, 2, 3, 4, 5, 6, 7, 8], 0, 1);
    step(&mut scheduler);
    let second = add(&mut scheduler, &[0, 1, 2, 3, 4, 5, 9, 9, 9], 0, 2);
    let mut plan = StepPlan::default();
    scheduler.schedule(&mut plan);
    let computed: Vec<_> = plan.entries().iter().map(|entry| (entry.key, entry.query_len)).collect();
    assert_eq!((computed.as_slice(), plan.copies().len()), (&[(first, 1), (second, 3)][..], 1));
    scheduler.advance(&plan);
    assert_eq!(scheduler.counts().prefix_hit_tokens, 6);
    scheduler.remove(first);
    scheduler.remove(second);
    let third = add(&mut scheduler, &[0, 1, 2, 3, 4, 5, 9, 9, 1], 0, 3);
    assert_eq!(step(&mut scheduler), [(third, 1)], "the page that was filled up with other tokens is found whole");
    let stranger = add(&mut scheduler, &[7, 7, 7], 0, 4);
    assert_eq!(step(&mut scheduler), [(third, 1), (stranger, 3)], "nothing begins like it");
}

#[test]
fn the_newest_of_lowest_priority_is_preempted_and_comes_back() {
    let mut scheduler = Scheduler::new(SchedulerConfig { num_pages: 6, prefix_cache: false, ..config() });
    let low_old = add(&mut scheduler, &[1; 8], 0, 1);
    let low_new = add(&mut scheduler, &[2; 4], 0, 2);
    step(&mut scheduler);
    assert_eq!(scheduler.num_running(), 2);
    // Needs 2 pages and headroom: the newest of lower priority must go.
    let high = add(&mut scheduler, &[3; 8], 5, 3);
    assert_eq!(step(&mut scheduler), [(low_old, 1), (high, 8)]);
    assert_eq!((scheduler.num_waiting(), scheduler.counts().preemptions), (1, 1));
    assert_eq!(scheduler.tokens(low_new), [2, 2, 2, 2, 1], "what was generated is kept");
    scheduler.remove(high);
    assert_eq!(step(&mut scheduler), [(low_old, 1), (low_new, 5)]);
}

#[test]
fn cached_pages_are_evicted_when_pages_run_out() {
    let mut scheduler = Scheduler::new(SchedulerConfig { num_pages: 6, ..config() });
    for (arrival, token) in [(1, 10), (2, 20), (3, 30)] {
        let key = add(&mut scheduler, &[token; 9], 0, arrival);
        step(&mut scheduler);
        scheduler.remove(key);
    }
    assert_eq!((scheduler.pages().cached(), scheduler.pages().available()), (5, 6));
    let key = add(&mut scheduler, &[40; 9], 0, 4);
    assert_eq!(step(&mut scheduler), [(key, 9)]);
    scheduler.remove(key);
    let survivor = add(&mut scheduler, &[30; 9], 0, 5);
    assert_eq!(step(&mut scheduler), [(survivor, 1)], "the newest prompt is still there");
    scheduler.remove(survivor);
    let evicted = add(&mut scheduler, &[10; 9], 0, 6);
    assert_eq!(step(&mut scheduler), [(evicted, 9)], "the oldest is not");
}

#[test]
fn a_running_twins_last_page_is_copied() {
    let mut scheduler = Scheduler::new(config());
    let prompt: Vec<u32> = (0..6).collect();
    let first = add(&mut scheduler, &prompt, 0, 1);
    assert_eq!(step(&mut scheduler), [(first, 6)]);
    let twin_of = |scheduler: &mut Scheduler, prompt: &[u32], arrival| {
        let scope = Arc::new(CacheScope::default());
        scheduler.add(NewSequence {
            prompt,
            scope,
            priority: 0,
            arrival,
            tenant: None,
            weight: 1,
            score_prompt: false,
            twin: Some(first),
        })
    };
    let second = twin_of(&mut scheduler, &prompt, 2);
    let mut plan = StepPlan::default();
    scheduler.schedule(&mut plan);
    let computed: Vec<_> = plan.entries().iter().map(|entry| (entry.key, entry.query_len)).collect();
    assert_eq!((computed.as_slice(), plan.copies().len()), (&[(first, 1), (second, 1)][..], 1));
    scheduler.advance(&plan);
    scheduler.remove(first);
    scheduler.remove(second);
    let third = twin_of(&mut scheduler, &prompt, 3);
    assert_eq!(step(&mut scheduler), [(third, 2)], "a twin that is gone has nothing to copy");
    let stranger = twin_of(&mut scheduler, &[0, 1, 2, 3, 9, 9], 4);
    assert_eq!(step(&mut scheduler), [(third, 1), (stranger, 2)], "nor has one of another prompt");
}

#[test]
fn a_tenant_that_floods_has_its_share_of_the_batch() {
    let config = SchedulerConfig {
        max_sequences: 8,
        token_budget: 64,
        max_scored_rows: 8,
        page_tokens: 4,
        num_pages: 200,
        prefix_cache: true,
    };
    let mut scheduler = Scheduler::new(config);
    let scope = Arc::new(CacheScope { salt: None, adapter: None });
    let (mut plan, mut arrival) = (StepPlan::default(), 0);
    let mut add = |scheduler: &mut Scheduler, tenant: &str, weight: u32| {
        arrival += 1;
        let (scope, prompt) = (Arc::clone(&scope), [arrival as u32; 32]);
        let tenant: Arc<str> = tenant.into();
        let tenant = Some(&tenant);
        let new = NewSequence {
            prompt: &prompt,
            scope,
            priority: 0,
            arrival,
            tenant,
            weight,
            score_prompt: false,
            twin: None,
        };
        scheduler.add(new)
    };
    let mut step = |scheduler: &mut Scheduler| -> Vec<(SequenceKey, usize)> {
        scheduler.schedule(&mut plan);
        scheduler.advance(&plan);
        scheduler.audit().unwrap();
        let done = plan.entries().iter().filter(|entry| entry.sample_row.is_some()).map(|entry| entry.key);
        done.for_each(|key| scheduler.push_token(key, 7));
        plan.entries().iter().map(|entry| (entry.key, entry.query_len)).collect()
    };
    let flood: Vec<_> = (0..40).map(|_| add(&mut scheduler, "flood", 1)).collect();
    (0..8).for_each(|_| _ = step(&mut scheduler));
    assert_eq!(scheduler.num_running(), 8, "alone it has everything");
    // Its prompt is computed in the next step, although no place was free.
    let other = add(&mut scheduler, "other", 3);
    assert!(step(&mut scheduler).contains(&(other, 32)));
    let more: Vec<_> = (0..5).map(|_| add(&mut scheduler, "other", 3)).collect();
    (0..20).for_each(|_| _ = step(&mut scheduler));
    let planned = step(&mut scheduler);
    let count = |keys: &[SequenceKey]| planned.iter().filter(|(key, _)| keys.contains(key)).count();
    assert_eq!((count(&flood), count(&[other]) + count(&more)), (2, 6), "a quarter, three quarters");
    // Someone who wants more than its share has no more than it of a step's prompt tokens either.
    flood[..8].iter().for_each(|key| scheduler.remove(*key));
    let planned = step(&mut scheduler);
    let begun = planned.iter().find(|(key, tokens)| flood.contains(key) && *tokens > 1).unwrap();
    assert_eq!(begun.1, 16, "a quarter of 64");
}
