//! Python package versions, compared as PEP 440 orders them.

use std::fmt;
use std::str::FromStr;

/// A Python package version, for example `2.6.0+cu124` or `0.36.0.dev0`.
///
/// Ordered as PEP 440 says: `1.0.dev1 < 1.0a1 < 1.0rc1 < 1.0 < 1.0+local < 1.0.post1`.
#[derive(Clone, Debug)]
pub struct Version {
    text: String,
    key: Key,
}

/// What a version is ordered by, most significant first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    epoch: u64,
    release: Vec<u64>,
    pre: Pre,
    post: Option<u64>,
    dev: Dev,
    local: Option<Vec<LocalPart>>,
}

/// Variants in their order: a development release without anything else precedes all pre-releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pre {
    DevOnly,
    Alpha(u64),
    Beta(u64),
    Candidate(u64),
    Final,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Dev {
    Dev(u64),
    No,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LocalPart {
    Text(String),
    Number(u64),
}

/// The text is not a version as PEP 440 defines it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a version as PEP 440 defines it")]
pub struct ParseVersionError {
    /// What was given.
    pub text: String,
}

impl Version {
    /// Whether it precedes the final release of the same number: `rc`, `b`, `a` or `dev`.
    pub fn is_prerelease(&self) -> bool {
        self.key.pre != Pre::Final || self.key.dev != Dev::No
    }

    pub(crate) fn is_postrelease(&self) -> bool {
        self.key.post.is_some()
    }

    pub(crate) fn has_local(&self) -> bool {
        self.key.local.is_some()
    }

    /// The same without `+local`.
    pub(crate) fn public(&self) -> Self {
        let text = self.text.split('+').next().unwrap_or_default().to_owned();
        Self { text, key: Key { local: None, ..self.key.clone() } }
    }

    /// Whether both have the same epoch and release numbers, whatever their suffixes.
    pub(crate) fn same_release(&self, other: &Self) -> bool {
        self.key.epoch == other.key.epoch && self.key.release == other.key.release
    }

    /// Whether this is `numbers` or below it: `2.6.1` is below `2.6`.
    pub(crate) fn starts_with(&self, epoch: u64, numbers: &[u64]) -> bool {
        let own = self.key.release.iter().copied().chain(std::iter::repeat(0));
        self.key.epoch == epoch && own.take(numbers.len()).eq(numbers.iter().copied())
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.key.epoch
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl fmt::Display for Version {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        match key(&lower) {
            Some(key) => Ok(Self { text: text.to_owned(), key }),
            None => Err(ParseVersionError { text: text.to_owned() }),
        }
    }
}

/// Reads a lower-case version; `None` if it is none.
fn key(text: &str) -> Option<Key> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (public, local) = match text.split_once('+') {
        Some((public, local)) => (public, Some(local_parts(local)?)),
        None => (text, None),
    };
    let (epoch, rest) = match public.split_once('!') {
        Some((epoch, rest)) => (epoch.parse().ok()?, rest),
        None => (0, public),
    };
    let (release, rest) = release_numbers(rest)?;
    let (pre, rest) = pre_release(rest)?;
    let (post, rest) = post_release(rest)?;
    let (dev, rest) = suffix(rest, &["dev"])?;
    if !rest.is_empty() {
        return None;
    }
    let pre = match (pre, post, dev) {
        (Some(pre), ..) => pre,
        (None, None, Some(_)) => Pre::DevOnly,
        (None, ..) => Pre::Final,
    };
    Some(Key { epoch, release, pre, post, dev: dev.map_or(Dev::No, Dev::Dev), local })
}

/// `2.6.0` and what follows it.
fn release_numbers(text: &str) -> Option<(Vec<u64>, &str)> {
    let mut numbers = Vec::new();
    let mut rest = text;
    loop {
        let (number, after) = number(rest)?;
        numbers.push(number);
        rest = after;
        match rest.strip_prefix('.') {
            Some(next) if next.starts_with(|c: char| c.is_ascii_digit()) => rest = next,
            _ => break,
        }
    }
    while numbers.len() > 1 && numbers.last() == Some(&0) {
        numbers.pop();
    }
    Some((numbers, rest))
}

/// Leading digits as a number, and the rest; `None` without digits or where they are too many.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

fn pre_release(text: &str) -> Option<(Option<Pre>, &str)> {
    type Made = fn(u64) -> Pre;
    let kinds: [(&[&str], Made); 3] = [
        (&["alpha", "a"], Pre::Alpha),
        (&["beta", "b"], Pre::Beta),
        (&["preview", "pre", "rc", "c"], Pre::Candidate),
    ];
    for (names, made) in kinds {
        if let (Some(number), rest) = suffix(text, names)? {
            return Some((Some(made(number)), rest));
        }
    }
    Some((None, text))
}

fn post_release(text: &str) -> Option<(Option<u64>, &str)> {
    // `1.0-1` is an old way to write `1.0.post1`.
    if let Some(digits) = text.strip_prefix('-')
        && digits.starts_with(|c: char| c.is_ascii_digit())
    {
        let (number, rest) = number(digits)?;
        return Some((Some(number), rest));
    }
    suffix(text, &["post", "rev", "r"])
}

/// An optional part such as `.dev3`, `rc-1` or `a`; a missing number is zero. `None` if its number is too large.
fn suffix<'a>(text: &'a str, names: &[&str]) -> Option<(Option<u64>, &'a str)> {
    let after_separator = text.strip_prefix(['.', '-', '_']).unwrap_or(text);
    let Some(rest) = names.iter().find_map(|name| after_separator.strip_prefix(name)) else {
        return Some((None, text));
    };
    let digits = rest.strip_prefix(['.', '-', '_']).unwrap_or(rest);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Some((Some(0), rest));
    }
    let (number, rest) = number(digits)?;
    Some((Some(number), rest))
}

fn local_parts(text: &str) -> Option<Vec<LocalPart>> {
    let part = |part: &str| {
        let plain = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric());
        plain.then(|| match part.parse() {
            Ok(number) => LocalPart::Number(number),
            Err(_) => LocalPart::Text(part.to_owned()),
        })
    };
    text.split(['.', '-', '_']).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_ordered_as_pep_440_says() {
        let ordered = [
            "0.9",
            "1.0.dev1",
            "1.0.dev2",
            "1.0a1.dev1",
            "1.0a1",
            "1.0a2",
            "1.0b1",
            "1.0rc1.dev2",
            "1.0rc1",
            "1.0rc2",
            "1.0",
            "1.0+abc",
            "1.0+abc.2",
            "1.0+5",
            "1.0.post1.dev1",
            "1.0.post1",
            "1.0.1",
            "1.10",
            "2",
            "1!0.1",
        ];
        for (place, earlier) in ordered.iter().enumerate() {
            for later in &ordered[place + 1..] {
                assert!(version(earlier) < version(later), "{earlier} < {later}");
            }
        }
    }

    #[test]
    fn spellings_of_one_version_are_equal() {
        for (one, other) in [
            ("1.0", "1.0.0"),
            ("1.0RC1", "1.0-c.1"),
            ("1.0alpha", "1.0a0"),
            ("v1.0-1", "1.0.post1"),
            ("1.0.rev2", "1.0post2"),
            ("1.0+Ubuntu-1", "1.0+ubuntu.1"),
            ("1.0_dev3", "1.0.dev3"),
        ] {
            assert_eq!(version(one), version(other), "{one} {other}");
        }
    }

    #[test]
    fn builds_of_torch_are_read() {
        for text in ["2.6.0+cu124", "2.6.0a0+ecf3bae40a.nv25.01", "2.9.0.dev20250801+rocm6.4"] {
            assert_eq!(version(text).to_string(), text);
        }
        assert!(version("2.6.0+cu124") > version("2.6.0"));
        assert!(version("2.6.0a0+ecf3bae40a.nv25.01") < version("2.6.0"));
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in [
            "",
            "main",
            "1.",
            "1..2",
            "1.0-custom",
            "1.0+",
            "1.0+a b",
            "99999999999999999999",
            "1!",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
