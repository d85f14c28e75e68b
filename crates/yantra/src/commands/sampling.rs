//! The sampling flags that `chat` and `complete` share.

use anyhow::Result;
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
    /// Same seed, same reply
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// End the reply before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

impl SamplingArgs {
    /// As a request carries them.
    pub(crate) fn params(&self) -> ChatParams {
        ChatParams {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: self.stop.clone(),
            ..ChatParams::default()
        }
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
