//! Each step against a naive reference that sorts.

use proptest::prelude::*;

use super::*;

/// Logits with many ties, some −∞.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        4 => (-20i32..20).prop_map(|value| value as f32 / 4.0),
        4 => -10.0f32..10.0,
        1 => Just(f32::NEG_INFINITY),
    ];
    prop::collection::vec(logit, 1..400)
}

/// Token ids, most likely first, lower id first among equals; without −∞.
fn ranked(row: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..row.len() as u32).filter(|&id| row[id as usize] > f32::NEG_INFINITY).collect();
    ids.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
    ids
}

fn ids(candidates: &[Candidate]) -> Vec<u32> {
    candidates.iter().map(|candidate| candidate.id).collect()
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids
}

fn params() -> SamplingParams {
    SamplingParams::default()
}

proptest! {
    #[test]
    fn argmax_is_the_first_of_the_ranking(row in logits()) {
        prop_assert_eq!(math::argmax(&row).map(|(id, _)| id), ranked(&row).first().copied());
    }

    #[test]
    fn top_k_keeps_the_first_k_of_the_ranking(row in logits(), k in 1usize..450) {
        let mut candidates = Vec::new();
        top_k::select(&row, k, &mut Vec::new(), &mut candidates);
        let expected = ranked(&row).into_iter().take(k).collect();
        prop_assert_eq!(ids(&candidates), sorted(expected));
    }

    /// Weights are whole numbers, so that sums are exact whatever their order.
    #[test]
    fn top_p_keeps_the_fewest_that_reach_p(
        weights in prop::collection::vec(0u8..50, 1..3000),
        p in 0.01f32..1.0,
    ) {
        let row: Vec<f32> = weights.iter().map(|&weight| f32::from(weight)).collect();
        prop_assume!(row.iter().any(|&weight| weight > 0.0));
        let target = f64::from(p) * row.iter().map(|&weight| f64::from(weight)).sum::<f64>();
        let mut expected = Vec::new();
        let mut sum = 0.0;
        for id in ranked(&row) {
            if sum < target {
                sum += f64::from(row[id as usize]);
                expected.push(id);
            }
        }
        let mut candidates = Vec::new();
        top_p::select(&row, p, &mut Vec::new(), &mut candidates);
        prop_assert_eq!(ids(&candidates), sorted(expected));
    }

    #[test]
    fn min_p_keeps_what_is_likely_enough(row in logits(), min_p in 0.001f32..1.0) {
        let Some((_, highest)) = math::argmax(&row) else { return Ok(()) };
        let mut weights = row.clone();
        temperature::weigh(&mut weights, highest, 1.0);
        let mut candidates = Vec::new();
        min_p::select(&weights, min_p, &mut candidates);
        for (id, &logit) in (0u32..).zip(&row) {
            let ratio = f64::from(logit - highest).exp() / f64::from(min_p);
            let kept = candidates.iter().any(|candidate| candidate.id == id);
            prop_assert!(if kept { ratio > 1.0 - 1e-5 } else { ratio < 1.0 + 1e-5 }, "{id}: {ratio} {kept}");
        }
    }

    #[test]
    fn exp_is_the_exponential(x in -86.0f32..=0.0) {
        let expected = f64::from(x).exp();
        prop_assert!((f64::from(math::exp(x)) / expected - 1.0).abs() < 3e-7);
    }

    #[test]
    fn log_sum_exp_is_what_it_says(row in logits()) {
        let direct: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        match math::log_sum_exp(&row) {
            Some(value) => prop_assert!((value - direct.ln()).abs() < 1e-5),
            None => prop_assert_eq!(direct, 0.0),
        }
    }

    /// The token drawn is the one whose interval of the cumulative distribution the uniform number falls into.
    #[test]
    fn draws_follow_the_whole_pipeline_done_naively(
        row in logits(),
        k in 0usize..50,
        p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.001f32..0.5],
        temperature in 0.2f32..3.0,
        seed in any::<u64>(),
    ) {
        let Some((_, highest)) = math::argmax(&row) else { return Ok(()) };
        let weight = |id: &u32| f64::from((row[*id as usize] - highest) / temperature).exp();
        let mut kept = ranked(&row);
        kept.truncate(if k == 0 { usize::MAX } else { k });
        let target = f64::from(p) * kept.iter().map(weight).sum::<f64>();
        let mut sum = 0.0;
        kept.retain(|id| {
            let keep = sum < target;
            sum += weight(id);
            keep
        });
        kept.retain(|id| weight(id) >= f64::from(min_p));
        let kept = sorted(kept);
        let total: f64 = kept.iter().map(weight).sum();
        let wanted = rng::uniform(seed, 2, 9) * total;
        let params = SamplingParams { temperature, top_k: k, top_p: p, min_p, seed: Some(seed), ..params() };
        let mut sampler = Sampler::new(&params, &[], 2, 0);
        let drawn = sampler.sample(&mut row.clone(), 9, &mut SamplingScratch::default());
        let drawn = drawn.expect("there is a finite logit");
        let before: f64 = kept.iter().filter(|&&id| id < drawn).map(weight).sum();
        // Weights are f32: at an edge of an interval, or of the kept set, rounding decides.
        let after = before + weight(&drawn);
        let edge = 1e-4 * total + kept.iter().map(weight).fold(0.0, f64::min);
        let inside = wanted >= before - edge && wanted <= after + edge;
        let at_cut = !kept.contains(&drawn);
        prop_assert!(inside || at_cut && weight(&drawn) < 0.6, "{drawn}: {before}..{after}, {wanted} of {total}");
    }
}

#[test]
fn nothing_to_sample_from_is_said() {
    for value in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
        let mut sampler = Sampler::new(&params(), &[], 0, 1);
        assert_eq!(sampler.sample(&mut [value; 5], 0, &mut SamplingScratch::default()), None);
    }
    let mut sampler = Sampler::new(&params(), &[], 0, 1);
    let mut row = [f32::NAN, f32::NEG_INFINITY, -3.0, f32::NAN];
    assert_eq!(sampler.sample(&mut row, 0, &mut SamplingScratch::default()), Some(2));
}

#[test]
fn penalties_are_those_of_the_definition() {
    let params = SamplingParams { repetition_penalty: 2.0, presence_penalty: 0.5, frequency_penalty: 0.25, ..params() };
    let mut counts = TokenCounts::new(&[0, 1, 1]);
    for id in [1, 2, 2] {
        counts.push(id);
    }
    let mut row = [4.0, -4.0, 4.0, 4.0];
    penalties::apply(&mut row, &params, &counts);
    // In the prompt only; in both, once in the answer; twice in the answer; never.
    assert_eq!(row, [2.0, -8.0 - 0.25 - 0.5, 2.0 - 0.5 - 0.5, 4.0]);
}

#[test]
fn bias_can_force_and_forbid() {
    let params = SamplingParams { temperature: 0.0, logit_bias: vec![(3, 100.0), (0, -100.0)], ..params() };
    let mut sampler = Sampler::new(&params, &[], 0, 1);
    assert_eq!(sampler.sample(&mut [9.0, 1.0, 2.0, 0.0], 0, &mut SamplingScratch::default()), Some(3));
}

#[test]
fn any_temperature_yields_a_token() {
    for temperature in [1e-45, 1e-30, 0.01, 1.0, 100.0] {
        let mut sampler = Sampler::new(&SamplingParams { temperature, ..params() }, &[], 0, 1);
        let drawn = sampler.sample(&mut [1.0, 1.5, -2.0], 0, &mut SamplingScratch::default());
        assert!(drawn.is_some());
        if temperature < 0.02 {
            assert_eq!(drawn, Some(1));
        }
    }
}

/// Frequencies of 40 000 draws; six standard deviations leave no room for chance.
#[test]
fn draws_have_the_distribution_asked_for() {
    let probabilities = [0.5f32, 0.3, 0.15, 0.05];
    let mut sampler = Sampler::new(&SamplingParams { seed: Some(42), ..params() }, &[], 0, 0);
    let mut scratch = SamplingScratch::default();
    let mut counts = [0u32; 4];
    const DRAWS: usize = 40_000;
    for position in 0..DRAWS {
        let mut row = probabilities.map(f32::ln);
        let id = sampler.sample(&mut row, position, &mut scratch).expect("finite logits");
        counts[id as usize] += 1;
    }
    for (count, p) in counts.into_iter().zip(probabilities.map(f64::from)) {
        let deviation = (DRAWS as f64 * p * (1.0 - p)).sqrt();
        assert!((f64::from(count) - DRAWS as f64 * p).abs() < 6.0 * deviation, "{counts:?}");
    }
}

#[test]
fn random_bits_depend_on_every_input() {
    let mut seen = std::collections::HashSet::new();
    for seed in 0..20 {
        for choice in 0..20 {
            for position in 0..20 {
                assert!(seen.insert(rng::bits(seed, choice, position)));
            }
        }
    }
}
