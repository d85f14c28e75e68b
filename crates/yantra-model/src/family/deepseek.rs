//! DeepSeek-V2, V3 and R1 (DeepSeek-AI, 2024): latent attention, and many small experts chosen group by group beside one that
//! every token goes through.

use super::{Family, KV_RANK, LLAMA_LIKE, check, experts, rope};
use crate::{
    ExpertsSpec, LatentSpec, MlpSpec, ModelError, ModelSpec, RopeScaling, SharedExpertSpec,
    parameters::{Parameters, key},
};
use yantra_kernels::{ExpertGroups, ExpertScoring, GroupScoring, RopeStyle};

pub(super) const FAMILY: Family = Family {
    name: "DeepSeek",
    gguf: &["deepseek2"],
    hugging_face: &["DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"],
    aliases: &[("num_experts", "n_routed_experts")],
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let latent = latent(p)?;
    let LatentSpec { kv_rank, nope_dim, rope_dim, .. } = latent;
    let attention = &mut spec.attention;
    (attention.latent, attention.num_kv_heads, attention.head_dim) = (Some(latent), 1, kv_rank + rope_dim);
    attention.rope_style = RopeStyle::Interleaved;
    let mut rope = rope::rope(p, rope_dim, rope::FULL)?;
    let sharpened = match &mut rope.scaling {
        RopeScaling::Yarn { factor, attention_factor, .. } => {
            let all_dim_scale = all_dim_scale(p)?;
            if p.is_gguf() && all_dim_scale != 0.0 {
                // `mscale` is not recorded; it is the same in all published models, which puts all of it on the scores.
                *attention_factor = 1.0;
            }
            rope::yarn_scale(*factor, all_dim_scale).powi(2)
        }
        _ => 1.0,
    };
    attention.scale = ((nope_dim + rope_dim) as f32).sqrt().recip() * sharpened;
    let experts = mixture(p, spec)?;
    let num_dense = p.count_or_zero(key("leading_dense_block_count", "first_k_dense_replace"))?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        layer.rope = Some(rope.clone());
        if index >= num_dense {
            layer.mlp = MlpSpec::Experts(experts);
        }
    }
    Ok(())
}

fn latent(p: &Parameters<'_>) -> Result<LatentSpec, ModelError> {
    let rope_dim = p.required_count(key("rope.dimension_count", "qk_rope_head_dim"))?;
    let nope_dim = match p.count(key("", "qk_nope_head_dim"))? {
        Some(nope_dim) => nope_dim,
        // Newer files record the widths of what is kept, too, and those of heads under other names.
        None => {
            let (newer, older) =
                (p.count(key("attention.key_length_mla", ""))?, key("attention.key_length", "qk_nope_head_dim"));
            newer.map_or_else(|| p.required_count(older), Ok)?.saturating_sub(rope_dim)
        }
    };
    let value_dim = p.count(key("attention.value_length_mla", "v_head_dim"))?;
    let latent = LatentSpec {
        query_rank: p.count(key("attention.q_lora_rank", "q_lora_rank"))?,
        kv_rank: p.required_count(KV_RANK)?,
        nope_dim,
        rope_dim,
        value_dim: value_dim.map_or_else(|| p.required_count(key("attention.value_length", "v_head_dim")), Ok)?,
    };
    check(rope_dim.is_multiple_of(2) && nope_dim > 0, "qk_rope_head_dim", || format!("{rope_dim} of {nope_dim} more"))?;
    Ok(latent)
}

/// `mscale_all_dim`: how much YaRN sharpens scores.
fn all_dim_scale(p: &Parameters<'_>) -> Result<f32, ModelError> {
    if p.is_gguf() {
        return Ok(p.real(key("rope.scaling.yarn_log_multiplier", ""))?.unwrap_or(0.0) * 10.0);
    }
    let newer = p.real(key("", "rope_parameters.mscale_all_dim"))?;
    Ok(newer.or(p.real(key("", "rope_scaling.mscale_all_dim"))?).unwrap_or(0.0))
}

fn mixture(p: &Parameters<'_>, spec: &ModelSpec) -> Result<ExpertsSpec, ModelError> {
    /// GGUF's number for it.
    const SIGMOID: usize = 2;
    let experts = experts(p, spec)?;
    let is_v3 = p.architecture() == "DeepseekV3ForCausalLM"
        || p.text(key("", "scoring_func"))? == Some("sigmoid")
        || p.count(key("expert_gating_func", ""))? == Some(SIGMOID);
    let count = p.count_or_zero(key("expert_group_count", "n_group"))?;
    let chosen = p.count_or_zero(key("expert_group_used_count", "topk_group"))?;
    let greedy = p.text(key("", "topk_method"))? == Some("greedy");
    let scoring = if is_v3 { GroupScoring::SumOfBestTwo } else { GroupScoring::Best };
    let num_shared = p.count_or_zero(key("expert_shared_count", "n_shared_experts"))?;
    let shared = SharedExpertSpec { intermediate_size: num_shared * experts.intermediate_size, weighed: false };
    Ok(ExpertsSpec {
        scoring: if is_v3 { ExpertScoring::Sigmoid } else { ExpertScoring::Softmax },
        choice_bias: is_v3,
        groups: (count > 1 && !greedy).then_some(ExpertGroups { count, chosen, scoring }),
        shared: (num_shared > 0).then_some(shared),
        ..experts
    })
}
