//! Licences of the dependency tree, for machines without `cargo-deny`.
//!
//! Reads the same allow-list (`deny.toml`), so that there is one.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::process;

/// Fails if a package of the workspace at `root` has no licence that `deny.toml` allows.
pub fn check(root: &Path) -> Result<()> {
    let settings = fs::read_to_string(root.join("deny.toml")).context("deny.toml")?;
    let allowed = allowed(&settings)?;
    let metadata = process::metadata(root, &["--locked"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut refused = Vec::new();
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none stated");
        if !accepts(licence, &allowed) {
            refused.push(format!("  {}: {licence}", package["name"].as_str().unwrap_or("?")));
        }
    }
    if !refused.is_empty() {
        bail!("no licence that deny.toml allows:\n{}", refused.join("\n"));
    }
    println!("{} packages, all under licences that deny.toml allows", packages.len());
    Ok(())
}

/// The strings of the `allow` array in the `[licenses]` section.
fn allowed(settings: &str) -> Result<Vec<&str>> {
    let (_, section) = settings.split_once("[licenses]").context("deny.toml has no [licenses]")?;
    let (_, list) = section.split_once("allow = [").context("deny.toml allows no licence")?;
    let (list, _) = list.split_once(']').context("deny.toml: the allow list has no end")?;
    Ok(list.split('"').skip(1).step_by(2).collect())
}

/// Whether an SPDX expression can be satisfied with licences in `allowed`.
///
/// `AND` binds stronger than `OR`; the old `A/B` means `A OR B`.
fn accepts(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&words, &mut at, allowed) && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut accepted = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        accepted |= all_of(words, at, allowed);
    }
    accepted
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut accepted = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        accepted &= one(words, at, allowed);
    }
    accepted
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let accepted = any_of(words, at, allowed);
        *at += 1;
        return accepted;
    }
    let mut name = word.to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[&str] =
        &["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];

    #[test]
    fn expressions_are_read_with_their_precedence() {
        for fine in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "GPL-3.0 AND BSL-1.0 OR MIT",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(accepts(fine, ALLOWED), "{fine}");
        }
        for refused in ["GPL-3.0", "MIT AND GPL-3.0", "none stated", "(GPL-3.0 OR BSL-1.0) AND MIT"]
        {
            assert!(!accepts(refused, ALLOWED), "{refused}");
        }
    }

    #[test]
    fn the_allow_list_is_the_one_of_the_licence_section() -> Result<()> {
        let text = "[bans]\nallow = [\"no\"]\n[licenses]\nallow = [\n  \"MIT\",\n  \"ISC\",\n]\n";
        assert_eq!(allowed(text)?, ["MIT", "ISC"]);
        Ok(())
    }
}
