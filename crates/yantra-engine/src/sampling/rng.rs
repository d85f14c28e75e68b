//! Random numbers by counter instead of by state.
//!
//! A draw is a hash of (seed, choice, position), so it is the same whatever else runs, however the request was batched,
//! preempted or resumed, and nothing has to be stored. The hash is SplitMix64's finaliser (Steele, Lea and Flood 2014;
//! constants of Stafford's variant 13), applied once per input.

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn finalize(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The 64 random bits of a draw.
pub fn bits(seed: u64, choice: u32, position: u64) -> u64 {
    let by_seed = finalize(seed.wrapping_add(GOLDEN_GAMMA));
    let by_choice = finalize(by_seed ^ (u64::from(choice) + 1).wrapping_mul(GOLDEN_GAMMA));
    finalize(by_choice.wrapping_add((position + 1).wrapping_mul(GOLDEN_GAMMA)))
}

/// A number in `[0, 1)` with 53 random bits.
pub fn uniform(seed: u64, choice: u32, position: u64) -> f64 {
    (bits(seed, choice, position) >> 11) as f64 / (1u64 << 53) as f64
}

/// A seed that nobody can foresee, from the operating system's randomness behind the standard library's hash maps.
pub fn unpredictable_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(GOLDEN_GAMMA)
}
