//! Autoencoders: of Stable Diffusion and Flux, of Wan and Qwen-Image.

use overflowml_types::{Role, Shape, Task};

use super::unet::residual;
use super::{Facts, Pen};
use crate::ConfigError;
use crate::config::Fields;

fn facts(scale: u64, temporal: u64, channels: u64) -> Facts {
    Facts {
        role: Role::Vae,
        task: Task::Unknown,
        shape: Shape::Vae { scale, temporal, channels },
        ..Facts::unknown(String::new())
    }
}

/// Levels and layers: far above any real one.
const MOST: u64 = 32;

fn short(fields: &Fields<'_>, name: &str, list: &[u64]) -> Result<(), ConfigError> {
    match list.is_empty() || list.len() as u64 > MOST {
        true => Err(ConfigError::WrongCount {
            field: fields.path_to(name),
            found: list.len(),
            expected: 4,
        }),
        false => Ok(()),
    }
}

pub(super) fn kl(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    const WIDTHS: &str = "block_out_channels";
    let widths = fields.counts(WIDTHS)?.unwrap_or_else(|| vec![64]);
    short(fields, WIDTHS, &widths)?;
    let layers = fields.repeats("layers_per_block", Some(1))?.min(MOST);
    let latents = fields.count_or("latent_channels", 4)?;
    let attends = fields.flag("mid_block_add_attention", true)?;
    let (first, last) = (widths[0], widths[widths.len() - 1]);
    let twice = latents.saturating_mul(2);

    let mut half = pen.part("encoder");
    half.conv("conv_in", fields.count_or("in_channels", 3)?, first, 9, true);
    kl_levels(&mut half, "down_blocks", "downsamplers", &widths, first, layers);
    kl_middle(&mut half, last, attends);
    half.norm("conv_norm_out", last);
    half.conv("conv_out", last, twice, 9, true);

    let mut half = pen.part("decoder");
    half.conv("conv_in", latents, last, 9, true);
    kl_middle(&mut half, last, attends);
    let upwards: Vec<u64> = widths.iter().rev().copied().collect();
    kl_levels(&mut half, "up_blocks", "upsamplers", &upwards, last, layers + 1);
    half.norm("conv_norm_out", first);
    half.conv("conv_out", first, fields.count_or("out_channels", 3)?, 9, true);

    if fields.flag("use_quant_conv", true)? {
        pen.conv("quant_conv", twice, twice, 1, true);
    }
    if fields.flag("use_post_quant_conv", true)? {
        pen.conv("post_quant_conv", latents, latents, 1, true);
    }
    Ok(facts(1 << (widths.len() - 1).min(32), 1, first))
}

fn kl_levels(
    pen: &mut Pen<'_>,
    name: &str,
    resampler: &str,
    widths: &[u64],
    mut input: u64,
    layers: u64,
) {
    for (level, &output) in widths.iter().enumerate() {
        let mut pen = pen.entry(name, level as u64);
        for layer in 0..layers {
            residual(&mut pen.entry("resnets", layer), input, output);
            input = output;
        }
        if level + 1 < widths.len() {
            pen.conv(&format!("{resampler}.0.conv"), output, output, 9, true);
        }
    }
}

fn kl_middle(pen: &mut Pen<'_>, width: u64, attends: bool) {
    let mut pen = pen.part("mid_block");
    residual(&mut pen.part("resnets.0"), width, width);
    if attends {
        let mut attention = pen.part("attentions.0");
        attention.norm("group_norm", width);
        for name in ["to_q", "to_k", "to_v", "to_out.0"] {
            attention.linear(name, width, width, true);
        }
    }
    residual(&mut pen.part("resnets.1"), width, width);
}

/// Elements of a kernel over time, height and width.
const CUBE: u64 = 27;

/// An autoencoder of video.
struct Video {
    multiples: Vec<u64>,
    layers: u64,
    /// Which levels halve time on the way down.
    temporal: Vec<bool>,
    latents: u64,
    /// Levels have shortcuts of their own (Wan 2.2).
    shortcuts: bool,
}

pub(super) fn wan(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let width = fields.count_or("base_dim", 96)?;
    let decoder = fields.count_or("decoder_base_dim", width)?;
    let input = fields.count_or("in_channels", 3)?;
    let output = fields.count_or("out_channels", 3)?;
    let video = Video::read(fields)?;
    video.draw(pen, (width, input), (decoder, output));
    let scale = fields.count_or("scale_factor_spatial", 8)?;
    Ok(facts(scale, fields.count_or("scale_factor_temporal", 4)?, decoder))
}

pub(super) fn qwen_image(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let width = fields.count_or("base_dim", 96)?;
    let channels = fields.count_or("input_channels", 3)?;
    let video = Video::read(fields)?;
    video.draw(pen, (width, channels), (width, channels));
    Ok(facts(1 << video.temporal.len().min(32), 1, width))
}

impl Video {
    fn read(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        const MULTIPLES: &str = "dim_mult";
        const TEMPORAL: &str = "temperal_downsample"; // as diffusers spells it
        let multiples = fields.counts(MULTIPLES)?.unwrap_or_else(|| vec![1, 2, 4, 4]);
        short(fields, MULTIPLES, &multiples)?;
        let temporal = match fields.list(TEMPORAL)? {
            None => vec![false, true, true],
            Some(list) => list.iter().map(|flag| flag.as_bool().unwrap_or(false)).collect(),
        };
        if temporal.len() + 1 < multiples.len() {
            let (found, expected) = (temporal.len(), multiples.len() - 1);
            let field = fields.path_to(TEMPORAL);
            return Err(ConfigError::WrongCount { field, found, expected });
        }
        if let Some(scales) = fields.list("attn_scales")?.filter(|scales| !scales.is_empty()) {
            let found = format!("{} scales", scales.len());
            let field = fields.path_to("attn_scales");
            return Err(ConfigError::Unsupported {
                field,
                found,
                supported: "no attention scales",
            });
        }
        Ok(Self {
            multiples,
            layers: fields.repeats("num_res_blocks", Some(2))?.min(MOST),
            temporal,
            latents: fields.count_or("z_dim", 16)?,
            shortcuts: fields.flag("is_residual", false)?,
        })
    }

    /// Both halves; each has a base width and channels of pictures.
    fn draw(&self, pen: &mut Pen<'_>, encoder: (u64, u64), decoder: (u64, u64)) {
        let twice = self.latents.saturating_mul(2);
        self.encoder(&mut pen.part("encoder"), encoder.0, encoder.1, twice);
        pen.conv("quant_conv", twice, twice, 1, true);
        pen.conv("post_quant_conv", self.latents, self.latents, 1, true);
        self.decoder(&mut pen.part("decoder"), decoder.0, decoder.1);
    }

    fn encoder(&self, pen: &mut Pen<'_>, width: u64, input: u64, latents: u64) {
        let wide = |multiple: u64| width.saturating_mul(multiple);
        pen.conv("conv_in", input, width, CUBE, true);
        let levels = self.multiples.len();
        let mut from = width;
        let mut number = 0;
        for (level, &multiple) in self.multiples.iter().enumerate() {
            let to = wide(multiple);
            let mut residuals = Vec::new();
            for _ in 0..self.layers {
                residuals.push((from, to));
                from = to;
            }
            let resamples = level + 1 < levels;
            let over_time = resamples && self.temporal.get(level) == Some(&true);
            if self.shortcuts {
                let mut pen = pen.entry("down_blocks", level as u64);
                for (layer, &(from, to)) in residuals.iter().enumerate() {
                    block(&mut pen.entry("resnets", layer as u64), from, to);
                }
                if resamples {
                    resample(&mut pen.part("downsampler"), to, to, over_time.then_some(1));
                }
                continue;
            }
            for (from, to) in residuals {
                block(&mut pen.entry("down_blocks", number), from, to);
                number += 1;
            }
            if resamples {
                let mut pen = pen.entry("down_blocks", number);
                resample(&mut pen, to, to, over_time.then_some(1));
                number += 1;
            }
        }
        middle(pen, from);
        pen.parameter("norm_out.gamma", from);
        pen.conv("conv_out", from, latents, CUBE, true);
    }

    fn decoder(&self, pen: &mut Pen<'_>, width: u64, output: u64) {
        let wide = |multiple: u64| width.saturating_mul(multiple);
        let levels = self.multiples.len();
        let mut from = wide(self.multiples[levels - 1]);
        pen.conv("conv_in", self.latents, from, CUBE, true);
        middle(pen, from);
        for (level, &multiple) in self.multiples.iter().rev().enumerate() {
            let to = wide(multiple);
            // Resampling halves the width, except where shortcuts keep it.
            let halved = level > 0 && !self.shortcuts;
            let mut input = if halved { from / 2 } else { from };
            let mut pen = pen.entry("up_blocks", level as u64);
            for layer in 0..=self.layers {
                block(&mut pen.entry("resnets", layer), input, to);
                input = to;
            }
            if level + 1 < levels {
                let name = if self.shortcuts { "upsampler" } else { "upsamplers.0" };
                let out = if self.shortcuts { to } else { to / 2 };
                let at = self.temporal.len().checked_sub(level + 1);
                let over_time = at.and_then(|at| self.temporal.get(at)) == Some(&true);
                resample(&mut pen.part(name), to, out, over_time.then_some(2));
            }
            from = to;
        }
        pen.parameter("norm_out.gamma", from);
        pen.conv("conv_out", from, output, CUBE, true);
    }
}

/// A residual block over time and space.
fn block(pen: &mut Pen<'_>, input: u64, output: u64) {
    pen.parameter("norm1.gamma", input);
    pen.conv("conv1", input, output, CUBE, true);
    pen.parameter("norm2.gamma", output);
    pen.conv("conv2", output, output, CUBE, true);
    if input != output {
        pen.conv("conv_shortcut", input, output, 1, true);
    }
}

fn middle(pen: &mut Pen<'_>, width: u64) {
    let mut pen = pen.part("mid_block");
    block(&mut pen.part("resnets.0"), width, width);
    pen.parameter("attentions.0.norm.gamma", width);
    pen.conv("attentions.0.to_qkv", width, width.saturating_mul(3), 1, true);
    pen.conv("attentions.0.proj", width, width, 1, true);
    block(&mut pen.part("resnets.1"), width, width);
}

/// Halves or doubles space, and time where `frames` says how many are made of one.
fn resample(pen: &mut Pen<'_>, input: u64, output: u64, frames: Option<u64>) {
    pen.conv("resample.1", input, output, 9, true);
    if let Some(frames) = frames {
        pen.conv("time_conv", input, input.saturating_mul(frames), 3, true);
    }
}
