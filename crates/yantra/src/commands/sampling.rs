//! The sampling flags that `chat` and `complete` share.

use crate::failure::usage;
use anyhow::Result;
use std::collections::BTreeMap;
use yantra_client::ChatParams;

/// How replies are sampled.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// At most this many tokens per reply
    #[arg(short = 'n', long, value_name = "TOKENS")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 always takes the likeliest token
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Sample from the likeliest tokens that have this probability together
    #[arg(long)]
    pub(crate) top_p: Option<f32>,
    /// Sample from this many likeliest tokens
    #[arg(long)]
    pub(crate) top_k: Option<u32>,
    /// Drop tokens less likely than this fraction of the likeliest
    #[arg(long)]
    pub(crate) min_p: Option<f32>,
    /// Make tokens less likely that were there before; 1 is off
    #[arg(long)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Make tokens less likely that are in the reply already; 0 is off
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// The same, once for each time they are; 0 is off
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Add to the logit of a token, as 1234=-100; may be given several times
    #[arg(long, value_name = "TOKEN=BIAS")]
    pub(crate) logit_bias: Vec<String>,
    /// Same seed, same reply
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// End the reply before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

impl SamplingArgs {
    /// As a request carries them.
    pub(crate) fn params(&self) -> Result<ChatParams> {
        Ok(ChatParams {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias()?,
            seed: self.seed,
            stop: self.stop.clone(),
        })
    }

    /// Token id → what is added to its logit.
    pub(crate) fn logit_bias(&self) -> Result<BTreeMap<u32, f32>> {
        let entry = |text: &String| {
            let (token, bias) = text.split_once('=')?;
            let bias = bias.trim().parse::<f32>().ok().filter(|bias| (-100.0..=100.0).contains(bias))?;
            Some((token.trim().parse::<u32>().ok()?, bias))
        };
        let checked = |text| {
            entry(text).ok_or_else(|| {
                usage(format!("--logit-bias is `{text}`, expected TOKEN=BIAS with a token id and -100 to 100"))
            })
        };
        self.logit_bias.iter().map(checked).collect()
    }
}

/// Sets one parameter by name, as `/params temperature=0.2` does; `none` clears it.
pub(crate) fn set(params: &mut ChatParams, name: &str, value: &str) -> Result<()> {
    fn parsed<T: std::str::FromStr>(name: &str, value: &str) -> Result<Option<T>> {
        if value == "none" {
            return Ok(None);
        }
        value.parse().map(Some).map_err(|_| anyhow::anyhow!("{name} is `{value}`, expected a number or `none`"))
    }
    match name {
        "max_tokens" => params.max_tokens = parsed(name, value)?,
        "temperature" => params.temperature = parsed(name, value)?,
        "top_p" => params.top_p = parsed(name, value)?,
        "top_k" => params.top_k = parsed(name, value)?,
        "min_p" => params.min_p = parsed(name, value)?,
        "repetition_penalty" => params.repetition_penalty = parsed(name, value)?,
        "presence_penalty" => params.presence_penalty = parsed(name, value)?,
        "frequency_penalty" => params.frequency_penalty = parsed(name, value)?,
        "seed" => params.seed = parsed(name, value)?,
        _ => {
            let known = [
                "max_tokens",
                "temperature",
                "top_p",
                "top_k",
                "min_p",
                "repetition_penalty",
                "presence_penalty",
                "frequency_penalty",
                "seed",
            ];
            let hint =
                crate::suggest::did_you_mean(name, known).unwrap_or_else(|| format!("known: {}", known.join(", ")));
            anyhow::bail!("`{name}` is no sampling parameter; {hint}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parameters_by_name() {
        let mut params = ChatParams::default();
        set(&mut params, "temperature", "0.5").unwrap();
        set(&mut params, "seed", "7").unwrap();
        set(&mut params, "seed", "none").unwrap();
        assert_eq!((params.temperature, params.seed), (Some(0.5), None));
        assert!(set(&mut params, "temprature", "1").unwrap_err().to_string().contains("`temperature`"));
        assert!(set(&mut params, "top_k", "many").is_err());
    }
}
