//! A plan in words: what lives where and why, with where each number comes from.

use overflowml_types::{Basis, BytesPerSecond, Known};

use crate::plan::{Plan, Strategy};

impl Plan {
    /// Why the plan looks as it does, one line each, most important first.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = vec![self.memory_line(), self.weights_line()];
        reasons.extend(self.experts_line());
        reasons.push(format!(
            "KV cache  {} for {} tokens; prompts are read in chunks of {}",
            self.memory.kv, self.context, self.prefill_chunk
        ));
        reasons.push(self.speed_line());
        reasons
    }

    fn memory_line(&self) -> String {
        let experts = match self.experts {
            Some(_) => format!("{} experts, ", self.memory.experts),
            None => String::new(),
        };
        format!(
            "memory    {} of {} at the peak (estimated): {} weights, {} slots, {}{} KV cache, {} \
             activations, {} process",
            self.memory.peak,
            self.budget,
            self.memory.resident.saturating_add(self.memory.kept),
            self.memory.slots,
            experts,
            self.memory.kv,
            self.memory.activations,
            self.memory.overhead
        )
    }

    fn weights_line(&self) -> String {
        let pass = self.prediction.weights_per_pass;
        match (self.strategy, self.ring) {
            (Strategy::None, _) => "weights   all stay in memory; nothing streams".to_owned(),
            (Strategy::Disk, None) if self.experts.is_some() => format!(
                "weights   {} that every token uses stay in memory; experts come from disk when chosen",
                self.resident_weights()
            ),
            (Strategy::Disk, None) => {
                format!(
                    "weights   {pass} stay in memory; rows of the embedding are read when needed"
                )
            }
            (Strategy::Disk, Some(ring)) => format!(
                "weights   {} of {pass} stay in memory, evenly spread; {} stream from disk on every pass, \
                 through {} slots of {}",
                self.resident_weights(),
                self.prediction.streamed_per_pass,
                ring.slots,
                ring.slot
            ),
        }
    }

    fn experts_line(&self) -> Option<String> {
        let (cache, predicted) = (self.experts.as_ref()?, self.prediction.experts?);
        let percent = |rate: f64| (100.0 * rate).round();
        Some(format!(
            "experts   {} for {:.0} % of them, the often used ones; {} to {} % of a token's are expected \
             there, and {} to {} read for it",
            self.memory.experts,
            percent(cache.share()),
            percent(predicted.low.hit_rate),
            percent(predicted.high.hit_rate),
            predicted.high.per_token,
            predicted.low.per_token
        ))
    }

    fn speed_line(&self) -> String {
        let prediction = &self.prediction;
        let (what, rate) = if prediction.limited_by == "disk" {
            ("disk", basis(&self.rates.disk))
        } else {
            ("memory", basis(&self.rates.memory))
        };
        let speed = prediction.decode_tokens_per_second;
        let digits = if speed < 10.0 { 2 } else { 1 };
        format!(
            "speed     about {} per token, {speed:.digits$} tokens/s; limited by the {what} at {rate}",
            prediction.seconds_per_token
        )
    }
}

fn basis(rate: &Known<BytesPerSecond>) -> String {
    let basis = match rate.basis {
        Basis::Reported => "reported",
        Basis::Measured => "measured",
        Basis::Assumed => "assumed",
    };
    format!("{} ({basis}: {})", rate.value, rate.source)
}
