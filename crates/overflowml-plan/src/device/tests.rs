use overflowml_types::{
    Bytes, BytesPerSecond, Container, Cpu, Disk, Gpu, IsaExtension, Known, Link, Machine, Memory,
    ModelProfile, Pool, Vendor,
};
use proptest::prelude::*;

use super::*;

fn gb(rate: f64) -> Known<BytesPerSecond> {
    Known::assumed(BytesPerSecond::new(rate * 1e9).unwrap(), "a test")
}

/// A machine without an accelerator.
fn host(os: &str, ram: Bytes) -> Machine {
    Machine {
        os: os.to_owned(),
        wsl: false,
        cpu: Cpu {
            model: None,
            architecture: "x86_64".to_owned(),
            logical: None,
            physical: None,
            usable: Known::reported(16, "a test"),
            extensions: vec![IsaExtension::Avx2, IsaExtension::Fma],
        },
        memory: Memory {
            total: Known::reported(ram, "a test"),
            available: Known::reported(ram.share(0.95), "a test"),
            lockable: None,
            pinnable: None,
            rate: Some(gb(60.0)),
            nodes: Vec::new(),
        },
        container: Container::default(),
        disk: Some(Disk {
            path: "/models".into(),
            device: Some("nvme0n1".to_owned()),
            file_system: Some("ext4".to_owned()),
            kind: None,
            rotational: None,
            free: None,
            direct_io: None,
            rate: Some(gb(3.0)),
        }),
        gpus: Vec::new(),
        libraries: Vec::new(),
    }
}

fn card(
    name: &str,
    memory: u64,
    rate: f64,
    tflops: f64,
    capability: (u32, u32),
    link: (u32, u32),
) -> Gpu {
    Gpu {
        index: 0,
        name: name.to_owned(),
        vendor: Vendor::Nvidia,
        uuid: None,
        pci: None,
        pool: Pool::Own,
        total: Some(Known::reported(Bytes::gib(memory), "a test")),
        free: Some(Known::reported(Bytes::gib(memory).left_after(Bytes::mib(300)), "a test")),
        dedicated: None,
        reserved: None,
        limit: None,
        rate: Some(gb(rate)),
        flops: Some(Known::assumed(tflops * 1e12, "a test")),
        link: Some(Link {
            generation: Some(link.0),
            width: Some(link.1),
            current_generation: None,
            current_width: None,
            rate: None,
        }),
        architecture: None,
        compute_capability: Some(capability),
        driver: None,
        runtime: None,
        partition: None,
        processes: Vec::new(),
    }
}

fn with(mut machine: Machine, gpus: Vec<Gpu>) -> Machine {
    machine.gpus = gpus;
    machine
}

fn rtx_5090(os: &str) -> Machine {
    with(host(os, Bytes::gib(194)), vec![card("RTX 5090", 32, 1792.0, 209.0, (12, 0), (5, 16))])
}

fn rtx_4090(ram: u64) -> Machine {
    with(host("linux", Bytes::gib(ram)), vec![card("RTX 4090", 24, 1008.0, 165.0, (8, 9), (4, 16))])
}

fn plan(model: &ModelProfile, machine: &Machine, wish: &Wish) -> Decision {
    decide(model, machine, wish, &|_| None)
}

fn sized(gib: u64) -> ModelProfile {
    of_size(&format!("{gib} GB model"), Bytes::gib(gib))
}

/// A language model of `layers` equal layers, 16-bit.
fn decoder(gib: f64, layers: u32) -> ModelProfile {
    use overflowml_types::{
        ComponentProfile, GroupKind, GroupProfile, LayerCache, ProfileSource, Role, Shape, Task,
    };
    let parameters = (gib * f64::from(1 << 30) / 2.0 / f64::from(layers)) as u64;
    let group = |layer| GroupProfile {
        name: format!("layers.{layer}"),
        kind: GroupKind::Layer(layer),
        parameters,
        size: Bytes::new(2 * parameters),
        experts: None,
    };
    let shape = Shape::Decoder { hidden: 4096, intermediate: 14336, heads: 32, vocab: 128_256 };
    let component = ComponentProfile {
        name: "model".to_owned(),
        class: None,
        role: Role::Decoder,
        groups: (0..layers).map(group).collect(),
        dtypes: std::collections::BTreeMap::new(),
        shape,
        caches: vec![LayerCache::Full { heads: 8, key: 128, value: 128 }; layers as usize],
        max_context: Some(131_072),
    };
    ModelProfile {
        name: "a language model".to_owned(),
        source: ProfileSource::Config,
        task: Task::Text,
        components: vec![component],
        notes: Vec::new(),
    }
}

/// An image model that is one transformer.
fn transformer(gib: u64) -> ModelProfile {
    let mut model = sized(gib);
    let denoiser = model.components.remove(1);
    let scale = Bytes::gib(gib).as_f64() / denoiser.size().as_f64();
    model.components = vec![denoiser];
    for group in &mut model.components[0].groups {
        group.parameters = (group.parameters as f64 * scale) as u64;
        group.size = Bytes::new(2 * group.parameters);
    }
    model
}

fn names(decision: &Decision) -> Vec<String> {
    decision.candidates.iter().map(Candidate::name).collect()
}

fn recommended(model: &ModelProfile, machine: &Machine) -> String {
    plan(model, machine, &Wish::default()).recommended().map(Candidate::name).unwrap_or_default()
}

fn reason(decision: &Decision, name: &str) -> String {
    let found = decision.rejected.iter().find(|one| one.name() == name);
    found.map(|one| one.reason.clone()).unwrap_or_default()
}

#[test]
fn what_fits_runs_from_the_card_as_it_is_stored() {
    assert_eq!(recommended(&sized(7), &rtx_4090(32)), "direct");
    assert_eq!(recommended(&decoder(14.0, 32), &rtx_4090(32)), "direct");
}

#[test]
fn forty_gigabytes_on_a_32_gb_card_take_turns_without_losing_precision() {
    for os in ["windows", "linux"] {
        let decision = plan(&sized(40), &rtx_5090(os), &Wish::default());
        let best = decision.recommended().unwrap();
        assert_eq!((best.name().as_str(), best.quality_risk), ("model_cpu", Quality::None), "{os}");
        assert!(best.memory.device.high <= decision.resources.accelerators[0].usable);
        assert!(names(&decision).contains(&"direct + fp8".to_owned()));
        assert!(names(&decision).contains(&"sequential_cpu".to_owned()));
    }
}

#[test]
fn a_transformer_larger_than_the_card_stays_in_part() {
    let decision = plan(&transformer(40), &rtx_4090(64), &Wish::default());
    let best = decision.recommended().unwrap();
    assert_eq!(best.name(), "layer_hybrid");
    assert_eq!(best.stages[0].device.saturating_add(best.stages[0].host), transformer(40).size());
    assert!(reason(&decision, "direct").contains("`transformer` needs"));
    assert!(reason(&decision, "model_cpu").contains("only one component"));
}

#[test]
fn seventy_gigabytes_on_24_and_32_never_claim_memory_that_is_not_there() {
    let decision = plan(&sized(70), &rtx_4090(32), &Wish::default());
    for name in ["model_cpu", "layer_hybrid", "sequential_cpu"] {
        assert!(!names(&decision).contains(&name.to_owned()), "{name}");
    }
    assert!(reason(&decision, "sequential_cpu").contains("of main memory is needed"));
    assert!(decision.recommended().is_some());
}

#[test]
fn a_machine_without_a_gpu_is_not_said_to_use_one() {
    let decision = plan(&sized(40), &host("linux", Bytes::gib(24)), &Wish::default());
    for one in &decision.candidates {
        assert!(!one.on_device, "{}", one.name());
        assert_eq!(one.memory.device.expected, Bytes::ZERO);
        assert!(one.memory.host.expected <= Bytes::gib(24), "{}", one.name());
    }
    assert_eq!(recommended(&sized(40), &host("linux", Bytes::gib(24))), "cpu, disk");
}

#[test]
fn a_language_model_computes_where_its_layers_are_or_shrinks() {
    // 16 GB on a 12 GB card: half of the layers at the speed of main memory is far slower than 8 bits.
    let card = card("RTX 3060", 12, 360.0, 51.0, (8, 6), (4, 16));
    let machine = with(host("linux", Bytes::gib(32)), vec![card]);
    assert_eq!(recommended(&decoder(16.0, 32), &machine), "direct + int8");
    let exact = Wish { quantize: false, ..Wish::default() };
    let decision = plan(&decoder(16.0, 32), &machine, &exact);
    let best = decision.recommended().unwrap();
    assert_eq!(best.name(), "layer_hybrid");
    assert!(decision.rejected.iter().any(|one| one.reason == "--no-quantize forbids it"));
    let token = best.stages[0].uses.iter().find(|one| one.what == "token").unwrap();
    assert_eq!(token.limited_by, "host memory", "the processor computes its own layers");
}

#[test]
fn fast_takes_fewer_bits_even_where_all_of_them_fit() {
    let wish = Wish { fast: true, ..Wish::default() };
    let decision = plan(&decoder(14.0, 32), &rtx_4090(32), &wish);
    assert_ne!(decision.recommended().unwrap().quantization, Precision::Exact);
}

#[test]
fn experts_wait_in_main_memory_and_what_every_token_uses_does_not() {
    let size = MoeSize { total: 47_000_000_000, active: 13_000_000_000, experts: 8, chosen: 2 };
    let model = moe_of_size("mixtral", size).unwrap();
    assert!(model.parameters().abs_diff(size.total) < 1000);
    let active = model.components[0].active_parameters();
    assert!(active.abs_diff(size.active) < 1_000_000, "{active}");
    let exact = Wish { quantize: false, ..Wish::default() };
    let decision = plan(&model, &rtx_4090(128), &exact);
    let best = decision.recommended().unwrap();
    assert_eq!(best.offload, Offload::ExpertOffload);
    let contradicting = MoeSize { active: 50_000_000_000, ..size };
    assert_eq!(moe_of_size("wrong", contradicting), None);
}

#[test]
fn two_cards_hold_what_one_does_not() {
    let two = || card("RTX 3090", 24, 936.0, 71.0, (8, 6), (4, 8));
    let machine = with(host("linux", Bytes::gib(64)), vec![two(), two()]);
    let exact = Wish { quantize: false, ..Wish::default() };
    let decision = plan(&decoder(36.0, 60), &machine, &exact);
    assert_eq!(decision.recommended().unwrap().name(), "direct on 2 GPUs");
}

fn mac(gib: u64, rate: f64) -> Machine {
    let mut gpu = card("Apple M", gib, rate, 14.0, (0, 0), (0, 0));
    gpu.vendor = Vendor::Apple;
    gpu.pool = Pool::Shared;
    gpu.compute_capability = None;
    gpu.link = None;
    gpu.limit = Some(Known::reported(Bytes::gib(gib).share(0.75), "a test"));
    with(host("macos", Bytes::gib(gib)), vec![gpu])
}

#[test]
fn one_pool_is_never_offloaded_within_itself() {
    // The original's table: 80 B parameters in 4 bits on 128 GB, 120 B on 192 GB, 670 B on 512 GB.
    for (memory, billions) in [(128, 80.0), (192, 120.0), (512, 670.0)] {
        let model = decoder(billions * 2e9 / f64::from(1 << 30), 80);
        let decision = plan(&model, &mac(memory, 546.0), &Wish::default());
        let best = decision.recommended().unwrap();
        assert_eq!(best.offload, Offload::None, "{memory}");
        assert_eq!(
            best.quantization == Precision::Int4,
            memory == 512,
            "{memory}: {}",
            best.name()
        );
        for one in &decision.candidates {
            assert!(matches!(one.offload, Offload::None | Offload::Disk), "{}", one.name());
        }
        assert!(reason(&decision, "layer_hybrid").contains("nowhere to offload to"));
    }
}

#[test]
fn a_link_that_idles_is_planned_with_at_its_full_speed() {
    let mut idle = rtx_4090(64);
    let link = idle.gpus[0].link.as_mut().unwrap();
    (link.current_generation, link.current_width) = (Some(1), Some(8));
    let exact = Wish { quantize: false, ..Wish::default() };
    let plans = [idle, rtx_4090(64)].map(|machine| plan(&transformer(40), &machine, &exact));
    assert_eq!(plans[0].candidates, plans[1].candidates);
    assert_eq!(plans[0].resources.accelerators, plans[1].resources.accelerators);
}

#[test]
fn a_measured_link_is_used_as_it_is() {
    let mut machine = rtx_4090(64);
    let rate = BytesPerSecond::new(11.5e9).unwrap();
    machine.gpus[0].link.as_mut().unwrap().rate = Some(Known::measured(rate, "copies"));
    let decision = plan(&transformer(40), &machine, &Wish::default());
    assert_eq!(decision.resources.accelerators[0].link.value, rate);
}

#[test]
fn guidance_computes_twice_and_two_denoisers_share_the_steps() {
    let exact = Wish { quantize: false, ..Wish::default() };
    let step = |class: Option<&str>, names: &[&str]| {
        let mut model = transformer(10);
        let mut part = model.components.remove(0);
        part.class = class.map(str::to_owned);
        model.components = names
            .iter()
            .map(|name| overflowml_types::ComponentProfile {
                name: (*name).to_owned(),
                ..part.clone()
            })
            .collect();
        let decision = plan(&model, &rtx_5090("linux"), &exact);
        decision.recommended().unwrap().speed.seconds.expected.get()
    };
    let once = step(Some("FluxTransformer2DModel"), &["transformer"]);
    let near =
        |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.02, "{found}");
    near(step(None, &["transformer"]), once);
    near(step(Some("QwenImageTransformer2DModel"), &["transformer"]), 2.0 * once);
    near(step(Some("SD3Transformer2DModel"), &["transformer"]), 2.0 * once);
    let video = Some("WanTransformer3DModel");
    near(step(video, &["transformer", "transformer_2"]), step(video, &["transformer"]));
}

#[test]
fn a_budget_replaces_what_is_free() {
    let wish = Wish { vram: Some(Bytes::gib(8)), ..Wish::default() };
    let decision = plan(&sized(24), &rtx_4090(64), &wish);
    for one in decision.candidates.iter().filter(|one| one.on_device) {
        assert!(one.memory.device.expected <= Bytes::gib(8), "{}", one.name());
    }
    assert_eq!(decision.advice.wait_for, None);
}

#[test]
fn memory_that_others_hold_is_named() {
    let mut machine = rtx_4090(64);
    machine.gpus[0].free = Some(Known::reported(Bytes::gib(10), "a test"));
    let decision = plan(&decoder(14.0, 32), &machine, &Wish::default());
    assert!(
        !decision.recommended().unwrap().is_resident()
            || decision.recommended().unwrap().quantization != Precision::Exact
    );
    let missing = decision.advice.wait_for.unwrap();
    assert!(missing > Bytes::gib(4) && missing < Bytes::gib(8), "{missing}");
}

#[test]
fn the_largest_context_is_exact() {
    let (model, machine) = (decoder(14.0, 32), rtx_4090(32));
    let most = plan(&model, &machine, &Wish::default()).advice.largest_context.unwrap();
    let with_context =
        |context| plan(&model, &machine, &Wish { context: Some(context), ..Wish::default() });
    assert_eq!(with_context(most).recommended().unwrap().name(), "direct");
    assert!(!names(&with_context(most + 1)).contains(&"direct".to_owned()));
}

#[test]
fn a_forbidden_candidate_is_rejected_with_its_rule() {
    let rule = |candidate: &Candidate| {
        (candidate.offload == Offload::ModelCpu).then(|| WhyNot::Rule {
            rule: "no-turns".to_owned(),
            symptom: "it crashes".to_owned(),
            remedy: "upgrade".to_owned(),
        })
    };
    let decision = decide(&sized(40), &rtx_5090("linux"), &Wish::default(), &rule);
    assert!(!names(&decision).contains(&"model_cpu".to_owned()));
    assert!(reason(&decision, "model_cpu").contains("no-turns"));
}

#[test]
fn the_order_of_offloading_limits_what_is_offered() {
    let decision = plan(&sized(40), &rtx_4090(64), &Wish { quantize: false, ..Wish::default() });
    assert_eq!(choose(&decision, Offload::None).map(Candidate::name).as_deref(), Some("cpu"));
    let hybrid = choose(&decision, Offload::LayerHybrid).map(Candidate::name);
    assert_eq!(hybrid.as_deref(), Some("layer_hybrid"));
}

fn any_model() -> impl Strategy<Value = ModelProfile> {
    let image = (1..400_u64).prop_map(sized);
    let one = (1..200_u64).prop_map(transformer);
    let text = (1.0..400.0_f64, 8..100_u32).prop_map(|(gib, layers)| decoder(gib, layers));
    let moe = (2..700_u64, 2..20_u64, 3..8_u32).prop_map(|(total, share, experts)| {
        let (total, experts) = (total * 1_000_000_000, 1 << experts);
        let active = total / share.min(experts / 2).max(2);
        let size = MoeSize { total, active, experts, chosen: 2 };
        moe_of_size("moe", size).unwrap_or_else(|| decoder(2.0, 8))
    });
    prop_oneof![image, one, text, moe]
}

// Accelerators are faster than the processor, as they are wherever it is worth having one.
prop_compose! {
    fn any_machine()(
        vram in 0..100_u64, cards in 0..3_usize, ram in 2..600_u64, shared in 0..5_u8,
        rate in 100.0..3000.0_f64, tflops in 4.0..500.0_f64, link in 1..6_u32, width in 1..17_u32,
        windows in any::<bool>(), major in 7..13_u32, disk in 0.05..12.0_f64,
    ) -> Machine {
        let mut machine = host(if windows { "windows" } else { "linux" }, Bytes::gib(ram));
        machine.disk.as_mut().unwrap().rate = Some(gb(disk));
        if shared == 0 {
            let mut mac = mac(ram, rate);
            mac.disk = machine.disk;
            return mac;
        }
        let one = || card("any", vram, rate, tflops, (major, 0), (link, width));
        with(machine, (0..cards).map(|_| one()).collect())
    }
}

fn any_wish() -> impl Strategy<Value = Wish> {
    (1..9_u64, 6..18_u32, any::<bool>(), any::<bool>(), 1..5_u64).prop_map(
        |(size, context, quantize, fast, batch)| Wish {
            width: size * 256,
            height: 1024,
            context: Some(1 << context),
            quantize,
            fast,
            batch,
            ..Wish::default()
        },
    )
}

fn fastest(decision: &Decision, exact: bool) -> f64 {
    let wanted = |one: &&Candidate| !exact || one.quantization == Precision::Exact;
    let times = decision.candidates.iter().filter(wanted).map(|one| one.speed.total.get());
    times.fold(f64::INFINITY, f64::min)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_candidate_exceeds_what_there_is(
        model in any_model(), machine in any_machine(), wish in any_wish()
    ) {
        let decision = plan(&model, &machine, &wish);
        let Resources { accelerators, host, .. } = &decision.resources;
        for one in &decision.candidates {
            let memory = &one.memory;
            if one.on_device {
                let usable: Bytes = accelerators.iter().take(one.devices).map(|card| card.usable).sum();
                prop_assert!(memory.device.expected <= usable, "{}: {one:?}", one.name());
            }
            let usable = host.free;
            // A pool that is shared is counted once, as the accelerator's; the process is in both.
            let process = host.overhead;
            prop_assert!(memory.host.expected <= usable.max(process), "{}: {one:?}", one.name());
            let placed: Bytes = one.stages.iter().map(|stage| {
                stage.device.saturating_add(stage.host).saturating_add(stage.disk)
            }).sum();
            prop_assert!(placed <= model.size());
            prop_assert!(one.speed.total.get().is_finite());
            if one.quantization == Precision::Exact {
                prop_assert_eq!(placed, model.size());
            }
        }
    }

    #[test]
    fn what_is_in_slots_as_simulated_has_room(
        model in any_model(), machine in any_machine(), wish in any_wish()
    ) {
        let decision = plan(&model, &machine, &wish);
        for one in decision.candidates.iter().filter(|one| one.on_device) {
            for stage in &one.stages {
                let slots = stage.uses.iter().map(|pass| simulate::run(&pass.steps, 3, |_| {}).slots).max();
                let slots = slots.unwrap_or_default();
                prop_assert!(slots <= stage.slots, "{}: {slots} in {}", one.name(), stage.slots);
                let peak = stage.device.saturating_add(slots).saturating_add(stage.working);
                prop_assert!(peak <= one.memory.device.expected, "{}: {peak}", one.name());
            }
        }
    }

    #[test]
    fn a_pass_takes_no_less_than_its_busiest_lane_and_no_more_than_all(
        model in any_model(), machine in any_machine(), wish in any_wish()
    ) {
        for one in &plan(&model, &machine, &wish).candidates {
            for pass in one.stages.iter().flat_map(|stage| &stage.uses) {
                let sum = |pick: fn(&simulate::Step) -> f64| pass.steps.iter().map(pick).sum::<f64>();
                let busy = [sum(|step| step.read), sum(|step| step.copy), sum(|step| step.compute)];
                let (least, most) = (busy.iter().copied().fold(0.0, f64::max), busy.iter().sum::<f64>());
                let seconds = pass.seconds.get();
                prop_assert!(seconds >= least * (1.0 - 1e-9), "{}: {seconds} of {busy:?}", one.name());
                prop_assert!(seconds <= most * (1.0 + 1e-9), "{}: {seconds} of {busy:?}", one.name());
            }
        }
    }

    #[test]
    fn the_choice_is_never_slower_than_an_equally_exact_candidate(
        model in any_model(), machine in any_machine(), wish in any_wish()
    ) {
        let decision = plan(&model, &machine, &wish);
        if let Some(best) = decision.recommended() {
            for one in &decision.candidates {
                prop_assert!(
                    one.quantization != best.quantization || one.speed.total >= best.speed.total
                );
            }
        }
    }

    #[test]
    fn more_memory_never_hurts(
        model in any_model(), machine in any_machine(), wish in any_wish(),
        vram in 0..40_u64, ram in 0..200_u64,
    ) {
        let before = plan(&model, &machine, &wish);
        let mut larger = machine.clone();
        larger.memory.total.value = larger.memory.total.value.saturating_add(Bytes::gib(ram));
        larger.memory.available.value =
            larger.memory.available.value.saturating_add(Bytes::gib(ram));
        for gpu in &mut larger.gpus {
            let more = if gpu.pool == Pool::Shared { ram } else { vram };
            for known in [&mut gpu.total, &mut gpu.free, &mut gpu.limit].into_iter().flatten() {
                known.value = known.value.saturating_add(Bytes::gib(more));
            }
        }
        let after = plan(&model, &larger, &wish);
        prop_assert!(before.chosen.is_none() || after.chosen.is_some(), "fits no more");
        for exact in [false, true] {
            let (slow, fast) = (fastest(&before, exact), fastest(&after, exact));
            prop_assert!(fast <= slow * (1.0 + 1e-9), "{slow} became {fast}");
        }
    }

    #[test]
    fn more_free_memory_on_the_card_never_turns_yes_into_no(
        model in any_model(), machine in any_machine(), wish in any_wish(), more in 1..30_u64,
    ) {
        let before = plan(&model, &machine, &wish);
        let mut freer = machine.clone();
        for gpu in &mut freer.gpus {
            let total = gpu.total.as_ref().unwrap().value;
            let free = gpu.free.as_mut().unwrap();
            free.value = free.value.saturating_add(Bytes::gib(more)).min(total);
        }
        let after = plan(&model, &freer, &wish);
        prop_assert!(before.chosen.is_none() || after.chosen.is_some());
    }
}
