//! Which versions of a package a rule is about.

use std::fmt;

use serde::Deserialize;

use super::situation::{PackageState, Packages, package_name};
use super::version::Version;

/// How surely something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// It is not so.
    No,
    /// What is known does not settle it.
    Possible,
    /// It is so.
    Certain,
}

impl Certainty {
    /// A settled question.
    pub(crate) const fn settled(yes: bool) -> Self {
        if yes { Self::Certain } else { Self::No }
    }
}

/// Versions of one package: `diffusers >= 0.33, < 0.36`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Requirement {
    package: String,
    clauses: Vec<Clause>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Clause {
    operator: Operator,
    version: Version,
    /// The numbers as written, trailing zeros included: what `==1.0.*` and `~=1.0.0` compare.
    numbers: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
    NotEqual,
    Compatible,
    StartsWith,
    StartsNotWith,
}

/// Why a text is not a requirement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRequirementError {
    /// There is no name, or nothing after it.
    #[error("`{text}` is not a requirement: expected a package and versions, like `torchao < 0.9`")]
    Incomplete {
        /// What was given.
        text: String,
    },
    /// A part does not begin with an operator.
    #[error("`{clause}` does not begin with one of <, <=, >, >=, ==, !=, ~=")]
    UnknownOperator {
        /// The part.
        clause: String,
    },
    /// A part's version cannot be read.
    #[error("`{clause}` does not end with a version")]
    NoVersion {
        /// The part.
        clause: String,
    },
}

impl Requirement {
    /// The package, as PEP 503 normalises names.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// Whether `version` is one of those meant.
    ///
    /// As PEP 440 says, with one exception: a pre-release of the version that `<` excludes is
    /// possible, because a nightly build may have been made before or after the change in question.
    pub fn contains(&self, version: &Version) -> Certainty {
        let each = self.clauses.iter().map(|clause| clause.contains(version));
        each.min().unwrap_or(Certainty::Certain)
    }

    /// Whether an installed version is one of those meant.
    pub(crate) fn holds_in(&self, packages: &Packages) -> Certainty {
        match packages.state(&self.package) {
            Some(PackageState::Installed(version)) => self.contains(version),
            Some(PackageState::Absent) => Certainty::No,
            None => Certainty::Possible,
        }
    }

    /// Versions at and around the bounds: what tests try.
    #[cfg(test)]
    pub(crate) fn probes(&self) -> Vec<Version> {
        let around = |clause: &Clause| {
            let base = clause.version.public().to_string();
            [format!("{base}.1"), format!("{base}.post1"), base]
        };
        let mut texts: Vec<String> = self.clauses.iter().flat_map(around).collect();
        texts.extend(["0".to_owned(), "99999".to_owned()]);
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

impl Clause {
    fn contains(&self, version: &Version) -> Certainty {
        let bound = &self.version;
        let public = version.public();
        let settled = match self.operator {
            Operator::Less => {
                if public.is_prerelease() && !bound.is_prerelease() && public.same_release(bound) {
                    return Certainty::Possible;
                }
                public < *bound
            }
            Operator::AtMost => public <= *bound,
            Operator::AtLeast => public >= *bound,
            Operator::Greater => {
                let only_later_build = public.is_postrelease()
                    && !bound.is_postrelease()
                    && public.same_release(bound);
                public > *bound && !only_later_build
            }
            Operator::Equal => self.equals(version),
            Operator::NotEqual => !self.equals(version),
            Operator::StartsWith => version.starts_with(bound.epoch(), &self.numbers),
            Operator::StartsNotWith => !version.starts_with(bound.epoch(), &self.numbers),
            Operator::Compatible => {
                let all_but_last = &self.numbers[..self.numbers.len().saturating_sub(1)];
                public >= *bound && version.starts_with(bound.epoch(), all_but_last)
            }
        };
        Certainty::settled(settled)
    }

    /// `==1.0` also means `1.0+cu124`; `==1.0+cu124` means only that build.
    fn equals(&self, version: &Version) -> bool {
        if self.version.has_local() {
            *version == self.version
        } else {
            version.public() == self.version
        }
    }
}

impl TryFrom<String> for Requirement {
    type Error = ParseRequirementError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let incomplete = || ParseRequirementError::Incomplete { text: text.clone() };
        let end = text.find(['<', '>', '=', '!', '~']).ok_or_else(incomplete)?;
        let (package, clauses) = text.split_at(end);
        let package = package_name(package);
        if package.is_empty() {
            return Err(incomplete());
        }
        let clauses =
            clauses.split(',').map(|text| clause(text.trim())).collect::<Result<_, _>>()?;
        Ok(Self { package, clauses })
    }
}

fn clause(text: &str) -> Result<Clause, ParseRequirementError> {
    const OPERATORS: [(&str, Operator); 7] = [
        ("<=", Operator::AtMost),
        (">=", Operator::AtLeast),
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("~=", Operator::Compatible),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let found =
        OPERATORS.iter().find_map(|(sign, operator)| Some((text.strip_prefix(sign)?, operator)));
    let Some((version, operator)) = found else {
        return Err(ParseRequirementError::UnknownOperator { clause: text.to_owned() });
    };
    let no_version = || ParseRequirementError::NoVersion { clause: text.to_owned() };
    let version = version.trim();
    let (version, operator) = match (version.strip_suffix(".*"), operator) {
        (Some(start), Operator::Equal) => (start, Operator::StartsWith),
        (Some(start), Operator::NotEqual) => (start, Operator::StartsNotWith),
        (Some(_), _) => return Err(no_version()),
        (None, operator) => (version, *operator),
    };
    let parsed: Version = version.parse().map_err(|_| no_version())?;
    let numbers: Vec<u64> = version
        .rsplit('!')
        .next()
        .unwrap_or_default()
        .split('.')
        .map_while(|number| number.parse().ok())
        .collect();
    // `~=2` would mean any version at all.
    if operator == Operator::Compatible && numbers.len() < 2 {
        return Err(no_version());
    }
    Ok(Clause { operator, version: parsed, numbers })
}

impl fmt::Display for Requirement {
    /// `torchao < 0.9`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.package)?;
        for (place, clause) in self.clauses.iter().enumerate() {
            let (sign, end) = match clause.operator {
                Operator::Less => ("<", ""),
                Operator::AtMost => ("<=", ""),
                Operator::Greater => (">", ""),
                Operator::AtLeast => (">=", ""),
                Operator::Equal => ("==", ""),
                Operator::NotEqual => ("!=", ""),
                Operator::Compatible => ("~=", ""),
                Operator::StartsWith => ("==", ".*"),
                Operator::StartsNotWith => ("!=", ".*"),
            };
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma} {sign} {}{end}", clause.version)?;
        }
        Ok(())
    }
}

/// Requirements of which one must hold: `transformers < 4.58 || bitsandbytes < 0.48`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Alternatives(pub(crate) Vec<Requirement>);

impl Alternatives {
    /// Whether one of them holds.
    pub(crate) fn holds_in(&self, packages: &Packages) -> Certainty {
        self.0.iter().map(|one| one.holds_in(packages)).max().unwrap_or(Certainty::No)
    }
}

impl TryFrom<String> for Alternatives {
    type Error = ParseRequirementError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.split("||")
            .map(|one| Requirement::try_from(one.to_owned()))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Alternatives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(requirement: &str, version: &str) -> Certainty {
        Requirement::try_from(requirement.to_owned()).unwrap().contains(&version.parse().unwrap())
    }

    #[test]
    fn ranges_contain_what_pep_440_says() {
        use Certainty::{Certain, No};
        for (requirement, version, expected) in [
            ("torchao < 0.9", "0.8.0", Certain),
            ("torchao < 0.9", "0.8.0.post1", Certain),
            ("torchao < 0.9", "0.8.9+cu126", Certain),
            ("torchao < 0.9", "0.9.0", No),
            ("torchao < 0.9", "0.9.0+cu126", No),
            ("torchao < 0.9", "0.10.0", No),
            ("torch <= 2.6", "2.6.0+cu124", Certain),
            ("torch > 2.6", "2.6.0+cu124", No),
            ("torch > 2.6", "2.6.0.post1", No),
            ("torch > 2.6", "2.6.1", Certain),
            ("torch > 2.6.0.post1", "2.6.0.post2", Certain),
            ("torch >= 2.8, < 2.10", "2.9.1", Certain),
            ("torch >= 2.8, < 2.10", "2.10.0", No),
            ("torch >= 2.8, < 2.10", "2.8.0rc1", No),
            ("bitsandbytes == 0.48.0", "0.48.0", Certain),
            ("bitsandbytes == 0.48.0", "0.48", Certain),
            ("bitsandbytes == 0.48.0", "0.48.0+local", Certain),
            ("bitsandbytes == 0.48.0+a", "0.48.0+b", No),
            ("bitsandbytes == 0.48.0", "0.48.1", No),
            ("bitsandbytes != 0.48.0", "0.48.1", Certain),
            ("torch == 2.8.*", "2.8.1+cu128", Certain),
            ("torch == 2.0.*", "2", Certain),
            ("torch == 2.8.*", "2.80", No),
            ("torch != 2.8.*", "2.8", No),
            ("torch ~= 2.8.1", "2.8.4", Certain),
            ("torch ~= 2.8.1", "2.9", No),
            ("torch ~= 2.8", "2.9", Certain),
            ("torch ~= 2.8", "3.0", No),
        ] {
            assert_eq!(contains(requirement, version), expected, "{version} in {requirement}");
        }
    }

    #[test]
    fn a_nightly_build_of_the_first_fixed_version_is_possible() {
        for version in ["0.36.0.dev0", "0.36.0rc1", "0.36.0a1+git"] {
            assert_eq!(contains("diffusers < 0.36", version), Certainty::Possible, "{version}");
        }
        assert_eq!(contains("diffusers < 0.36", "0.35.0.dev0"), Certainty::Certain);
        assert_eq!(contains("diffusers < 0.36.0rc2", "0.36.0rc1"), Certainty::Certain);
        assert_eq!(contains("diffusers < 0.36.0rc2", "0.36.0rc3"), Certainty::No);
    }

    #[test]
    fn what_is_no_requirement_is_refused() {
        for text in
            ["torch", "< 2", "torch 2", "torch < ", "torch <> 2", "torch < 2.*", "torch ~= 2"]
        {
            assert!(Requirement::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn requirements_print_as_they_are_written() {
        let text = "Flash_Attn >= 2.0, != 2.8.*";
        let requirement = Requirement::try_from(text.to_owned()).unwrap();
        assert_eq!(requirement.to_string(), "flash-attn >= 2.0, != 2.8.*");
    }
}
