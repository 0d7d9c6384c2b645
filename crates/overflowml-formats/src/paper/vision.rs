//! Towers that look at pictures, alone or beside a language model.

use overflowml_types::{Role, Shape, Task};

use super::{Facts, Pen};
use crate::ConfigError;
use crate::config::Fields;

/// A transformer over patches whose layers have two norms with bias, four projections and two
/// feed-forward matrices, all with bias (CLIP, SigLIP, Llama 4).
struct Tower {
    hidden: u64,
    inner: u64,
    layers: u64,
    heads: u64,
    image: u64,
    patch: u64,
    channels: u64,
}

impl Tower {
    fn read(fields: &Fields<'_>, defaults: [u64; 6]) -> Result<Self, ConfigError> {
        let [hidden, inner, layers, heads, image, patch] = defaults;
        Ok(Self {
            hidden: fields.count_or("hidden_size", hidden)?,
            inner: fields.count_or("intermediate_size", inner)?,
            layers: fields.repeats("num_hidden_layers", Some(layers))?,
            heads: fields.count_or("num_attention_heads", heads)?,
            image: fields.count_or("image_size", image)?,
            patch: fields.count_or("patch_size", patch)?.max(1),
            channels: fields.count_or("num_channels", 3)?,
        })
    }

    const fn patches(&self) -> u64 {
        let side = self.image / self.patch;
        side.saturating_mul(side)
    }

    const fn kernel(&self) -> u64 {
        self.patch.saturating_mul(self.patch)
    }

    fn layer(&self, pen: &mut Pen<'_>, norms: [&str; 2], out: &str) {
        pen.norm(norms[0], self.hidden);
        pen.norm(norms[1], self.hidden);
        for name in ["q_proj", "k_proj", "v_proj", out] {
            pen.part("self_attn").linear(name, self.hidden, self.hidden, true);
        }
        pen.linear("mlp.fc1", self.hidden, self.inner, true);
        pen.linear("mlp.fc2", self.inner, self.hidden, true);
    }

    fn facts(&self) -> Facts {
        Facts {
            role: Role::ImageEncoder,
            task: Task::Encode,
            shape: Shape::Encoder {
                hidden: self.hidden,
                intermediate: self.inner,
                heads: self.heads,
                tokens: self.patches().saturating_add(1),
            },
            ..Facts::unknown(String::new())
        }
    }
}

const CLIP_LAYER: [&str; 2] = ["layer_norm1", "layer_norm2"];

pub(super) fn clip(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let tower = Tower::read(fields, [768, 3072, 12, 12, 224, 32])?;
    let mut body = pen.part("vision_model");
    body.parameter("embeddings.class_embedding", tower.hidden);
    let patches = "embeddings.patch_embedding";
    body.conv(patches, tower.channels, tower.hidden, tower.kernel(), false);
    body.table("embeddings.position_embedding", tower.patches() + 1, tower.hidden);
    body.norm("pre_layrnorm", tower.hidden);
    for layer in 0..tower.layers {
        tower.layer(&mut body.entry("encoder.layers", layer), CLIP_LAYER, "out_proj");
    }
    body.norm("post_layernorm", tower.hidden);
    Ok(tower.facts())
}

pub(super) fn clip_projected(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let facts = clip(fields, pen)?;
    let width = fields.count_or("projection_dim", 512)?;
    let hidden = fields.count_or("hidden_size", 768)?;
    pen.kept_linear("visual_projection", hidden, width, false);
    Ok(facts)
}

pub(super) fn siglip(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let tower = Tower::read(fields, [768, 3072, 12, 12, 224, 16])?;
    let mut body = pen.part("vision_model");
    let patches = "embeddings.patch_embedding";
    body.conv(patches, tower.channels, tower.hidden, tower.kernel(), true);
    body.table("embeddings.position_embedding", tower.patches(), tower.hidden);
    for layer in 0..tower.layers {
        tower.layer(&mut body.entry("encoder.layers", layer), CLIP_LAYER, "out_proj");
    }
    body.norm("post_layernorm", tower.hidden);
    if fields.flag("vision_use_head", true)? {
        let mut head = body.part("head");
        head.parameter("probe", tower.hidden);
        head.linear("attention.in_proj", tower.hidden, tower.hidden.saturating_mul(3), true);
        head.linear("attention.out_proj", tower.hidden, tower.hidden, true);
        head.norm("layernorm", tower.hidden);
        head.linear("mlp.fc1", tower.hidden, tower.inner, true);
        head.linear("mlp.fc2", tower.inner, tower.hidden, true);
    }
    Ok(tower.facts())
}

/// What Gemma 3 sees with, and the projection into its `hidden` elements.
pub(super) fn gemma3(
    fields: &Fields<'_>,
    pen: &mut Pen<'_>,
    hidden: u64,
) -> Result<(), ConfigError> {
    siglip(fields, &mut pen.part("vision_tower"))?;
    let seen = fields.count_or("hidden_size", 768)?;
    let mut projector = pen.part("multi_modal_projector");
    projector.parameter("mm_input_projection_weight", seen.saturating_mul(hidden));
    projector.vector("mm_soft_emb_norm", seen);
    Ok(())
}

/// What Llama 4 sees with.
pub(super) fn llama4(
    fields: &Fields<'_>,
    pen: &mut Pen<'_>,
    hidden: u64,
) -> Result<(), ConfigError> {
    let tower = Tower::read(fields, [768, 5632, 34, 16, 448, 14])?;
    let mut body = pen.part("vision_model");
    let pixels = tower.channels.saturating_mul(tower.kernel());
    body.linear("patch_embedding.linear", pixels, tower.hidden, false);
    body.parameter("class_embedding", tower.hidden);
    let positions = tower.patches().saturating_add(1);
    body.parameter("positional_embedding_vlm", positions.saturating_mul(tower.hidden));
    body.norm("layernorm_pre", tower.hidden);
    body.norm("layernorm_post", tower.hidden);
    for layer in 0..tower.layers {
        let norms = ["input_layernorm", "post_attention_layernorm"];
        tower.layer(&mut body.entry("model.layers", layer), norms, "o_proj");
    }
    let between = fields.count_or("projector_input_dim", 4096)?;
    let out = fields.count_or("projector_output_dim", 4096)?;
    body.linear("vision_adapter.mlp.fc1", tower.inner, between, false);
    body.linear("vision_adapter.mlp.fc2", out, out, false);
    let seen = fields.count_or("vision_output_dim", 7680)?;
    pen.linear("multi_modal_projector.linear_1", seen, hidden, false);
    Ok(())
}

/// The sizes that Qwen's towers share.
struct Qwen {
    hidden: u64,
    inner: u64,
    layers: u64,
    patch: u64,
    merged: u64,
    out: u64,
}

impl Qwen {
    fn read(fields: &Fields<'_>, defaults: [u64; 4]) -> Result<Self, ConfigError> {
        let [hidden, inner, layers, patch] = defaults;
        let hidden = fields.count_or("hidden_size", hidden)?;
        let merge = fields.count_or("spatial_merge_size", 2)?;
        let patch = fields.count_or("patch_size", patch)?;
        let channels = fields.count_or("in_channels", 3)?;
        let frames = fields.count_or("temporal_patch_size", 2)?;
        Ok(Self {
            hidden,
            inner: fields.count_or("intermediate_size", inner)?,
            layers: fields.repeats("depth", Some(layers))?,
            patch: [patch, patch, channels, frames].into_iter().fold(1, u64::saturating_mul),
            merged: hidden.saturating_mul(merge).saturating_mul(merge),
            out: fields.count_or("out_hidden_size", 3584)?,
        })
    }
}

/// What Qwen2.5-VL sees with.
pub(super) fn qwen2_5(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<(), ConfigError> {
    let tower = Qwen::read(fields, [3584, 3420, 32, 14])?;
    pen.conv("patch_embed.proj", tower.patch, tower.hidden, 1, false);
    for layer in 0..tower.layers {
        let mut pen = pen.entry("blocks", layer);
        pen.vector("norm1", tower.hidden);
        pen.vector("norm2", tower.hidden);
        pen.linear("attn.qkv", tower.hidden, tower.hidden.saturating_mul(3), true);
        pen.linear("attn.proj", tower.hidden, tower.hidden, true);
        pen.linear("mlp.gate_proj", tower.hidden, tower.inner, true);
        pen.linear("mlp.up_proj", tower.hidden, tower.inner, true);
        pen.linear("mlp.down_proj", tower.inner, tower.hidden, true);
    }
    pen.vector("merger.ln_q", tower.hidden);
    pen.linear("merger.mlp.0", tower.merged, tower.merged, true);
    pen.linear("merger.mlp.2", tower.merged, tower.out, true);
    Ok(())
}

/// What Qwen3.5 sees with.
pub(super) fn qwen3(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<(), ConfigError> {
    let tower = Qwen::read(fields, [1152, 4304, 27, 16])?;
    pen.conv("patch_embed.proj", tower.patch, tower.hidden, 1, true);
    pen.table("pos_embed", fields.count_or("num_position_embeddings", 2304)?, tower.hidden);
    for layer in 0..tower.layers {
        let mut pen = pen.entry("blocks", layer);
        pen.norm("norm1", tower.hidden);
        pen.norm("norm2", tower.hidden);
        pen.linear("attn.qkv", tower.hidden, tower.hidden.saturating_mul(3), true);
        pen.linear("attn.proj", tower.hidden, tower.hidden, true);
        pen.linear("mlp.linear_fc1", tower.hidden, tower.inner, true);
        pen.linear("mlp.linear_fc2", tower.inner, tower.hidden, true);
    }
    pen.norm("merger.norm", tower.hidden);
    pen.linear("merger.linear_fc1", tower.merged, tower.merged, true);
    pen.linear("merger.linear_fc2", tower.merged, tower.out, true);
    Ok(())
}
