//! "Did you mean …": the nearest known word to one that is not known.

/// The known words nearest to `given`, best first, at most three; none when nothing is near.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let given = given.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|word| {
            let lower = word.to_lowercase();
            let starts = lower.starts_with(&given) || given.starts_with(&lower);
            let bonus = if starts && !given.is_empty() { 0.3 } else { 0.0 };
            (strsim::jaro_winkler(&given, &lower) + bonus, word)
        })
        .filter(|(score, _)| *score >= 0.75)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, word)| word).collect()
}

/// `did you mean a, b or c?`, when anything is near.
pub(crate) fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let words: Vec<String> = nearest(given, known).into_iter().map(|word| format!("`{word}`")).collect();
    let (last, rest) = words.split_last()?;
    Some(if rest.is_empty() {
        format!("did you mean {last}?")
    } else {
        format!("did you mean {} or {last}?", rest.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let models = ["smollm2-135m", "qwen2.5-coder-1.5b", "gemma3-270m", "minilm-l6"];
        let check =
            |given, expected: Option<&str>| assert_eq!(nearest(given, models).first().copied(), expected, "{given}");
        check("smollm", Some("smollm2-135m"));
        check("SmolLM-135M", Some("smollm2-135m"));
        check("gemma-270m", Some("gemma3-270m"));
        check("qwen2.5", Some("qwen2.5-coder-1.5b"));
        check("/tmp/zzz", None);
        check("", None);
        assert_eq!(did_you_mean("minilm", models), Some("did you mean `minilm-l6`?".to_owned()));
    }
}
