//! Every rule is tried from its own conditions, and the important ones from situations written by hand.

use overflowml_types::{Pool, Vendor};

use super::conditions::{QuantPattern, VendorOrNone, When};
use super::*;

fn parsed() -> Vec<Rule> {
    parse(TABLE).unwrap()
}

fn rule(id: &str) -> &'static Rule {
    rules().iter().find(|rule| rule.id == id).unwrap_or_else(|| panic!("no rule `{id}`"))
}

fn device(vendor: Vendor, architecture: Option<&str>, pool: Pool) -> Device {
    Device { vendor, architecture: architecture.map(str::to_owned), pool }
}

fn vendor_of(vendor: VendorOrNone) -> Option<Vendor> {
    match vendor {
        VendorOrNone::Nvidia => Some(Vendor::Nvidia),
        VendorOrNone::Amd => Some(Vendor::Amd),
        VendorOrNone::Intel => Some(Vendor::Intel),
        VendorOrNone::Apple => Some(Vendor::Apple),
        VendorOrNone::None => None,
    }
}

fn without_star(pattern: &str) -> String {
    pattern.trim_end_matches('*').to_owned()
}

/// A situation in which every condition of `when` holds, by the first of each list.
fn met(when: &When) -> Situation {
    let mut met = Situation::default();
    met.runtimes.extend(when.runtime.first());
    met.offload.extend(when.offload.first());
    met.features.extend(&when.features);
    met.components.extend(when.components.first().map(|name| without_star(name)));
    met.os = when.os.first().copied();
    met.quantizations.extend(when.quant.first().map(|pattern| Quantization {
        backend: pattern.backend.unwrap_or(Backend::Plain),
        kind: pattern.kind.unwrap_or(Kind::Other),
    }));
    let vendor = when.vendor.first().copied().map_or(Some(Vendor::Other), vendor_of);
    met.device = vendor.map(|vendor| {
        let architecture = when.architecture.first().map(|name| without_star(name));
        device(vendor, architecture.as_deref(), when.pool.unwrap_or_default())
    });
    for alternatives in &when.versions {
        let requirement = &alternatives.0[0];
        let inside = requirement
            .probes()
            .into_iter()
            .find(|version| requirement.contains(version) == Certainty::Certain)
            .unwrap_or_else(|| panic!("nothing is in `{requirement}`"));
        met.packages.set(requirement.package(), PackageState::Installed(inside));
    }
    // What the other alternatives ask for must not decide.
    for other in when.versions.iter().flat_map(|alternatives| &alternatives.0[1..]) {
        met.packages.set(other.package(), PackageState::Absent);
    }
    met
}

/// The same situation with one condition at a time broken, each with the name of that condition.
fn broken(when: &When) -> Vec<(String, Situation)> {
    let mut all = Vec::new();
    let mut add = |what: &str, change: &dyn Fn(&mut Situation)| {
        let mut situation = met(when);
        change(&mut situation);
        all.push((what.to_owned(), situation));
    };
    if !when.runtime.is_empty() {
        add("runtime", &|situation| situation.runtimes.clear());
    }
    if !when.offload.is_empty() {
        add("offload", &|situation| situation.offload.clear());
    }
    if !when.quant.is_empty() {
        add("quant", &|situation| situation.quantizations.clear());
        break_quant(when, &mut add);
    }
    for feature in &when.features {
        add("feature", &|situation| {
            situation.features.remove(feature);
        });
    }
    for feature in &when.without {
        add("without", &|situation| {
            situation.features.insert(*feature);
        });
    }
    if !when.components.is_empty() {
        add("components", &|situation| situation.components = ["x".to_owned()].into());
    }
    break_machine(when, &mut add);
    for requirement in when.versions.iter().map(|alternatives| &alternatives.0[0]) {
        let outside = requirement
            .probes()
            .into_iter()
            .find(|version| requirement.contains(version) == Certainty::No)
            .unwrap_or_else(|| panic!("everything is in `{requirement}`"));
        let package = requirement.package();
        let installed = PackageState::Installed(outside);
        add("version", &|situation| situation.packages.set(package, installed.clone()));
        add("package", &|situation| situation.packages.set(package, PackageState::Absent));
    }
    all
}

fn break_quant(when: &When, add: &mut impl FnMut(&str, &dyn Fn(&mut Situation))) {
    let names = |pattern: &QuantPattern| (pattern.backend.is_some(), pattern.kind.is_some());
    for (named_backend, named_kind) in when.quant.iter().map(names) {
        let change = move |situation: &mut Situation| {
            let taken = std::mem::take(&mut situation.quantizations);
            // No rule is about plain weights by name, nor about weights of another kind.
            situation.quantizations.extend(taken.into_iter().map(|quantization| Quantization {
                backend: if named_backend { Backend::Plain } else { quantization.backend },
                kind: if named_kind { Kind::Other } else { quantization.kind },
            }));
        };
        if named_backend || named_kind {
            add("backend or kind", &change);
        }
    }
}

fn break_machine(when: &When, add: &mut impl FnMut(&str, &dyn Fn(&mut Situation))) {
    if let Some(other) =
        [Os::Linux, Os::Wsl, Os::Windows, Os::Macos].into_iter().find(|os| !when.os.contains(os))
        && !when.os.is_empty()
    {
        add("os", &move |situation| situation.os = Some(other));
    }
    if !when.vendor.is_empty() {
        add("vendor", &|situation| {
            let asked = situation.device.take();
            let architecture = asked.and_then(|device| device.architecture);
            let vendor = if when.vendor.contains(&VendorOrNone::Nvidia) {
                Vendor::Other
            } else {
                Vendor::Nvidia
            };
            situation.device = Some(Device { vendor, architecture, pool: Pool::Own });
        });
    }
    if !when.architecture.is_empty() {
        add("architecture", &|situation| {
            if let Some(device) = &mut situation.device {
                device.architecture = Some("sm_0".to_owned());
            }
        });
    }
    if let Some(pool) = when.pool {
        let other = if pool == Pool::Own { Pool::Shared } else { Pool::Own };
        add("pool", &move |situation| {
            if let Some(device) = &mut situation.device {
                device.pool = other;
            }
        });
        add("no device", &|situation| situation.device = None);
    }
}

#[test]
fn every_row_of_the_table_is_a_rule_with_a_name_of_its_own() {
    let parsed = parsed();
    let mut ids: Vec<&str> = parsed.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(parsed.len(), TABLE.matches("\n[[rule]]").count());
    assert_eq!(rules().len(), parsed.len());
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), parsed.len());
}

#[test]
fn every_rule_says_what_happens_what_to_do_and_who_says_so() {
    for rule in rules() {
        let id = &rule.id;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(id.chars().all(plain), "{id}");
        assert!(rule.symptom.ends_with('.') && rule.remedy.ends_with('.'), "{id}");
        assert!(!rule.title.ends_with('.') && !rule.title.is_empty(), "{id}");
        assert!(!rule.sources.is_empty(), "{id}");
        let date: Vec<&str> = rule.last_verified.split('-').collect();
        assert!(
            matches!(date[..], [y, m, d] if y.len() == 4 && m.len() == 2 && d.len() == 2),
            "{id}"
        );
        if rule.severity == Severity::Refuse {
            assert_eq!(rule.effect, Effect::Avoid, "{id}: what fails must not be planned");
        }
        if rule.severity == Severity::Note {
            assert_eq!(rule.effect, Effect::Warn, "{id}: a note excludes nothing");
        }
    }
}

#[test]
fn the_four_rows_of_the_original_are_there_with_their_provenance() {
    let original: Vec<&Rule> =
        rules().iter().filter(|rule| rule.provenance == Provenance::Original).collect();
    assert_eq!(original.len(), 4);
    assert!(original.iter().all(|rule| rule.id.starts_with("original-")));
}

#[test]
fn every_rule_applies_where_all_its_conditions_hold() {
    for rule in rules() {
        let found = matching(&met(&rule.when));
        let own = found.iter().find(|found| found.rule.id == rule.id);
        let own = own.unwrap_or_else(|| panic!("{} does not match its own conditions", rule.id));
        assert_eq!(own.certainty, Certainty::Certain, "{}", rule.id);
        assert_eq!((own.severity(), own.effect()), (rule.severity, rule.effect), "{}", rule.id);
    }
}

#[test]
fn no_rule_applies_once_one_of_its_conditions_is_broken() {
    let mut tried = 0;
    for rule in rules() {
        let broken = broken(&rule.when);
        assert!(!broken.is_empty(), "{} has no conditions", rule.id);
        for (condition, situation) in broken {
            let applies = matching(&situation).iter().any(|found| found.rule.id == rule.id);
            assert!(!applies, "{} does not need its {condition}", rule.id);
            tried += 1;
        }
    }
    assert!(tried > 2 * rules().len(), "only {tried} conditions");
}

#[test]
fn each_entry_of_a_list_matters() {
    for rule in rules() {
        let every = |change: &mut dyn FnMut(&mut Situation)| {
            let mut situation = met(&rule.when);
            change(&mut situation);
            assert!(
                matching(&situation).iter().any(|found| found.rule.id == rule.id),
                "{}",
                rule.id
            );
        };
        for runtime in &rule.when.runtime {
            every(&mut |situation| situation.runtimes = [*runtime].into());
        }
        for offload in &rule.when.offload {
            every(&mut |situation| situation.offload = [*offload].into());
        }
        for os in &rule.when.os {
            every(&mut |situation| situation.os = Some(*os));
        }
        for component in &rule.when.components {
            every(&mut |situation| situation.components = [without_star(component)].into());
        }
    }
}

#[test]
fn an_unknown_version_makes_a_rule_possible_and_never_a_refusal() {
    for rule in rules().iter().filter(|rule| !rule.when.versions.is_empty()) {
        let situation = Situation { packages: Packages::default(), ..met(&rule.when) };
        let found = matching(&situation);
        let own = found.iter().find(|found| found.rule.id == rule.id).unwrap();
        assert_eq!(own.certainty, Certainty::Possible, "{}", rule.id);
        assert!(own.severity() <= Severity::Warn, "{}", rule.id);
        assert_eq!(own.effect(), Effect::Warn, "{}", rule.id);
        assert!(own.to_string().contains("not known"), "{own}");
    }
}

#[test]
fn an_unknown_architecture_or_system_is_possible_too() {
    let hopper = Situation {
        quantizations: [Quantization { backend: Backend::Nunchaku, kind: Kind::Int4 }].into(),
        device: Some(device(Vendor::Nvidia, None, Pool::Own)),
        ..Situation::default()
    };
    let found = matching(&hopper);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].certainty, found[0].severity()), (Certainty::Possible, Severity::Warn));
    assert_eq!(found[0].unsettled, ["the accelerator's architecture"]);
    let somewhere = Situation { features: [Feature::PinnedMemory].into(), ..Situation::default() };
    let found = matching(&somewhere);
    assert_eq!(found[0].unsettled, ["the operating system"]);
}

fn diffusers(offload: Offload, backend: Backend, kind: Kind, version: &str) -> Situation {
    let mut situation = Situation {
        runtimes: [Runtime::Diffusers].into(),
        offload: [offload].into(),
        quantizations: [Quantization { backend, kind }].into(),
        os: Some(Os::Linux),
        device: Some(device(Vendor::Nvidia, Some("sm_89"), Pool::Own)),
        ..Situation::default()
    };
    for package in ["diffusers", "accelerate", "transformers", "bitsandbytes", "torch"] {
        situation.packages.set(package, PackageState::Installed(version.parse().unwrap()));
    }
    situation
}

#[test]
fn combinations_written_by_hand_find_exactly_their_rules() {
    use Offload::{Group, ModelCpu, SequentialCpu};
    let newest = "99";
    let with = |mut situation: Situation, features: &[Feature]| {
        situation.features.extend(features);
        situation
    };
    let cases: [(Situation, &[&str]); 8] = [
        (diffusers(ModelCpu, Backend::Torchao, Kind::Fp8, newest), &[]),
        (
            with(diffusers(ModelCpu, Backend::Torchao, Kind::Fp8, newest), &[Feature::Compile]),
            &["torchao-fp8-model-offload-compile", "compile-accelerate-hooks"],
        ),
        (
            diffusers(SequentialCpu, Backend::Torchao, Kind::Int8, "1.2.1"),
            &["torchao-sequential-offload"],
        ),
        (diffusers(SequentialCpu, Backend::Gguf, Kind::Q6K, newest), &["gguf-sequential-offload"]),
        (
            with(
                diffusers(Group, Backend::Plain, Kind::Other, "0.35.2"),
                &[Feature::Streams, Feature::RecordStream],
            ),
            &["group-offload-record-stream"],
        ),
        (
            diffusers(Group, Backend::Torchao, Kind::Int8, "0.37.1"),
            &["torchao-group-offload-device"],
        ),
        (diffusers(Group, Backend::Torchao, Kind::Int8, "0.38.0"), &[]),
        (
            with(
                diffusers(SequentialCpu, Backend::Plain, Kind::Other, newest),
                &[Feature::AttentionSlicing],
            ),
            &["original-attention-slicing-sequential"],
        ),
    ];
    for (situation, expected) in cases {
        let found: Vec<String> =
            matching(&situation).iter().map(|found| found.rule.id.clone()).collect();
        assert_eq!(found, expected, "{situation:?}");
    }
}

#[test]
fn our_own_engine_offloads_fp8_on_windows_without_objection() {
    let ours = Situation {
        runtimes: [Runtime::Overflowml].into(),
        os: Some(Os::Windows),
        ..diffusers(Offload::SequentialCpu, Backend::Torchao, Kind::Fp8, "0.30")
    };
    assert!(matching(&ours).is_empty(), "{:?}", matching(&ours));
    let theirs = Situation { runtimes: [Runtime::Diffusers].into(), ..ours };
    assert!(matching(&theirs).iter().any(|found| found.rule.id == "original-fp8-offload-windows"));
}

#[test]
fn one_memory_is_never_offloaded_between_its_halves_but_may_stream_from_disk() {
    let mac = |offload| Situation {
        offload: [offload].into(),
        device: Some(device(Vendor::Apple, None, Pool::Shared)),
        ..Situation::default()
    };
    let found = matching(&mac(Offload::ModelCpu));
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].rule.id.as_str(), found[0].effect()),
        ("unified-memory-offload", Effect::Avoid)
    );
    assert!(matching(&mac(Offload::Disk)).is_empty());
}

#[test]
fn what_concerns_a_machine_does_not_depend_on_a_plan() {
    let mut situation = Situation {
        runtimes: [Runtime::Diffusers, Runtime::Torch].into(),
        os: Some(Os::Linux),
        ..Situation::default()
    };
    situation.packages.set("diffusers", PackageState::Installed("0.35.1".parse().unwrap()));
    situation.packages.set("Torch", PackageState::Installed("2.9.1+cu128".parse().unwrap()));
    for package in ["accelerate", "transformers", "bitsandbytes", "comfyui"] {
        situation.packages.set(package, PackageState::Absent);
    }
    let found: Vec<&str> =
        concerning(&situation).iter().map(|found| found.rule.id.as_str()).collect();
    for expected in
        ["torchao-group-offload-device", "group-offload-record-stream", "torch-2-8-2-9-memory"]
    {
        assert!(found.contains(&expected), "{expected} in {found:?}");
    }
    // Repaired before this version, about another system, or without a condition on machine or packages.
    for other in ["lora-after-group-offload", "musubi-fp8-windows", "gguf-sequential-offload"] {
        assert!(!found.contains(&other), "{other} in {found:?}");
    }
    situation.packages.set("torchao", PackageState::Absent);
    let found = concerning(&situation);
    assert!(!found.iter().any(|found| found.rule.id == "torchao-group-offload-device"));
    assert!(found.iter().any(|found| found.rule.id == "group-offload-record-stream"));
}

#[test]
fn a_rule_names_the_versions_it_is_about() {
    let rule = rule("bnb-int8-model-offload");
    assert_eq!(rule.versions(), ["transformers < 4.58 or bitsandbytes < 0.48 or diffusers < 0.37"]);
    assert_eq!(rule.packages(), ["transformers", "bitsandbytes", "diffusers"]);
}

#[test]
fn a_table_with_a_word_that_is_not_known_is_refused() {
    let row = |when: &str| {
        format!(
            "[[rule]]\nid = \"a\"\ntitle = \"b\"\nwhen = {{ {when} }}\nsymptom = \"c.\"\nseverity = \"warn\"\n\
             effect = \"warn\"\nremedy = \"d.\"\nsources = [\"e\"]\nprovenance = \"upstream issue or change\"\n\
             last_verified = \"2026-01-01\"\n"
        )
    };
    assert!(parse(&row("quant = [\"torchao/fp8\"]")).is_ok());
    for when in [
        "quant = [\"torchao/fp9\"]",
        "quant = [\"torcheo\"]",
        "features = [\"sreams\"]",
        "versions = [\"torch 2\"]",
        "vendors = [\"amd\"]",
    ] {
        assert!(parse(&row(when)).is_err(), "{when}");
    }
}
