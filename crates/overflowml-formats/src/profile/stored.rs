//! Stored tensors → pieces: quantised formats pack several numbers into one element and keep
//! scales beside them, which take space but are no parameters.

use std::borrow::Cow;
use std::collections::HashSet;

use overflowml_types::{DType, Tensor};

use super::Piece;

/// Tensors beside a packed or scaled `weight`.
const BESIDE_WEIGHT: &[&str] = &[
    "weight_scale_inv",
    "weight_scale",
    "weight_scale_2",
    "input_scale",
    "output_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "weight_format",
    "SCB",
];

/// Tensors beside a `qweight` (GPTQ, AWQ).
const BESIDE_QWEIGHT: &[&str] = &["qzeros", "scales", "g_idx"];

/// Tensors that are computed, not learnt, but that some files hold.
const BUFFERS: &[&str] = &["inv_freq", "position_ids", "e_score_correction_bias"];

/// What `tensors` stand for. `bits` is the width that `quantization_config` states, if it does.
pub(super) fn pieces<'a>(
    tensors: impl Iterator<Item = &'a Tensor>,
    bits: Option<u64>,
) -> Vec<Piece> {
    let tensors: Vec<&Tensor> = tensors.collect();
    let names: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let bits = bits.filter(|bits| (2..=8).contains(bits)).unwrap_or(4);
    tensors
        .into_iter()
        .map(|tensor| {
            let (per_element, dtype) = meaning(tensor, &names, bits);
            let elements = tensor.elements().unwrap_or(u64::MAX);
            Piece {
                name: tensor.name.clone(),
                parameters: elements.saturating_mul(per_element),
                size: tensor.span.len,
                dtype,
                experts: experts(&tensor.name, &tensor.shape),
            }
        })
        .collect()
}

/// How many numbers one stored element stands for, and how they are stored.
fn meaning(tensor: &Tensor, names: &HashSet<&str>, bits: u64) -> (u64, Cow<'static, str>) {
    let plain = || Cow::Borrowed(tensor.dtype.name());
    let (module, last) = tensor.name.rsplit_once('.').unwrap_or(("", &tensor.name));
    let beside = |name: &str| names.contains(format!("{module}.{name}").as_str());
    let packed = if tensor.dtype == DType::U8 { 2 } else { 32 / bits };
    if let Some(stem) = last.strip_suffix("_blocks") {
        return match beside(&format!("{stem}_scales")) {
            true => (2, "mxfp4".into()),
            false => (1, plain()),
        };
    }
    if last.strip_suffix("_scales").is_some_and(|stem| beside(&format!("{stem}_blocks"))) {
        return (0, "mxfp4".into());
    }
    if BESIDE_QWEIGHT.contains(&last) && beside("qweight")
        || BESIDE_WEIGHT.contains(&last) && (beside("weight") || beside("weight_packed"))
        || BUFFERS.contains(&last)
        || tensor.name == "pos_embed.pos_embed"
        || is_state_of_weight(&tensor.name, names)
    {
        return (0, plain());
    }
    match last {
        "qweight" | "weight_packed" => (packed, format!("int{bits}").into()),
        "weight" if tensor.dtype == DType::U8 && beside("weight.absmax") => (2, "nf4".into()),
        "weight" if tensor.dtype == DType::U8 && beside("weight_scale") => (2, "nvfp4".into()),
        _ => (1, plain()),
    }
}

/// `x.weight.absmax` beside `x.weight`: how bitsandbytes keeps what unpacks a weight.
fn is_state_of_weight(name: &str, names: &HashSet<&str>) -> bool {
    name.find(".weight.").is_some_and(|at| names.contains(&name[..at + ".weight".len()]))
}

/// How many routed experts a tensor's name and shape speak of; zero for other tensors.
pub(crate) fn experts(name: &str, shape: &[u64]) -> u64 {
    // As GGUF has it: `blk.3.ffn_gate_exps.weight`.
    if name.split('.').any(|part| part.ends_with("_exps")) {
        return shape.first().copied().unwrap_or(0).min(1 << 20);
    }
    let mut parts = name.split('.').skip_while(|part| *part != "experts");
    match (parts.next(), parts.next()) {
        (Some(_), Some(next)) => match next.parse::<u32>() {
            Ok(number) => u64::from(number) + 1,
            // All experts in one tensor.
            Err(_) => shape.first().copied().unwrap_or(0).min(1 << 20),
        },
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use overflowml_types::{Bytes, FileId, FileSpan};

    use super::*;

    fn tensor(name: &str, dtype: DType, shape: &[u64]) -> Tensor {
        let elements = shape.iter().product();
        let len = dtype.size().saturating_mul(elements);
        let span = FileSpan { file: FileId(0), offset: Bytes::ZERO, len };
        Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), span }
    }

    fn found(tensors: &[Tensor]) -> Vec<(u64, String)> {
        let pieces = pieces(tensors.iter(), None);
        pieces.into_iter().map(|piece| (piece.parameters, piece.dtype.into_owned())).collect()
    }

    fn expected(list: &[(u64, &str)]) -> Vec<(u64, String)> {
        list.iter().map(|&(count, dtype)| (count, dtype.to_owned())).collect()
    }

    #[test]
    fn packed_four_bit_blocks_are_two_numbers_per_byte_and_their_scales_none() {
        let tensors = [
            tensor("l.experts.gate_up_proj_blocks", DType::U8, &[2, 8, 3, 16]),
            tensor("l.experts.gate_up_proj_scales", DType::U8, &[2, 8, 3]),
            tensor("l.experts.gate_up_proj_bias", DType::BF16, &[2, 8]),
        ];
        let expected = expected(&[(1536, "mxfp4"), (0, "mxfp4"), (16, "bf16")]);
        assert_eq!(found(&tensors), expected);
        assert_eq!(pieces(tensors.iter(), None)[0].experts, 2);
    }

    #[test]
    fn gptq_weights_hold_eight_numbers_per_word() {
        let tensors = [
            tensor("q.qweight", DType::I32, &[8, 64]),
            tensor("q.scales", DType::F16, &[1, 64]),
            tensor("q.qzeros", DType::I32, &[1, 8]),
            tensor("q.g_idx", DType::I32, &[64]),
        ];
        let expected = expected(&[(4096, "int4"), (0, "f16"), (0, "i32"), (0, "i32")]);
        assert_eq!(found(&tensors), expected);
    }

    #[test]
    fn bitsandbytes_and_fp8_scales_are_no_parameters() {
        let tensors = [
            tensor("a.weight", DType::U8, &[32, 1]),
            tensor("a.weight.absmax", DType::F32, &[1]),
            tensor("a.weight.quant_state.bitsandbytes__nf4", DType::U8, &[80]),
            tensor("b.weight", DType::F8E4M3, &[128, 128]),
            tensor("b.weight_scale_inv", DType::F32, &[1, 1]),
            tensor("c.rotary_emb.inv_freq", DType::F32, &[64]),
        ];
        let expected = expected(&[
            (64, "nf4"),
            (0, "f32"),
            (0, "u8"),
            (16_384, "f8_e4m3"),
            (0, "f32"),
            (0, "f32"),
        ]);
        assert_eq!(found(&tensors), expected);
    }

    #[test]
    fn routed_experts_are_recognised_and_shared_ones_are_not() {
        assert_eq!(experts("model.layers.0.mlp.experts.7.up_proj.weight", &[4, 4]), 8);
        assert_eq!(experts("model.layers.0.block_sparse_moe.experts.0.w1.weight", &[4, 4]), 1);
        assert_eq!(experts("model.layers.0.mlp.experts.gate_up_proj", &[128, 4, 4]), 128);
        assert_eq!(experts("model.layers.0.mlp.shared_experts.up_proj.weight", &[4, 4]), 0);
        assert_eq!(experts("model.layers.0.mlp.gate.weight", &[8, 4]), 0);
    }
}
