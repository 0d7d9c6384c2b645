//! Which tensors belong together, told from their names.

use std::collections::BTreeMap;

use overflowml_types::{Group, GroupKind, Tensor};

/// Sorts tensors into groups: embedding, layers ascending, head, the rest.
pub(crate) fn group(tensors: Vec<Tensor>) -> Vec<Group> {
    let mut groups: BTreeMap<(GroupKind, String), Vec<Tensor>> = BTreeMap::new();
    for tensor in tensors {
        let (kind, name) = place(&tensor.name);
        match groups.get_mut(&(kind, name.to_owned())) {
            Some(members) => members.push(tensor),
            None => {
                groups.insert((kind, name.to_owned()), vec![tensor]);
            }
        }
    }
    groups
        .into_iter()
        .map(|((kind, name), mut tensors)| {
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            Group { name, kind, tensors }
        })
        .collect()
}

/// The kind and name of the group that a tensor's name puts it in.
fn place(name: &str) -> (GroupKind, &str) {
    if let Some((layer, group)) = numbered_layer(name) {
        return (GroupKind::Layer(layer), group);
    }
    // The module: everything before `.weight` or `.bias`.
    let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
    let last = module.rsplit('.').next().unwrap_or(module);
    let kind = match last {
        "embed_tokens" | "wte" | "word_embeddings" => GroupKind::Embedding,
        "norm" | "lm_head" | "ln_f" | "final_layernorm" => GroupKind::Head,
        _ => GroupKind::Other,
    };
    (kind, module)
}

/// `model.layers.3.mlp.up_proj.weight` is in layer 3, group `model.layers.3`.
fn numbered_layer(name: &str) -> Option<(u32, &str)> {
    let mut start = 0;
    let mut previous = "";
    for part in name.split('.') {
        let end = start + part.len();
        if matches!(previous, "layers" | "h" | "blocks" | "layer")
            && let Ok(layer) = part.parse()
        {
            return Some((layer, &name[..end]));
        }
        previous = part;
        start = end + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_layer_is_one_group_whatever_comes_before_it() {
        let layer = |name| place(name);
        assert_eq!(
            layer("model.layers.12.mlp.up_proj.weight"),
            (GroupKind::Layer(12), "model.layers.12")
        );
        assert_eq!(
            layer("language_model.model.layers.3.input_layernorm.weight"),
            (GroupKind::Layer(3), "language_model.model.layers.3")
        );
        assert_eq!(layer("transformer.h.0.attn.bias"), (GroupKind::Layer(0), "transformer.h.0"));
    }

    #[test]
    fn embedding_norm_and_head_are_known_by_name_and_the_rest_is_other() {
        assert_eq!(
            place("model.embed_tokens.weight"),
            (GroupKind::Embedding, "model.embed_tokens")
        );
        assert_eq!(place("model.norm.weight"), (GroupKind::Head, "model.norm"));
        assert_eq!(place("lm_head.weight"), (GroupKind::Head, "lm_head"));
        assert_eq!(place("scale"), (GroupKind::Other, "scale"));
        assert_eq!(place("layers.x.weight"), (GroupKind::Other, "layers.x"));
    }
}
