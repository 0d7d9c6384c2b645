//! Installed Python packages, read from their files: nothing is imported.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use overflowml_plan::rules::{self, PackageState, Packages, Version, package_name};

/// More of a metadata file than its header ever takes.
const MOST_READ: u64 = 64 << 10;

/// Packages that are always looked for.
pub(super) const LOOKED_FOR: [&str; 13] = [
    "torch",
    "transformers",
    "accelerate",
    "diffusers",
    "torchao",
    "bitsandbytes",
    "flash-attn",
    "safetensors",
    "peft",
    "gguf",
    "optimum-quanto",
    "nunchaku",
    "overflowml",
];

/// How torch was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TorchBuild {
    pub(super) cuda: Option<String>,
    pub(super) hip: Option<String>,
    pub(super) xpu: Option<String>,
}

/// What is installed in an interpreter's folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Installed {
    /// Versions by normalised name.
    pub(super) versions: BTreeMap<String, String>,
    /// `None` if there is no torch, or it does not say.
    pub(super) torch: Option<TorchBuild>,
}

impl Installed {
    /// Reads the folders in the order in which Python searches them.
    pub(super) fn read(folders: &[PathBuf]) -> Self {
        let wanted = wanted();
        let mut versions = BTreeMap::new();
        for folder in folders {
            for (name, version) in in_folder(folder, &wanted) {
                versions.entry(name).or_insert(version);
            }
        }
        let file = |folder: &PathBuf| read_start(&folder.join("torch").join("version.py"));
        let torch = versions
            .contains_key("torch")
            .then(|| folders.iter().find_map(file).map(|text| parse_torch_version(&text)))
            .flatten();
        Self { versions, torch }
    }

    /// What rules ask: every package that was looked for is there or absent.
    pub(super) fn states(&self) -> Packages {
        let mut packages = Packages::default();
        for name in wanted() {
            match self.versions.get(&name).map(|version| version.parse::<Version>()) {
                Some(Ok(version)) => packages.set(&name, PackageState::Installed(version)),
                // A version that cannot be compared is not known.
                Some(Err(_)) => {}
                None => packages.set(&name, PackageState::Absent),
            }
        }
        packages
    }
}

/// Normalised names of everything that a check or a rule asks about.
fn wanted() -> BTreeSet<String> {
    let of_rules = rules::rules().iter().flat_map(rules::Rule::packages);
    LOOKED_FOR.into_iter().chain(of_rules).map(package_name).collect()
}

/// Names and versions of the wanted packages in one folder. Where an interrupted upgrade left two
/// of one name, the newer one counts.
fn in_folder(folder: &Path, wanted: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".dist-info")) else {
            continue;
        };
        let package = package_name(stem.split('-').next().unwrap_or_default());
        if !wanted.contains(&package) {
            continue;
        }
        let Some((name, version)) =
            read_start(&entry.path().join("METADATA")).and_then(|text| parse_metadata(&text))
        else {
            continue;
        };
        let newer = |before: &String| match (version.parse::<Version>(), before.parse()) {
            (Ok(version), Ok(before)) => version > before,
            _ => false,
        };
        if found.get(&name).is_none_or(newer) {
            found.insert(name, version);
        }
    }
    found
}

fn read_start(file: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(MOST_READ).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The normalised name and the version in a METADATA file's header.
fn parse_metadata(text: &str) -> Option<(String, String)> {
    let header = || text.lines().take_while(|line| !line.trim().is_empty());
    let field = |name: &str| {
        header().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let (name, version) = (field("Name")?, field("Version")?);
    let plain = !name.is_empty() && !version.is_empty() && version.len() < 128;
    plain.then(|| (package_name(&name), version))
}

/// `cuda`, `hip` and `xpu` in the text of `torch/version.py`: `cuda: Optional[str] = '12.4'`.
fn parse_torch_version(text: &str) -> TorchBuild {
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with([' ', ':', '=']) {
                return None;
            }
            let value = rest.split_once('=')?.1.trim();
            let quoted = value.strip_prefix(['\'', '"'])?;
            let end = quoted.find(['\'', '"'])?;
            (end > 0).then(|| quoted[..end].to_owned())
        })
    };
    TorchBuild { cuda: value("cuda"), hip: value("hip"), xpu: value("xpu") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUDA: &str = "from typing import Optional\n\n__all__ = ['__version__', 'debug', 'cuda', \
                        'git_version', 'hip', 'xpu']\n__version__ = '2.6.0+cu124'\ndebug = False\ncuda: Optional[str] = '12.4'\n\
                        git_version = '2236df1770800ffea5697b11b0bb0d910b2e59e1'\nhip: Optional[str] = None\n\
                        xpu: Optional[str] = None\n";
    const ROCM: &str =
        "__version__ = '2.4.1+rocm6.1'\ndebug = False\ncuda = None\nhip = '6.1.40091-a8dbc0c19'\n";
    const CPU: &str =
        "__version__ = \"2.15.0+cpu\"\ncuda: Optional[str] = None\nhip: Optional[str] = None\n";

    #[test]
    fn torch_tells_what_it_was_built_for() {
        let build = parse_torch_version(CUDA);
        assert_eq!(build, TorchBuild { cuda: Some("12.4".to_owned()), hip: None, xpu: None });
        assert_eq!(parse_torch_version(ROCM).hip.unwrap(), "6.1.40091-a8dbc0c19");
        assert_eq!(parse_torch_version(CPU), TorchBuild::default());
        assert_eq!(parse_torch_version("cuda_extra = '1'\nhip = ''\n"), TorchBuild::default());
    }

    #[test]
    fn metadata_is_read_up_to_its_first_blank_line() {
        let text = "Metadata-Version: 2.1\nName: Flash_Attn\nVersion: 2.7.4.post1\nSummary: x\n\nVersion: 9\n";
        assert_eq!(parse_metadata(text), Some(("flash-attn".to_owned(), "2.7.4.post1".to_owned())));
        assert_eq!(parse_metadata("Name: a\n\nVersion: 1\n"), None);
        assert_eq!(parse_metadata("Version: 1\n"), None);
        assert_eq!(parse_metadata("Name: a\nVersion:\n"), None);
    }

    fn install(folder: &Path, name: &str, version: &str) {
        let info = folder.join(format!("{name}-{version}.dist-info"));
        std::fs::create_dir_all(&info).unwrap();
        let text = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nA text.\n");
        std::fs::write(info.join("METADATA"), text).unwrap();
    }

    #[test]
    fn the_first_folder_wins_and_within_one_the_newest() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        install(first.path(), "torchao", "0.9.0");
        install(first.path(), "torchao", "0.10.0");
        install(first.path(), "requests", "2.0");
        install(second.path(), "torchao", "0.12.0");
        install(second.path(), "torch", "2.6.0+cu124");
        std::fs::create_dir(second.path().join("torch")).unwrap();
        std::fs::write(second.path().join("torch/version.py"), CUDA).unwrap();
        std::fs::create_dir(second.path().join("peft-1.0.dist-info")).unwrap();
        let folders = [first.path().to_owned(), second.path().to_owned(), "/no/such".into()];
        let installed = Installed::read(&folders);
        let expected = [("torch", "2.6.0+cu124"), ("torchao", "0.10.0")];
        let expected = expected.map(|(name, version)| (name.to_owned(), version.to_owned()));
        assert_eq!(installed.versions, expected.into());
        assert_eq!(installed.torch.as_ref().unwrap().cuda.as_deref(), Some("12.4"));
        let states = installed.states();
        assert_eq!(
            states.state("torchao"),
            Some(&PackageState::Installed("0.10.0".parse().unwrap()))
        );
        assert_eq!(states.state("accelerate"), Some(&PackageState::Absent));
    }

    #[test]
    fn a_version_that_cannot_be_compared_is_not_known() {
        let versions = [("torch".to_owned(), "from-git".to_owned())].into();
        let installed = Installed { versions, torch: None };
        assert_eq!(installed.states().state("torch"), None);
    }
}
