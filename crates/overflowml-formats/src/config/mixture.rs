//! Mixtures of experts and latent attention: which layers have them, and how they are routed.

use overflowml_types::{
    ExpertGroups, ExpertNames, ExpertStorage, ExpertsSpec, LatentSpec, RouterSpec, Scoring,
    SharedExpert,
};

use super::decoder::{Dims, contradiction, size};
use super::families::Mixture;
use super::{ConfigError, Fields};
use crate::limits;

const MLP: ExpertNames = ExpertNames {
    part: "mlp",
    router: "gate",
    each: ["gate_proj", "up_proj", "down_proj"],
    shared: "shared_expert",
};

const PLAIN: RouterSpec = RouterSpec {
    scoring: Scoring::Softmax,
    normalise: true,
    scale: 1.0,
    groups: None,
    bias: false,
    correction: false,
};

/// Sizes and rules of the experts, if the family has any.
pub(super) fn experts(
    rule: Mixture,
    fields: &Fields<'_>,
    dims: &Dims,
) -> Result<Option<ExpertsSpec>, ConfigError> {
    let spec = match rule {
        Mixture::None => return Ok(None),
        Mixture::Mixtral => mixtral(fields)?,
        Mixture::Qwen2 => qwen2(fields)?,
        Mixture::Qwen3 => qwen3(fields)?,
        Mixture::Olmoe => olmoe(fields)?,
        Mixture::GptOss => gpt_oss(fields)?,
        Mixture::DeepseekV2 => deepseek_v2(fields)?,
        Mixture::DeepseekV3 => deepseek_v3(fields)?,
    };
    if spec.active > spec.count {
        return Err(contradiction(fields, ACTIVE, spec.active, "num_experts", spec.count));
    }
    check_groups(&spec, fields)?;
    // What a layer's list of weights consists of: a hostile size must not become a list.
    let listed = spec.count.saturating_mul(4).saturating_add(dims.heads.saturating_mul(2));
    if dims.layers.saturating_mul(listed) > limits::PIECES {
        return Err(ConfigError::TooManyTensors { limit: limits::PIECES });
    }
    Ok(Some(spec))
}

/// Which layers have experts.
pub(super) fn layers(
    rule: Mixture,
    fields: &Fields<'_>,
    count: usize,
) -> Result<Vec<bool>, ConfigError> {
    let from = |first: usize| Ok((0..count).map(|layer| layer >= first).collect());
    match rule {
        Mixture::None => Ok(vec![false; count]),
        Mixture::Mixtral | Mixture::Olmoe | Mixture::GptOss => Ok(vec![true; count]),
        Mixture::Qwen2 | Mixture::Qwen3 => sparse(fields, count),
        Mixture::DeepseekV2 => from(first_with_experts(fields, 0)?),
        Mixture::DeepseekV3 => from(first_with_experts(fields, 3)?),
    }
}

fn first_with_experts(fields: &Fields<'_>, default: usize) -> Result<usize, ConfigError> {
    Ok(fields.size("first_k_dense_replace", 0..=limits::LAYERS)?.unwrap_or(default))
}

/// Every `decoder_sparse_step`-th layer that `mlp_only_layers` does not list.
fn sparse(fields: &Fields<'_>, count: usize) -> Result<Vec<bool>, ConfigError> {
    const DENSE: &str = "mlp_only_layers";
    let step = fields.positive("decoder_sparse_step", limits::LAYERS)?.unwrap_or(1);
    let dense = fields.list(DENSE)?.unwrap_or_default();
    let number = |value: &serde_json::Value| {
        value.as_u64().ok_or_else(|| fields.wrong_type(DENSE, "a list of whole numbers", value))
    };
    let dense: Vec<u64> = dense.iter().map(number).collect::<Result<_, _>>()?;
    let has = |layer: usize| !dense.contains(&(layer as u64)) && (layer + 1).is_multiple_of(step);
    Ok((0..count).map(has).collect())
}

const ACTIVE: &str = "num_experts_per_tok";

/// How many experts there are, by whichever name, and how many a token uses.
fn counts(
    fields: &Fields<'_>,
    count: usize,
    active: Option<usize>,
) -> Result<(usize, usize), ConfigError> {
    let mut found = None;
    for name in ["num_experts", "num_local_experts", "n_routed_experts"] {
        found = found.or(fields.positive(name, limits::EXPERTS)?);
    }
    let active = size(fields, ACTIVE, active, limits::EXPERTS)?;
    Ok((found.unwrap_or(count), active))
}

fn inner(fields: &Fields<'_>, name: &str, default: usize) -> Result<usize, ConfigError> {
    size(fields, name, Some(default), limits::INTERMEDIATE)
}

fn spec((count, active): (usize, usize), intermediate: usize, router: RouterSpec) -> ExpertsSpec {
    ExpertsSpec {
        count,
        active,
        intermediate,
        router,
        shared: None,
        bias: false,
        interleaved: false,
        storage: ExpertStorage::Each,
        names: MLP,
    }
}

fn mixtral(fields: &Fields<'_>) -> Result<ExpertsSpec, ConfigError> {
    let inner = inner(fields, "intermediate_size", 14_336)?;
    let names = ExpertNames { part: "block_sparse_moe", each: ["w1", "w3", "w2"], ..MLP };
    Ok(ExpertsSpec { names, ..spec(counts(fields, 8, Some(2))?, inner, PLAIN) })
}

/// A router whose weights are divided by their sum only if `norm_topk_prob` says so.
fn maybe_normalised(fields: &Fields<'_>) -> Result<RouterSpec, ConfigError> {
    let normalise = fields.boolean("norm_topk_prob")?.unwrap_or(false);
    Ok(RouterSpec { normalise, ..PLAIN })
}

fn qwen2(fields: &Fields<'_>) -> Result<ExpertsSpec, ConfigError> {
    let inner = inner(fields, "moe_intermediate_size", 1408)?;
    let shared = size(fields, "shared_expert_intermediate_size", Some(5632), limits::INTERMEDIATE)?;
    let shared = Some(SharedExpert { intermediate: shared, gated: true });
    let counts = counts(fields, 60, Some(4))?;
    Ok(ExpertsSpec { shared, ..spec(counts, inner, maybe_normalised(fields)?) })
}

fn qwen3(fields: &Fields<'_>) -> Result<ExpertsSpec, ConfigError> {
    let inner = inner(fields, "moe_intermediate_size", 768)?;
    Ok(spec(counts(fields, 128, Some(8))?, inner, maybe_normalised(fields)?))
}

fn olmoe(fields: &Fields<'_>) -> Result<ExpertsSpec, ConfigError> {
    let inner = inner(fields, "intermediate_size", 2048)?;
    Ok(spec(counts(fields, 64, Some(8))?, inner, maybe_normalised(fields)?))
}

fn gpt_oss(fields: &Fields<'_>) -> Result<ExpertsSpec, ConfigError> {
    let inner = inner(fields, "intermediate_size", 2880)?;
    let router =
        RouterSpec { scoring: Scoring::SoftmaxOfChosen, normalise: false, bias: true, ..PLAIN };
    Ok(ExpertsSpec {
        bias: true,
        interleaved: true,
        storage: ExpertStorage::Transposed,
        names: ExpertNames { router: "router", ..MLP },
        ..spec(counts(fields, 128, Some(4))?, inner, router)
    })
}

fn deepseek_v2(fields: &Fields<'_>) -> Result<ExpertsSpec, ConfigError> {
    const METHOD: &str = "topk_method";
    let groups = match fields.text(METHOD)?.unwrap_or("greedy") {
        "greedy" => None,
        "group_limited_greedy" => groups(fields, None, 1)?,
        other => {
            return Err(ConfigError::Unsupported {
                field: fields.path_to(METHOD),
                found: other.to_owned(),
                supported: "greedy, group_limited_greedy",
            });
        }
    };
    // `transformers` ignores norm_topk_prob here.
    let router =
        RouterSpec { normalise: false, scale: routed_scale(fields, 1.0)?, groups, ..PLAIN };
    let inner = inner(fields, "moe_intermediate_size", 1407)?;
    deepseek(fields, counts(fields, 64, None)?, inner, 2, router)
}

fn deepseek_v3(fields: &Fields<'_>) -> Result<ExpertsSpec, ConfigError> {
    let router = RouterSpec {
        scoring: Scoring::Sigmoid,
        normalise: fields.boolean("norm_topk_prob")?.unwrap_or(true),
        scale: routed_scale(fields, 2.5)?,
        groups: groups(fields, Some((8, 4)), 2)?,
        bias: false,
        correction: true,
    };
    let inner = inner(fields, "moe_intermediate_size", 2048)?;
    deepseek(fields, counts(fields, 256, Some(8))?, inner, 1, router)
}

fn deepseek(
    fields: &Fields<'_>,
    counts: (usize, usize),
    inner: usize,
    shared: usize,
    router: RouterSpec,
) -> Result<ExpertsSpec, ConfigError> {
    if fields.boolean("mlp_bias")?.unwrap_or(false) {
        return Err(ConfigError::Unsupported {
            field: fields.path_to("mlp_bias"),
            found: "true".to_owned(),
            supported: "false",
        });
    }
    let shared = size(fields, "n_shared_experts", Some(shared), limits::EXPERTS)?;
    let intermediate = shared.saturating_mul(inner);
    if intermediate > limits::INTERMEDIATE {
        let found = shared;
        return Err(contradiction(
            fields,
            "n_shared_experts",
            found,
            "moe_intermediate_size",
            inner,
        ));
    }
    Ok(ExpertsSpec {
        shared: Some(SharedExpert { intermediate, gated: false }),
        names: ExpertNames { shared: "shared_experts", ..MLP },
        ..spec(counts, inner, router)
    })
}

#[allow(clippy::cast_possible_truncation)] // rounding is meant
fn routed_scale(fields: &Fields<'_>, default: f64) -> Result<f32, ConfigError> {
    Ok(fields.positive_float("routed_scaling_factor")?.unwrap_or(default) as f32)
}

/// `None` if all experts are in one group.
fn groups(
    fields: &Fields<'_>,
    default: Option<(usize, usize)>,
    best: usize,
) -> Result<Option<ExpertGroups>, ConfigError> {
    let (count, chosen) = (default.map(|it| it.0), default.map(|it| it.1));
    let count = size(fields, "n_group", count, limits::EXPERTS)?;
    let chosen = size(fields, "topk_group", chosen, limits::EXPERTS)?;
    Ok((count > 1).then_some(ExpertGroups { count, chosen, best }))
}

/// Groups are equal, and those that are chosen from hold enough experts.
fn check_groups(spec: &ExpertsSpec, fields: &Fields<'_>) -> Result<(), ConfigError> {
    let Some(groups) = spec.router.groups else { return Ok(()) };
    let each = spec.count / groups.count;
    if !spec.count.is_multiple_of(groups.count) || each < groups.best {
        return Err(contradiction(fields, "n_group", groups.count, "n_routed_experts", spec.count));
    }
    if groups.chosen > groups.count || groups.chosen * each < spec.active {
        return Err(contradiction(fields, "topk_group", groups.chosen, "n_group", groups.count));
    }
    Ok(())
}

/// Sizes of latent attention.
pub(super) fn latent(fields: &Fields<'_>, mixture: Mixture) -> Result<LatentSpec, ConfigError> {
    let rank = |name, default| size(fields, name, Some(default), limits::HIDDEN);
    let dim = |name, default| size(fields, name, Some(default), limits::HEAD_DIM);
    let query_rank = match fields.is_null("q_lora_rank") {
        true => None,
        false => Some(rank("q_lora_rank", 1536)?),
    };
    let rope_dim = dim("qk_rope_head_dim", 64)?;
    if !rope_dim.is_multiple_of(2) {
        return Err(contradiction(fields, "qk_rope_head_dim", rope_dim, "a multiple of", 2));
    }
    let interleaved = match mixture {
        Mixture::DeepseekV3 => fields.boolean("rope_interleave")?.unwrap_or(true),
        _ => true,
    };
    Ok(LatentSpec {
        query_rank,
        rank: rank("kv_lora_rank", 512)?,
        plain_dim: dim("qk_nope_head_dim", 128)?,
        rope_dim,
        value_dim: dim("v_head_dim", 128)?,
        interleaved,
        bias: fields.boolean("attention_bias")?.unwrap_or(false),
        // `transformers` does not pass rms_norm_eps to the inner norms.
        norm_eps: 1e-6,
    })
}
