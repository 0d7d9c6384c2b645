//! How a configuration says that numbers are stored: `dtype`, `quantization_config`.

use overflowml_types::Bytes;

use crate::config::Fields;
use crate::{Config, ConfigError};

/// How numbers of one kind are stored: `bytes` for every `elements`, scales included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(super) label: &'static str,
    bytes: u64,
    elements: u64,
    /// Side of the square blocks that share a 32-bit scale; zero for none.
    block: u64,
    /// Every output has a 32-bit scale.
    row_scales: bool,
}

/// How a model's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storages {
    /// Norms, biases, embeddings, heads.
    pub(super) plain: Storage,
    /// Matrices inside layers.
    pub(super) linear: Storage,
    /// Matrices of routed experts.
    pub(super) routed: Storage,
}

impl Storage {
    const fn plain(label: &'static str, bytes: u64) -> Self {
        Self { label, bytes, elements: 1, block: 0, row_scales: false }
    }

    const fn packed(label: &'static str, bytes: u64, elements: u64) -> Self {
        Self { label, bytes, elements, block: 0, row_scales: false }
    }

    /// Bytes of `count` numbers, rounded up, saturating.
    pub(super) fn size(self, count: u64) -> Bytes {
        let bytes = (u128::from(count) * u128::from(self.bytes)).div_ceil(self.elements.into());
        Bytes::new(bytes.try_into().unwrap_or(u64::MAX))
    }

    /// Bytes of a matrix with its scales.
    pub(super) fn matrix(self, input: u64, output: u64) -> Bytes {
        let blocks = match self.block {
            0 => 0,
            side => input.div_ceil(side).saturating_mul(output.div_ceil(side)),
        };
        let rows = if self.row_scales { output } else { 0 };
        let scales = Bytes::new(blocks.saturating_add(rows).saturating_mul(4));
        self.size(input.saturating_mul(output)).saturating_add(scales)
    }
}

/// How many bits `quantization_config` gives each weight, where it says so.
pub(crate) fn quantized_bits(config: &Config) -> Option<u64> {
    let fields = config.fields();
    let quantized = fields.object("quantization_config").ok()??;
    let bits = ["bits", "w_bit"].into_iter().find_map(|name| quantized.size(name, 1..=16).ok()?);
    bits.map(|bits| bits as u64)
}

/// How the numbers of the model are stored, and what had to be assumed.
pub(super) fn storages(fields: &Fields<'_>) -> Result<(Storages, Vec<String>), ConfigError> {
    let mut notes = Vec::new();
    let said = match fields.text("dtype")? {
        Some(dtype) => Some(dtype),
        None => match fields.text("torch_dtype")? {
            Some(dtype) => Some(dtype),
            None => nested_dtype(fields)?,
        },
    };
    let plain = match said.map(|name| name.trim_start_matches("torch.")) {
        Some("float32" | "float") => Storage::plain("f32", 4),
        Some("float64" | "double") => Storage::plain("f64", 8),
        Some("float16" | "half") => Storage::plain("f16", 2),
        Some("bfloat16") => Storage::plain("bf16", 2),
        Some("float8_e4m3fn") => Storage::plain("f8_e4m3", 1),
        Some("float8_e5m2") => Storage::plain("f8_e5m2", 1),
        other => {
            notes.push(match other {
                Some(name) => format!("element type `{name}` is not known: bf16 is assumed"),
                None => "no element type is stated: bf16 is assumed".to_owned(),
            });
            Storage::plain("bf16", 2)
        }
    };
    let (linear, routed) = quantized(fields, plain, &mut notes)?;
    Ok((Storages { plain, linear, routed }, notes))
}

fn nested_dtype<'a>(fields: &Fields<'a>) -> Result<Option<&'a str>, ConfigError> {
    let Some(text) = fields.object("text_config")? else { return Ok(None) };
    match text.text("dtype")? {
        Some(dtype) => Ok(Some(dtype)),
        None => text.text("torch_dtype"),
    }
}

/// Storage of matrices inside layers and of routed experts.
fn quantized(
    fields: &Fields<'_>,
    plain: Storage,
    notes: &mut Vec<String>,
) -> Result<(Storage, Storage), ConfigError> {
    let Some(said) = fields.object("quantization_config")? else { return Ok((plain, plain)) };
    let both = |storage| Ok((storage, storage));
    let group = said.size("group_size", 1..=65_536);
    let group = group.ok().flatten().unwrap_or(128) as u64;
    let bits = said.size("bits", 2..=8)?.unwrap_or(4) as u64;
    match said.text("quant_method")? {
        // 32 numbers of 4 bits share a scale of 8.
        Some("mxfp4") => Ok((plain, Storage::packed("mxfp4", 17, 32))),
        Some("fp8" | "finegrained_fp8") => {
            let block = said.list("weight_block_size")?.and_then(|sides| sides.first()?.as_u64());
            let block = block.unwrap_or(128);
            both(Storage { label: "f8_e4m3", bytes: 1, elements: 1, block, row_scales: false })
        }
        Some("gptq" | "awq") => {
            // Per group: a 16-bit scale and a zero point.
            let bytes = group.saturating_mul(bits).saturating_add(16 + bits);
            both(Storage::packed(integer(bits), bytes, group.saturating_mul(8)))
        }
        Some("bitsandbytes") if said.boolean("load_in_8bit")?.unwrap_or(false) => {
            both(Storage { row_scales: true, ..Storage::plain("i8", 1) })
        }
        Some("bitsandbytes") => both(match said.boolean("bnb_4bit_use_double_quant")? {
            // 64 numbers share an 8-bit scale, 256 scales a 32-bit one.
            Some(true) => Storage::packed("nf4", 8192 + 256 + 4, 16_384),
            _ => Storage::packed("nf4", 36, 64),
        }),
        other => {
            let method = other.unwrap_or("unnamed");
            notes.push(format!("quantisation method `{method}` is not known: sizes ignore it"));
            both(plain)
        }
    }
}

const fn integer(bits: u64) -> &'static str {
    match bits {
        2 => "int2",
        3 => "int3",
        8 => "int8",
        _ => "int4",
    }
}
