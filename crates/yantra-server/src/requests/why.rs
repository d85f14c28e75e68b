//! Where a request's time went, in words.

use yantra_api::{RequestInterruption, RequestState, RequestSummary, RequestTimeline};

/// Sentences at most.
const MAX_SENTENCES: usize = 6;
/// What takes less of the whole time is not worth a sentence.
const LEAST_SHARE: f64 = 0.02;
/// A gap so many times the median is a long one.
const LONG_GAP: u32 = 3;

/// A part of a request's time.
struct Part {
    ms: f64,
    words: String,
}

/// What took longest, the longest first; of several prompts, what the one did that ended last.
pub(super) fn sentences(summary: &RequestSummary, timelines: &[RequestTimeline]) -> Vec<String> {
    let mut parts = Vec::new();
    let mut add = |ms: f64, words: String| parts.push(Part { ms, words });
    let preparing = format!("reading and preparing the request took {}", time(summary.prepare_ms));
    add(summary.prepare_ms, preparing);
    if let Some(last) = timelines.iter().max_by(|a, b| a.ended_ms.total_cmp(&b.ended_ms)) {
        engine_parts(last, &mut add);
        let after = summary.total_ms - summary.prepare_ms - last.ended_ms;
        if summary.state != RequestState::Running {
            add(after, format!("sending the rest of the answer took {} after it was complete", time(after)));
        }
    }
    parts.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let least = summary.total_ms * LEAST_SHARE;
    let worth_telling = parts.into_iter().filter(|part| part.ms >= least && part.ms > 0.0);
    worth_telling.take(MAX_SENTENCES).map(|part| part.words).collect()
}

fn engine_parts(timeline: &RequestTimeline, add: &mut impl FnMut(f64, String)) {
    let queued = timeline.admitted_ms.unwrap_or(timeline.ended_ms);
    add(queued, queue_words(timeline, queued));
    let lost: f64 = timeline.preemptions.iter().map(|it| it.took_ms).sum();
    let again: f64 = timeline.chunks.iter().filter(|chunk| chunk.tokens_again > 0).map(|chunk| chunk.took_ms).sum();
    if timeline.num_preemptions > 0 {
        let words = format!(
            "preempted {} for {}, after which {} tokens had to be computed again in {}",
            times(timeline.num_preemptions),
            time(lost),
            number(timeline.prefill_tokens_again),
            time(again)
        );
        add(lost + again, words);
    }
    let prefill = timeline.prefill_ms - again;
    add(prefill, prefill_words(timeline, prefill));
    if let (Some(admitted), Some(first), true) = (timeline.admitted_ms, timeline.first_token_ms, lost == 0.0) {
        let between = first - admitted - timeline.prefill_ms;
        add(between, format!("between its prompt's steps {} went to steps without it", time(between)));
    }
    let from_disk: f64 = timeline.restores.iter().map(|it| it.took_ms).sum();
    let pages: u32 = timeline.restores.iter().map(|it| it.pages).sum();
    add(from_disk, format!("waited {} for {} pages of its prompt from disk", time(from_disk), number(pages as usize)));
    add(timeline.mask_wait_ms, format!("steps waited {} for the grammar's masks", time(timeline.mask_wait_ms)));
    gap_parts(timeline, lost + again, add);
}

fn queue_words(timeline: &RequestTimeline, queued: f64) -> String {
    let (running, waiting) = (number(timeline.running_at_arrival), number(timeline.waiting_at_arrival));
    match (timeline.running_at_arrival, timeline.waiting_at_arrival) {
        (0, 0) => format!("waited {} in the queue, with nobody before it", time(queued)),
        (_, 0) => format!("waited {} in the queue behind {running} running sequences", time(queued)),
        _ => format!("waited {} in the queue behind {running} running and {waiting} waiting sequences", time(queued)),
    }
}

fn prefill_words(timeline: &RequestTimeline, prefill: f64) -> String {
    let new = || timeline.chunks.iter().filter(|chunk| chunk.tokens_again == 0);
    let steps = timeline.num_chunks - (timeline.chunks.len() - new().count());
    let mut words = format!(
        "computing {} prompt tokens took {} in {}; {} came from the cache",
        number(timeline.prefill_tokens - timeline.prefill_tokens_again),
        time(prefill),
        if steps == 1 { "1 step".to_owned() } else { format!("{} steps", number(steps)) },
        number(timeline.usage.prompt_tokens_details.cached_tokens),
    );
    let others: usize = new().map(|chunk| chunk.other_tokens as usize).sum();
    if others > timeline.prefill_tokens {
        words += &format!(", and these steps computed {} tokens of others too", number(others));
    }
    words
}

/// The time between tokens: what is usual, and what was above it.
fn gap_parts(timeline: &RequestTimeline, interrupted_ms: f64, add: &mut impl FnMut(f64, String)) {
    let mut lengths: Vec<u32> = timeline.gaps.iter().map(|gap| gap[0]).collect();
    if lengths.is_empty() {
        return;
    }
    let middle = lengths.len() / 2;
    let median = *lengths.select_nth_unstable(middle).1;
    let is_long = |gap: &[u32; 3]| gap[0] > median.saturating_mul(LONG_GAP);
    let mut at_ms = timeline.first_token_ms.unwrap_or(0.0);
    let (mut long, mut shared, mut excess_ms) = (0, 0, 0.0);
    let in_order = timeline.gaps.iter().map(|gap| {
        let began = at_ms;
        at_ms += f64::from(gap[0]) / 1e3;
        (began, *gap)
    });
    let placed: Vec<(f64, [u32; 3])> =
        in_order.chain(timeline.long_gaps.iter().map(|long| (long.at_ms, long.gap))).collect();
    for (began, gap) in placed.iter().filter(|(_, gap)| is_long(gap)) {
        if overlaps(&timeline.preemptions, *began, f64::from(gap[0]) / 1e3) {
            continue;
        }
        long += 1;
        shared += usize::from(gap[2] > 0);
        excess_ms += f64::from(gap[0] - median) / 1e3;
    }
    if long > 0 {
        let mut words = format!(
            "{} above {LONG_GAP}× the median of {} cost {}",
            if long == 1 { "1 gap between tokens".to_owned() } else { format!("{} gaps between tokens", number(long)) },
            time(f64::from(median) / 1e3),
            time(excess_ms)
        );
        if shared > 0 {
            words += &format!("; prompts shared {} of their steps", number(shared));
        }
        add(excess_ms, words);
    }
    let usual = timeline.decode_ms - excess_ms - interrupted_ms;
    let mut words = format!(
        "generating {} tokens took {}, {} per step of {:.0} sequences on average",
        number(timeline.usage.completion_tokens),
        time(usual),
        time(f64::from(median) / 1e3),
        timeline.mean_step_sequences
    );
    if timeline.drafted_tokens > 0 {
        let (right, all) = (number(timeline.accepted_tokens), number(timeline.drafted_tokens));
        words += &format!("; {right} of {all} guessed tokens were right");
    }
    add(usual, words);
}

fn overlaps(interruptions: &[RequestInterruption], began: f64, took: f64) -> bool {
    interruptions.iter().any(|it| it.at_ms < began + took && began < it.at_ms + it.took_ms)
}

fn times(count: usize) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        count => format!("{} times", number(count)),
    }
}

/// `1.8 s`, `23 ms`, `0.4 ms`.
fn time(ms: f64) -> String {
    match ms {
        ms if ms >= 9_950.0 => format!("{:.0} s", ms / 1e3),
        ms if ms >= 995.0 => format!("{:.1} s", ms / 1e3),
        ms if ms >= 9.95 => format!("{ms:.0} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

/// `3,100`.
fn number(value: usize) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use yantra_api::{RequestChunk, Usage};

    use super::*;

    fn summary(prepare_ms: f64, total_ms: f64) -> RequestSummary {
        RequestSummary {
            id: String::new(),
            object: String::new(),
            answer_id: None,
            tenant: None,
            endpoint: String::new(),
            model: String::new(),
            priority: 0,
            stream: false,
            state: RequestState::Done,
            status: None,
            error: None,
            created: 0.0,
            prepare_ms,
            queue_ms: None,
            time_to_first_token_ms: None,
            total_ms,
            usage: Usage::default(),
            finish_reasons: Vec::new(),
        }
    }

    #[test]
    fn the_largest_parts_are_named_in_order() {
        let mut gaps = vec![[20_000, 8, 0]; 50];
        gaps[10] = [420_000, 9, 512];
        gaps[20] = [120_000, 9, 0];
        // From 2,000 + 47 × 20 + 420 + 120 to 400 ms more: the preemption below.
        gaps.push([400_000, 8, 0]);
        let took: u32 = gaps.iter().map(|gap| gap[0]).sum();
        let chunk = |at_ms, took_ms, tokens, tokens_again| RequestChunk {
            at_ms,
            took_ms,
            tokens,
            tokens_again,
            other_tokens: 4000,
            ..RequestChunk::default()
        };
        let timeline = RequestTimeline {
            usage: Usage::new(3612, 512, 52),
            running_at_arrival: 63,
            admitted_ms: Some(1800.0),
            first_token_ms: Some(2700.0),
            ended_ms: 2700.0 + f64::from(took) / 1e3,
            chunks: vec![chunk(1800.0, 900.0, 3100, 0), chunk(4500.0, 100.0, 80, 79)],
            num_chunks: 2,
            prefill_ms: 1000.0,
            prefill_tokens: 3180,
            prefill_tokens_again: 79,
            num_gaps: gaps.len(),
            decode_ms: f64::from(took) / 1e3,
            mean_step_sequences: 8.1,
            preemptions: vec![RequestInterruption { at_ms: 4210.0, took_ms: 290.0, ..RequestInterruption::default() }],
            num_preemptions: 1,
            mask_wait_ms: 200.0,
            drafted_tokens: 40,
            accepted_tokens: 12,
            gaps,
            ..RequestTimeline::default()
        };
        let total = 30.0 + timeline.ended_ms + 1.0;
        let expected = [
            "waited 1.8 s in the queue behind 63 running sequences",
            "generating 52 tokens took 1.0 s, 20 ms per step of 8 sequences on average; 12 of 40 guessed tokens were right",
            "computing 3,101 prompt tokens took 900 ms in 1 step; 512 came from the cache, and these steps computed \
             4,000 tokens of others too",
            "2 gaps between tokens above 3× the median of 20 ms cost 500 ms; prompts shared 1 of their steps",
            "preempted once for 290 ms, after which 79 tokens had to be computed again in 100 ms",
            "steps waited 200 ms for the grammar's masks",
        ];
        assert_eq!(sentences(&summary(30.0, total), &[timeline]), expected);
    }

    #[test]
    fn nothing_is_made_up_where_nothing_is_known() {
        assert_eq!(sentences(&summary(5.0, 5.1), &[]), ["reading and preparing the request took 5.0 ms"]);
        assert_eq!(sentences(&summary(0.0, 0.0), &[RequestTimeline::default()]), [""; 0]);
    }

    #[test]
    fn numbers_are_grouped_and_times_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.04, 9.94, 9.96, 994.0, 1000.0, 12_345.0].map(time),
            ["0.0 ms", "9.9 ms", "10 ms", "994 ms", "1.0 s", "12 s"]
        );
    }
}
