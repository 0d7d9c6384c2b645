//! The weights of latent attention and of mixtures of experts.

use crate::layout::{LayerList, widened};
use crate::{
    DecoderSpec, ExpertPart, ExpertStorage, ExpertsSpec, LatentSpec, LayerPart, Slice, WeightRole,
};

impl DecoderSpec {
    /// Attention by way of a latent vector, in the order in which a pass uses its weights.
    pub(crate) fn latent_weights(&self, latent: &LatentSpec, list: &mut LayerList<'_>) {
        use LayerPart as P;
        let (hidden, queries) = (self.hidden, self.query_width());
        list.add(P::AttentionNorm, "input_layernorm.weight", &[hidden]);
        if let Some(rank) = latent.query_rank {
            list.add(P::QueryDown, "self_attn.q_a_proj.weight", &[rank, hidden]);
            if latent.bias {
                list.add(P::QueryDownBias, "self_attn.q_a_proj.bias", &[rank]);
            }
            list.add(P::QueryDownNorm, "self_attn.q_a_layernorm.weight", &[rank]);
            list.add(P::Query, "self_attn.q_b_proj.weight", &[queries, rank]);
        } else {
            list.add(P::Query, "self_attn.q_proj.weight", &[queries, hidden]);
        }
        let down = "self_attn.kv_a_proj_with_mqa";
        list.add(P::LatentDown, &format!("{down}.weight"), &[latent.width(), hidden]);
        if latent.bias {
            list.add(P::LatentDownBias, &format!("{down}.bias"), &[latent.width()]);
        }
        list.add(P::LatentNorm, "self_attn.kv_a_layernorm.weight", &[latent.rank]);
        self.latent_heads(latent, list);
        list.add(P::AttentionOut, "self_attn.o_proj.weight", &[hidden, self.attended_width()]);
        if self.out_bias {
            list.add(P::AttentionOutBias, "self_attn.o_proj.bias", &[hidden]);
        }
    }

    /// One tensor holds what makes keys and values of the latent vector, head by head. Keys are made
    /// before attention and values after it, so that each head's part is a weight of its own.
    fn latent_heads(&self, latent: &LatentSpec, list: &mut LayerList<'_>) {
        let head_rows = latent.plain_dim + latent.value_dim;
        let of = [self.heads * head_rows, latent.rank];
        let mut add = |head: usize, part, row: usize, rows: usize| {
            let first = (head * head_rows + row) * latent.rank;
            let name = "self_attn.kv_b_proj.weight";
            list.add_slice(part, name, &[rows, latent.rank], (&of, first));
        };
        for head in 0..self.heads {
            add(head, LayerPart::KeyUp(index(head)), 0, latent.plain_dim);
        }
        for head in 0..self.heads {
            add(head, LayerPart::ValueUp(index(head)), latent.plain_dim, latent.value_dim);
        }
    }

    /// Router, shared part and experts of one layer.
    pub(crate) fn expert_weights(&self, experts: &ExpertsSpec, list: &mut LayerList<'_>) {
        use LayerPart as P;
        let (hidden, part) = (self.hidden, experts.names.part);
        list.add(P::MlpNorm, "post_attention_layernorm.weight", &[hidden]);
        let router = format!("{part}.{}", experts.names.router);
        list.add(P::Router, &format!("{router}.weight"), &[experts.count, hidden]);
        if experts.router.bias {
            list.add(P::RouterBias, &format!("{router}.bias"), &[experts.count]);
        }
        if experts.router.correction {
            let name = format!("{router}.e_score_correction_bias");
            list.add(P::RouterCorrection, &name, &[experts.count]);
        }
        if let Some(shared) = experts.shared {
            let (name, inner) = (format!("{part}.{}", experts.names.shared), shared.intermediate);
            if shared.gated {
                list.add(P::SharedRouter, &format!("{name}_gate.weight"), &[1, hidden]);
            }
            list.add(P::SharedGate, &format!("{name}.gate_proj.weight"), &[inner, hidden]);
            list.add(P::SharedUp, &format!("{name}.up_proj.weight"), &[inner, hidden]);
            list.add(P::SharedDown, &format!("{name}.down_proj.weight"), &[hidden, inner]);
        }
        if experts.bias {
            let (both, count) = (2 * experts.intermediate, experts.count);
            let biases = [
                (P::ExpertsGateUpBias, "gate_up_proj_bias", both),
                (P::ExpertsDownBias, "down_proj_bias", hidden),
            ];
            for (role, name, width) in biases {
                let name = format!("{part}.experts.{name}");
                list.add_slice(role, &name, &[count * width], (&[count, width], 0));
            }
        }
        for expert in 0..experts.count {
            self.one_expert(experts, expert, list);
        }
    }

    fn one_expert(&self, experts: &ExpertsSpec, expert: usize, list: &mut LayerList<'_>) {
        let (hidden, inner, part) = (self.hidden, experts.intermediate, experts.names.part);
        let role = |part| WeightRole::Expert(list.layer, index(expert), part);
        let (gate_up, down) = (role(ExpertPart::GateUp), role(ExpertPart::Down));
        let (gate_up_scales, down_scales) =
            (role(ExpertPart::GateUpScales), role(ExpertPart::DownScales));
        // One expert of a tensor that holds all of a layer.
        let mut stacked = |role, name: &str, shape: &[usize], inside: &[usize]| {
            let of = [&[experts.count], inside].concat();
            let first = (expert * inside.iter().product::<usize>()) as u64;
            let slice = Slice { of: widened(&of), first };
            list.push(role, &format!("{part}.experts.{name}"), shape, Some(slice));
        };
        let both = 2 * inner;
        match experts.storage {
            ExpertStorage::Each => {
                let [gate, up, down] = experts.names.each;
                let parts = [
                    (ExpertPart::Gate, gate, [inner, hidden]),
                    (ExpertPart::Up, up, [inner, hidden]),
                    (ExpertPart::Down, down, [hidden, inner]),
                ];
                for (role, name, shape) in parts {
                    let name = format!("{part}.experts.{expert}.{name}.weight");
                    let role = WeightRole::Expert(list.layer, index(expert), role);
                    list.push(role, &name, &shape, None);
                }
            }
            ExpertStorage::Stacked => {
                stacked(gate_up, "gate_up_proj", &[both, hidden], &[both, hidden]);
                stacked(down, "down_proj", &[hidden, inner], &[hidden, inner]);
            }
            ExpertStorage::Transposed => {
                stacked(gate_up, "gate_up_proj", &[hidden, both], &[hidden, both]);
                stacked(down, "down_proj", &[inner, hidden], &[inner, hidden]);
            }
            ExpertStorage::Mxfp4 => {
                let (wide, narrow) = (hidden.div_ceil(32), inner.div_ceil(32));
                stacked(gate_up_scales, "gate_up_proj_scales", &[both, wide], &[both, wide]);
                stacked(gate_up, "gate_up_proj_blocks", &[both, wide * 16], &[both, wide, 16]);
                stacked(down_scales, "down_proj_scales", &[hidden, narrow], &[hidden, narrow]);
                stacked(down, "down_proj_blocks", &[hidden, narrow * 16], &[hidden, narrow, 16]);
            }
        }
    }
}

/// Heads and experts are capped far below `u32`.
#[allow(clippy::cast_possible_truncation)]
const fn index(of: usize) -> u32 {
    of as u32
}
