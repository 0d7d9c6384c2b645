//! Transformers over latents: Flux, SD3, Qwen-Image, Wan, and what steers them.

use overflowml_types::{Role, Shape, Task};

use super::{Facts, Pen};
use crate::ConfigError;
use crate::config::Fields;

/// Width of the sinusoidal time embedding.
const TIME: u64 = 256;

fn facts(task: Task, shape: Shape) -> Facts {
    Facts { role: Role::Denoiser, task, shape, ..Facts::unknown(String::new()) }
}

/// Two linear layers, as time and pooled text are embedded.
pub(super) fn embedder(pen: &mut Pen<'_>, name: &str, input: u64, width: u64) {
    let mut pen = pen.part(name);
    pen.linear("linear_1", input, width, true);
    pen.linear("linear_2", width, width, true);
}

/// A feed-forward part of two matrices.
fn feed_forward(pen: &mut Pen<'_>, name: &str, width: u64, inner: u64) {
    let mut pen = pen.part(name);
    pen.linear("net.0.proj", width, inner, true);
    pen.linear("net.2", inner, width, true);
}

/// The projections `to_q`, `to_k` and `to_v`, with bias.
fn projections(pen: &mut Pen<'_>, names: &[&str], width: u64) {
    for name in names {
        pen.linear(name, width, width, true);
    }
}

const OWN: &[&str] = &["to_q", "to_k", "to_v", "to_out.0"];
const ADDED: &[&str] = &["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"];
const OWN_NORMS: &[&str] = &["norm_q", "norm_k"];
const ADDED_NORMS: &[&str] = &["norm_added_q", "norm_added_k"];

fn vectors(pen: &mut Pen<'_>, names: &[&str], width: u64) {
    for name in names {
        pen.vector(name, width);
    }
}

/// Sizes that these transformers share.
struct Dims {
    heads: u64,
    head: u64,
    width: u64,
}

impl Dims {
    fn read(fields: &Fields<'_>, heads: u64, head: u64) -> Result<Self, ConfigError> {
        let heads = fields.count_or("num_attention_heads", heads)?;
        let head = fields.count_or("attention_head_dim", head)?;
        Ok(Self { heads, head, width: heads.saturating_mul(head) })
    }

    const fn times(&self, factor: u64) -> u64 {
        self.width.saturating_mul(factor)
    }
}

/// Flux and its control nets up to the two stacks.
fn flux_body(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<(Dims, Facts), ConfigError> {
    let dims = Dims::read(fields, 24, 128)?;
    let width = dims.width;
    let channels = fields.count_or("in_channels", 64)?;
    let pooled = fields.count_or("pooled_projection_dim", 768)?;
    embedder(pen, "time_text_embed.timestep_embedder", TIME, width);
    if fields.flag("guidance_embeds", false)? {
        embedder(pen, "time_text_embed.guidance_embedder", TIME, width);
    }
    embedder(pen, "time_text_embed.text_embedder", pooled, width);
    let text = fields.count_or("joint_attention_dim", 4096)?;
    pen.linear("context_embedder", text, width, true);
    pen.linear("x_embedder", channels, width, true);
    for layer in 0..fields.repeats("num_layers", Some(19))? {
        let mut pen = pen.entry("transformer_blocks", layer);
        pen.linear("norm1.linear", width, dims.times(6), true);
        pen.linear("norm1_context.linear", width, dims.times(6), true);
        let mut attention = pen.part("attn");
        projections(&mut attention, OWN, width);
        projections(&mut attention, ADDED, width);
        vectors(&mut attention, OWN_NORMS, dims.head);
        vectors(&mut attention, ADDED_NORMS, dims.head);
        feed_forward(&mut pen, "ff", width, dims.times(4));
        feed_forward(&mut pen, "ff_context", width, dims.times(4));
    }
    for layer in 0..fields.repeats("num_single_layers", Some(38))? {
        let mut pen = pen.entry("single_transformer_blocks", layer);
        pen.linear("norm.linear", width, dims.times(3), true);
        pen.linear("proj_mlp", width, dims.times(4), true);
        pen.linear("proj_out", dims.times(5), width, true);
        projections(&mut pen.part("attn"), &OWN[..3], width);
        vectors(&mut pen.part("attn"), OWN_NORMS, dims.head);
    }
    let shape = Shape::Denoiser {
        hidden: width,
        intermediate: dims.times(4),
        heads: dims.heads,
        // Two by two latent pixels are packed into the channels of a token.
        patch: 2,
        channels: channels / 4,
        text_tokens: 512,
    };
    Ok((dims, facts(Task::Image, shape)))
}

pub(super) fn flux(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let (dims, facts) = flux_body(fields, pen)?;
    let channels = fields.count_or("in_channels", 64)?;
    let out = fields.said("out_channels")?.filter(|&out| out > 0).unwrap_or(channels);
    let patch = fields.count_or("patch_size", 1)?;
    pen.linear("norm_out.linear", dims.width, dims.times(2), true);
    pen.linear("proj_out", dims.width, patch.saturating_mul(patch).saturating_mul(out), true);
    Ok(facts)
}

pub(super) fn flux_control(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let (dims, facts) = flux_body(fields, pen)?;
    let width = dims.width;
    for (name, count, default) in [
        ("controlnet_blocks", "num_layers", 19),
        ("controlnet_single_blocks", "num_single_layers", 38),
    ] {
        for layer in 0..fields.repeats(count, Some(default))? {
            pen.linear(&format!("{name}.{layer}"), width, width, true);
        }
    }
    if let Some(modes) = fields.said("num_mode")? {
        pen.table("controlnet_mode_embedder", modes, width);
    }
    if let Some(embedding) = fields.said("conditioning_embedding_channels")? {
        super::unet::hint(pen, "input_hint_block", 3, embedding, &[16, 16, 16, 16]);
    }
    pen.linear("controlnet_x_embedder", fields.count_or("in_channels", 64)?, width, true);
    Ok(Facts { role: Role::ControlNet, ..facts })
}

pub(super) fn sd3(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let dims = Dims::read(fields, 18, 64)?;
    let width = dims.width;
    let channels = fields.count_or("in_channels", 16)?;
    let patch = fields.count_or("patch_size", 2)?;
    let side = fields.count_or("pos_embed_max_size", 96)?;
    pen.conv("pos_embed.proj", channels, width, patch.saturating_mul(patch), true);
    pen.buffer("pos_embed.pos_embed", side.saturating_mul(side).saturating_mul(width));
    embedder(pen, "time_text_embed.timestep_embedder", TIME, width);
    let pooled = fields.count_or("pooled_projection_dim", 2048)?;
    embedder(pen, "time_text_embed.text_embedder", pooled, width);
    let text = fields.count_or("joint_attention_dim", 4096)?;
    let caption = fields.count_or("caption_projection_dim", 1152)?;
    pen.linear("context_embedder", text, caption, true);
    let dual = fields.counts("dual_attention_layers")?.unwrap_or_default();
    let norms = fields.text("qk_norm")?.is_some();
    let layers = fields.repeats("num_layers", Some(18))?;
    for layer in 0..layers {
        let last = layer + 1 == layers;
        let block = Sd3Block { dims: &dims, last, dual: dual.contains(&layer), norms };
        block.draw(&mut pen.entry("transformer_blocks", layer));
    }
    let out = fields.count_or("out_channels", 16)?;
    pen.linear("norm_out.linear", width, dims.times(2), true);
    pen.linear("proj_out", width, patch.saturating_mul(patch).saturating_mul(out), true);
    Ok(facts(
        Task::Image,
        Shape::Denoiser {
            hidden: width,
            intermediate: dims.times(4),
            heads: dims.heads,
            patch,
            channels,
            // 77 of CLIP, 256 of T5.
            text_tokens: 333,
        },
    ))
}

struct Sd3Block<'a> {
    dims: &'a Dims,
    /// The last one does not update the text.
    last: bool,
    dual: bool,
    norms: bool,
}

impl Sd3Block<'_> {
    fn draw(&self, pen: &mut Pen<'_>) {
        let (dims, width) = (self.dims, self.dims.width);
        pen.linear("norm1.linear", width, dims.times(if self.dual { 9 } else { 6 }), true);
        pen.linear("norm1_context.linear", width, dims.times(if self.last { 2 } else { 6 }), true);
        let mut attention = pen.part("attn");
        projections(&mut attention, OWN, width);
        projections(&mut attention, if self.last { &ADDED[..3] } else { ADDED }, width);
        if self.norms {
            vectors(&mut attention, OWN_NORMS, dims.head);
            vectors(&mut attention, ADDED_NORMS, dims.head);
        }
        if self.dual {
            let mut second = pen.part("attn2");
            projections(&mut second, OWN, width);
            if self.norms {
                vectors(&mut second, OWN_NORMS, dims.head);
            }
        }
        feed_forward(pen, "ff", width, dims.times(4));
        if !self.last {
            feed_forward(pen, "ff_context", width, dims.times(4));
        }
    }
}

pub(super) fn qwen_image(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let dims = Dims::read(fields, 24, 128)?;
    let width = dims.width;
    let channels = fields.count_or("in_channels", 64)?;
    embedder(pen, "time_text_embed.timestep_embedder", TIME, width);
    if fields.flag("use_additional_t_cond", false)? {
        pen.table("time_text_embed.addition_t_embedding", 2, width);
    }
    let text = fields.count_or("joint_attention_dim", 3584)?;
    pen.vector("txt_norm", text);
    pen.linear("img_in", channels, width, true);
    pen.linear("txt_in", text, width, true);
    for layer in 0..fields.repeats("num_layers", Some(60))? {
        let mut pen = pen.entry("transformer_blocks", layer);
        pen.linear("img_mod.1", width, dims.times(6), true);
        pen.linear("txt_mod.1", width, dims.times(6), true);
        let mut attention = pen.part("attn");
        projections(&mut attention, OWN, width);
        projections(&mut attention, ADDED, width);
        vectors(&mut attention, OWN_NORMS, dims.head);
        vectors(&mut attention, ADDED_NORMS, dims.head);
        feed_forward(&mut pen, "img_mlp", width, dims.times(4));
        feed_forward(&mut pen, "txt_mlp", width, dims.times(4));
    }
    let patch = fields.count_or("patch_size", 2)?;
    let out = fields.said("out_channels")?.filter(|&out| out > 0).unwrap_or(channels);
    let out = if fields.get("out_channels").is_none() { 16 } else { out };
    pen.linear("norm_out.linear", width, dims.times(2), true);
    pen.linear("proj_out", width, patch.saturating_mul(patch).saturating_mul(out), true);
    Ok(facts(
        Task::Image,
        Shape::Denoiser {
            hidden: width,
            intermediate: dims.times(4),
            heads: dims.heads,
            patch,
            channels: channels / patch.saturating_mul(patch).max(1),
            text_tokens: 1024,
        },
    ))
}

pub(super) fn wan(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let dims = Dims::read(fields, 40, 128)?;
    let width = dims.width;
    let channels = fields.count_or("in_channels", 16)?;
    let patch = fields.counts("patch_size")?.unwrap_or_else(|| vec![1, 2, 2]);
    let kernel = patch.iter().copied().fold(1, u64::saturating_mul);
    let inner = fields.count_or("ffn_dim", 13_824)?;
    pen.conv("patch_embedding", channels, width, kernel, true);
    wan_conditions(fields, &dims, &mut pen.part("condition_embedder"))?;
    let added = fields.said("added_kv_proj_dim")?;
    let cross_norm = fields.flag("cross_attn_norm", true)?;
    for layer in 0..fields.repeats("num_layers", Some(40))? {
        let mut pen = pen.entry("blocks", layer);
        pen.parameter("scale_shift_table", dims.times(6));
        for name in ["attn1", "attn2"] {
            let mut attention = pen.part(name);
            projections(&mut attention, OWN, width);
            vectors(&mut attention, OWN_NORMS, width);
            if let Some(added) = added.filter(|_| name == "attn2") {
                attention.linear("add_k_proj", added, width, true);
                attention.linear("add_v_proj", added, width, true);
                attention.vector("norm_added_k", width);
            }
        }
        if cross_norm {
            pen.norm("norm2", width);
        }
        feed_forward(&mut pen, "ffn", width, inner);
    }
    let out = fields.said("out_channels")?.filter(|&out| out > 0);
    let out = match fields.get("out_channels") {
        Some(_) => out.unwrap_or(channels),
        None => 16,
    };
    pen.parameter("scale_shift_table", dims.times(2));
    pen.linear("proj_out", width, out.saturating_mul(kernel), true);
    Ok(facts(
        Task::Video,
        Shape::Denoiser {
            hidden: width,
            intermediate: inner,
            heads: dims.heads,
            patch: patch.last().copied().unwrap_or(2),
            channels: out,
            text_tokens: 512,
        },
    ))
}

fn wan_conditions(fields: &Fields<'_>, dims: &Dims, pen: &mut Pen<'_>) -> Result<(), ConfigError> {
    let width = dims.width;
    embedder(pen, "time_embedder", fields.count_or("freq_dim", 256)?, width);
    pen.linear("time_proj", width, dims.times(6), true);
    embedder(pen, "text_embedder", fields.count_or("text_dim", 4096)?, width);
    let Some(image) = fields.said("image_dim")? else { return Ok(()) };
    let mut pen = pen.part("image_embedder");
    pen.norm("norm1", image);
    pen.linear("ff.net.0.proj", image, image, true);
    pen.linear("ff.net.2", image, width, true);
    pen.norm("norm2", width);
    if let Some(positions) = fields.said("pos_embed_seq_len")? {
        pen.parameter("pos_embed", positions.saturating_mul(image));
    }
    Ok(())
}
