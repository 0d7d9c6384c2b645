//! The pass's list of weights, sorted by what they do, checked against the specification.

use std::collections::HashMap;

use half::{bf16, f16};
use overflowml_types::{
    Access, DType, DecoderSpec, LayerPart, Norms, PassWeight, QkNorm, WeightRole,
};

use crate::error::ExecError;
use crate::latent::LatentWeights;
use crate::mixture::MixtureWeights;
use crate::source::WeightSource;

/// A matrix, `[rows, cols]`, that comes in runs of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    /// Index into the pass's list.
    pub(crate) index: usize,
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Matrices whose rows follow each other in the result: query, key, value or all three fused.
pub(crate) type Stack = Vec<Matrix>;

/// All weights of a decoder.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) head: Matrix,
}

/// The weights of one layer. Norms have the family's offset added; what a family lacks is `None`.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attention_norm: Option<Vec<f32>>,
    pub(crate) qkv: Stack,
    /// `[query_width + 2 * kv_width]`.
    pub(crate) qkv_bias: Option<Vec<f32>>,
    pub(crate) query_norm: Option<Vec<f32>>,
    pub(crate) key_norm: Option<Vec<f32>>,
    pub(crate) out: Matrix,
    pub(crate) out_bias: Option<Vec<f32>>,
    pub(crate) attention_post_norm: Option<Vec<f32>>,
    /// `[heads]`.
    pub(crate) sinks: Option<Vec<f32>>,
    /// Then `qkv` is empty.
    pub(crate) latent: Option<LatentWeights>,
    pub(crate) mlp_norm: Option<Vec<f32>>,
    pub(crate) feed_forward: FeedForward,
    pub(crate) mlp_post_norm: Option<Vec<f32>>,
}

/// What follows attention in a layer.
#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(Mlp),
    Mixture(Box<MixtureWeights>),
}

/// A gated feed-forward part.
#[derive(Debug)]
pub(crate) struct Mlp {
    pub(crate) gate_up: Stack,
    /// `[2 * intermediate]`.
    pub(crate) gate_up_bias: Option<Vec<f32>>,
    pub(crate) down: Matrix,
    pub(crate) down_bias: Option<Vec<f32>>,
}

impl Weights {
    /// Finds every weight that `spec` calls for in `list`, and reads the small ones from `source`.
    ///
    /// # Errors
    /// For a weight that is missing, or of the wrong shape or type.
    pub(crate) fn new(
        spec: &DecoderSpec,
        list: &[PassWeight],
        source: &impl WeightSource,
    ) -> Result<Self, ExecError> {
        let finder = Finder::new(spec, list, source)?;
        let layers = (0..spec.layers.len()).map(|layer| finder.layer(layer as u32));
        Ok(Self {
            embedding: finder.matrix(WeightRole::Embedding)?,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: finder.norm(WeightRole::FinalNorm)?,
            head: finder.matrix(WeightRole::Head)?,
        })
    }
}

/// Finds weights by what they do.
pub(crate) struct Finder<'a, S> {
    pub(crate) spec: &'a DecoderSpec,
    list: &'a [PassWeight],
    by_role: HashMap<WeightRole, usize>,
    source: &'a S,
}

impl<'a, S: WeightSource> Finder<'a, S> {
    fn new(
        spec: &'a DecoderSpec,
        list: &'a [PassWeight],
        source: &'a S,
    ) -> Result<Self, ExecError> {
        let by_role = list.iter().enumerate().map(|(i, weight)| (weight.role, i)).collect();
        let finder = Self { spec, list, by_role, source };
        for needed in spec.weights() {
            let (_, weight) = finder.find(needed.role)?;
            let (role, shape) = (needed.role, weight.tensor.shape.clone());
            if shape != needed.shape {
                return Err(ExecError::WeightShape { role, shape, expected: needed.shape });
            }
            let stored = weight.tensor.dtype;
            let in_blocks = weight.access == Access::Expert && stored == DType::U8;
            if !stored.is_computable() && !in_blocks {
                return Err(ExecError::WeightType { role, dtype: weight.tensor.dtype });
            }
        }
        Ok(finder)
    }

    pub(crate) fn find(&self, role: WeightRole) -> Result<(usize, &'a PassWeight), ExecError> {
        let index = *self.by_role.get(&role).ok_or(ExecError::WeightMissing { role })?;
        Ok((index, &self.list[index]))
    }

    pub(crate) fn matrix(&self, role: WeightRole) -> Result<Matrix, ExecError> {
        let (index, weight) = self.find(role)?;
        let (rows, cols) = (weight.rows() as usize, weight.cols() as usize);
        Ok(Matrix { index, dtype: weight.tensor.dtype, rows, cols })
    }

    pub(crate) fn vector(&self, role: WeightRole) -> Result<Vec<f32>, ExecError> {
        let (index, weight) = self.find(role)?;
        let bytes = self.source.kept(index);
        let dtype = weight.tensor.dtype;
        let expected = weight.cols() * dtype.size().get();
        if bytes.len() as u64 != expected {
            return Err(ExecError::WeightBytes { role, expected, actual: bytes.len() as u64 });
        }
        let mut values = vec![0.0; weight.cols() as usize];
        widen(dtype, bytes, &mut values);
        Ok(values)
    }

    pub(crate) fn norm(&self, role: WeightRole) -> Result<Vec<f32>, ExecError> {
        let mut weight = self.vector(role)?;
        weight.iter_mut().for_each(|value| *value += self.spec.norm_weight_offset);
        Ok(weight)
    }

    fn layer(&self, layer: u32) -> Result<LayerWeights, ExecError> {
        use LayerPart as P;
        let spec = self.spec;
        let role = |part| WeightRole::Layer(layer, part);
        let matrix = |part| self.matrix(role(part));
        let norm_if = |wanted: bool, part| wanted.then(|| self.norm(role(part))).transpose();
        let bias_if = |wanted, parts: &[P]| self.joined(wanted, layer, parts);
        let (qkv, qkv_bias): (&[P], &[P]) = match () {
            () if spec.latent.is_some() => (&[], &[]),
            () if spec.fused_qkv => (&[P::QueryKeyValue], &[P::QueryKeyValueBias]),
            () => (&[P::Query, P::Key, P::Value], &[P::QueryBias, P::KeyBias, P::ValueBias]),
        };
        let (before, after) = (spec.norms != Norms::After, spec.norms != Norms::Before);
        let qk_norm = spec.qk_norm != QkNorm::None;
        let qkv_biased = spec.qkv_bias && spec.latent.is_none();
        let feed_forward = match spec.experts_of(layer as usize) {
            Some(experts) => {
                FeedForward::Mixture(Box::new(MixtureWeights::find(self, layer, experts)?))
            }
            None => FeedForward::Dense(self.dense(layer)?),
        };
        Ok(LayerWeights {
            attention_norm: norm_if(before, P::AttentionNorm)?,
            qkv: qkv.iter().map(|&part| matrix(part)).collect::<Result<_, _>>()?,
            qkv_bias: bias_if(qkv_biased, qkv_bias)?,
            query_norm: norm_if(qk_norm, P::QueryNorm)?,
            key_norm: norm_if(qk_norm, P::KeyNorm)?,
            out: matrix(P::AttentionOut)?,
            out_bias: bias_if(spec.out_bias, &[P::AttentionOutBias])?,
            attention_post_norm: norm_if(after, P::AttentionPostNorm)?,
            sinks: bias_if(spec.sinks, &[P::Sinks])?,
            latent: spec.latent.map(|it| LatentWeights::find(self, layer, &it)).transpose()?,
            mlp_norm: norm_if(before, P::MlpNorm)?,
            feed_forward,
            mlp_post_norm: norm_if(after, P::MlpPostNorm)?,
        })
    }

    fn dense(&self, layer: u32) -> Result<Mlp, ExecError> {
        use LayerPart as P;
        let spec = self.spec;
        let matrix = |&part: &P| self.matrix(WeightRole::Layer(layer, part));
        let gate_up: &[P] = if spec.fused_gate_up { &[P::GateUp] } else { &[P::Gate, P::Up] };
        // A fused gate and up has no bias in any family: `DecoderSpec::weights` names none.
        let gate_up_bias = spec.mlp_bias && !spec.fused_gate_up;
        Ok(Mlp {
            gate_up: gate_up.iter().map(matrix).collect::<Result<_, _>>()?,
            gate_up_bias: self.joined(gate_up_bias, layer, &[P::GateBias, P::UpBias])?,
            down: matrix(&P::Down)?,
            down_bias: self.joined(spec.mlp_bias, layer, &[P::DownBias])?,
        })
    }

    /// Some vectors of a layer, one after the other.
    pub(crate) fn joined(
        &self,
        wanted: bool,
        layer: u32,
        parts: &[LayerPart],
    ) -> Result<Option<Vec<f32>>, ExecError> {
        if !wanted {
            return Ok(None);
        }
        let mut joined = Vec::new();
        for &part in parts {
            joined.extend(self.vector(WeightRole::Layer(layer, part))?);
        }
        Ok(Some(joined))
    }
}

/// Stored elements as `f32`; what is not a float type leaves `out` as it is.
pub(crate) fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        DType::F16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        DType::BF16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        _ => debug_assert!(false, "{dtype} was refused when the weights were bound"),
    }
}
