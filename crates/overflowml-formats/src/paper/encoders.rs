//! Encoders of prompts: T5 and CLIP.

use overflowml_types::{Role, Shape, Task};

use super::{Facts, Pen};
use crate::ConfigError;
use crate::config::Fields;

fn facts(shape: Shape) -> Facts {
    let unknown = Facts::unknown(String::new());
    Facts { role: Role::TextEncoder, task: Task::Encode, shape, ..unknown }
}

/// Tokens that image pipelines feed to T5.
const T5_TOKENS: u64 = 512;

pub(super) fn t5(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    t5_encoder(fields, pen, false, [32_128, 2048, 6, 8])
}

/// Every layer has a relative position table of its own.
pub(super) fn umt5(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    t5_encoder(fields, pen, true, [250_112, 1024, 8, 6])
}

fn t5_encoder(
    fields: &Fields<'_>,
    pen: &mut Pen<'_>,
    own_tables: bool,
    [vocab, inner, layers, heads]: [u64; 4],
) -> Result<Facts, ConfigError> {
    let hidden = fields.count_or("d_model", 512)?;
    let inner = fields.count_or("d_ff", inner)?;
    let heads = fields.count_or("num_heads", heads)?;
    let width = heads.saturating_mul(fields.count_or("d_kv", 64)?);
    let buckets = fields.count_or("relative_attention_num_buckets", 32)?;
    let default = if own_tables { "gated-gelu" } else { "relu" };
    let gated = fields.text("feed_forward_proj")?.unwrap_or(default).starts_with("gated");
    pen.table("shared", fields.count_or("vocab_size", vocab)?, hidden);
    for layer in 0..fields.repeats("num_layers", Some(layers))? {
        let mut pen = pen.entry("encoder.block", layer);
        let mut attention = pen.part("layer.0.SelfAttention");
        attention.linear("q", hidden, width, false);
        attention.linear("k", hidden, width, false);
        attention.linear("v", hidden, width, false);
        attention.linear("o", width, hidden, false);
        if own_tables || layer == 0 {
            attention.table("relative_attention_bias", buckets, heads);
        }
        pen.vector("layer.0.layer_norm", hidden);
        let mut dense = pen.part("layer.1.DenseReluDense");
        if gated {
            dense.linear("wi_0", hidden, inner, false);
            dense.linear("wi_1", hidden, inner, false);
        } else {
            dense.linear("wi", hidden, inner, false);
        }
        dense.linear("wo", inner, hidden, false);
        pen.vector("layer.1.layer_norm", hidden);
    }
    pen.vector("encoder.final_layer_norm", hidden);
    Ok(facts(Shape::Encoder { hidden, intermediate: inner, heads, tokens: T5_TOKENS }))
}

pub(super) fn clip(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let hidden = fields.count_or("hidden_size", 512)?;
    let inner = fields.count_or("intermediate_size", 2048)?;
    let heads = fields.count_or("num_attention_heads", 8)?;
    let tokens = fields.count_or("max_position_embeddings", 77)?;
    let mut body = pen.part("text_model");
    let vocab = fields.count_or("vocab_size", 49_408)?;
    body.table("embeddings.token_embedding", vocab, hidden);
    body.table("embeddings.position_embedding", tokens, hidden);
    for layer in 0..fields.repeats("num_hidden_layers", Some(12))? {
        let mut pen = body.entry("encoder.layers", layer);
        pen.norm("layer_norm1", hidden);
        pen.norm("layer_norm2", hidden);
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            pen.part("self_attn").linear(name, hidden, hidden, true);
        }
        pen.linear("mlp.fc1", hidden, inner, true);
        pen.linear("mlp.fc2", inner, hidden, true);
    }
    body.norm("final_layer_norm", hidden);
    let context = Some(tokens);
    let shape = Shape::Encoder { hidden, intermediate: inner, heads, tokens };
    Ok(Facts { max_context: context, ..facts(shape) })
}

pub(super) fn clip_projected(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let facts = clip(fields, pen)?;
    let hidden = fields.count_or("hidden_size", 512)?;
    let width = fields.count_or("projection_dim", 512)?;
    pen.kept_linear("text_projection", hidden, width, false);
    Ok(facts)
}
