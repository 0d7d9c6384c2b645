//! The decoders that run: their tensor list is the one that they are bound by.

use overflowml_types::{Access, DecoderSpec, LayerCache, Role, Shape, Task, WeightRole};

use super::{Facts, Pen};

/// The tensors of `spec` and what else it says.
pub(super) fn draw(spec: &DecoderSpec, pen: &mut Pen<'_>) -> Facts {
    for weight in spec.weights() {
        let name = weight.name.strip_suffix(".weight").unwrap_or(&weight.name);
        match (weight.shape.as_slice(), weight.role) {
            (_, WeightRole::Head) if spec.tied_embeddings => {}
            (&[rows, width], WeightRole::Embedding) => pen.table(name, rows, width),
            (&[rows, width], WeightRole::Head) => pen.kept_linear(name, width, rows, false),
            (&[rows, width], _) if weight.access == Access::Rows => {
                pen.linear(name, width, rows, false);
            }
            (shape, _) if name == weight.name => pen.parameter(name, shape.iter().product()),
            (shape, _) => pen.vector(name, shape.iter().product()),
        }
    }
    facts(spec)
}

fn facts(spec: &DecoderSpec) -> Facts {
    let wide = |size: usize| size as u64;
    let (heads, width) = (wide(spec.kv_heads), wide(spec.head_dim));
    let cache = |window: Option<usize>| match window {
        Some(window) => {
            LayerCache::Window { heads, key: width, value: width, window: wide(window) }
        }
        None => LayerCache::Full { heads, key: width, value: width },
    };
    Facts {
        class: spec.architecture.clone(),
        role: Role::Decoder,
        task: Task::Text,
        shape: Shape::Decoder {
            hidden: wide(spec.hidden),
            intermediate: wide(spec.intermediate),
            heads: wide(spec.heads),
            vocab: wide(spec.vocab),
        },
        caches: spec.layers.iter().map(|layer| cache(layer.window)).collect(),
        max_context: Some(wide(spec.max_context)),
        active_experts: None,
    }
}
