//! Plans for any machine: this one or one that is only described, with what is known to go wrong.

use std::collections::BTreeSet;
use std::path::Path;

use overflowml_hardware::{ProbeOptions, probe};
use overflowml_plan::device::decide;
pub use overflowml_plan::device::{
    Candidate, Decision, Lane, MoeSize, Offload, Precision, Rejected, Span, StagePlan, StageUse,
    Unit, WhyNot, Wish, choose, moe_of_size, of_size,
};
use overflowml_plan::rules::{
    self, Backend, Effect, Feature, Kind, Match, Quantization, Runtime, Severity, Situation,
};
use overflowml_types::{BytesPerSecond, Gpu, Known, Machine, ModelProfile, Task};
use serde::Serialize;

use crate::calibration::with_measured;

/// A decision, what it was made for, and what to know before it is used.
#[derive(Clone, Debug, Serialize)]
pub struct DevicePlan {
    /// The model.
    pub model: ModelProfile,
    /// The machine.
    pub machine: Machine,
    /// What was asked for.
    pub wish: Wish,
    /// Candidates and choice.
    #[serde(flatten)]
    pub decision: Decision,
    /// Known incompatibilities that the recommended candidate meets, or that other tools meet when they do the same.
    pub warnings: Vec<Warning>,
}

/// A known incompatibility, as a plan tells it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Warning {
    /// The rule's name.
    pub rule: String,
    /// The combination.
    pub title: String,
    /// What happens.
    pub symptom: String,
    /// What to do instead.
    pub remedy: String,
    /// How bad it is.
    pub severity: Severity,
    /// Who says so.
    pub sources: Vec<String>,
    /// Whether it concerns the plan itself, or only those who set up the same with other tools.
    pub concerns: Concerns,
}

/// Whom a [`Warning`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Concerns {
    /// The plan itself.
    Plan,
    /// Those who do the same with torch libraries' own offloading.
    OtherTools,
}

/// How many traps of other tools are told.
const TRAPS: usize = 4;

/// This machine, with what was measured on it before; `path` is where the model is.
pub fn machine_here(path: &Path) -> Machine {
    let path = Some(path.to_owned());
    with_measured(probe(&ProbeOptions { path, ..ProbeOptions::default() }))
}

/// Plans `model` on `machine`.
pub fn plan_device(model: ModelProfile, machine: Machine, wish: Wish) -> DevicePlan {
    let rules = Rules { model: &model, machine: &machine, wish: &wish };
    let decision = decide(&model, &machine, &wish, &|candidate| rules.forbids(candidate));
    let warnings = rules.warnings(decision.recommended());
    DevicePlan { model, machine, wish, decision, warnings }
}

/// Asks the rules about candidates.
struct Rules<'a> {
    model: &'a ModelProfile,
    machine: &'a Machine,
    wish: &'a Wish,
}

impl Rules<'_> {
    fn forbids(&self, candidate: &Candidate) -> Option<WhyNot> {
        let found = rules::matching(&self.situation(candidate));
        let avoided = found.into_iter().find(|one| one.effect() == Effect::Avoid)?;
        Some(WhyNot::Rule {
            rule: avoided.rule.id.clone(),
            symptom: avoided.rule.symptom.trim_end_matches('.').to_owned(),
            remedy: avoided.rule.remedy.clone(),
        })
    }

    fn warnings(&self, candidate: Option<&Candidate>) -> Vec<Warning> {
        let Some(candidate) = candidate else { return Vec::new() };
        let own = rules::matching(&self.situation(candidate));
        let mut traps = rules::matching(&self.elsewhere(candidate));
        traps.retain(|trap| !own.iter().any(|one| one.rule.id == trap.rule.id));
        traps.sort_by_key(|trap| std::cmp::Reverse(trap.severity()));
        let plan = own.iter().map(|one| warning(one, Concerns::Plan));
        plan.chain(traps.iter().take(TRAPS).map(|one| warning(one, Concerns::OtherTools))).collect()
    }

    /// Our own engine doing what the candidate says: it moves plain bytes.
    fn situation(&self, candidate: &Candidate) -> Situation {
        let gpu = self.gpu().filter(|_| candidate.on_device);
        let kind = kind(candidate.quantization);
        Situation {
            runtimes: BTreeSet::from([Runtime::Overflowml]),
            offload: offload(candidate.offload).into_iter().collect(),
            quantizations: kind
                .map(|kind| Quantization { backend: Backend::Plain, kind })
                .into_iter()
                .collect(),
            features: self.features(candidate),
            components: self.classes(),
            ..Situation::on(self.machine, gpu)
        }
    }

    /// The same set up with torch libraries' own offloading, and what people switch on beside it.
    fn elsewhere(&self, candidate: &Candidate) -> Situation {
        let mut situation = self.situation(candidate);
        situation.runtimes = match self.model.task {
            Task::Image | Task::Video => {
                BTreeSet::from([Runtime::Diffusers, Runtime::Accelerate, Runtime::Torch])
            }
            _ => BTreeSet::from([Runtime::Transformers, Runtime::Accelerate, Runtime::Torch]),
        };
        if let Some(kind) = kind(candidate.quantization) {
            situation.quantizations =
                BTreeSet::from([Quantization { backend: Backend::Torchao, kind }]);
        } else if candidate.offload != Offload::None {
            let kind = Kind::Fp8;
            situation.quantizations =
                BTreeSet::from([Quantization { backend: Backend::Torchao, kind }]);
        }
        if candidate.offload == Offload::LayerHybrid {
            // What other tools have instead.
            situation.offload.insert(rules::Offload::SequentialCpu);
            situation.offload.insert(rules::Offload::ModelCpu);
        }
        situation.features.extend([Feature::AttentionSlicing, Feature::ExpandableSegments]);
        if self.larger_than_card() {
            situation.features.insert(Feature::LargestComponentExceedsDevice);
        }
        situation
    }

    fn features(&self, candidate: &Candidate) -> BTreeSet<Feature> {
        let streams = !matches!(candidate.offload, Offload::None | Offload::ModelCpu);
        let used = [
            (candidate.tiled_vae, Feature::VaeTiling),
            (!self.wish.lora.is_zero(), Feature::Lora),
            (self.wish.batch > 1, Feature::Batched),
            (self.model.task == Task::Video, Feature::Video),
            (streams && candidate.on_device, Feature::Streams),
            (streams && candidate.on_device, Feature::Prefetch),
        ];
        used.into_iter().filter_map(|(used, feature)| used.then_some(feature)).collect()
    }

    fn classes(&self) -> BTreeSet<String> {
        let classes = self.model.components.iter().filter_map(|part| part.class.as_ref());
        classes.map(|class| class.to_lowercase()).collect()
    }

    fn larger_than_card(&self) -> bool {
        let total = self.gpu().and_then(|gpu| gpu.total.as_ref()).map(|total| total.value);
        let largest = self.model.components.iter().map(|part| part.size()).max();
        total.zip(largest).is_some_and(|(total, largest)| largest > total)
    }

    fn gpu(&self) -> Option<&Gpu> {
        self.machine.gpus.first()
    }
}

fn offload(offload: Offload) -> Option<rules::Offload> {
    Some(match offload {
        Offload::None => return None,
        Offload::ModelCpu => rules::Offload::ModelCpu,
        Offload::LayerHybrid => rules::Offload::LayerHybrid,
        Offload::SequentialCpu => rules::Offload::SequentialCpu,
        Offload::ExpertOffload => rules::Offload::ExpertOffload,
        Offload::Disk => rules::Offload::Disk,
    })
}

fn kind(precision: Precision) -> Option<Kind> {
    Some(match precision {
        Precision::Exact => return None,
        Precision::Fp8 => Kind::Fp8,
        Precision::Int8 => Kind::Int8,
        Precision::Int4 => Kind::Int4,
    })
}

fn warning(found: &Match, concerns: Concerns) -> Warning {
    let rule = found.rule;
    Warning {
        rule: rule.id.clone(),
        title: rule.title.clone(),
        symptom: rule.symptom.clone(),
        remedy: rule.remedy.clone(),
        severity: found.severity(),
        sources: rule.sources.clone(),
        concerns,
    }
}

impl DevicePlan {
    /// The answer, why, and the numbers with their basis, line by line; the first is the answer.
    pub fn lines(&self) -> Vec<String> {
        let Some(best) = self.decision.recommended() else {
            let mut lines = vec!["fits: no".to_owned()];
            let reasons = self.decision.rejected.iter().filter(|one| {
                matches!(
                    one.why,
                    WhyNot::DeviceMemory { .. } | WhyNot::HostMemory { .. } | WhyNot::Rule { .. }
                )
            });
            lines.extend(reasons.take(6).map(|one| format!("  {}: {}", one.name(), one.reason)));
            return lines;
        };
        let mut lines = vec![format!("fits: yes, {}", headline(best))];
        lines.extend(self.memory_lines(best));
        lines.push(self.speed_line(best));
        lines.extend(self.model.notes.iter().map(|note| format!("  note   {note}")));
        lines.extend(self.why(best));
        lines.extend(self.advice_lines());
        lines
    }

    /// The first thing that stands in the way of any plan, in words.
    pub fn why_nothing_fits(&self) -> String {
        let memory = |one: &&Rejected| {
            matches!(one.why, WhyNot::DeviceMemory { .. } | WhyNot::HostMemory { .. })
        };
        let reason = self.decision.rejected.iter().find(memory).map(|one| one.reason.clone());
        reason.unwrap_or_else(|| "nothing fits".to_owned())
    }

    fn memory_lines(&self, best: &Candidate) -> Vec<String> {
        let mut lines = Vec::new();
        let resources = &self.decision.resources;
        if best.on_device {
            for card in resources.accelerators.iter().take(best.devices) {
                let usable = card.usable;
                lines.push(format!(
                    "  GPU    {} of {usable} that can be used of {} ({} kept free)",
                    best.memory.device.expected, card.name, card.reserve
                ));
            }
        }
        let usable = resources.host.free;
        lines.push(format!("  RAM    {} of {usable} that can be used", best.memory.host.expected));
        if !best.memory.disk.is_zero() {
            lines.push(format!("  disk   {} are read for every pass", best.memory.disk));
        }
        for stage in &best.stages {
            let uses: Vec<_> = stage
                .uses
                .iter()
                .map(|one| format!("{} × {} {}", one.passes, one.seconds, one.what))
                .collect();
            let places =
                [("on GPU", stage.device), ("in RAM", stage.host), ("on disk", stage.disk)];
            let places: Vec<_> = places
                .iter()
                .filter(|(_, size)| !size.is_zero())
                .map(|(place, size)| format!("{size} {place}"))
                .collect();
            lines.push(format!(
                "  {:<6} {}: {}; {} beside weights",
                "stage",
                stage.component,
                [places.join(", "), uses.join(", ")].join("; "),
                stage.working
            ));
        }
        lines
    }

    fn speed_line(&self, best: &Candidate) -> String {
        let speed = &best.speed;
        let (low, high) = (speed.seconds.low, speed.seconds.high);
        format!(
            "  speed  about {} per {} ({low} to {high}), {} in all; limited by {}; estimated",
            speed.seconds.expected,
            speed.unit.name(),
            speed.total,
            self.rate_of(best)
        )
    }

    /// What limits, its rate, and where the rate comes from.
    fn rate_of(&self, best: &Candidate) -> String {
        let resources = &self.decision.resources;
        let card = resources.accelerators.first();
        let host = &resources.host;
        let flops =
            |known: &Known<f64>| format!("{:.1} TFLOP/s, {}", known.value / 1e12, known.source);
        let bytes = |known: &Known<BytesPerSecond>| format!("{}, {}", known.value, known.source);
        match (best.speed.limited_by, card) {
            ("compute", Some(card)) => format!("the GPU's compute ({})", flops(&card.flops)),
            ("memory", Some(card)) if best.on_device => {
                format!("the GPU's memory ({})", bytes(&card.memory))
            }
            ("link", Some(card)) => format!("the link to the GPU ({})", bytes(&card.link)),
            ("disk", _) => format!("the disk ({})", bytes(&host.disk)),
            ("processor", _) => format!("the processor ({})", flops(&host.flops)),
            ("compute", None) => "compute".to_owned(),
            _ => format!("main memory ({})", bytes(&host.memory)),
        }
    }

    /// Why not what would have been better, and what to beware of.
    fn why(&self, best: &Candidate) -> Vec<String> {
        let mut lines = Vec::new();
        let better = |offload: Offload| {
            let order = |one: Offload| Offload::ALL.iter().position(|other| *other == one);
            order(offload) < order(best.offload)
        };
        let exact_or_own =
            |precision| precision == Precision::Exact || precision == best.quantization;
        for one in &self.decision.rejected {
            let memory = matches!(
                one.why,
                WhyNot::DeviceMemory { .. } | WhyNot::HostMemory { .. } | WhyNot::Rule { .. }
            );
            let same_side = one.on_device == best.on_device;
            if memory
                && same_side
                && exact_or_own(one.quantization)
                && (better(one.offload) || one.quantization != best.quantization)
            {
                lines.push(format!("  why    not {}: {}", one.name(), one.reason));
            }
        }
        lines.truncate(3);
        if best.quantization != Precision::Exact {
            let risk = format!("{:?}", best.quality_risk).to_lowercase();
            lines.push(format!(
                "  why    {}: the stored precision would take more than a tenth longer in all; quality risk {risk}",
                best.quantization.name()
            ));
        }
        for warning in &self.warnings {
            let whom = match warning.concerns {
                Concerns::Plan => "beware",
                Concerns::OtherTools => "trap  ",
            };
            lines.push(format!(
                "  {whom} {}: {} {}",
                warning.title, warning.symptom, warning.remedy
            ));
        }
        lines
    }

    fn advice_lines(&self) -> Vec<String> {
        let advice = &self.decision.advice;
        let mut lines = Vec::new();
        if let Some(missing) = advice.wait_for {
            lines.push(format!(
                "  hint   with {missing} more free GPU memory, which others hold now, everything would fit as it is stored"
            ));
        }
        if let Some(context) = advice.largest_context {
            lines.push(format!(
                "  hint   the largest context for which this plan fits is {context} tokens"
            ));
        }
        for change in &advice.changes {
            lines.push(format!(
                "  hint   {}: {}, {}",
                change.what, change.candidate, change.seconds
            ));
        }
        lines
    }
}

fn headline(best: &Candidate) -> String {
    match (best.offload, best.on_device) {
        (Offload::None, true) if best.devices > 1 => {
            format!("{}: everything stays on {} GPUs", best.name(), best.devices)
        }
        (Offload::None, true) => format!("{}: everything stays on the GPU", best.name()),
        (Offload::None, false) => format!("{}: everything stays in main memory", best.name()),
        (Offload::ModelCpu, _) => {
            format!("{}: components take turns on the GPU, waiting in RAM", best.name())
        }
        (Offload::LayerHybrid, _) => {
            format!("{}: a part stays on the GPU, the rest streams from RAM", best.name())
        }
        (Offload::SequentialCpu, _) => format!("{}: every layer streams from RAM", best.name()),
        (Offload::ExpertOffload, _) => {
            format!("{}: what every token uses stays on the GPU, experts in RAM", best.name())
        }
        (Offload::Disk, _) => format!("{}: a part streams from disk", best.name()),
    }
}
