//! Which tensors belong together, told from their names.

use std::collections::BTreeMap;

use overflowml_types::{Group, GroupKind, Tensor};

/// Sorts tensors into groups: embedding, layers ascending, their experts, head, the rest.
pub(crate) fn group(tensors: Vec<Tensor>) -> Vec<Group> {
    // Experts ascend by number, not by the digits of their names.
    let mut groups: BTreeMap<(GroupKind, u32, String), Vec<Tensor>> = BTreeMap::new();
    for tensor in tensors {
        let (kind, name) = place(&tensor.name);
        let number = name.rsplit('.').next().and_then(|last| last.parse().ok()).unwrap_or(0);
        groups.entry((kind, number, name.to_owned())).or_default().push(tensor);
    }
    groups
        .into_iter()
        .map(|((kind, _, name), mut tensors)| {
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            Group { name, kind, tensors }
        })
        .collect()
}

/// The kind and name of the group that a tensor's name puts it in.
fn place(name: &str) -> (GroupKind, &str) {
    if let Some((layer, group)) = numbered_layer(name) {
        return match experts(name, group) {
            Some(experts) => (GroupKind::Experts(layer), experts),
            None => (GroupKind::Layer(layer), group),
        };
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

/// `model.layers.3.mlp.experts.7.up_proj.weight` is of expert 7, in the group
/// `model.layers.3.mlp.experts.7`; a tensor that all experts share is in that of all.
fn experts<'a>(name: &'a str, layer: &str) -> Option<&'a str> {
    const PART: &str = ".experts.";
    let rest = name.get(layer.len()..)?;
    let end = layer.len() + rest.find(PART)? + PART.len();
    let digits = name[end..].split('.').next().filter(|part| part.parse::<u32>().is_ok());
    Some(&name[..digits.map_or(end - 1, |digits| end + digits.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expert_is_a_group_and_shared_experts_are_the_layers() {
        let (kind, layer) = (GroupKind::Experts(3), "model.layers.3");
        assert_eq!(
            place("model.layers.3.mlp.experts.12.up_proj.weight"),
            (kind, "model.layers.3.mlp.experts.12")
        );
        assert_eq!(
            place("model.layers.3.mlp.experts.gate_up_proj"),
            (kind, "model.layers.3.mlp.experts")
        );
        let shared = place("model.layers.3.mlp.shared_experts.up_proj.weight");
        assert_eq!(shared, (GroupKind::Layer(3), layer));
    }

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
