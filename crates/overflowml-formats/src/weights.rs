//! Which of a folder's files are its weights: folders often hold the same weights several times.

use std::collections::BTreeSet;

/// A folder's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    /// All in one file.
    Single(&'a str),
    /// In the files that this index names.
    Index(&'a str),
    /// So many files, and nothing that says how they belong together.
    Several(usize),
    /// None.
    None,
}

/// What files are called before their ending, in the order in which they are looked for.
const STEMS: &[&str] = &["model", "diffusion_pytorch_model"];

/// Versions of the same weights, in the order in which they are preferred where there is no plain
/// one.
const VARIANTS: &[&str] = &["fp16", "bf16", "fp32"];

/// Chooses as `transformers` and `diffusers` do without further instructions: the plain weights,
/// one file before an index; then a variant; else the only file there is.
pub(crate) fn choose(names: &BTreeSet<String>) -> Choice<'_> {
    let has = |name: &str| names.get(name).map(String::as_str);
    for stem in STEMS {
        if let Some(name) = has(&format!("{stem}.safetensors")) {
            return Choice::Single(name);
        }
        if let Some(name) = has(&format!("{stem}.safetensors.index.json")) {
            return Choice::Index(name);
        }
    }
    for stem in STEMS {
        for variant in VARIANTS {
            if let Some(name) = has(&format!("{stem}.{variant}.safetensors")) {
                return Choice::Single(name);
            }
            let spellings = [
                format!("{stem}.safetensors.index.{variant}.json"),
                format!("{stem}.{variant}.safetensors.index.json"),
            ];
            if let Some(name) = spellings.iter().find_map(|name| has(name)) {
                return Choice::Index(name);
            }
        }
    }
    let mut files = names.iter().filter(|name| name.ends_with(".safetensors"));
    match (files.next(), files.count()) {
        (None, _) => Choice::None,
        (Some(only), 0) => Choice::Single(only),
        (Some(_), more) => Choice::Several(more + 1),
    }
}

/// Whether `name` is another version of weights that were chosen, which is therefore not counted.
pub(crate) fn variants_beside(names: &BTreeSet<String>, chosen: Choice<'_>) -> Vec<&'static str> {
    let (Choice::Single(chosen) | Choice::Index(chosen)) = chosen else { return Vec::new() };
    let here = |variant: &&&str| {
        let part = format!(".{variant}.");
        let shard = format!(".{variant}-");
        let named = |name: &&String| name.contains(&part) || name.contains(&shard);
        !chosen.contains(&part) && names.iter().any(|name| named(&name))
    };
    VARIANTS.iter().filter(here).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn plain_weights_go_before_variants_and_are_not_counted_twice() {
        let both = names(&[
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.safetensors",
        ]);
        let chosen = choose(&both);
        assert_eq!(chosen, Choice::Single("diffusion_pytorch_model.safetensors"));
        assert_eq!(variants_beside(&both, chosen), ["fp16"]);
    }

    #[test]
    fn a_variant_alone_is_chosen_in_one_file_or_in_shards() {
        let one = names(&["model.fp16.safetensors"]);
        assert_eq!(choose(&one), Choice::Single("model.fp16.safetensors"));
        let shards = names(&[
            "model.fp16-00001-of-00002.safetensors",
            "model.fp16-00002-of-00002.safetensors",
            "model.safetensors.index.fp16.json",
        ]);
        assert_eq!(choose(&shards), Choice::Index("model.safetensors.index.fp16.json"));
        assert!(variants_beside(&shards, choose(&shards)).is_empty());
    }

    #[test]
    fn several_files_without_an_index_are_not_guessed_at() {
        assert_eq!(choose(&names(&["a.safetensors", "b.safetensors"])), Choice::Several(2));
        assert_eq!(choose(&names(&["a.safetensors", "b.bin"])), Choice::Single("a.safetensors"));
        assert_eq!(choose(&names(&["config.json"])), Choice::None);
    }
}
