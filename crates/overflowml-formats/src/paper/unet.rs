//! The U-Net of Stable Diffusion 1, 2 and XL, and control nets for it.

use overflowml_types::{Role, Shape, Task};

use super::denoisers::embedder;
use super::{Facts, Pen};
use crate::ConfigError;
use crate::config::Fields;

/// Levels, and layers per level: far above any real one.
const MOST: usize = 16;

/// What all blocks of a U-Net share.
struct Net {
    channels: Vec<u64>,
    /// Of a level: how many residual blocks (up to one more on the way up).
    layers: Vec<u64>,
    /// Of a level: how many transformer blocks behind each residual block.
    depth: Vec<u64>,
    cross: Vec<u64>,
    time: u64,
    only_cross: Vec<bool>,
    /// `scale_shift`: time makes two vectors.
    scale_shift: bool,
}

impl Net {
    fn read(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        refuse_rare(fields)?;
        let channels = fields.counts("block_out_channels")?;
        let channels = channels.unwrap_or_else(|| vec![320, 640, 1280, 1280]);
        let levels = channels.len();
        if levels == 0 || levels > MOST {
            let field = fields.path_to("block_out_channels");
            return Err(ConfigError::WrongCount { field, found: levels, expected: 4 });
        }
        let time = fields.count_or("time_embedding_dim", channels[0].saturating_mul(4))?;
        Ok(Self {
            layers: per_level(fields, "layers_per_block", levels, 2, MOST as u64)?,
            depth: per_level(fields, "transformer_layers_per_block", levels, 1, 64)?,
            cross: per_level(fields, "cross_attention_dim", levels, 1280, 1 << 24)?,
            time,
            only_cross: only_cross(fields, levels)?,
            scale_shift: fields.text("resnet_time_scale_shift")? == Some("scale_shift"),
            channels,
        })
    }

    /// What goes in: latents, time, classes, pooled text.
    fn inputs(&self, fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<(), ConfigError> {
        let first = self.channels[0];
        let kernel = fields.count_or("conv_in_kernel", 3)?;
        let input = fields.count_or("in_channels", 4)?;
        pen.conv("conv_in", input, first, kernel.saturating_mul(kernel), true);
        embedder(pen, "time_embedding", first, self.time);
        if let Some(condition) = fields.said("time_cond_proj_dim")? {
            pen.linear("time_embedding.cond_proj", condition, first, false);
        }
        if let Some(hidden) = fields.said("encoder_hid_dim")? {
            pen.linear("encoder_hid_proj", hidden, self.cross[0], true);
        }
        let projected = || fields.count_or("projection_class_embeddings_input_dim", 0);
        match (fields.text("class_embed_type")?, fields.said("num_class_embeds")?) {
            (None, Some(classes)) => pen.table("class_embedding", classes, self.time),
            (Some("timestep"), _) => embedder(pen, "class_embedding", first, self.time),
            (Some("projection"), _) => embedder(pen, "class_embedding", projected()?, self.time),
            (Some("simple_projection"), _) => {
                pen.linear("class_embedding", projected()?, self.time, true);
            }
            _ => {}
        }
        if fields.text("addition_embed_type")? == Some("text_time") {
            embedder(pen, "add_embedding", projected()?, self.time);
        }
        Ok(())
    }

    fn down(&self, fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<(), ConfigError> {
        let default = ["CrossAttnDownBlock2D"; 3].into_iter().chain(["DownBlock2D"]).collect();
        let types = fields.texts("down_block_types")?.unwrap_or(default);
        self.check_levels(fields, "down_block_types", &types)?;
        let mut input = self.channels[0];
        for (level, kind) in types.into_iter().enumerate() {
            let attends = attends(fields, "down_block_types", kind, "Down")?;
            let output = self.channels[level];
            let mut pen = pen.entry("down_blocks", level as u64);
            for layer in 0..self.layers[level] {
                let from = if layer == 0 { input } else { output };
                self.residual(&mut pen.entry("resnets", layer), from, output);
                if attends {
                    self.transformer(&mut pen.entry("attentions", layer), level);
                }
            }
            if level + 1 < self.channels.len() {
                pen.conv("downsamplers.0.conv", output, output, 9, true);
            }
            input = output;
        }
        Ok(())
    }

    fn middle(&self, fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<(), ConfigError> {
        let level = self.channels.len() - 1;
        let width = self.channels[level];
        let mut pen = pen.part("mid_block");
        let kind = match fields.is_null("mid_block_type") {
            true => return Ok(()),
            false => fields.text("mid_block_type")?.unwrap_or("UNetMidBlock2DCrossAttn"),
        };
        match kind {
            "UNetMidBlock2DCrossAttn" => {
                self.residual(&mut pen.part("resnets.0"), width, width);
                let own_attention = Self { only_cross: vec![false; level + 1], ..self.copied() };
                own_attention.transformer(&mut pen.part("attentions.0"), level);
                self.residual(&mut pen.part("resnets.1"), width, width);
            }
            "UNetMidBlock2D" => self.residual(&mut pen.part("resnets.0"), width, width),
            other => return Err(unsupported(fields, "mid_block_type", other)),
        }
        Ok(())
    }

    fn up(&self, fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<(), ConfigError> {
        let default = ["UpBlock2D"].into_iter().chain(["CrossAttnUpBlock2D"; 3]).collect();
        let types = fields.texts("up_block_types")?.unwrap_or(default);
        self.check_levels(fields, "up_block_types", &types)?;
        let last = self.channels.len() - 1;
        let mut previous = self.channels[last];
        for (number, kind) in types.into_iter().enumerate() {
            let attends = attends(fields, "up_block_types", kind, "Up")?;
            let level = last - number;
            let (output, below) = (self.channels[level], self.channels[level.saturating_sub(1)]);
            let mut pen = pen.entry("up_blocks", number as u64);
            let layers = self.layers[level].saturating_add(1);
            for layer in 0..layers {
                // What the way down kept joins what comes from below.
                let skipped = if layer + 1 == layers { below } else { output };
                let from = if layer == 0 { previous } else { output };
                let input = from.saturating_add(skipped);
                self.residual(&mut pen.entry("resnets", layer), input, output);
                if attends {
                    self.transformer(&mut pen.entry("attentions", layer), level);
                }
            }
            if number < last {
                pen.conv("upsamplers.0.conv", output, output, 9, true);
            }
            previous = output;
        }
        Ok(())
    }

    fn check_levels(
        &self,
        fields: &Fields<'_>,
        name: &str,
        types: &[&str],
    ) -> Result<(), ConfigError> {
        let (found, expected) = (types.len(), self.channels.len());
        match found == expected {
            true => Ok(()),
            false => Err(ConfigError::WrongCount { field: fields.path_to(name), found, expected }),
        }
    }

    fn residual(&self, pen: &mut Pen<'_>, input: u64, output: u64) {
        let time = if self.scale_shift { output.saturating_mul(2) } else { output };
        residual(pen, input, output);
        pen.linear("time_emb_proj", self.time, time, true);
    }

    fn transformer(&self, pen: &mut Pen<'_>, level: usize) {
        let width = self.channels[level];
        let cross = self.cross[level];
        pen.norm("norm", width);
        pen.linear("proj_in", width, width, true);
        for block in 0..self.depth[level] {
            let mut pen = pen.entry("transformer_blocks", block);
            let own = if self.only_cross[level] { cross } else { width };
            for (name, seen) in [("attn1", own), ("attn2", cross)] {
                let mut attention = pen.part(name);
                attention.linear("to_q", width, width, false);
                attention.linear("to_k", seen, width, false);
                attention.linear("to_v", seen, width, false);
                attention.linear("to_out.0", width, width, true);
            }
            for norm in ["norm1", "norm2", "norm3"] {
                pen.norm(norm, width);
            }
            let inner = width.saturating_mul(4);
            pen.linear("ff.net.0.proj", width, inner.saturating_mul(2), true);
            pen.linear("ff.net.2", inner, width, true);
        }
        pen.linear("proj_out", width, width, true);
    }

    fn copied(&self) -> Self {
        Self {
            channels: self.channels.clone(),
            layers: self.layers.clone(),
            depth: self.depth.clone(),
            cross: self.cross.clone(),
            only_cross: self.only_cross.clone(),
            ..*self
        }
    }

    fn facts(&self, role: Role, latents: u64) -> Facts {
        let hidden = self.channels.iter().copied().max().unwrap_or(0);
        let shape = Shape::Denoiser {
            hidden,
            intermediate: hidden.saturating_mul(4),
            heads: hidden / 64,
            patch: 1,
            channels: latents,
            text_tokens: 77,
        };
        Facts { role, task: Task::Image, shape, ..Facts::unknown(String::new()) }
    }
}

/// Norms and convolutions of a residual block.
pub(super) fn residual(pen: &mut Pen<'_>, input: u64, output: u64) {
    pen.norm("norm1", input);
    pen.conv("conv1", input, output, 9, true);
    pen.norm("norm2", output);
    pen.conv("conv2", output, output, 9, true);
    if input != output {
        pen.conv("conv_shortcut", input, output, 1, true);
    }
}

pub(super) fn unet(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let net = Net::read(fields)?;
    net.inputs(fields, pen)?;
    net.down(fields, pen)?;
    net.middle(fields, pen)?;
    net.up(fields, pen)?;
    let first = net.channels[0];
    if !fields.is_null("norm_num_groups") {
        pen.norm("conv_norm_out", first);
    }
    let kernel = fields.count_or("conv_out_kernel", 3)?;
    let out = fields.count_or("out_channels", 4)?;
    pen.conv("conv_out", first, out, kernel.saturating_mul(kernel), true);
    Ok(net.facts(Role::Denoiser, out))
}

pub(super) fn control(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let net = Net::read(fields)?;
    net.inputs(fields, pen)?;
    let widths = fields.counts("conditioning_embedding_out_channels")?;
    let widths = widths.unwrap_or_else(|| vec![16, 32, 96, 256]);
    let seen = fields.count_or("conditioning_channels", 3)?;
    hint(pen, "controlnet_cond_embedding", seen, net.channels[0], &widths);
    net.down(fields, pen)?;
    net.middle(fields, pen)?;
    let mut number = 0;
    let mut tap = |pen: &mut Pen<'_>, width: u64| {
        pen.conv(&format!("controlnet_down_blocks.{number}"), width, width, 1, true);
        number += 1;
    };
    tap(pen, net.channels[0]);
    for (level, &width) in net.channels.iter().enumerate() {
        let down = u64::from(level + 1 < net.channels.len());
        for _ in 0..net.layers[level] + down {
            tap(pen, width);
        }
    }
    let last = net.channels[net.channels.len() - 1];
    pen.conv("controlnet_mid_block", last, last, 1, true);
    Ok(net.facts(Role::ControlNet, fields.count_or("in_channels", 4)?))
}

/// Convolutions from the picture that steers to the first level's width.
pub(super) fn hint(pen: &mut Pen<'_>, name: &str, input: u64, output: u64, widths: &[u64]) {
    let (Some(&first), Some(&last)) = (widths.first(), widths.last()) else { return };
    let mut pen = pen.part(name);
    pen.conv("conv_in", input, first, 9, true);
    for (number, pair) in widths.windows(2).enumerate() {
        pen.conv(&format!("blocks.{}", 2 * number), pair[0], pair[0], 9, true);
        pen.conv(&format!("blocks.{}", 2 * number + 1), pair[0], pair[1], 9, true);
    }
    pen.conv("conv_out", last, output, 9, true);
}

/// A field that is one number for all levels or a list with one for each.
fn per_level(
    fields: &Fields<'_>,
    name: &str,
    levels: usize,
    default: u64,
    most: u64,
) -> Result<Vec<u64>, ConfigError> {
    let values = match fields.get(name) {
        Some(value) if value.is_array() => fields.counts(name)?.unwrap_or_default(),
        _ => vec![fields.count_or(name, default)?; levels],
    };
    if values.len() != levels {
        let (field, found) = (fields.path_to(name), values.len());
        return Err(ConfigError::WrongCount { field, found, expected: levels });
    }
    match values.iter().find(|&&value| value > most) {
        Some(large) => Err(ConfigError::OutOfRange {
            field: fields.path_to(name),
            found: large.to_string(),
            least: "0".to_owned(),
            most: most.to_string(),
        }),
        None => Ok(values),
    }
}

fn only_cross(fields: &Fields<'_>, levels: usize) -> Result<Vec<bool>, ConfigError> {
    const NAME: &str = "only_cross_attention";
    match fields.get(NAME) {
        Some(value) if value.is_array() => {
            let list = fields.list(NAME)?.unwrap_or_default();
            let flags: Option<Vec<bool>> = list.iter().map(serde_json::Value::as_bool).collect();
            let fits = flags.filter(|flags| flags.len() == levels);
            fits.ok_or_else(|| {
                fields.wrong_type(NAME, "true, false, or one of them per level", value)
            })
        }
        _ => Ok(vec![fields.flag(NAME, false)?; levels]),
    }
}

/// Whether a level's blocks attend to the text.
fn attends(
    fields: &Fields<'_>,
    field: &str,
    kind: &str,
    direction: &str,
) -> Result<bool, ConfigError> {
    match kind.strip_suffix("Block2D").and_then(|kind| kind.strip_suffix(direction)) {
        Some("") => Ok(false),
        Some("CrossAttn") => Ok(true),
        _ => Err(unsupported(fields, field, kind)),
    }
}

fn unsupported(fields: &Fields<'_>, field: &str, found: &str) -> ConfigError {
    ConfigError::Unsupported {
        field: fields.path_to(field),
        found: found.to_owned(),
        supported: "blocks of Stable Diffusion 1, 2 and XL",
    }
}

/// Refuses what no published Stable Diffusion has: its sizes would be wrong.
fn refuse_rare(fields: &Fields<'_>) -> Result<(), ConfigError> {
    for (name, usual) in [
        ("attention_type", "default"),
        ("time_embedding_type", "positional"),
        ("addition_embed_type", "text_time"),
        ("encoder_hid_dim_type", "text_proj"),
    ] {
        if let Some(found) = fields.text(name)?.filter(|&found| found != usual) {
            return Err(unsupported(fields, name, found));
        }
    }
    for name in ["dual_cross_attention", "class_embeddings_concat"] {
        if fields.flag(name, false)? {
            return Err(unsupported(fields, name, "true"));
        }
    }
    Ok(())
}
