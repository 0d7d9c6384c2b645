//! Which tensors belong together and in which order a run uses them, told from their names.

use overflowml_types::GroupKind;

/// Lists whose every entry is a group of its own.
const STACKS: &[&str] = &[
    "layers",
    "h",
    "blocks",
    "layer",
    "block",
    "blk",
    "resblocks",
    "transformer_blocks",
    "single_transformer_blocks",
    "joint_transformer_blocks",
    "double_blocks",
    "single_blocks",
    "down_blocks",
    "up_blocks",
    "context_refiner",
    "noise_refiner",
];

/// Levels of a U-Net: too large for one group, so that the lists inside them count too.
const LEVELS: &[&str] = &["down_blocks", "mid_block", "up_blocks"];

/// Lists inside levels.
const IN_LEVELS: &[&str] = &["attentions", "resnets", "downsamplers", "upsamplers"];

const EMBEDDINGS: &[&str] = &[
    "embed_tokens",
    "wte",
    "word_embeddings",
    "shared",
    "token_embedding",
    "tok_embeddings",
    "token_embd",
    "embed_in",
];

const HEADS: &[&str] = &[
    "norm",
    "lm_head",
    "ln_f",
    "final_layernorm",
    "final_layer_norm",
    "final_norm",
    "embed_out",
    "output",
    "output_norm",
    "norm_out",
    "proj_out",
    "conv_out",
    "conv_norm_out",
    "text_projection",
    "scale_shift_table",
    "post_layernorm",
];

/// Parts that look at pictures or sound before the text; never the layers that a plan is about.
const SENSES: &[&str] = &[
    "visual",
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "audio_tower",
    "v",
    "a",
    "multi_modal_projector",
    "mm",
    "mtp",
];

/// Where a tensor's name puts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The group's name: a prefix of the tensor's.
    pub(crate) group: String,
    /// Compares as a run uses groups.
    pub(crate) order: (u8, Vec<(u64, String)>),
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Embedding,
    /// An entry of the stack of this name; the number is its position there.
    Layer {
        stack: String,
        number: u32,
    },
    Head,
    Other,
}

/// The group that a tensor's name puts it in.
pub(crate) fn place(name: &str) -> Place {
    let parts: Vec<&str> = name.split('.').collect();
    let (used, kind) = match stack_entry(&parts) {
        Some((used, number)) => (used, Kind::Layer { stack: stack_name(&parts[..used]), number }),
        None => outside_stacks(&parts),
    };
    let kind = match kind {
        Kind::Layer { .. } if senses(&parts[..used]) => Kind::Other,
        kind => kind,
    };
    let group = parts[..used].join(".");
    let order = (stage(&parts[..used], &kind), natural(&parts[..used]));
    Place { group, order, kind }
}

/// How many parts of the name make up the entry of a stack, and its number.
fn stack_entry(parts: &[&str]) -> Option<(usize, u32)> {
    let number_at = |at: usize| parts.get(at).and_then(|part| part.parse::<u32>().ok());
    let listed =
        |at: usize, lists: &[&str]| lists.contains(&parts[at]) && number_at(at + 1).is_some();
    if let Some(level) = parts.iter().position(|part| LEVELS.contains(part)) {
        let inside = (level + 1..parts.len()).find(|&at| listed(at, IN_LEVELS));
        if let Some((at, number)) = inside.and_then(|at| Some((at, number_at(at + 1)?))) {
            return Some((at + 2, number));
        }
    }
    let at = (0..parts.len()).find(|&at| listed(at, STACKS))?;
    Some((at + 2, number_at(at + 1)?))
}

/// The entry's name without its last number.
fn stack_name(parts: &[&str]) -> String {
    parts[..parts.len().saturating_sub(1)].join(".")
}

fn outside_stacks(parts: &[&str]) -> (usize, Kind) {
    // The module: everything before `.weight` or `.bias`.
    let used = parts.len().saturating_sub(1).max(1);
    let last = parts[used - 1];
    let kind = match last {
        _ if EMBEDDINGS.contains(&last) => Kind::Embedding,
        _ if parts[..used].iter().any(|part| HEADS.contains(part)) && !senses(parts) => Kind::Head,
        _ => Kind::Other,
    };
    (used, kind)
}

fn senses(parts: &[&str]) -> bool {
    parts.iter().any(|part| SENSES.contains(part))
}

/// Coarse order of use; names decide within a stage.
fn stage(parts: &[&str], kind: &Kind) -> u8 {
    let has = |names: &[&str]| parts.iter().any(|part| names.contains(part));
    if has(&["mtp"]) {
        return 40;
    }
    if senses(parts) {
        return 0;
    }
    // An autoencoder's two halves each have inputs, layers and outputs.
    let half = if parts.first() == Some(&"decoder") { 20 } else { 0 };
    half + match kind {
        Kind::Embedding => 1,
        Kind::Other => 2,
        Kind::Layer { .. } if has(&["mid_block"]) => 4,
        Kind::Layer { .. } if has(&["up_blocks", "single_transformer_blocks", "single_blocks"]) => {
            5
        }
        Kind::Layer { .. } => 3,
        Kind::Head => 8,
    }
}

/// Compares numbers as numbers.
fn natural(parts: &[&str]) -> Vec<(u64, String)> {
    let key = |part: &&str| match part.parse::<u64>() {
        Ok(number) => (number, String::new()),
        Err(_) => (u64::MAX, (*part).to_owned()),
    };
    parts.iter().map(key).collect()
}

/// The kinds of groups in order of use. The entries of one stack keep their numbers; where there
/// are several stacks, their entries are numbered on.
pub(crate) fn kinds<'a>(places: impl Iterator<Item = &'a Place> + Clone) -> Vec<GroupKind> {
    let mut stacks = places.clone().filter_map(|place| match &place.kind {
        Kind::Layer { stack, .. } => Some(stack),
        _ => None,
    });
    let first = stacks.next();
    let several = stacks.any(|stack| Some(stack) != first);
    let mut counted = 0;
    let kind = |place: &Place| match &place.kind {
        Kind::Embedding => GroupKind::Embedding,
        Kind::Head => GroupKind::Head,
        Kind::Other => GroupKind::Other,
        Kind::Layer { number, .. } if !several => GroupKind::Layer(*number),
        Kind::Layer { .. } => {
            counted += 1;
            GroupKind::Layer(counted - 1)
        }
    };
    places.map(kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(names: &[&str]) -> Vec<(String, GroupKind)> {
        let mut places: Vec<Place> = names.iter().map(|name| place(name)).collect();
        places.sort_by(|a, b| a.order.cmp(&b.order));
        places.dedup();
        let kinds = kinds(places.iter());
        places.into_iter().map(|place| place.group).zip(kinds).collect()
    }

    fn named(groups: &[(String, GroupKind)]) -> Vec<&str> {
        groups.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn layers_come_between_embedding_and_head_in_the_order_of_their_numbers() {
        let found = groups(&[
            "lm_head.weight",
            "model.layers.10.mlp.experts.3.up_proj.weight",
            "model.layers.2.input_layernorm.weight",
            "model.norm.weight",
            "model.embed_tokens.weight",
        ]);
        let names =
            ["model.embed_tokens", "model.layers.2", "model.layers.10", "lm_head", "model.norm"];
        assert_eq!(named(&found), names);
        assert_eq!(found[1].1, GroupKind::Layer(2));
        assert_eq!(found[2].1, GroupKind::Layer(10));
    }

    #[test]
    fn two_stacks_are_numbered_on_in_order_of_use() {
        let found = groups(&[
            "single_transformer_blocks.0.proj_mlp.weight",
            "transformer_blocks.1.attn.to_q.weight",
            "transformer_blocks.0.attn.to_q.weight",
            "x_embedder.weight",
            "norm_out.linear.weight",
        ]);
        let kinds: Vec<GroupKind> = found.iter().map(|(_, kind)| *kind).collect();
        use GroupKind::{Head, Layer, Other};
        assert_eq!(kinds, [Other, Layer(0), Layer(1), Layer(2), Head]);
        assert_eq!(found[3].0, "single_transformer_blocks.0");
    }

    #[test]
    fn a_u_net_is_cut_at_the_lists_inside_its_levels() {
        let found = groups(&[
            "up_blocks.0.resnets.0.conv1.weight",
            "mid_block.attentions.0.norm.weight",
            "down_blocks.1.attentions.1.transformer_blocks.3.attn1.to_q.weight",
            "conv_in.weight",
            "conv_out.bias",
        ]);
        let names = [
            "conv_in",
            "down_blocks.1.attentions.1",
            "mid_block.attentions.0",
            "up_blocks.0.resnets.0",
            "conv_out",
        ];
        assert_eq!(named(&found), names);
    }

    #[test]
    fn a_vision_tower_has_no_layers_of_the_model() {
        let found =
            groups(&["visual.blocks.3.attn.qkv.weight", "model.layers.0.mlp.up_proj.weight"]);
        assert_eq!(found[0], ("visual.blocks.3".to_owned(), GroupKind::Other));
        assert_eq!(found[1].1, GroupKind::Layer(0));
    }
}
