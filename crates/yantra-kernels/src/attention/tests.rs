//! Attention against the definition in f64, and bit for bit against itself in other batches.

#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::{
    CpuLevel,
    test_support::{assert_close, computes, random},
};
use half::{bf16, f16};

/// A batch over shuffled pages, with the keys and values as stored kept aside.
struct Case {
    params: AttentionParams<'static>,
    layout: KvLayout,
    /// (query_len, context_len) per sequence.
    lengths: Vec<(usize, usize)>,
}

struct Built {
    kv: KvPages,
    tables: Vec<Vec<u32>>,
    q: Vec<f32>,
    /// Per sequence: `[context, kv_heads, head_dim]`, `[context, kv_heads, value_dim]`.
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

fn case(heads: usize, kv_heads: usize, head_dim: usize, lengths: &[(usize, usize)]) -> Case {
    let scale = 1.7 / (head_dim as f32).sqrt();
    Case {
        params: AttentionParams::new(heads, scale),
        layout: KvLayout::new(kv_heads, head_dim, 32, KvFormat::F32),
        lengths: lengths.to_vec(),
    }
}

fn rounded(format: KvFormat, x: f32) -> f32 {
    match format {
        KvFormat::F32 => x,
        KvFormat::F16 => f16::from_f32(x).to_f32(),
        KvFormat::BF16 => bf16::from_f32(x).to_f32(),
        // Integers are not rounded one by one: see `StoredHead`.
        KvFormat::Int8 | KvFormat::Int4 => f32::NAN,
    }
}

/// A head of a page of integers, read by the definition of the layout.
struct StoredHead<'a> {
    layout: KvLayout,
    keys: &'a [u8],
    values: &'a [u8],
}

impl<'a> StoredHead<'a> {
    fn new(kv: KvLayer<'a>, page: u32, head: usize) -> Self {
        let (keys, values) = kv.head(page, head);
        Self { layout: kv.layout(), keys, values }
    }

    fn scale(page: &[u8], page_tokens: usize, offset: usize) -> f64 {
        let at = page.len() - 2 * page_tokens + 2 * offset;
        bf16::from_le_bytes([page[at], page[at + 1]]).to_f64()
    }

    /// The key and the value of a token as stored, turned; with each the step from one integer to the next.
    fn turned(&self, offset: usize) -> [(Vec<f64>, f64); 2] {
        let KvLayout { value_dim, page_tokens, format, .. } = self.layout;
        let value_step = Self::scale(self.values, page_tokens, offset);
        let value = (0..value_dim).map(|d| match format {
            KvFormat::Int8 => f64::from(self.values[offset * value_dim + d].cast_signed()) * value_step,
            _ => {
                let bits = self.values[offset / 2 * value_dim + d] >> (offset % 2 * 4) & 15;
                (f64::from(bits) - 7.5) * value_step
            }
        });
        [self.turned_key(offset), (value.collect(), value_step)]
    }

    fn turned_key(&self, offset: usize) -> (Vec<f64>, f64) {
        let KvLayout { head_dim, page_tokens, .. } = self.layout;
        let step = Self::scale(self.keys, page_tokens, offset);
        let component = |d: usize| f64::from(self.keys[d * page_tokens + offset].cast_signed()) * step;
        ((0..head_dim).map(component).collect(), step)
    }
}

/// Multiplication by the Hadamard matrix of the largest power of two that divides the length, entry by entry.
fn turn(x: &[f64]) -> Vec<f64> {
    let size = 1 << x.len().trailing_zeros();
    let sign = |row: usize, column: usize| if (row & column).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let entry = |(index, _): (usize, &f64)| {
        let block = &x[index / size * size..][..size];
        let sum: f64 = block.iter().enumerate().map(|(column, value)| sign(index % size, column) * value).sum();
        sum / (size as f64).sqrt()
    };
    x.iter().enumerate().map(entry).collect()
}

fn read_back(kv: KvLayer<'_>, slots: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let KvLayout { num_kv_heads, page_tokens, .. } = kv.layout();
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for slot in slots {
        for head in 0..num_kv_heads {
            let stored = StoredHead::new(kv, slot / page_tokens as u32, head);
            let (key, _) = stored.turned_key(*slot as usize % page_tokens);
            keys.extend(turn(&key).into_iter().map(|x| x as f32));
            if !kv.layout().shares_values {
                let [_, (value, _)] = stored.turned(*slot as usize % page_tokens);
                values.extend(turn(&value).into_iter().map(|x| x as f32));
            }
        }
    }
    (keys, values)
}

impl Case {
    fn build(&self, cx: &Compute) -> Built {
        let KvLayout { num_kv_heads, head_dim, value_dim, shares_values, page_tokens, format } = self.layout;
        let pages: Vec<usize> = self.lengths.iter().map(|(_, context)| context.div_ceil(page_tokens)).collect();
        let num_pages: usize = pages.iter().sum::<usize>() + 1;
        let mut kv = KvPages::new(&[self.layout], num_pages).unwrap();
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
        let stored_values = if shares_values { 0 } else { value_dim };
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (index, ((_, context), table)) in self.lengths.iter().zip(&tables).enumerate() {
            let k = random(10 + index as u64, context * num_kv_heads * head_dim);
            let v = random(50 + index as u64, context * num_kv_heads * stored_values);
            let slots: Vec<u32> =
                (0..*context).map(|t| table[t / page_tokens] * page_tokens as u32 + (t % page_tokens) as u32).collect();
            kv.store(cx, 0, &k, &v, &slots);
            let (k, v) = match format {
                KvFormat::Int8 | KvFormat::Int4 => read_back(kv.layer(0), &slots),
                _ => [k, v].map(|x| x.iter().map(|&x| rounded(format, x)).collect()).into(),
            };
            values.push(if shares_values {
                k.chunks_exact(head_dim).flat_map(|key| &key[..value_dim]).copied().collect()
            } else {
                v
            });
            keys.push(k);
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
        let mut out = vec![f32::NAN; built.q.len() / self.layout.head_dim * self.layout.value_dim];
        attention(cx, &self.params, &built.q, built.kv.layer(0), &self.sequences(built), &mut out);
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
                        && (self.params.window.is_none_or(|window| t.abs_diff(position) < window)
                            && self.params.chunk.is_none_or(|chunk| t / chunk == position / chunk)
                            || t < self.params.sink_tokens)
                };
                for head in 0..heads {
                    let query = &built.q[((sequence.query_start + index) * heads + head) * dim..][..dim];
                    let value_dim = self.layout.value_dim;
                    let head_at = |t: usize| t * kv_heads + head * kv_heads / heads;
                    let score = |t: usize| {
                        let dot: f64 =
                            query.iter().zip(&k[head_at(t) * dim..]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                        let slope = self.params.alibi.map_or(0.0, |slopes| f64::from(slopes[head]));
                        let score = dot * f64::from(self.params.scale) - slope * t.abs_diff(position) as f64;
                        self.params.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    };
                    let scores: Vec<(usize, f64)> =
                        (0..sequence.context_len).filter(|&t| sees(t)).map(|t| (t, score(t))).collect();
                    let max = scores.iter().fold(f64::MIN, |max, (_, s)| max.max(*s));
                    let sink = self.params.sinks.map_or(0.0, |sinks| (f64::from(sinks[head]) - max).exp());
                    let sum = scores.iter().map(|(_, s)| (s - max).exp()).sum::<f64>() + sink;
                    out.extend((0..value_dim).map(|d| {
                        let weighted =
                            |(t, s): &(usize, f64)| (s - max).exp() * f64::from(v[head_at(*t) * value_dim + d]);
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
            let is_native = cx.level() == crate::CpuLevel::Avx512Bf16;
            let tolerance = match self.layout.format {
                KvFormat::BF16 => 1.5e-2,
                KvFormat::Int8 | KvFormat::Int4 if is_native => 1.5e-2,
                KvFormat::Int8 | KvFormat::Int4 => 1e-5,
                KvFormat::F32 | KvFormat::F16 => 3e-6,
            };
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

const FORMATS: [KvFormat; 5] = [KvFormat::F32, KvFormat::F16, KvFormat::BF16, KvFormat::Int8, KvFormat::Int4];

#[test]
fn agrees_for_values_of_another_width() {
    for format in FORMATS {
        for (head_dim, value_dim) in [(48, 32), (32, 48), (24, 1), (20, 33), (8, 160)] {
            let mut case = case(6, 2, head_dim, &[(1, 300), (1, 32), (29, 200), (0, 4), (2, 2)]);
            case.layout = KvLayout { value_dim, format, ..case.layout };
            case.check();
        }
    }
}

#[test]
fn agrees_for_values_that_are_the_beginning_of_keys() {
    for format in FORMATS {
        for (heads, head_dim, value_dim) in [(5, 36, 32), (16, 72, 64), (130, 20, 4), (3, 32, 32), (4, 80, 16)] {
            let mut case = case(heads, 1, head_dim, &[(1, 300), (1, 64), (9, 100), (1, 1)]);
            case.layout = KvLayout::latent(head_dim, value_dim, if heads == 5 { 16 } else { 32 }, format);
            case.params.window = (heads == 3).then_some(40);
            case.check();
        }
    }
    // Of floats any beginning will do, and there may be more than one head.
    for (format, value_dim) in [(KvFormat::F32, 7), (KvFormat::F16, 19), (KvFormat::BF16, 13)] {
        let mut case = case(6, 3, 20, &[(1, 300), (1, 64), (9, 100)]);
        case.layout = KvLayout { value_dim, shares_values: true, format, ..case.layout };
        case.check();
    }
}

/// The latent vectors of DeepSeek-V2 and V3: 512 components, 64 more of keys.
#[test]
fn latent_vectors_are_the_same_bits_alone_or_in_a_chunk() {
    for (format, heads) in [(KvFormat::F32, 3), (KvFormat::F16, 5), (KvFormat::BF16, 16), (KvFormat::Int8, 5)] {
        let mut whole = case(heads, 1, 576, &[(9, 270)]);
        whole.layout = KvLayout::latent(576, 512, 32, format);
        whole.check();
        for cx in computes() {
            let built = whole.build(&cx);
            let chunk = whole.run(&cx, &built);
            for index in [0, 3, 8] {
                let pages = &built.tables[0];
                let alone = AttentionSequence { query_start: 0, query_len: 1, context_len: 262 + index, pages };
                let mut out = vec![0.0; heads * 512];
                let query = &built.q[index * heads * 576..][..heads * 576];
                attention(&cx, &whole.params, query, built.kv.layer(0), &[alone], &mut out);
                assert!(out == chunk[index * heads * 512..][..heads * 512], "{format:?} {index} {}", cx.level());
            }
        }
    }
}

#[test]
fn agrees_with_linear_biases() {
    const SLOPES: [f32; 6] = [0.5, 0.25, 0.01, 0.0, 0.003, -0.02];
    for format in FORMATS {
        for (causal, window, softcap) in
            [(true, None, None), (false, None, None), (true, Some(40), None), (true, None, Some(2.0))]
        {
            let mut case = case(6, 2, 20, &[(1, 600), (1, 20), (29, 300), (50, 50)]);
            case.layout.format = format;
            case.params = AttentionParams { causal, window, softcap, alibi: Some(&SLOPES), ..case.params };
            case.check();
        }
    }
}

#[test]
fn agrees_with_sinks() {
    // Some above all scores, some far below, and one that changes no bit.
    const SINKS: [f32; 6] = [0.0, 3.0, -2.5, 60.0, -60.0, f32::NEG_INFINITY];
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::BF16, KvFormat::Int8] {
        for (window, softcap) in [(None, None), (Some(40), None), (None, Some(2.0))] {
            let mut case = case(6, 2, 32, &[(1, 600), (1, 20), (29, 300), (50, 50)]);
            case.layout.format = format;
            case.params = AttentionParams { window, softcap, sinks: Some(&SINKS), ..case.params };
            case.check();
            let cx = Compute::new(2);
            let built = case.build(&cx);
            let with = case.run(&cx, &built);
            case.params.sinks = None;
            let last_head =
                |out: &[f32]| out.chunks_exact(32).skip(5).step_by(6).flatten().copied().collect::<Vec<_>>();
            assert_eq!(last_head(&with), last_head(&case.run(&cx, &built)));
        }
    }
}

#[test]
fn agrees_with_chunks_of_the_context() {
    for format in FORMATS {
        for (chunk, window, sink_tokens, causal) in [
            (16, None, 0, true),
            (300, None, 0, true),
            (256, Some(40), 0, true),
            (70, None, 5, true),
            (33, None, 0, false),
        ] {
            let mut case = case(4, 2, 16, &[(1, 900), (1, 257), (60, 630), (20, 20), (3, 41)]);
            case.layout.format = format;
            case.params = AttentionParams { chunk: Some(chunk), window, sink_tokens, causal, ..case.params };
            case.check();
        }
    }
}

#[test]
fn agrees_with_sink_tokens_beside_a_window() {
    for format in FORMATS {
        for (sink_tokens, window, causal) in [
            (4, 40, true),
            (1, 300, true),
            (33, 1, true),
            (64, 250, true),
            (300, 90, true),
            (700, 5, true),
            (4, 9, false),
        ] {
            let mut case = case(4, 2, 16, &[(1, 900), (1, 270), (60, 630), (20, 20), (3, 41)]);
            case.layout.format = format;
            case.params = AttentionParams { sink_tokens, window: Some(window), causal, ..case.params };
            case.check();
        }
    }
}

#[test]
fn sink_tokens_change_no_bit_of_a_chunk_and_pages_between_are_not_read() {
    for (format, sink_tokens, window) in [(KvFormat::F16, 4, 400), (KvFormat::BF16, 70, 33), (KvFormat::Int8, 300, 20)]
    {
        let mut whole = case(4, 2, 32, &[(800, 800)]);
        whole.layout.format = format;
        whole.params = AttentionParams { sink_tokens, window: Some(window), ..whole.params };
        for cx in computes() {
            let built = whole.build(&cx);
            let chunk = whole.run(&cx, &built);
            for position in [0, 40, 90, 255, 300, 430, 700, 799] {
                let mut pages = built.tables[0].clone();
                for (index, page) in pages.iter_mut().enumerate() {
                    if index * 32 >= sink_tokens && (index + 1) * 32 <= (position + 1_usize).saturating_sub(window) {
                        *page = u32::MAX;
                    }
                }
                let query = &built.q[position * 128..][..128];
                // Twice, so that one task comes after another.
                let q = [query, query].concat();
                let first =
                    AttentionSequence { query_start: 0, query_len: 1, context_len: position + 1, pages: &pages };
                let mut out = vec![0.0; 256];
                let sequences = [first, AttentionSequence { query_start: 1, ..first }];
                attention(&cx, &whole.params, &q, built.kv.layer(0), &sequences, &mut out);
                for out in out.chunks(128) {
                    assert_eq!(out, &chunk[position * 128..][..128], "{format:?} {position} {}", cx.level());
                }
            }
        }
    }
}

#[test]
fn agrees_for_every_storage_format_and_page_size() {
    for format in FORMATS {
        for page_tokens in [16, 32, 48, 128] {
            for head_dim in [8, 20, 64] {
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
        let shape = RowShape::new(case.layout);
        let (mut plan, mut rows, mut out) = (Plan::default(), Rows::default(), vec![0.0; built.q.len()]);
        let heads_per_group = heads / kv_heads;
        plan.fill(2, &case.params, shape, kv_heads, heads_per_group, &sequences);
        let call = Call {
            params: &case.params,
            shape,
            heads_per_group,
            q: &built.q,
            kv: built.kv.layer(0),
            sequences: &sequences,
            tasks: &plan.tasks,
            members: &plan.members,
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
        (None, KvFormat::Int8, 64),
        (Some(100), KvFormat::Int4, 80),
    ] {
        let context = 600;
        let mut whole = case(6, 2, head_dim, &[(context, context)]);
        if head_dim == 80 {
            whole.params.alibi = Some(&[0.5, 0.1, 0.0, 0.01, 0.02, 1.0]);
            whole.params.sinks = Some(&[0.5, 0.1, 0.0, -3.0, 2.0, 9.0]);
        }
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
                attention(&cx, &whole.params, query, built.kv.layer(0), &[alone], &mut out);
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
fn integers_are_within_half_a_step_at_every_level() {
    let head_dims = [2, 8, 20, 64, 96, 256];
    for (format, head_dim) in [KvFormat::Int8, KvFormat::Int4].into_iter().flat_map(|f| head_dims.map(|d| (f, d))) {
        let layout = KvLayout::new(2, head_dim, 32, format);
        let mut bytes: Vec<Vec<u8>> = Vec::new();
        for cx in computes() {
            let mut kv = KvPages::new(&[layout], 2).unwrap();
            kv.fill_with_nan();
            // One dimension is far larger than the others; one token is zeros.
            let mut k = random(1, 40 * 2 * head_dim);
            k.iter_mut().step_by(head_dim).for_each(|x| *x *= 50.0);
            k[6 * head_dim..8 * head_dim].fill(0.0);
            let v = random(2, k.len());
            let slots: Vec<u32> = (0..40).map(|slot| slot * 7 % 64).collect();
            kv.store(&cx, 0, &k, &v, &slots);
            for (index, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
                let (slot, head) = (slots[index / 2], index % 2);
                let stored = StoredHead::new(kv.layer(0), slot / 32, head).turned(slot as usize % 32);
                for ((stored, step), exact) in stored.into_iter().zip([k, v]) {
                    let exact = turn(&exact.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
                    let max = exact.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
                    // Four bits may cut off what is above 7.5 steps, never more than what the largest share leaves.
                    let least_step =
                        if format == KvFormat::Int8 || step * 100.0 < max { max / 127.0 } else { 0.68 * max / 7.5 };
                    assert!(step >= least_step * 0.999 && step <= max / 7.5 * 1.01, "a step of {step} for {max}");
                    for (stored, exact) in stored.iter().zip(&exact) {
                        let held = if step * 100.0 < max { *exact } else { exact.clamp(-7.5 * step, 7.5 * step) };
                        assert!((stored - held).abs() <= 0.5001 * step + 1e-6, "{stored} for {exact}, step {step}");
                    }
                }
            }
            let layer = kv.layer(0);
            bytes.push(
                [0, 1].iter().flat_map(|page| [layer.head(*page, 1).0, layer.head(*page, 1).1].concat()).collect(),
            );
        }
        // Only the search for a step of four bits adds in another order at another level.
        assert!(format == KvFormat::Int4 || bytes.windows(2).all(|pair| pair[0] == pair[1]), "other bytes");
    }
}

#[test]
fn a_head_turned_twice_is_itself() {
    use crate::simd::Portable;
    for len in [1, 2, 8, 16, 20, 48, 64, 80, 128, 256, 1024] {
        let (x, block) = (random(5, len), rotation::rotation_block(len));
        let mut turned = x.clone();
        rotation::rotate(Portable::<1>, &mut turned, block);
        let expected: Vec<f32> =
            turn(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()).iter().map(|x| *x as f32).collect();
        assert_close(&turned, &expected, 2e-6);
        let mut wide = x.clone();
        rotation::rotate(Portable::<16>, &mut wide, block);
        assert_eq!(turned, wide, "{len}: the same bits");
        rotation::rotate(Portable::<1>, &mut turned, block);
        assert_close(&turned, &x, 2e-6);
    }
}

#[test]
fn pages_are_copied_whole_and_unseen_ones_are_not_read() {
    for format in [KvFormat::F32, KvFormat::Int8, KvFormat::Int4] {
        check_copies(format);
    }
}

fn check_copies(format: KvFormat) {
    let cx = Compute::new(1);
    let mut case = case(2, 1, 16, &[(1, 100)]);
    case.layout.format = format;
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
    let layout = KvLayout::new(1, 64, 32, KvFormat::F16);
    assert_eq!(KvPages::bytes_per_page(&[layout]), 2 * 64 * 32 * 2);
    assert_eq!(KvPages::bytes_per_page(&[KvLayout { format: KvFormat::Int8, ..layout }]), 2 * (64 + 2) * 32);
    assert_eq!(KvPages::bytes_per_page(&[KvLayout { format: KvFormat::Int4, ..layout }]), (64 + 2 + 32 + 2) * 32);
    assert!(KvPages::new(&[KvLayout { head_dim: 3, format: KvFormat::Int8, ..layout }], 1).is_err());
    assert!(KvPages::new(&[KvLayout { page_tokens: 24, ..layout }], 1).is_err());
    assert!(KvPages::new(&[KvLayout { head_dim: 0, ..layout }], 1).is_err());
    assert!(KvPages::new(&[KvLayout { head_dim: 3, format: KvFormat::BF16, ..layout }], 1).is_err());
    assert!(KvPages::new(&[KvLayout { num_kv_heads: 0, ..layout }], 1).is_err());
    let latent = KvLayout::latent(576, 512, 32, KvFormat::BF16);
    assert_eq!(KvPages::bytes_per_page(&[latent]), 2 * 576 * 32);
    assert_eq!(KvPages::bytes_per_page(&[KvLayout { format: KvFormat::Int4, ..latent }]), (576 + 2) * 32);
    assert!(KvPages::new(&[KvLayout { value_dim: 577, ..latent }], 1).is_err());
    assert!(KvPages::new(&[KvLayout { value_dim: 0, ..latent }], 1).is_err());
    // 576 components are turned 64 at a time.
    assert!(KvPages::new(&[KvLayout { value_dim: 500, format: KvFormat::Int8, ..latent }], 1).is_err());
    assert!(KvPages::new(&[KvLayout { value_dim: 500, ..latent }], 1).is_ok());
    let too_many = KvPages::new(&[layout], usize::MAX / 16384);
    assert!(matches!(too_many, Err(crate::KernelError::OutOfMemory { .. })));
    assert!(KvPages::new(&[layout], 0).is_ok());
}

#[test]
fn a_pages_bytes_are_all_there_is_to_it() {
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::BF16] {
        // Layers need not be alike.
        let layouts = [(3, 10), (1, 64)].map(|(kv_heads, head_dim)| KvLayout::new(kv_heads, head_dim, 32, format));
        let mut pages = KvPages::new(&layouts, 4).unwrap();
        pages.fill_with_nan();
        let slots: Vec<u32> = (64..96).collect();
        for (layer, layout) in layouts.iter().enumerate() {
            let len = 32 * layout.num_kv_heads * layout.head_dim;
            assert!(pages.page(2)[layer * KvPages::bytes_per_page(&layouts[..1])..].iter().all(|&byte| byte == 0xff));
            pages.store(&Compute::new(1), layer, &random(1, len), &random(2, len), &slots);
        }
        let stored = pages.page(2).to_vec();
        assert_eq!(stored.len(), KvPages::bytes_per_page(&layouts), "{format:?}");
        assert!(!stored.windows(4).any(|bytes| bytes == [0xff; 4]), "all of it is written");
        pages.page_mut(3).copy_from_slice(&stored);
        pages.copy_page(2, 0);
        for page in [0, 2, 3] {
            assert_eq!(pages.page(page), stored, "{format:?}, page {page}");
        }
        assert!(pages.page(1).iter().all(|&byte| byte == 0xff), "others are left alone");
    }
}

#[test]
fn a_shared_prefix_is_read_for_all_and_changes_no_bit() {
    const SLOPES: [f32; 6] = [0.5, 0.1, 0.0, 0.01, 0.02, 1.0];
    const SINKS: [f32; 6] = [0.5, 0.1, 0.0, -3.0, 2.0, 9.0];
    let heads = 6;
    // Pages of the common start, then of each sequence's own; the last sequence shares nothing.
    let starts = [(20, 70, 1), (20, 1, 1), (17, 300, 4), (20, 45, 1), (0, 600, 1)];
    let plain = AttentionParams::new(heads, 0.125);
    let biased = AttentionParams { alibi: Some(&SLOPES), sinks: Some(&SINKS), ..plain };
    let usual = |format| KvLayout::new(2, 64, 32, format);
    for (params, layout) in [
        (plain, usual(KvFormat::F32)),
        (biased, usual(KvFormat::F16)),
        (plain, usual(KvFormat::BF16)),
        (biased, usual(KvFormat::Int8)),
        (plain, KvLayout::latent(72, 64, 32, KvFormat::F16)),
        (plain, KvLayout::latent(72, 64, 32, KvFormat::BF16)),
    ] {
        let KvLayout { num_kv_heads, head_dim, value_dim, shares_values, format, .. } = layout;
        let (mut own, mut lists) = (20_u32, Vec::new());
        for (shared, tokens, _) in starts {
            let pages = (tokens as u32).div_ceil(32);
            lists.push((0..shared).chain(own..own + pages).collect::<Vec<u32>>());
            own += pages;
        }
        let mut kv = KvPages::new(&[layout], own as usize).unwrap();
        let slots: Vec<u32> = (0..own * 32).collect();
        let keys = random(1, slots.len() * num_kv_heads * head_dim);
        let values = if shares_values { Vec::new() } else { random(2, slots.len() * num_kv_heads * value_dim) };
        kv.store(&Compute::new(1), 0, &keys, &values, &slots);
        let mut sequences = Vec::new();
        for ((shared, tokens, query_len), pages) in starts.into_iter().zip(&lists) {
            let query_start =
                sequences.last().map_or(0, |last: &AttentionSequence<'_>| last.query_start + last.query_len);
            let context_len = shared as usize * 32 + tokens;
            sequences.push(AttentionSequence { query_start, query_len, context_len, pages });
        }
        let num_tokens: usize = starts.iter().map(|start| start.2).sum();
        let q = random(3, num_tokens * heads * head_dim);
        for level in CpuLevel::supported() {
            let run = |threads: usize, sequences: &[AttentionSequence<'_>]| {
                let mut out = vec![f32::NAN; num_tokens * heads * value_dim];
                attention(&Compute::with_level(threads, level).unwrap(), &params, &q, kv.layer(0), sequences, &mut out);
                out
            };
            let mut plan = Plan::default();
            plan.fill(2, &params, RowShape::new(layout), num_kv_heads, heads / num_kv_heads, &sequences);
            assert!(plan.tasks.iter().any(|task| task.members.len() == 4), "four sequences share their start");
            for threads in [1, 3] {
                let together = run(threads, &sequences);
                for sequence in &sequences {
                    let width = heads * value_dim;
                    let rows = sequence.query_start * width..(sequence.query_start + sequence.query_len) * width;
                    let alone = run(1, std::slice::from_ref(sequence));
                    assert!(together[rows.clone()] == alone[rows], "{format:?} {level}");
                }
            }
        }
    }
}
