//! `config.json` → the list of tensors that the model consists of, on paper.
//!
//! The oracle is what `transformers` and `diffusers` create when they instantiate the configuration
//! without weights: parameter counts agree exactly. What a configuration leaves out means what it
//! means there. Only sizes and caches are told: whether the model runs here is for
//! [`Config::decoder`](crate::Config::decoder).

mod deepseek;
mod denoisers;
mod dense;
mod encoders;
mod hybrid;
mod moe;
mod pen;
mod read;
mod seeing;
mod storage;
mod text;
mod unet;
mod vae;
mod vision;

use overflowml_types::{LayerCache, Role, Shape, Task};

pub(crate) use self::pen::Pen;
pub(crate) use self::storage::quantized_bits;
use crate::config::Fields;
use crate::profile::Piece;
use crate::{Config, ConfigError};

/// What a configuration tells beside sizes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub(crate) class: String,
    pub(crate) role: Role,
    pub(crate) task: Task,
    pub(crate) shape: Shape,
    pub(crate) caches: Vec<LayerCache>,
    pub(crate) max_context: Option<u64>,
    /// Routed experts that a token uses.
    pub(crate) active_experts: Option<u64>,
}

/// A model on paper.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sketch {
    pub(crate) facts: Facts,
    pub(crate) pieces: Vec<Piece>,
    /// What was assumed.
    pub(crate) notes: Vec<String>,
}

/// Draws the tensors of one class and says the rest; the class is filled in by the caller.
type Draw = fn(&Fields<'_>, &mut Pen<'_>) -> Result<Facts, ConfigError>;

/// The classes that are known beside the decoders that run.
const CLASSES: &[(&str, Draw)] = &[
    ("MixtralForCausalLM", moe::mixtral),
    ("Qwen2MoeForCausalLM", moe::qwen2),
    ("Qwen3MoeForCausalLM", moe::qwen3),
    ("OlmoeForCausalLM", moe::olmoe),
    ("Glm4MoeForCausalLM", moe::glm4),
    ("GptOssForCausalLM", moe::gpt_oss),
    ("DeepseekV2ForCausalLM", deepseek::v2),
    ("DeepseekV3ForCausalLM", deepseek::v3),
    ("Qwen3NextForCausalLM", hybrid::next),
    ("Qwen3_5ForCausalLM", hybrid::dense),
    ("Qwen3_5MoeForCausalLM", hybrid::moe),
    ("Qwen3_5ForConditionalGeneration", hybrid::dense_sees),
    ("Qwen3_5MoeForConditionalGeneration", hybrid::moe_sees),
    ("Llama4ForCausalLM", seeing::llama4_text),
    ("Llama4ForConditionalGeneration", seeing::llama4),
    ("Qwen2_5_VLForConditionalGeneration", seeing::qwen2_5),
    ("T5EncoderModel", encoders::t5),
    ("UMT5EncoderModel", encoders::umt5),
    ("CLIPTextModel", encoders::clip),
    ("CLIPTextModelWithProjection", encoders::clip_projected),
    ("CLIPVisionModel", vision::clip),
    ("CLIPVisionModelWithProjection", vision::clip_projected),
    ("SiglipVisionModel", vision::siglip),
    ("FluxTransformer2DModel", denoisers::flux),
    ("FluxControlNetModel", denoisers::flux_control),
    ("SD3Transformer2DModel", denoisers::sd3),
    ("QwenImageTransformer2DModel", denoisers::qwen_image),
    ("WanTransformer3DModel", denoisers::wan),
    ("UNet2DConditionModel", unet::unet),
    ("ControlNetModel", unet::control),
    ("AutoencoderKL", vae::kl),
    ("AutoencoderKLWan", vae::wan),
    ("AutoencoderKLQwenImage", vae::qwen_image),
];

/// What `config` tells beside sizes.
///
/// # Errors
/// As [`sketch`].
pub(crate) fn facts(config: &Config, class: Option<&str>) -> Result<Facts, ConfigError> {
    Ok(sketch(config, class)?.facts)
}

/// The model that `config` describes, of `class` if that is known from elsewhere.
///
/// # Errors
/// [`ConfigError`] for a class that is not known, or naming the field that is missing or wrong.
pub(crate) fn sketch(config: &Config, class: Option<&str>) -> Result<Sketch, ConfigError> {
    let class = class.map(str::to_owned).or_else(|| config.class());
    let class = class.ok_or(ConfigError::NoArchitecture)?;
    let fields = config.fields();
    let (storages, notes) = storage::storages(&fields)?;
    let mut pieces = Vec::new();
    let mut pen = Pen::new(&mut pieces, &storages);
    let facts = match CLASSES.iter().find(|(known, _)| *known == class) {
        Some((_, draw)) => draw(&fields, &mut pen)?,
        None => match config.sizes(&class)? {
            Some(spec) => {
                if spec.architecture == "Gemma3ForConditionalGeneration" {
                    let seeing = fields.inner_or_default("vision_config")?;
                    vision::gemma3(&seeing, &mut pen, spec.hidden as u64)?;
                }
                dense::draw(&spec, &mut pen)
            }
            None => return Err(ConfigError::UnknownClass { class }),
        },
    };
    if pen.is_full() {
        return Err(ConfigError::TooManyTensors { limit: crate::limits::PIECES });
    }
    Ok(Sketch { facts: Facts { class, ..facts }, pieces, notes })
}
