//! The feed-forward part of a layer with experts: every token is routed to a few of them.
//!
//! Tokens are grouped by expert, so that each expert is needed once per pass. Results are added up in the order
//! of the experts' numbers, whatever the order in which experts come into memory.

use overflowml_stream::Wanted;
use overflowml_types::{
    ExpertPart, ExpertScratch, ExpertStorage, ExpertsSpec, LayerPart, WeightRole,
};

use crate::error::ExecError;
use crate::kernels::Input;
use crate::layer::{Pass, Prepared, Target, add_biases};
use crate::maths::{AddScaled, GateApart, exp};
use crate::mxfp4::Decoded;
use crate::route::{Choice, choose};
use crate::scratch::Scratch;
use crate::source::WeightSource;
use crate::weights::{Finder, Matrix, Stack};

/// The weights of a mixture.
#[derive(Debug)]
pub(crate) struct MixtureWeights {
    router: Matrix,
    /// `[experts]`.
    router_bias: Option<Vec<f32>>,
    /// `[experts]`.
    correction: Option<Vec<f32>>,
    shared_router: Option<Matrix>,
    shared: Option<Expert>,
    experts: Vec<Expert>,
    /// `[experts, 2 * intermediate]`.
    gate_up_bias: Option<Vec<f32>>,
    /// `[experts, hidden]`.
    down_bias: Option<Vec<f32>>,
}

/// The matrices of one expert, in the order of the pass's list.
#[derive(Debug)]
struct Expert {
    gate_up: Stack,
    down: Matrix,
    /// Of gate and up, and of down, where matrices are stored in blocks.
    scales: Option<[Matrix; 2]>,
}

impl MixtureWeights {
    /// Finds a layer's weights.
    ///
    /// # Errors
    /// For one that is missing.
    pub(crate) fn find<S: WeightSource>(
        finder: &Finder<'_, S>,
        layer: u32,
        spec: &ExpertsSpec,
    ) -> Result<Self, ExecError> {
        use LayerPart as P;
        let matrix = |part| finder.matrix(WeightRole::Layer(layer, part));
        let vector = |wanted, part| finder.joined(wanted, layer, &[part]);
        let gated = spec.shared.is_some_and(|shared| shared.gated);
        let shared = || {
            let gate_up = vec![matrix(P::SharedGate)?, matrix(P::SharedUp)?];
            Ok::<_, ExecError>(Expert { gate_up, down: matrix(P::SharedDown)?, scales: None })
        };
        let experts = (0..spec.count as u32).map(|expert| one(finder, layer, expert, spec.storage));
        Ok(Self {
            router: matrix(P::Router)?,
            router_bias: vector(spec.router.bias, P::RouterBias)?,
            correction: vector(spec.router.correction, P::RouterCorrection)?,
            shared_router: gated.then(|| matrix(P::SharedRouter)).transpose()?,
            shared: spec.shared.map(|_| shared()).transpose()?,
            experts: experts.collect::<Result<_, _>>()?,
            gate_up_bias: vector(spec.bias, P::ExpertsGateUpBias)?,
            down_bias: vector(spec.bias, P::ExpertsDownBias)?,
        })
    }
}

fn one<S: WeightSource>(
    finder: &Finder<'_, S>,
    layer: u32,
    expert: u32,
    storage: ExpertStorage,
) -> Result<Expert, ExecError> {
    let parts: &[ExpertPart] = match storage {
        ExpertStorage::Each => &[ExpertPart::Gate, ExpertPart::Up],
        _ => &[ExpertPart::GateUp],
    };
    let matrix = |part| finder.matrix(WeightRole::Expert(layer, expert, part));
    let gate_up = parts.iter().map(|&part| matrix(part)).collect::<Result<_, _>>()?;
    let scales = match storage {
        ExpertStorage::Mxfp4 => {
            Some([matrix(ExpertPart::GateUpScales)?, matrix(ExpertPart::DownScales)?])
        }
        _ => None,
    };
    Ok(Expert { gate_up, down: matrix(ExpertPart::Down)?, scales })
}

/// The buffers of a mixture. Shapes are in [`ExpertScratch`].
#[derive(Debug)]
pub(crate) struct Buffers {
    /// `[chunk, experts]`.
    scores: Vec<f32>,
    /// `[2 * experts]`.
    keys: Vec<f32>,
    /// `[chunk, active]`.
    chosen: Vec<Choice>,
    /// `[chunk, active]`: tokens in the order of their experts.
    order: Vec<Place>,
    /// `[experts + 1]`: where each expert's tokens begin.
    starts: Vec<u32>,
    /// As many as there are experts with tokens.
    wanted: Vec<Wanted>,
    /// `[max(chunk, active), hidden]`.
    gathered: Vec<f32>,
    /// `[chunk, hidden]`.
    mixed: Vec<f32>,
    /// `[chunk, intermediate]`.
    gated: Vec<f32>,
    /// Where matrices are stored in blocks.
    decoded: Option<Decoded>,
}

/// A token that an expert is chosen by.
#[derive(Clone, Copy, Debug)]
struct Place {
    token: u32,
    weight: f32,
}

impl Buffers {
    /// Allocates and writes all of them.
    pub(crate) fn new(layout: &ExpertScratch, spec: &ExpertsSpec, hidden: usize) -> Self {
        let (experts, inner) = (spec.count, spec.intermediate);
        let scales = (2 * inner * hidden.div_ceil(32)).max(hidden * inner.div_ceil(32));
        let in_blocks = spec.storage == ExpertStorage::Mxfp4;
        let filled = |elements: usize| vec![f32::NAN; elements];
        let choices = layout.chosen / 2;
        let mut wanted = vec![Wanted::NONE; experts];
        wanted.clear();
        Self {
            scores: filled(layout.scores),
            keys: filled(2 * experts),
            chosen: vec![Choice::NONE; choices],
            order: vec![Place { token: u32::MAX, weight: f32::NAN }; choices],
            starts: vec![u32::MAX; experts + 1],
            wanted,
            gathered: filled(layout.gathered),
            mixed: filled(layout.mixed),
            gated: filled(layout.gated),
            decoded: in_blocks
                .then(|| Decoded::new(scales, hidden.max(inner).next_multiple_of(32))),
        }
    }

    /// Sorts the tokens by the experts that they chose, and lists those that have any.
    fn group(&mut self, tokens: usize, active: usize, first_weights: impl Fn(usize) -> usize) {
        let chosen = &self.chosen[..tokens * active];
        self.starts.fill(0);
        for choice in chosen {
            self.starts[choice.expert as usize + 1] += 1;
        }
        for expert in 1..self.starts.len() {
            self.starts[expert] += self.starts[expert - 1];
        }
        // Each start moves to its end, which is the next one's start.
        for (index, choice) in chosen.iter().enumerate() {
            let at = &mut self.starts[choice.expert as usize];
            let token = (index / active) as u32;
            self.order[*at as usize] = Place { token, weight: choice.weight };
            *at += 1;
        }
        self.starts.rotate_right(1);
        self.starts[0] = 0;
        self.wanted.clear();
        for (expert, ends) in self.starts.windows(2).enumerate() {
            let tokens = ends[1] - ends[0];
            if tokens > 0 {
                let weight = first_weights(expert);
                self.wanted.push(Wanted { expert: expert as u32, weight, tokens });
            }
        }
    }

    fn places(&self, expert: u32) -> std::ops::Range<usize> {
        let expert = expert as usize;
        self.starts[expert] as usize..self.starts[expert + 1] as usize
    }
}

impl Pass<'_> {
    /// Leaves in `delta` what the mixture makes of it.
    pub(crate) fn mixture<S: WeightSource>(
        &self,
        weights: &MixtureWeights,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let (Some(spec), Some(mut buffers)) = (&self.spec.experts, scratch.experts.take()) else {
            return Ok(());
        };
        let mixture = Mixture { pass: self, spec, weights };
        let mixed = mixture.run(&mut buffers, scratch, source);
        scratch.experts = Some(buffers);
        mixed
    }
}

/// One layer's mixture in one pass.
struct Mixture<'a> {
    pass: &'a Pass<'a>,
    spec: &'a ExpertsSpec,
    weights: &'a MixtureWeights,
}

impl<'a> Mixture<'a> {
    fn run<S: WeightSource>(
        &self,
        buffers: &mut Buffers,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let (tokens, hidden) = (self.pass.tokens, self.pass.spec.hidden);
        self.route(buffers, scratch, source)?;
        let first_weight = |expert: usize| self.weights.experts[expert].first();
        buffers.group(tokens, self.spec.active, first_weight);
        // One token's results are kept apart until all are there: then any order will do.
        source.want_experts(&mut buffers.wanted, tokens > 1)?;
        self.shared(buffers, scratch, source)?;
        if tokens == 1 {
            self.each_alone(buffers, scratch, source)?;
        } else {
            self.each_in_order(buffers, scratch, source)?;
        }
        scratch.delta[..tokens * hidden].copy_from_slice(&buffers.mixed[..tokens * hidden]);
        Ok(())
    }

    /// Chooses every token's experts.
    fn route<S: WeightSource>(
        &self,
        buffers: &mut Buffers,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let (tokens, count, active) = (self.pass.tokens, self.spec.count, self.spec.active);
        let x = &scratch.delta[..tokens * self.pass.spec.hidden];
        let mut input = Prepared::new(&mut scratch.input);
        let target = Target { out: &mut buffers.scores, stride: count, offset: 0 };
        self.pass.multiply(self.weights.router, x, &mut input, source, target)?;
        let scores = &mut buffers.scores[..tokens * count];
        add_biases(scores, self.weights.router_bias.as_deref());
        let correction = self.weights.correction.as_deref();
        let rows = scores.chunks_exact_mut(count).zip(buffers.chosen.chunks_exact_mut(active));
        for (scores, chosen) in rows {
            choose(&self.spec.router, correction, scores, &mut buffers.keys, chosen);
        }
        Ok(())
    }

    /// `mixed` begins with what the shared part says, or with zeros.
    fn shared<S: WeightSource>(
        &self,
        buffers: &mut Buffers,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let (tokens, hidden) = (self.pass.tokens, self.pass.spec.hidden);
        let Buffers { mixed, gated, scores, decoded, .. } = buffers;
        let mixed = &mut mixed[..tokens * hidden];
        let (Some(expert), Some(shared)) = (&self.weights.shared, self.spec.shared) else {
            mixed.fill(0.0);
            return Ok(());
        };
        let x = &scratch.delta[..tokens * hidden];
        mixed.copy_from_slice(x);
        if let Some(router) = self.weights.shared_router {
            let mut input = Prepared::new(&mut scratch.input);
            let target = Target { out: scores, stride: 1, offset: 0 };
            self.pass.multiply(router, x, &mut input, source, target)?;
        }
        let (both, input) = (&mut scratch.gate_up, &mut scratch.input);
        let space = Space { both, gated, input, decoded: decoded.as_mut() };
        self.expert(expert, &Rule::plain(shared.intermediate), mixed, space, source)?;
        if self.weights.shared_router.is_some() {
            for (mixed, score) in mixed.chunks_exact_mut(hidden).zip(scores) {
                let weight = 1.0 / (1.0 + exp::<false>(-*score));
                mixed.iter_mut().for_each(|value| *value *= weight);
            }
        }
        Ok(())
    }

    /// The experts of one token, in whichever order they are ready; then their sum, in order.
    fn each_alone<S: WeightSource>(
        &self,
        buffers: &mut Buffers,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let hidden = self.pass.spec.hidden;
        for index in 0..buffers.wanted.len() {
            let expert = buffers.wanted[index].expert;
            let place = buffers.places(expert).start;
            let Buffers { gathered, gated, decoded, .. } = &mut *buffers;
            let (both, input) = (&mut scratch.gate_up, &mut scratch.input);
            let space = Space { both, gated, input, decoded: decoded.as_mut() };
            let row = &mut gathered[place * hidden..][..hidden];
            row.copy_from_slice(&scratch.delta[..hidden]);
            let (weights, rule) = (&self.weights.experts[expert as usize], self.rule(expert));
            self.expert(weights, &rule, row, space, source)?;
        }
        let results = buffers.gathered.chunks_exact(hidden).zip(&buffers.order);
        for (delta, place) in results.take(self.spec.active) {
            let residual = &mut buffers.mixed[..hidden];
            self.pass.isa.run(AddScaled { residual, delta, scale: place.weight });
        }
        Ok(())
    }

    /// The experts of several tokens, in order, each for all tokens that chose it.
    fn each_in_order<S: WeightSource>(
        &self,
        buffers: &mut Buffers,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let hidden = self.pass.spec.hidden;
        for index in 0..buffers.wanted.len() {
            let expert = buffers.wanted[index].expert;
            let places = buffers.places(expert);
            let Buffers { gathered, gated, mixed, order, decoded, .. } = &mut *buffers;
            let places = &order[places];
            let row = |token: u32| token as usize * hidden;
            let rows = &mut gathered[..places.len() * hidden];
            for (x, place) in rows.chunks_exact_mut(hidden).zip(places) {
                x.copy_from_slice(&scratch.delta[row(place.token)..][..hidden]);
            }
            let (both, input) = (&mut scratch.gate_up, &mut scratch.input);
            let space = Space { both, gated, input, decoded: decoded.as_mut() };
            let (weights, rule) = (&self.weights.experts[expert as usize], self.rule(expert));
            self.expert(weights, &rule, rows, space, source)?;
            for (delta, place) in rows.chunks_exact(hidden).zip(places) {
                let residual = &mut mixed[row(place.token)..][..hidden];
                self.pass.isa.run(AddScaled { residual, delta, scale: place.weight });
            }
        }
        Ok(())
    }

    fn rule(&self, expert: u32) -> Rule<'a> {
        let (inner, hidden) = (self.spec.intermediate, self.pass.spec.hidden);
        let of_expert = |all: &'a Option<Vec<f32>>, width: usize| {
            all.as_ref().map(|all| &all[expert as usize * width..][..width])
        };
        Rule {
            inner,
            transposed: self.spec.storage == ExpertStorage::Transposed,
            interleaved: self.spec.interleaved,
            gate_up_bias: of_expert(&self.weights.gate_up_bias, 2 * inner),
            down_bias: of_expert(&self.weights.down_bias, hidden),
        }
    }

    /// What one expert makes of `rows`, `[tokens, hidden]`, in place.
    fn expert<S: WeightSource>(
        &self,
        weights: &Expert,
        rule: &Rule<'_>,
        rows: &mut [f32],
        space: Space<'_>,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let (hidden, inner) = (self.pass.spec.hidden, rule.inner);
        let tokens = rows.len() / hidden;
        let Space { both, gated, input, mut decoded } = space;
        let both = &mut both[..tokens * 2 * inner];
        let mut prepared = Prepared::new(input);
        let mut offset = 0;
        for &matrix in &weights.gate_up {
            let target = Target { out: &mut *both, stride: 2 * inner, offset };
            let matrix = Stored { matrix, scales: weights.scales.map(|[first, _]| first) };
            let space = (&mut prepared, decoded.as_deref_mut());
            offset += self.product(rule, matrix, rows, space, source, target)?;
        }
        add_biases(both, rule.gate_up_bias);
        let gated = &mut gated[..tokens * inner];
        let (activation, isa) = (self.pass.spec.activation, self.pass.isa);
        let both = &*both;
        self.pass.for_rows(gated, inner, |token, out| {
            let both = &both[token * 2 * inner..][..2 * inner];
            isa.run(GateApart { activation, both, interleaved: rule.interleaved, out });
        });
        let target = Target { out: &mut *rows, stride: hidden, offset: 0 };
        let down = Stored { matrix: weights.down, scales: weights.scales.map(|[_, last]| last) };
        self.product(rule, down, gated, (&mut Prepared::new(input), decoded), source, target)?;
        add_biases(rows, rule.down_bias);
        Ok(())
    }

    /// Multiplies with one matrix, whichever way it is stored; returns how many outputs it has.
    fn product<S: WeightSource>(
        &self,
        rule: &Rule<'_>,
        Stored { matrix, scales }: Stored,
        x: &[f32],
        (input, decoded): (&mut Prepared<'_>, Option<&mut Decoded>),
        source: &mut S,
        target: Target<'_>,
    ) -> Result<usize, ExecError> {
        if let (Some(scales), Some(decoded)) = (scales, decoded) {
            let space = (input, decoded);
            self.pass.multiply_blocks((scales, matrix), x, space, source, target)?;
            return Ok(matrix.rows);
        }
        if rule.transposed {
            self.pass.multiply_transposed(matrix, x, source, target)?;
            return Ok(matrix.cols);
        }
        self.pass.multiply(matrix, x, input, source, target)?;
        Ok(matrix.rows)
    }
}

impl Expert {
    /// The first of its weights in the pass's list.
    fn first(&self) -> usize {
        let matrix = self.gate_up.first().map_or(self.down.index, |matrix| matrix.index);
        // Scales come before what they scale.
        self.scales.map_or(matrix, |[first, _]| first.index)
    }
}

/// A matrix, and its scales if it is in blocks.
#[derive(Clone, Copy)]
struct Stored {
    matrix: Matrix,
    scales: Option<Matrix>,
}

/// How an expert computes.
struct Rule<'a> {
    inner: usize,
    transposed: bool,
    interleaved: bool,
    gate_up_bias: Option<&'a [f32]>,
    down_bias: Option<&'a [f32]>,
}

impl Rule<'_> {
    const fn plain(inner: usize) -> Self {
        let (gate_up_bias, down_bias) = (None, None);
        Self { inner, transposed: false, interleaved: false, gate_up_bias, down_bias }
    }
}

/// Buffers that an expert computes in.
struct Space<'a> {
    both: &'a mut [f32],
    gated: &'a mut [f32],
    input: &'a mut Input,
    decoded: Option<&'a mut Decoded>,
}
