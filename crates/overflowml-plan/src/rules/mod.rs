//! Known incompatibilities, as data.
//!
//! The table `rules.toml` says which combinations of offloading, quantisation, features, hardware
//! and package versions are known to fail, how, and what to do instead. The planner asks
//! [`matching`] about each candidate; `doctor` asks [`concerning`] about what is installed. Nothing
//! here looks at a machine: a [`Situation`] says what is asked about.
//!
//! A rule whose version range cannot be checked, because a package's version is not known, is
//! [`Certainty::Possible`]: it becomes a warning, never a refusal.

mod conditions;
mod requirement;
mod situation;
mod version;

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use conditions::When;
pub use requirement::{Alternatives, Certainty, ParseRequirementError, Requirement};
pub use situation::{
    Backend, Device, Feature, Kind, Offload, Os, PackageState, Packages, Quantization, Runtime,
    Situation, package_name,
};
pub use version::{ParseVersionError, Version};

const TABLE: &str = include_str!("rules.toml");

/// A combination that is known to fail or to disappoint.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Stable name, never reused.
    pub id: String,
    /// The combination in a few words.
    pub title: String,
    #[serde(skip_serializing)]
    when: When,
    /// What happens.
    pub symptom: String,
    /// How bad it is.
    pub severity: Severity,
    /// What a planner does with a candidate that it applies to.
    pub effect: Effect,
    /// What to do instead.
    pub remedy: String,
    /// Issues, pull requests, documents and code that say so.
    pub sources: Vec<String>,
    /// What kind of evidence that is.
    pub provenance: Provenance,
    /// When the sources were last read, as `YYYY-MM-DD`.
    pub last_verified: String,
}

/// How bad what a rule describes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Slow, memory lost, or a failure that not everyone sees.
    Warn,
    /// A known crash or a wrong result.
    Refuse,
}

/// What a planner does about a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Says so and goes on.
    Warn,
    /// Does not take the candidate.
    Avoid,
}

/// What a rule is founded on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Provenance {
    /// A report or a change in the project concerned.
    #[serde(rename = "upstream issue or change")]
    Upstream,
    /// The project's documentation, or its code as read.
    #[serde(rename = "upstream documentation or code")]
    Documented,
    /// The original OverflowML's table, without another source.
    #[serde(rename = "reported by the original project")]
    Original,
}

/// A rule that applies to a [`Situation`], or may apply.
#[derive(Clone, Debug)]
pub struct Match {
    /// The rule.
    pub rule: &'static Rule,
    /// [`Certainty::Possible`] or [`Certainty::Certain`].
    pub certainty: Certainty,
    /// What would have to be known to settle it: `the version of torchao`.
    pub unsettled: Vec<String>,
}

impl Match {
    /// The rule's severity; what is only possible is a warning at most.
    pub fn severity(&self) -> Severity {
        match self.certainty {
            Certainty::Certain => self.rule.severity,
            _ => self.rule.severity.min(Severity::Warn),
        }
    }

    /// The rule's effect; what is only possible never excludes a candidate.
    pub fn effect(&self) -> Effect {
        match self.certainty {
            Certainty::Certain => self.rule.effect,
            _ => Effect::Warn,
        }
    }
}

impl fmt::Display for Match {
    /// The combination, what happens, what to do, and what is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule;
        write!(f, "{}: {} {}", rule.title, rule.symptom, rule.remedy)?;
        if !self.unsettled.is_empty() {
            write!(f, " (possible: {} not known)", self.unsettled.join(" and "))?;
        }
        Ok(())
    }
}

impl Rule {
    /// The versions that it is limited to, for example `["accelerate < 1.3"]`; empty for any.
    pub fn versions(&self) -> Vec<String> {
        self.when.versions.iter().map(ToString::to_string).collect()
    }

    /// The packages whose versions it is limited to.
    pub fn packages(&self) -> Vec<&str> {
        let requirements = self.when.versions.iter().flat_map(|alternatives| &alternatives.0);
        requirements.map(Requirement::package).collect()
    }

    fn matched(&'static self, verdict: conditions::Verdict) -> Option<Match> {
        let conditions::Verdict { certainty, unsettled } = verdict;
        (certainty != Certainty::No).then_some(Match { rule: self, certainty, unsettled })
    }
}

/// All rules, in the order of the table.
///
/// Parsed at the first call. The table is part of the program and a test reads all of it, so that
/// it cannot fail to parse where it matters; if it did, there would be no rules.
pub fn rules() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| parse(TABLE).unwrap_or_default());
    &RULES
}

/// The rules that apply to `situation`, or may apply, in the order of the table.
pub fn matching(situation: &Situation) -> Vec<Match> {
    rules().iter().filter_map(|rule| rule.matched(rule.when.verdict(situation))).collect()
}

/// The rules that would apply on this machine with these packages to a plan that uses what they
/// are about: those that have a condition on machine or packages, and for which it holds.
///
/// The plan's part of `situation` is not looked at, except its runtimes. Rules about a quantiser
/// that is not installed are left out.
pub fn concerning(situation: &Situation) -> Vec<Match> {
    let asked = rules().iter().filter(|rule| {
        rule.when.asks_of_surroundings() && !rule.when.quantiser_absent(&situation.packages)
    });
    asked.filter_map(|rule| rule.matched(rule.when.of_surroundings(situation))).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rule: Vec<Rule>,
}

fn parse(table: &str) -> Result<Vec<Rule>, toml::de::Error> {
    toml::from_str(table).map(|table: Table| table.rule)
}

#[cfg(test)]
mod tests;
