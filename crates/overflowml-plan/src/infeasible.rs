use overflowml_types::Bytes;

/// A valid "no": what was needed, what there was, and what to change.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Infeasible {
    /// Even with nothing kept in memory, the run takes more than the budget.
    #[error(
        "at least {needed} is needed, but the budget is {budget}: {overhead} for the process and small \
         weights, {kv} for the keys and values of {context} tokens, {activations} for activations, \
         {slots} for streaming"
    )]
    BudgetTooSmall {
        /// The smallest budget that works.
        needed: Bytes,
        /// The budget.
        budget: Bytes,
        /// The process itself, and weights that cannot stream.
        overhead: Bytes,
        /// Positions asked for.
        context: usize,
        /// Their keys and values.
        kv: Bytes,
        /// The smallest activation buffers.
        activations: Bytes,
        /// The smallest slots.
        slots: Bytes,
        /// The most positions that the budget has room for; `None` if not even one fits.
        largest_context: Option<usize>,
    },
    /// More tokens than the model was made for.
    #[error("{wanted} tokens are asked for, but the model was made for {most} at most")]
    ContextBeyondModel {
        /// Prompt and new tokens together.
        wanted: usize,
        /// The model's own limit.
        most: usize,
    },
    /// A part of a torch object fits in no way.
    #[error(
        "{} needs at least {needed} of {memory}, but {available} can be used",
        of_component(component)
    )]
    TorchTooSmall {
        /// The part's name; empty for a model alone.
        component: String,
        /// Which memory.
        memory: &'static str,
        /// What its budget is called.
        option: &'static str,
        /// The smallest budget that works.
        needed: Bytes,
        /// What may be used.
        available: Bytes,
    },
}

fn of_component(name: &str) -> String {
    if name.is_empty() { "the model".to_owned() } else { format!("`{name}`") }
}

impl Infeasible {
    /// Stable name: shown by `--json`, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BudgetTooSmall { .. } => "plan.budget-too-small",
            Self::ContextBeyondModel { .. } => "plan.context-beyond-model",
            Self::TorchTooSmall { .. } => "plan.torch-too-small",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::BudgetTooSmall { needed, largest_context, .. } => {
                let budget = format!("give at least `--memory {}MiB`", needed_mib(*needed));
                Some(match largest_context {
                    Some(most) => format!("{budget}, or ask for at most {most} tokens in all"),
                    None => budget,
                })
            }
            Self::ContextBeyondModel { most, .. } => Some(format!(
                "shorten the prompt or `--max-new-tokens`, so that both together are at most {most}"
            )),
            Self::TorchTooSmall { option, needed, .. } => {
                let mib = needed.get().div_ceil(Bytes::mib(1).get());
                Some(format!("give at least {option}=\"{mib}MiB\", or allow a lower precision"))
            }
        }
    }
}

/// Whole mebibytes: what a user can type. Rounded up, and one more, because the process itself does not take exactly
/// the same every time.
fn needed_mib(needed: Bytes) -> u64 {
    needed.get().div_ceil(Bytes::mib(1).get()) + 1
}
