//! Routing against values worked out by hand, and against choices by sorting all experts.

use super::*;
use crate::test_support::{assert_close, computes, random};

const PLAIN: Router<'static> = Router {
    num_experts: 4,
    top_k: 2,
    scoring: ExpertScoring::Softmax,
    choice_bias: None,
    groups: None,
    normalize: false,
    scale: 1.0,
};

#[track_caller]
fn check(router: &Router<'_>, logits: &[f32], experts: &[u32], weights: &[f32]) {
    let (mut given, mut given_weights) = (vec![u32::MAX; experts.len()], vec![f32::NAN; experts.len()]);
    route(&Compute::new(1), router, logits, &mut given, &mut given_weights);
    assert_eq!(given, experts);
    assert_close(&given_weights, weights, 1e-6);
}

/// Logits whose softmax are these probabilities.
fn logits_of<const N: usize>(probabilities: [f32; N]) -> [f32; N] {
    probabilities.map(f32::ln)
}

/// Logits whose sigmoids are these scores.
fn inverse_sigmoid<const N: usize>(scores: [f32; N]) -> [f32; N] {
    scores.map(|score| (score / (1.0 - score)).ln())
}

#[test]
fn weights_are_what_the_scoring_says() {
    let logits = logits_of([0.1, 0.2, 0.3, 0.4]);
    check(&PLAIN, &logits, &[3, 2], &[0.4, 0.3]);
    check(&Router { normalize: true, ..PLAIN }, &logits, &[3, 2], &[4.0 / 7.0, 3.0 / 7.0]);
    check(&Router { normalize: true, scale: 3.5, ..PLAIN }, &logits, &[3, 2], &[2.0, 1.5]);
    check(&Router { scoring: ExpertScoring::SoftmaxOfChosen, ..PLAIN }, &logits, &[3, 2], &[4.0 / 7.0, 3.0 / 7.0]);
    let all = Router { top_k: 4, ..PLAIN };
    check(&all, &logits, &[3, 2, 1, 0], &[0.4, 0.3, 0.2, 0.1]);
    let sigmoid = Router { scoring: ExpertScoring::Sigmoid, top_k: 1, ..PLAIN };
    check(&sigmoid, &[-1.0, 0.0, -2.0, -3.0], &[1], &[0.5]);
}

#[test]
fn a_bias_is_for_the_choice_alone() {
    let logits = inverse_sigmoid([0.9, 0.5, 0.8, 0.1]);
    let router = Router {
        scoring: ExpertScoring::Sigmoid,
        choice_bias: Some(&[0.0, 0.45, 0.0, 0.5]),
        normalize: true,
        scale: 2.5,
        ..PLAIN
    };
    check(&router, &logits, &[1, 0], &[2.5 * 0.5 / 1.4, 2.5 * 0.9 / 1.4]);
    check(&Router { choice_bias: None, ..router }, &logits, &[0, 2], &[2.5 * 0.9 / 1.7, 2.5 * 0.8 / 1.7]);
}

#[test]
fn groups_are_chosen_before_experts() {
    // The best expert is in the first group; the two best of the last group sum to the most; the second is never chosen.
    let logits = inverse_sigmoid([0.9, 0.1, 0.1, 0.7, 0.1, 0.1, 0.6, 0.65, 0.5]);
    let groups = ExpertGroups { count: 3, chosen: 1, scoring: GroupScoring::Best };
    let router = Router { num_experts: 9, scoring: ExpertScoring::Sigmoid, groups: Some(groups), ..PLAIN };
    check(&router, &logits, &[0, 1], &[0.9, 0.1]);
    let two = |chosen| Some(ExpertGroups { chosen, scoring: GroupScoring::SumOfBestTwo, ..groups });
    check(&Router { groups: two(1), ..router }, &logits, &[7, 6], &[0.65, 0.6]);
    check(&Router { groups: two(2), ..router }, &logits, &[0, 7], &[0.9, 0.65]);
    check(&Router { groups: two(3), ..router }, &logits, &[0, 3], &[0.9, 0.7]);
    // The bias counts for groups, too.
    let bias = [0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0];
    check(&Router { groups: two(1), choice_bias: Some(&bias), ..router }, &logits, &[3, 4], &[0.7, 0.1]);
}

#[test]
fn of_equal_scores_the_lower_expert_is_chosen_and_none_twice() {
    check(&PLAIN, &[1.0; 8], &[0, 1, 0, 1], &[0.25; 4]);
    check(&PLAIN, &[0.0, 3.0, 0.0, 3.0], &[1, 3], &[0.476_287_07; 2]);
    let groups = Some(ExpertGroups { count: 2, chosen: 1, scoring: GroupScoring::SumOfBestTwo });
    check(&Router { groups, ..PLAIN }, &[1.0; 4], &[0, 1], &[0.25; 2]);
    for broken in [[f32::NEG_INFINITY; 4], [f32::NAN; 4], [f32::NAN, 0.0, f32::INFINITY, f32::NAN]] {
        for scoring in [ExpertScoring::Softmax, ExpertScoring::SoftmaxOfChosen, ExpertScoring::Sigmoid] {
            for groups in [None, groups] {
                let mut experts = [9; 2];
                let router = Router { scoring, groups, ..PLAIN };
                route(&Compute::new(1), &router, &broken, &mut experts, &mut [0.0; 2]);
                assert!(experts[0] != experts[1] && experts.iter().all(|expert| *expert < 4), "{experts:?}");
            }
        }
    }
}

#[test]
fn choices_are_those_of_sorting_on_any_number_of_threads() {
    let (num_tokens, num_experts, top_k) = (300, 48, 6);
    let logits: Vec<f32> = random(1, num_tokens * num_experts).iter().map(|x| (x * 40.0).round() / 8.0).collect();
    let bias: Vec<f32> = random(2, num_experts).iter().map(|x| x * 0.2).collect();
    for scoring in [ExpertScoring::Softmax, ExpertScoring::SoftmaxOfChosen, ExpertScoring::Sigmoid] {
        for choice_bias in [None, Some(&*bias)] {
            let router = Router { num_experts, top_k, scoring, choice_bias, normalize: true, ..PLAIN };
            let mut results = Vec::new();
            for cx in computes() {
                let (mut experts, mut weights) = (vec![0; num_tokens * top_k], vec![0.0; num_tokens * top_k]);
                route(&cx, &router, &logits, &mut experts, &mut weights);
                results.push((experts, weights));
            }
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
            for (token, logits) in logits.chunks(num_experts).enumerate() {
                let mut scores = logits.to_vec();
                match scoring {
                    ExpertScoring::Softmax => softmax(&mut scores),
                    ExpertScoring::SoftmaxOfChosen => {}
                    ExpertScoring::Sigmoid => scores.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
                }
                let key = |expert: u32| scores[expert as usize] + choice_bias.map_or(0.0, |bias| bias[expert as usize]);
                let mut order: Vec<u32> = (0..num_experts as u32).collect();
                order.sort_by(|a, b| key(*b).total_cmp(&key(*a)));
                let chosen = token * top_k..(token + 1) * top_k;
                assert_eq!(results[0].0[chosen.clone()], order[..top_k]);
                assert_close(&[results[0].1[chosen].iter().sum()], &[1.0], 1e-6);
            }
        }
    }
}

#[test]
fn assignments_are_sorted_by_expert_in_the_order_of_tokens() {
    let mut sorted = SortedAssignments::default();
    sorted.sort(&[3, 0, 0, 4, 3, 1, 0, 3], 2, 6);
    assert_eq!(sorted.tokens(), [0, 1, 3, 2, 0, 2, 3, 1]);
    assert_eq!(sorted.places(), [4, 0, 1, 7, 5, 3, 2, 6]);
    assert_eq!((0..6).map(|expert| sorted.of(expert)).collect::<Vec<_>>(), [0..3, 3..4, 4..4, 4..7, 7..8, 8..8]);
    assert_eq!(sorted.used().collect::<Vec<_>>(), [(0, 0..3), (1, 3..4), (3, 4..7), (4, 7..8)]);
    // The buffers are used again, for fewer.
    sorted.sort(&[1, 0], 1, 2);
    assert_eq!((sorted.tokens(), sorted.places(), sorted.of(1)), (&[1, 0][..], &[1, 0][..], 1..2));
    sorted.sort(&[], 4, 0);
    assert_eq!(sorted.used().count(), 0);
}

#[test]
fn rows_are_added_in_the_order_of_choice() {
    for (num_tokens, top_k, cols) in [(1, 1, 1), (5, 3, 20), (40, 8, 515), (0, 2, 4)] {
        let num_experts = 16;
        let logits = random(3, num_tokens * num_experts);
        for cx in computes() {
            let router = Router { num_experts, top_k, ..PLAIN };
            let (mut experts, mut weights) = (vec![0; num_tokens * top_k], vec![0.0; num_tokens * top_k]);
            route(&cx, &router, &logits, &mut experts, &mut weights);
            let mut sorted = SortedAssignments::default();
            sorted.sort(&experts, top_k, num_experts);
            // What an expert gives for a token.
            let given = |token: usize, expert: usize| random((token * 100 + expert) as u64, cols);
            let mut rows = vec![0.0; sorted.tokens().len() * cols];
            for (expert, assignments) in sorted.used() {
                for place in assignments {
                    rows[place * cols..][..cols].copy_from_slice(&given(sorted.tokens()[place] as usize, expert));
                }
            }
            let before = random(4, num_tokens * cols);
            let mut out = before.clone();
            scatter_add_weighted(&cx, &sorted, &rows, &weights, cols, &mut out);
            let mut expected = before.clone();
            for (slot, (&expert, &weight)) in experts.iter().zip(&weights).enumerate() {
                let token = slot / top_k;
                for (sum, x) in expected[token * cols..][..cols].iter_mut().zip(given(token, expert as usize)) {
                    *sum += weight * x;
                }
            }
            assert_close(&out, &expected, 1e-6);
            // Alone, the last token is the same bits.
            if let Some(token) = num_tokens.checked_sub(1) {
                let mut alone = before[token * cols..].to_vec();
                let places = &sorted.places()[token * top_k..];
                add_weighted(cx.level(), &rows, places, &weights[token * top_k..], &mut alone);
                assert_eq!(alone, out[token * cols..]);
            }
        }
    }
}
