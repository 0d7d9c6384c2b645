use serde::Serialize;

/// The routed experts of a mixture: a router chooses a few of many small feed-forward parts for
/// every token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpertsSpec {
    /// How many each layer has.
    pub count: usize,
    /// How many of them a token uses.
    pub active: usize,
    /// Width inside one of them.
    pub intermediate: usize,
    /// How they are chosen and weighed.
    pub router: RouterSpec,
    /// The part that every token uses besides.
    pub shared: Option<SharedExpert>,
    /// Every expert adds biases after its projections (gpt-oss).
    pub bias: bool,
    /// Rows of gate and up alternate in their one matrix, instead of following each other (gpt-oss).
    pub interleaved: bool,
    /// How the files hold their matrices.
    pub storage: ExpertStorage,
    /// What the files call them.
    pub names: ExpertNames,
}

/// How a router chooses experts and weighs what they say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RouterSpec {
    /// How scores are made of the router's outputs.
    pub scoring: Scoring,
    /// The chosen experts' weights are divided by their sum.
    pub normalise: bool,
    /// Then multiplied by this.
    pub scale: f32,
    /// Only some groups of neighbouring experts are chosen from (DeepSeek).
    pub groups: Option<ExpertGroups>,
    /// The router's projection adds a bias.
    pub bias: bool,
    /// Something is added to the scores for choosing, but not for weighing (DeepSeek-V3).
    pub correction: bool,
}

/// How a router's outputs become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// Softmax over the chosen experts only (gpt-oss).
    SoftmaxOfChosen,
    /// Each on its own (DeepSeek-V3).
    Sigmoid,
}

/// Groups of neighbouring experts, of which a router first chooses some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExpertGroups {
    /// How many groups; divides the number of experts.
    pub count: usize,
    /// How many of them are chosen from.
    pub chosen: usize,
    /// How many of a group's best experts its score is the sum of: 1 or 2.
    pub best: usize,
}

/// A feed-forward part beside the routed ones, which every token uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SharedExpert {
    /// Its width inside.
    pub intermediate: usize,
    /// What it says is multiplied by a sigmoid of its own (Qwen2-MoE).
    pub gated: bool,
}

/// How files hold the experts' matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertStorage {
    /// Three matrices for each.
    Each,
    /// All experts of a layer in two tensors, gate and up in one: `[experts, out, in]`.
    Stacked,
    /// The same with every matrix transposed: `[experts, in, out]` (gpt-oss in 16 bits).
    Transposed,
    /// As stacked, in blocks of 32 four-bit numbers with scales beside them (gpt-oss as published).
    Mxfp4,
}

/// What files call a mixture's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExpertNames {
    /// The layer's part: `mlp`.
    pub part: &'static str,
    /// The router in it: `gate`.
    pub router: &'static str,
    /// Gate, up and down of one expert.
    pub each: [&'static str; 3],
    /// The shared part: `shared_expert`.
    pub shared: &'static str,
}

/// Attention whose keys and values are made from one short vector per position, which is all that
/// the cache holds (DeepSeek).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatentSpec {
    /// Width of the vector that queries are made from; `None` if they are made directly.
    pub query_rank: Option<usize>,
    /// Width of the vector that keys and values are made from.
    pub rank: usize,
    /// Part of each query head without position.
    pub plain_dim: usize,
    /// Part of each query head with position; of the keys, all heads share it.
    pub rope_dim: usize,
    /// Width of one value head.
    pub value_dim: usize,
    /// Neighbouring elements turn together, instead of those half the width apart.
    pub interleaved: bool,
    /// Down projections add a bias.
    pub bias: bool,
    /// Added inside the square root of the two inner norms.
    pub norm_eps: f32,
}

impl LatentSpec {
    /// What the cache holds of a position.
    pub const fn width(&self) -> usize {
        self.rank + self.rope_dim
    }

    /// One query head.
    pub const fn query_dim(&self) -> usize {
        self.plain_dim + self.rope_dim
    }
}
