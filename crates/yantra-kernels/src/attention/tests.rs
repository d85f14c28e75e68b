//! Attention against the definition in f64, and bit for bit against itself in other batches.

#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::test_support::{assert_close, computes, random};
use half::{bf16, f16};

/// A batch over shuffled pages, with the keys and values as stored kept aside.
struct Case {
    params: AttentionParams,
    layout: KvLayout,
    /// (query_len, context_len) per sequence.
    lengths: Vec<(usize, usize)>,
}

struct Built {
    kv: KvPages,
    tables: Vec<Vec<u32>>,
    q: Vec<f32>,
    /// Per sequence: `[context, kv_heads, head_dim]`.
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

fn case(heads: usize, kv_heads: usize, head_dim: usize, lengths: &[(usize, usize)]) -> Case {
    let scale = 1.7 / (head_dim as f32).sqrt();
    Case {
        params: AttentionParams { num_heads: heads, scale, window: None, softcap: None, causal: true },
        layout: KvLayout { num_kv_heads: kv_heads, head_dim, page_tokens: 32, format: KvFormat::F32 },
        lengths: lengths.to_vec(),
    }
}

fn rounded(format: KvFormat, x: f32) -> f32 {
    match format {
        KvFormat::F32 => x,
        KvFormat::F16 => f16::from_f32(x).to_f32(),
        KvFormat::BF16 => bf16::from_f32(x).to_f32(),
    }
}

impl Case {
    fn build(&self, cx: &Compute) -> Built {
        let KvLayout { num_kv_heads, head_dim, page_tokens, format } = self.layout;
        let pages: Vec<usize> = self.lengths.iter().map(|(_, context)| context.div_ceil(page_tokens)).collect();
        let num_pages: usize = pages.iter().sum::<usize>() + 1;
        let mut kv = KvPages::new(self.layout, num_pages).unwrap();
        // What earlier owners left in the pages must not matter.
        kv.fill_with_nan();
        // Page 0 is nobody's; the others are handed out in an order of their own.
        let mut next = 0;
        let mut tables = Vec::new();
        for &count in &pages {
            tables.push((0..count).map(|i| ((next + i) * 7 % (num_pages - 1).max(1) + 1) as u32).collect::<Vec<_>>());
            next += count;
        }
        if (num_pages - 1).is_multiple_of(7) {
            // Seven does not generate every page: plain order instead.
            let mut plain = 1..;
            tables.iter_mut().flatten().for_each(|page| *page = plain.next().unwrap());
        }
        let width = num_kv_heads * head_dim;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (index, ((_, context), table)) in self.lengths.iter().zip(&tables).enumerate() {
            let k = random(10 + index as u64, context * width);
            let v = random(50 + index as u64, context * width);
            let slots: Vec<u32> =
                (0..*context).map(|t| table[t / page_tokens] * page_tokens as u32 + (t % page_tokens) as u32).collect();
            kv.store(cx, &k, &v, &slots);
            keys.push(k.iter().map(|&x| rounded(format, x)).collect());
            values.push(v.iter().map(|&x| rounded(format, x)).collect());
        }
        let num_tokens: usize = self.lengths.iter().map(|(queries, _)| queries).sum();
        let q = random(99, num_tokens * self.params.num_heads * head_dim).iter().map(|x| x * 3.0).collect();
        Built { kv, tables, q, k: keys, v: values }
    }

    fn sequences<'a>(&self, built: &'a Built) -> Vec<AttentionSequence<'a>> {
        let mut query_start = 0;
        let sequence = |((&(query_len, context_len), table), query_start)| AttentionSequence {
            query_start,
            query_len,
            context_len,
            pages: table,
        };
        let starts: Vec<usize> = self
            .lengths
            .iter()
            .map(|(queries, _)| {
                query_start += queries;
                query_start - queries
            })
            .collect();
        self.lengths.iter().zip(&built.tables).map(|(l, t)| (l, t.as_slice())).zip(starts).map(sequence).collect()
    }

    fn run(&self, cx: &Compute, built: &Built) -> Vec<f32> {
        let mut out = vec![f32::NAN; built.q.len()];
        attention(cx, &self.params, &built.q, &built.kv, &self.sequences(built), &mut out);
        out
    }

    /// The definition, one query and head at a time.
    fn reference(&self, built: &Built) -> Vec<f32> {
        let (heads, kv_heads, dim) = (self.params.num_heads, self.layout.num_kv_heads, self.layout.head_dim);
        let mut out = Vec::new();
        for ((sequence, k), v) in self.sequences(built).iter().zip(&built.k).zip(&built.v) {
            for index in 0..sequence.query_len {
                let position = sequence.context_len - sequence.query_len + index;
                let sees = |t: usize| {
                    (!self.params.causal || t <= position)
                        && self.params.window.is_none_or(|window| t.abs_diff(position) < window)
                };
                for head in 0..heads {
                    let query = &built.q[((sequence.query_start + index) * heads + head) * dim..][..dim];
                    let at = |t: usize| (t * kv_heads + head * kv_heads / heads) * dim;
                    let score = |t: usize| {
                        let dot: f64 = query.iter().zip(&k[at(t)..]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                        let score = dot * f64::from(self.params.scale);
                        self.params.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    };
                    let scores: Vec<(usize, f64)> =
                        (0..sequence.context_len).filter(|&t| sees(t)).map(|t| (t, score(t))).collect();
                    let max = scores.iter().fold(f64::MIN, |max, (_, s)| max.max(*s));
                    let sum: f64 = scores.iter().map(|(_, s)| (s - max).exp()).sum();
                    out.extend((0..dim).map(|d| {
                        let weighted = |(t, s): &(usize, f64)| (s - max).exp() * f64::from(v[at(*t) + d]);
                        (scores.iter().map(weighted).sum::<f64>() / sum) as f32
                    }));
                }
            }
        }
        out
    }

    #[track_caller]
    fn check(&self) {
        for cx in computes() {
            let built = self.build(&cx);
            // Of bfloat16 keys, queries and weights are rounded to eight bits, too.
            let tolerance = if self.layout.format == KvFormat::BF16 { 1.5e-2 } else { 3e-6 };
            assert_close(&self.run(&cx, &built), &self.reference(&built), tolerance);
        }
    }
}

#[test]
fn agrees_with_the_definition_for_every_head_dimension() {
    for head_dim in [1, 3, 8, 20, 32, 64, 80, 96, 128, 256] {
        case(4, 2, head_dim, &[(5, 40), (1, 1), (1, 33)]).check();
    }
}

#[test]
fn agrees_for_grouped_queries_and_page_boundaries() {
    for (heads, kv_heads) in [(1, 1), (3, 3), (9, 3), (7, 1), (14, 2)] {
        for lengths in [[(1, 31), (1, 32)], [(33, 33), (2, 65)], [(70, 100), (1, 64)], [(0, 5), (3, 3)]] {
            case(heads, kv_heads, 16, &lengths).check();
        }
    }
}

#[test]
fn agrees_over_splits_of_long_contexts() {
    case(6, 2, 32, &[(1, 256), (1, 257), (2, 700), (40, 530)]).check();
    case(2, 2, 8, &[(1, 1500)]).check();
}

#[test]
fn agrees_with_windows_caps_and_without_a_mask() {
    for window in [1, 5, 32, 33, 300, usize::MAX] {
        for causal in [true, false] {
            let mut case = case(4, 2, 16, &[(1, 600), (50, 310), (20, 20)]);
            case.params.window = Some(window);
            case.params.causal = causal;
            case.check();
        }
    }
    let mut case = case(4, 4, 64, &[(30, 30), (1, 90)]);
    case.params.causal = false;
    case.check();
    case.params.softcap = Some(2.0);
    case.check();
}

#[test]
fn agrees_for_every_storage_format_and_page_size() {
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::BF16] {
        for page_tokens in [16, 32, 48, 128] {
            for head_dim in [8, 64] {
                let mut case = case(6, 2, head_dim, &[(1, 300), (1, 17), (29, 200), (2, 2)]);
                case.layout.format = format;
                case.layout.page_tokens = page_tokens;
                case.check();
            }
        }
    }
}

/// The tests of the 16-lane tiles where there is no AVX-512.
#[test]
fn sixteen_lanes_agree_with_the_definition() {
    use crate::simd::Portable;
    for (heads, kv_heads, head_dim) in [(12, 2, 64), (9, 3, 8), (7, 1, 80), (8, 2, 48)] {
        let mut case = case(heads, kv_heads, head_dim, &[(1, 300), (40, 77), (1, 1)]);
        case.layout.format = KvFormat::F16;
        let cx = Compute::new(1);
        let built = case.build(&cx);
        let sequences = case.sequences(&built);
        let shape = RowShape { head_dim, page_tokens: 32 };
        let (mut plan, mut rows, mut out) = (Plan::default(), Rows::default(), vec![0.0; built.q.len()]);
        let heads_per_group = heads / kv_heads;
        plan.fill(2, &case.params, shape, kv_heads, heads_per_group, &sequences);
        let call = Call {
            params: &case.params,
            shape,
            heads_per_group,
            q: &built.q,
            kv: &built.kv,
            sequences: &sequences,
            tasks: &plan.tasks,
            groups: &plan.groups,
            out: SharedSlice::new(&mut out),
            partials: SharedSlice::new(&mut plan.partials),
        };
        (0..plan.tasks.len()).for_each(|task| call.run::<_, F16>(Portable::<16>, task, &mut rows));
        assert_close(&out, &case.reference(&built), 3e-6);
    }
}

#[test]
fn a_query_is_the_same_bits_alone_or_in_a_chunk_on_any_number_of_threads() {
    for (window, format, head_dim) in [
        (None, KvFormat::F16, 64),
        (Some(100), KvFormat::F16, 64),
        (None, KvFormat::BF16, 8),
        (None, KvFormat::F32, 80),
    ] {
        let context = 600;
        let mut whole = case(6, 2, head_dim, &[(context, context)]);
        whole.params.window = window;
        whole.layout.format = format;
        let mut results = Vec::new();
        for cx in computes() {
            let built = whole.build(&cx);
            let chunk = whole.run(&cx, &built);
            let width = 6 * head_dim;
            for position in [0, 1, 31, 32, 99, 100, 255, 256, 300, 511, 512, 599] {
                let alone = AttentionSequence {
                    query_start: 0,
                    query_len: 1,
                    context_len: position + 1,
                    pages: &built.tables[0],
                };
                let mut out = vec![0.0; width];
                let query = &built.q[position * width..][..width];
                attention(&cx, &whole.params, query, &built.kv, &[alone], &mut out);
                assert_eq!(out, chunk[position * width..][..width], "position {position}, {}", cx.level());
            }
            results.push((cx.level(), chunk));
        }
        for pair in results.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            assert_eq!(pair[0].1, pair[1].1, "one thread and three");
        }
    }
}

#[test]
fn pages_are_copied_whole_and_unseen_ones_are_not_read() {
    let cx = Compute::new(1);
    let mut case = case(2, 1, 16, &[(1, 100)]);
    case.params.window = Some(20);
    let mut built = case.build(&cx);
    let expected = case.run(&cx, &built);
    let (from, spare) = (built.tables[0][3], 0);
    built.kv.copy_page(from, spare);
    // Positions 0..64 lie before the window: their pages may be gone.
    built.tables[0] = vec![u32::MAX, u32::MAX, built.tables[0][2], spare];
    assert_eq!(case.run(&cx, &built), expected);
}

#[test]
fn refuses_layouts_it_cannot_store() {
    let layout = KvLayout { num_kv_heads: 1, head_dim: 64, page_tokens: 32, format: KvFormat::F16 };
    assert_eq!(KvPages::bytes_per_page(layout), 2 * 64 * 32 * 2);
    assert!(KvPages::new(KvLayout { page_tokens: 24, ..layout }, 1).is_err());
    assert!(KvPages::new(KvLayout { head_dim: 0, ..layout }, 1).is_err());
    assert!(KvPages::new(KvLayout { head_dim: 3, format: KvFormat::BF16, ..layout }, 1).is_err());
    assert!(KvPages::new(KvLayout { num_kv_heads: 0, ..layout }, 1).is_err());
    let too_many = KvPages::new(layout, usize::MAX / 16384);
    assert!(matches!(too_many, Err(crate::KernelError::OutOfMemory { .. })));
    assert!(KvPages::new(layout, 0).is_ok());
}

#[test]
fn a_pages_bytes_are_all_there_is_to_it() {
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::BF16] {
        let layout = KvLayout { num_kv_heads: 3, head_dim: 10, page_tokens: 32, format };
        let mut pages = KvPages::new(layout, 4).unwrap();
        pages.fill_with_nan();
        let slots: Vec<u32> = (64..96).collect();
        pages.store(&Compute::new(1), &random(1, 32 * 30), &random(2, 32 * 30), &slots);
        let stored = pages.page_bytes(2).map(<[u8]>::to_vec);
        assert_eq!(stored.iter().map(Vec::len).sum::<usize>(), KvPages::bytes_per_page(layout), "{format:?}");
        assert!(stored.iter().flatten().any(|&byte| byte != 0xff));
        pages.page_bytes_mut(3).into_iter().zip(&stored).for_each(|(part, bytes)| part.copy_from_slice(bytes));
        pages.copy_page(2, 0);
        for page in [0, 2, 3] {
            assert_eq!(pages.page_bytes(page).map(<[u8]>::to_vec), stored, "{format:?}, page {page}");
        }
        assert!(pages.page_bytes(1).iter().all(|part| part.iter().all(|&byte| byte == 0xff)), "others are left alone");
    }
}
