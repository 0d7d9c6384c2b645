//! What computing takes beside weights: activations, and the peak of decoding a picture.
//!
//! Sources of the constants: the project's collection of published formulas and measurements (ComfyUI's
//! factors, mflux and diffusers reports); all are printed as estimates.

use overflowml_types::{Bytes, ComponentProfile, Shape};

use super::Wish;

/// Tokens per pass while a prompt is read.
pub(crate) const CHUNK: u64 = 512;

/// Latent pixels along one side of a tile, the usual 512 pixels.
const TILE: u64 = 64;

/// Bytes of one activation.
const HALF: u64 = 2;

/// Tokens of the denoiser's sequence for one picture or clip.
pub(crate) fn denoiser_tokens(shape: Shape, wish: &Wish, video: bool) -> u64 {
    let Shape::Denoiser { patch, text_tokens, .. } = shape else { return 1 };
    let side = 8 * patch.max(1);
    let area = wish.width.div_ceil(side).saturating_mul(wish.height.div_ceil(side));
    // Video autoencoders of the field keep every fourth frame.
    let frames = if video { wish.frames.saturating_sub(1) / 4 + 1 } else { 1 };
    area.saturating_mul(frames).saturating_add(text_tokens)
}

/// Activations of a component while it runs.
pub(crate) fn activations(
    component: &ComponentProfile,
    wish: &Wish,
    video: bool,
    tiled: bool,
) -> Bytes {
    let batch = wish.batch.max(1);
    match component.shape {
        Shape::Decoder { hidden, intermediate, vocab, .. } => {
            // Residual stream, queries, keys, values, attention's result; gate, up, product.
            let tokens = batch.saturating_mul(CHUNK.min(wish.prompt.max(1)));
            let widths = hidden.saturating_mul(6).saturating_add(intermediate.saturating_mul(3));
            let layers = tokens.saturating_mul(widths).saturating_mul(HALF);
            let logits = batch.saturating_mul(vocab).saturating_mul(4);
            Bytes::new(layers.saturating_add(logits))
        }
        Shape::Encoder { hidden, intermediate, heads, tokens } => {
            let widths = hidden.saturating_mul(6).saturating_add(intermediate.saturating_mul(3));
            let scores = heads.saturating_mul(tokens).saturating_mul(tokens);
            let each = tokens.saturating_mul(widths).saturating_add(scores);
            Bytes::new(each.saturating_mul(HALF).saturating_mul(batch))
        }
        Shape::Denoiser { hidden, .. } => {
            // With flash attention: residual, norm, queries, keys, values, result, and a wide feed-forward part.
            let tokens = denoiser_tokens(component.shape, wish, video);
            let each = tokens.saturating_mul(hidden).saturating_mul(20 * HALF);
            Bytes::new(each.saturating_mul(batch))
        }
        Shape::Vae { scale, .. } => vae(scale, wish, video, tiled),
        _ => component.size().share(0.1),
    }
}

/// Decoding one picture: 2178 × 64 elements per latent pixel (ComfyUI), for the whole picture or for one tile
/// and the result.
fn vae(scale: u64, wish: &Wish, video: bool, tiled: bool) -> Bytes {
    let scale = scale.max(1);
    let (width, height) = (wish.width.div_ceil(scale), wish.height.div_ceil(scale));
    let area = width.saturating_mul(height);
    let at_once = if tiled { area.min(TILE * TILE) } else { area };
    // Fewer pixels per latent pixel take less.
    let pixels = at_once.saturating_mul(scale).saturating_mul(scale);
    let peak = pixels.saturating_mul(2178 * HALF);
    // A video decoder keeps a few frames of every level.
    let peak = if video { peak.saturating_mul(2) } else { peak };
    let frames = if video { wish.frames.max(1) } else { 1 };
    let result =
        wish.width.saturating_mul(wish.height).saturating_mul(3 * 4).saturating_mul(frames);
    Bytes::new(peak.saturating_add(result).saturating_mul(if video {
        1
    } else {
        wish.batch.max(1)
    }))
}

#[cfg(test)]
mod tests {
    use overflowml_types::Role;

    use super::*;

    fn component(role: Role, shape: Shape) -> ComponentProfile {
        ComponentProfile {
            name: "part".to_owned(),
            class: None,
            role,
            groups: Vec::new(),
            dtypes: std::collections::BTreeMap::new(),
            shape,
            caches: Vec::new(),
            max_context: None,
        }
    }

    #[test]
    fn decoding_a_megapixel_takes_what_comfyui_counts() {
        let vae = component(Role::Vae, Shape::Vae { scale: 8, temporal: 1, channels: 128 });
        let wish = Wish::default();
        let whole = activations(&vae, &wish, false, false);
        // 2178 * 128 * 128 latent pixels * 64 * 2 bytes = 4.25 GiB, and the picture itself.
        assert_eq!(whole.left_after(Bytes::mib(12)), Bytes::new(2178 * 128 * 128 * 64 * 2));
        let tiled = activations(&vae, &wish, false, true);
        assert!(tiled < Bytes::gib(2), "{tiled}");
        let small = Wish { width: 512, height: 512, ..Wish::default() };
        assert_eq!(
            activations(&vae, &small, false, true),
            activations(&vae, &small, false, false),
            "one tile is the whole picture"
        );
    }

    #[test]
    fn a_flux_picture_of_a_megapixel_has_4608_tokens() {
        let shape = Shape::Denoiser {
            hidden: 3072,
            intermediate: 12288,
            heads: 24,
            patch: 2,
            channels: 16,
            text_tokens: 512,
        };
        assert_eq!(denoiser_tokens(shape, &Wish::default(), false), 4608);
        let clip = Wish { width: 832, height: 480, frames: 81, ..Wish::default() };
        assert_eq!(denoiser_tokens(shape, &clip, true), 52 * 30 * 21 + 512);
    }
}
