//! What differs from layer to layer: windows and rotary embeddings.

use overflowml_types::LayerSpec;
use serde_json::Value;

use super::decoder::Dims;
use super::families::{Family, Windows};
use super::rope::Rotary;
use super::{ConfigError, Fields, mixture};
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
    let experts = mixture::layers(family.mixture, fields, dims.layers)?;
    let layers = windows.into_iter().zip(has_rope).zip(experts);
    Ok(layers
        .map(|((window, has_rope), experts)| {
            let rope = match rotary {
                // The second is for windowed layers.
                Rotary::PerLayerType => usize::from(window.is_some()),
                Rotary::All | Rotary::Some => 0,
            };
            LayerSpec { window, rope: has_rope.then_some(rope), experts }
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
    let Some(width) = width(rule, fields)? else {
        refuse_windowed_layers(rule, fields, count)?;
        return Ok(vec![None; count]);
    };
    let reads_types = reads_types(rule);
    let said = if reads_types { layer_types(fields, count)? } else { None };
    let windowed = match said {
        Some(types) => types,
        None => windowed_by_default(rule, fields, count, has_rope)?,
    };
    Ok(windowed.into_iter().map(|windowed| windowed.then_some(width)).collect())
}

/// Whether `layer_types` decides where it is there.
const fn reads_types(rule: Windows) -> bool {
    !matches!(rule, Windows::EveryLayer { by_type: false, .. } | Windows::EveryLayerIfUsed)
}

/// How wide the model's windows are; `None` if it has none.
fn width(rule: Windows, fields: &Fields<'_>) -> Result<Option<usize>, ConfigError> {
    let default = match rule {
        Windows::Never => return Ok(None),
        Windows::FromLayer | Windows::EveryLayerIfUsed | Windows::EveryOther
            if !uses_windows(fields)? =>
        {
            return Ok(None);
        }
        Windows::EveryLayer { default, .. } => default,
        Windows::WithoutRope => None,
        Windows::AllBut { width, .. } => Some(width),
        Windows::FromLayer | Windows::EveryLayerIfUsed | Windows::EveryOther => Some(4096),
    };
    match fields.is_null(WINDOW) {
        true => Ok(None),
        false => Ok(fields.positive(WINDOW, limits::CONTEXT)?.or(default)),
    }
}

fn uses_windows(fields: &Fields<'_>) -> Result<bool, ConfigError> {
    Ok(fields.boolean("use_sliding_window")?.unwrap_or(false))
}

/// A layer cannot be windowed if nothing says how wide the window is.
fn refuse_windowed_layers(
    rule: Windows,
    fields: &Fields<'_>,
    count: usize,
) -> Result<(), ConfigError> {
    let says_so = match rule {
        Windows::Never => None,
        rule if !reads_types(rule) => None,
        _ => layer_types(fields, count)?,
    };
    let by_default = matches!(rule, Windows::AllBut { .. }) && says_so.is_none();
    match by_default || says_so.is_some_and(|types| types.contains(&true)) {
        true if matches!(rule, Windows::FromLayer | Windows::EveryOther) => {
            Err(ConfigError::Contradiction {
                field: fields.path_to(LAYER_TYPES),
                found: "sliding_attention".to_owned(),
                other: "use_sliding_window",
                value: "false".to_owned(),
            })
        }
        true => Err(fields.missing(WINDOW)),
        false => Ok(()),
    }
}

/// Which layers are windowed where `layer_types` does not say.
fn windowed_by_default(
    rule: Windows,
    fields: &Fields<'_>,
    count: usize,
    has_rope: &[bool],
) -> Result<Vec<bool>, ConfigError> {
    let all_but =
        |every: usize| Ok((1..=count).map(|layer| !layer.is_multiple_of(every)).collect());
    match rule {
        Windows::Never => Ok(vec![false; count]),
        Windows::EveryLayer { .. } | Windows::EveryLayerIfUsed => Ok(vec![true; count]),
        Windows::EveryOther => {
            let before = fields.size("max_window_layers", 0..=limits::LAYERS)?.unwrap_or(28);
            Ok((0..count).map(|layer| layer < before && layer % 2 == 0).collect())
        }
        Windows::FromLayer => {
            let from = fields.size("max_window_layers", 0..=limits::LAYERS)?.unwrap_or(28);
            Ok((0..count).map(|layer| layer >= from).collect())
        }
        Windows::WithoutRope => {
            let on = uses_windows(fields)?;
            Ok(has_rope.iter().map(|has_rope| on && !has_rope).collect())
        }
        Windows::AllBut { every, every_field: None, .. } => all_but(every),
        Windows::AllBut { every, every_field: Some(name), .. } => {
            all_but(fields.positive(name, limits::LAYERS)?.unwrap_or(every))
        }
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
        // The second is an older name of the first.
        Some("full_attention" | "attention") => Ok(false),
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
