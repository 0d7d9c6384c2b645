//! Rotary embeddings, in the present spelling (`rope_parameters`) and the older one
//! (`rope_scaling`, `rope_theta`).

use overflowml_types::{RopeScaling, RopeSpec};
use serde_json::Value;

use super::decoder::Dims;
use super::families::{Family, Mixture, Ropes};
use super::{ConfigError, Fields};
use crate::limits;

/// How layers refer to the rotary embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rotary {
    /// All to the first.
    All,
    /// Some to the first, the others to none.
    Some,
    /// Windowed layers to the second, the others to the first.
    PerLayerType,
}

/// What gpt-oss means where its configuration says nothing: `0.1 * ln(32) + 1` on sine and cosine.
const GPT_OSS: RopeScaling = RopeScaling::Yarn {
    factor: 32.0,
    beta_fast: 32.0,
    beta_slow: 1.0,
    original_context: 4096.0,
    attention_factor: 1.346_573_590_279_972_7,
    truncate: false,
};

const SUPPORTED: &str = "default, linear, llama3, yarn, longrope";
const ORIGINAL: &str = "original_max_position_embeddings";
const PARTIAL: &str = "partial_rotary_factor";

pub(super) fn ropes(
    family: &Family,
    fields: &Fields<'_>,
    dims: &Dims,
) -> Result<(Vec<RopeSpec>, Rotary), ConfigError> {
    let rope = Rope { family, fields, dims };
    let ropes = match family.ropes {
        Ropes::One | Ropes::Partial { .. } | Ropes::Some => vec![rope.global()?],
        Ropes::PerLayerType { local_field, local_theta } => {
            let (global, local) = rope.per_layer_type(local_field, local_theta)?;
            vec![global, local]
        }
    };
    Ok((ropes, rotary(family)))
}

/// How the layers of `family` refer to its rotary embeddings.
pub(super) const fn rotary(family: &Family) -> Rotary {
    match family.ropes {
        Ropes::One | Ropes::Partial { .. } => Rotary::All,
        Ropes::Some => Rotary::Some,
        Ropes::PerLayerType { .. } => Rotary::PerLayerType,
    }
}

/// What is needed to read a rotary embedding.
struct Rope<'a> {
    family: &'a Family,
    fields: &'a Fields<'a>,
    dims: &'a Dims,
}

impl Rope<'_> {
    /// The one rotary embedding of a model. A non-empty `rope_scaling` goes before
    /// `rope_parameters`, as in `transformers`.
    fn global(&self) -> Result<RopeSpec, ConfigError> {
        let parameters = parameters(self.fields)?;
        if let Some(parameters) = &parameters {
            refuse_per_layer_type(parameters)?;
        }
        let theta = self.fields.positive_float("rope_theta")?.unwrap_or(self.family.theta);
        self.spec(parameters.as_ref(), theta)
    }

    /// The rotary embeddings of full and of windowed layers.
    fn per_layer_type(
        &self,
        local_field: &str,
        local_theta: f64,
    ) -> Result<(RopeSpec, RopeSpec), ConfigError> {
        let nested = self.fields.object("rope_parameters")?;
        let of = |layer_type| match &nested {
            Some(nested) => nested.object(layer_type),
            None => Ok(None),
        };
        let full = match self.fields.object("rope_scaling")?.filter(|fields| !fields.is_empty()) {
            Some(older) => Some(older),
            None => of("full_attention")?,
        };
        let theta = self.fields.positive_float("rope_theta")?.unwrap_or(self.family.theta);
        let local = self.fields.positive_float(local_field)?.unwrap_or(local_theta);
        Ok((self.spec(full.as_ref(), theta)?, self.spec(of("sliding_attention")?.as_ref(), local)?))
    }

    fn spec(&self, parameters: Option<&Fields<'_>>, theta: f64) -> Result<RopeSpec, ConfigError> {
        let Some(parameters) = parameters else {
            let rotary_dim = self.rotary_dim(self.fields)?;
            let scaling = match self.family.mixture {
                Mixture::GptOss => GPT_OSS,
                _ => RopeScaling::None,
            };
            return Ok(RopeSpec { rotary_dim, theta, scaling });
        };
        let holder = if parameters.get(PARTIAL).is_some() { parameters } else { self.fields };
        let rotary_dim = self.rotary_dim(holder)?;
        let theta = parameters.positive_float("rope_theta")?.unwrap_or(theta);
        let scaling = self.scaling(parameters, rotary_dim)?;
        Ok(RopeSpec { rotary_dim, theta, scaling })
    }

    /// `int(head_dim * partial_rotary_factor)`, which only some families can set.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn rotary_dim(&self, holder: &Fields<'_>) -> Result<usize, ConfigError> {
        let head_dim = self.dims.rope_dim;
        let part = holder.float(PARTIAL, 0.0..=1.0)?.unwrap_or(1.0);
        let rotary_dim = (head_dim as f64 * part) as usize;
        let may_be_partial = matches!(self.family.ropes, Ropes::Partial { .. });
        if (rotary_dim != head_dim && !may_be_partial) || !rotary_dim.is_multiple_of(2) {
            return Err(ConfigError::Contradiction {
                field: holder.path_to(PARTIAL),
                found: part.to_string(),
                other: "head_dim",
                value: head_dim.to_string(),
            });
        }
        Ok(rotary_dim)
    }

    fn scaling(
        &self,
        parameters: &Fields<'_>,
        rotary_dim: usize,
    ) -> Result<RopeScaling, ConfigError> {
        let name = match parameters.text("rope_type")? {
            Some(name) => name,
            None => parameters.text("type")?.unwrap_or("default"),
        };
        let is_phi3 = matches!(self.family.ropes, Ropes::Partial { .. });
        match name {
            "default" => Ok(RopeScaling::None),
            "longrope" => self.longrope(parameters, rotary_dim),
            // Older names of it in Phi-3's files.
            "su" | "yarn" if is_phi3 => self.longrope(parameters, rotary_dim),
            "linear" => Ok(RopeScaling::Linear { factor: required(parameters, "factor")? }),
            "llama3" => self.llama3(parameters),
            "yarn" => self.yarn(parameters),
            other => Err(ConfigError::Unsupported {
                field: parameters.path_to("rope_type"),
                found: other.to_owned(),
                supported: SUPPORTED,
            }),
        }
    }

    fn llama3(&self, parameters: &Fields<'_>) -> Result<RopeScaling, ConfigError> {
        let low_freq_factor = required(parameters, "low_freq_factor")?;
        let high_freq_factor = required(parameters, "high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            return Err(ConfigError::Contradiction {
                field: parameters.path_to("high_freq_factor"),
                found: high_freq_factor.to_string(),
                other: "low_freq_factor",
                value: low_freq_factor.to_string(),
            });
        }
        Ok(RopeScaling::Llama3 {
            factor: required(parameters, "factor")?,
            low_freq_factor,
            high_freq_factor,
            original_context: as_float(self.original_context(parameters)?),
        })
    }

    fn yarn(&self, parameters: &Fields<'_>) -> Result<RopeScaling, ConfigError> {
        let original_context = as_float(self.original_context(parameters)?);
        let context = as_float(self.dims.context);
        let factor = parameters.positive_float("factor")?.unwrap_or(context / original_context);
        let mscale = parameters.float("mscale", 0.0..=1e6)?.unwrap_or(0.0);
        let mscale_all_dim = parameters.float("mscale_all_dim", 0.0..=1e6)?.unwrap_or(0.0);
        let attention_factor = match parameters.float("attention_factor", 0.0..=1e6)? {
            Some(attention_factor) => attention_factor,
            None if mscale != 0.0 && mscale_all_dim != 0.0 => {
                yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
            }
            None => yarn_mscale(factor, 1.0),
        };
        // Zero means the default, as in `transformers`.
        let beta = |name, default| {
            let said = parameters.float(name, 0.0..=1e6)?;
            Ok::<_, ConfigError>(said.filter(|&beta| beta != 0.0).unwrap_or(default))
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: beta("beta_fast", 32.0)?,
            beta_slow: beta("beta_slow", 1.0)?,
            original_context,
            attention_factor,
            truncate: parameters.boolean("truncate")?.unwrap_or(true),
        })
    }

    fn longrope(
        &self,
        parameters: &Fields<'_>,
        rotary_dim: usize,
    ) -> Result<RopeScaling, ConfigError> {
        let original_context = self.original_context(parameters)?;
        let original = as_float(original_context);
        let factor = parameters.positive_float("factor")?;
        let factor = factor.unwrap_or(as_float(self.dims.context) / original);
        let attention_factor = match parameters.float("attention_factor", 0.0..=1e6)? {
            Some(attention_factor) => attention_factor,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            short: frequency_factors(parameters, "short_factor", rotary_dim / 2)?,
            long: frequency_factors(parameters, "long_factor", rotary_dim / 2)?,
            original_context,
            attention_factor,
        })
    }

    /// The context before stretching. Where one rotary embedding serves all layers, the model's
    /// own field goes before the rotary parameters'.
    fn original_context(&self, parameters: &Fields<'_>) -> Result<usize, ConfigError> {
        let own = self.fields.positive(ORIGINAL, limits::CONTEXT)?;
        let said = parameters.positive(ORIGINAL, limits::CONTEXT)?;
        let context = match self.family.ropes {
            Ropes::Partial { original_context } => own.unwrap_or(original_context),
            Ropes::PerLayerType { .. } => said.unwrap_or(self.dims.context),
            Ropes::One | Ropes::Some => own.or(said).unwrap_or(self.dims.context),
        };
        Ok(context)
    }
}

/// A non-empty `rope_scaling` goes before `rope_parameters`, as in `transformers`.
fn parameters<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>, ConfigError> {
    match fields.object("rope_scaling")?.filter(|fields| !fields.is_empty()) {
        Some(older) => Ok(Some(older)),
        None => fields.object("rope_parameters"),
    }
}

/// What the root of latent attention's scale is multiplied by: YaRN's `mscale_all_dim`.
pub(super) fn latent_stretch(fields: &Fields<'_>) -> Result<f64, ConfigError> {
    let Some(parameters) = parameters(fields)? else { return Ok(1.0) };
    let name = match parameters.text("rope_type")? {
        Some(name) => name,
        None => parameters.text("type")?.unwrap_or("default"),
    };
    let all = parameters.float("mscale_all_dim", 0.0..=1e6)?.unwrap_or(0.0);
    if name == "default" || all == 0.0 {
        return Ok(1.0);
    }
    Ok(yarn_mscale(required(&parameters, "factor")?, all))
}

/// Parameters per layer type, for a family that has one rotary embedding, mean something else
/// than they say.
fn refuse_per_layer_type(parameters: &Fields<'_>) -> Result<(), ConfigError> {
    for name in ["full_attention", "sliding_attention"] {
        if let Some(found) = parameters.get(name) {
            return Err(parameters.wrong_type(name, "absent for this architecture", found));
        }
    }
    Ok(())
}

fn required(parameters: &Fields<'_>, name: &str) -> Result<f64, ConfigError> {
    parameters.positive_float(name)?.ok_or_else(|| parameters.missing(name))
}

fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

fn frequency_factors(
    parameters: &Fields<'_>,
    name: &str,
    expected: usize,
) -> Result<Vec<f64>, ConfigError> {
    let list = parameters.list(name)?.ok_or_else(|| parameters.missing(name))?;
    if list.len() != expected {
        let (field, found) = (parameters.path_to(name), list.len());
        return Err(ConfigError::WrongCount { field, found, expected });
    }
    let number = |value: &Value| {
        let number = value.as_f64().filter(|number| *number > 0.0 && number.is_finite());
        number.ok_or_else(|| parameters.wrong_type(name, "a list of numbers above zero", value))
    };
    list.iter().map(number).collect()
}

#[allow(clippy::cast_precision_loss)] // contexts are capped far below 2^52
const fn as_float(context: usize) -> f64 {
    context as f64
}
