//! Tensors, or what stands for them on paper, summed up by group.

use std::borrow::Cow;
use std::collections::BTreeMap;

use overflowml_types::{Bytes, Experts, GroupKind, GroupProfile};

use super::order::{self, Place};

/// Some numbers under one name: a tensor, or the same tensor of all experts of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    /// As in the files.
    pub(crate) name: String,
    /// How many numbers it stands for; none for the scales of quantised weights.
    pub(crate) parameters: u64,
    /// As stored.
    pub(crate) size: Bytes,
    /// How it is stored.
    pub(crate) dtype: Cow<'static, str>,
    /// Of a tensor of routed experts: how many experts there are at least. Zero for others.
    pub(crate) experts: u64,
}

/// Sums up `pieces` by group, in order of use, and by element type. `active` is how many routed
/// experts a token uses; all if it is not known.
pub(crate) fn assemble(
    pieces: Vec<Piece>,
    active: Option<u64>,
) -> (Vec<GroupProfile>, BTreeMap<String, Bytes>) {
    let mut dtypes: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut sums: BTreeMap<String, (Place, Sum)> = BTreeMap::new();
    for piece in pieces {
        if let Some(size) = dtypes.get_mut(piece.dtype.as_ref()) {
            *size = size.saturating_add(piece.size);
        } else {
            dtypes.insert(piece.dtype.to_string(), piece.size);
        }
        let place = order::place(&piece.name);
        match sums.get_mut(place.group.as_str()) {
            Some((_, sum)) => sum.add(&piece),
            None => {
                let mut sum = Sum::default();
                sum.add(&piece);
                sums.insert(place.group.clone(), (place, sum));
            }
        }
    }
    let mut sums: Vec<(Place, Sum)> = sums.into_values().collect();
    sums.sort_by(|(a, _), (b, _)| a.order.cmp(&b.order));
    let kinds = order::kinds(sums.iter().map(|(place, _)| place));
    let groups = sums.into_iter().zip(kinds);
    (groups.map(|((place, sum), kind)| sum.into_group(place.group, kind, active)).collect(), dtypes)
}

#[derive(Default)]
struct Sum {
    parameters: u64,
    size: Bytes,
    experts: u64,
    expert_parameters: u64,
    expert_size: Bytes,
}

impl Sum {
    fn add(&mut self, piece: &Piece) {
        self.parameters = self.parameters.saturating_add(piece.parameters);
        self.size = self.size.saturating_add(piece.size);
        if piece.experts > 0 {
            self.experts = self.experts.max(piece.experts);
            self.expert_parameters = self.expert_parameters.saturating_add(piece.parameters);
            self.expert_size = self.expert_size.saturating_add(piece.size);
        }
    }

    fn into_group(self, name: String, kind: GroupKind, active: Option<u64>) -> GroupProfile {
        let experts = (self.experts > 0).then(|| Experts {
            count: self.experts,
            active: active.unwrap_or(self.experts).min(self.experts),
            parameters: self.expert_parameters,
            size: self.expert_size,
        });
        GroupProfile { name, kind, parameters: self.parameters, size: self.size, experts }
    }
}
