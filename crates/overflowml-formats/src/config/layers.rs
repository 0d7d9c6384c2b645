//! What differs from layer to layer: windows and rotary embeddings.

use overflowml_types::LayerSpec;
use serde_json::Value;

use super::decoder::Dims;
use super::families::{Family, Windows};
use super::rope::Rotary;
use super::{ConfigError, Fields};
use crate::limits;

const WINDOW: &str = "sliding_window";
const LAYER_TYPES: &str = "layer_types";

pub(super) fn layers(
    family: &Family,
    fields: &Fields<'_>,
    dims: &Dims,
    rotary: Rotary,
) -> Result<Vec<LayerSpec>, ConfigError> {
    let has_rope = match rotary {
        Rotary::Some => layers_with_rope(fields, dims.layers)?,
        Rotary::All | Rotary::PerLayerType => vec![true; dims.layers],
    };
    let windows = windows(family.windows, fields, dims.layers, &has_rope)?;
    let layers = windows.into_iter().zip(has_rope);
    Ok(layers
        .map(|(window, has_rope)| {
            let rope = match rotary {
                // The second is for windowed layers.
                Rotary::PerLayerType => usize::from(window.is_some()),
                Rotary::All | Rotary::Some => 0,
            };
            LayerSpec { window, rope: has_rope.then_some(rope) }
        })
        .collect())
}

/// Which layers have a rotary embedding: 1 where `no_rope_layers` says so (its name notwithstanding),
/// else all but every fourth.
fn layers_with_rope(fields: &Fields<'_>, count: usize) -> Result<Vec<bool>, ConfigError> {
    const LIST: &str = "no_rope_layers";
    let Some(list) = fields.list(LIST)? else {
        let every = fields.positive("no_rope_layer_interval", limits::LAYERS)?.unwrap_or(4);
        return Ok((1..=count).map(|layer| !layer.is_multiple_of(every)).collect());
    };
    if list.len() < count {
        let (field, found) = (fields.path_to(LIST), list.len());
        return Err(ConfigError::WrongCount { field, found, expected: count });
    }
    let flag = |value: &Value| match value {
        Value::Bool(flag) => Ok(*flag),
        Value::Number(number) if number.as_u64() == Some(1) => Ok(true),
        Value::Number(number) if number.as_u64() == Some(0) => Ok(false),
        other => Err(fields.wrong_type(LIST, "a list of 0 and 1", other)),
    };
    list.iter().take(count).map(flag).collect()
}

/// Each layer's window. A window of n lets a query see n positions, its own included: this is
/// how `transformers` masks (`key > query - window`).
fn windows(
    rule: Windows,
    fields: &Fields<'_>,
    count: usize,
    has_rope: &[bool],
) -> Result<Vec<Option<usize>>, ConfigError> {
    let window = || fields.positive(WINDOW, limits::CONTEXT);
    let windowed = match rule {
        Windows::Never => return Ok(vec![None; count]),
        Windows::EveryLayer { default } => {
            let default = if fields.is_null(WINDOW) { None } else { default };
            return Ok(vec![window()?.or(default); count]);
        }
        Windows::FromLayer | Windows::WithoutRope => {
            let on = fields.boolean("use_sliding_window")?.unwrap_or(false);
            match layer_types(fields, count)? {
                Some(types) => types,
                None if !on => vec![false; count],
                None => windowed_by_default(rule, fields, count, has_rope)?,
            }
        }
        Windows::AllBut { .. } => match layer_types(fields, count)? {
            Some(types) => types,
            None => windowed_by_default(rule, fields, count, has_rope)?,
        },
    };
    if !windowed.contains(&true) {
        return Ok(vec![None; count]);
    }
    let default = match rule {
        Windows::WithoutRope => None,
        _ if fields.is_null(WINDOW) => None,
        _ => Some(4096),
    };
    let width = window()?.or(default).ok_or_else(|| fields.missing(WINDOW))?;
    Ok(windowed.into_iter().map(|windowed| windowed.then_some(width)).collect())
}

/// Which layers are windowed where `layer_types` does not say.
fn windowed_by_default(
    rule: Windows,
    fields: &Fields<'_>,
    count: usize,
    has_rope: &[bool],
) -> Result<Vec<bool>, ConfigError> {
    match rule {
        Windows::FromLayer => {
            let from = fields.size("max_window_layers", 0..=limits::LAYERS)?.unwrap_or(28);
            let on = !fields.is_null(WINDOW);
            Ok((0..count).map(|layer| on && layer >= from).collect())
        }
        Windows::WithoutRope => {
            let on = fields.get(WINDOW).is_some();
            Ok(has_rope.iter().map(|has_rope| on && !has_rope).collect())
        }
        Windows::AllBut { every, every_field } => {
            let said = match every_field {
                Some(name) => fields.positive(name, limits::LAYERS)?,
                None => None,
            };
            let every = said.unwrap_or(every);
            Ok((1..=count).map(|layer| !layer.is_multiple_of(every)).collect())
        }
        Windows::Never | Windows::EveryLayer { .. } => Ok(vec![false; count]),
    }
}

/// Which layers `layer_types` calls windowed; `None` if it is absent.
fn layer_types(fields: &Fields<'_>, count: usize) -> Result<Option<Vec<bool>>, ConfigError> {
    let Some(types) = fields.list(LAYER_TYPES)? else { return Ok(None) };
    if types.len() != count {
        let (field, found) = (fields.path_to(LAYER_TYPES), types.len());
        return Err(ConfigError::WrongCount { field, found, expected: count });
    }
    let windowed = |value: &Value| match value.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        Some(other) => Err(ConfigError::Unsupported {
            field: fields.path_to(LAYER_TYPES),
            found: other.to_owned(),
            supported: "full_attention, sliding_attention",
        }),
        None => Err(fields.wrong_type(LAYER_TYPES, "a list of texts", value)),
    };
    types.iter().map(windowed).collect::<Result<_, _>>().map(Some)
}
