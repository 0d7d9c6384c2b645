use overflowml_types::{Bytes, BytesPerSecond};
use proptest::prelude::*;

use super::*;
use crate::Infeasible;
use crate::device::{Offload, Precision};

const MIB: u64 = 1 << 20;

fn stack(blocks: &[u64]) -> Stack {
    let blocks = blocks.iter().map(|&mib| Bytes::mib(mib)).collect();
    Stack { name: "blocks".to_owned(), blocks }
}

fn part(name: &str, kind: ComponentKind, fixed: u64, stacks: Vec<Stack>) -> Component {
    Component {
        name: name.to_owned(),
        kind,
        source: Source::Disk,
        dtype: "bf16".to_owned(),
        fixed: Bytes::mib(fixed),
        activations: Bytes::mib(100),
        stacks,
    }
}

/// A pipeline of Flux's shape: two text encoders, 19 large and 38 small blocks, a VAE.
fn flux(kind: &str) -> PlaceRequest {
    PlaceRequest {
        device: ComputeDevice {
            kind: kind.to_owned(),
            name: None,
            total: Some(Bytes::gib(80)),
            free: Some(Bytes::gib(80)),
            unified: false,
        },
        vram: None,
        ram: None,
        task: TorchTask::Diffusion,
        steps: 28,
        allow: vec![Allowed::Exact],
        components: vec![
            part("text_encoder", ComponentKind::TextEncoder, 200, vec![stack(&[4; 12])]),
            part("text_encoder_2", ComponentKind::TextEncoder, 300, vec![stack(&[380; 24])]),
            part(
                "transformer",
                ComponentKind::Denoiser,
                150,
                vec![stack(&[648; 19]), stack(&[270; 38])],
            ),
            part("vae", ComponentKind::Vae, 160, Vec::new()),
        ],
    }
}

fn speeds() -> Speeds {
    let rate = |gigabytes: f64| BytesPerSecond::new(gigabytes * 1e9).unwrap();
    Speeds { disk: rate(2.0), link: rate(25.0), memory: rate(1000.0), flops: 100e12 }
}

fn room(fast: u64, host: u64) -> Room {
    Room { fast: Bytes::mib(fast), host: Bytes::mib(host), speeds: speeds() }
}

fn stays(component: &PlacedComponent) -> Vec<bool> {
    component.resident.iter().flatten().copied().collect()
}

/// Memory that a placement takes where it computes, computed from the answer alone; only for exact weights.
fn peak(request: &PlaceRequest, placement: &Placement) -> Bytes {
    let one = |(component, placed): (&Component, &PlacedComponent)| {
        let blocks: Vec<Bytes> =
            component.stacks.iter().flat_map(|stack| stack.blocks.clone()).collect();
        let stays = stays(placed);
        let pick = |wanted: bool| {
            let both = blocks.iter().zip(&stays);
            both.filter(move |(_, stays)| **stays == wanted).map(|(size, _)| *size)
        };
        let resident: Bytes = pick(true).sum();
        let slot = pick(false).max().unwrap_or_default();
        let tiled = component.kind == ComponentKind::Vae && placement.vae.tiling;
        let working = if tiled { component.activations.share(0.25) } else { component.activations };
        let slots = slot.saturating_mul(placed.slots as u64);
        [component.fixed, resident, slots, working].into_iter().sum::<Bytes>()
    };
    let each = || request.components.iter().zip(&placement.components).map(one);
    if placement.components.iter().all(|placed| placed.mode == Placed::Resident) {
        let working = request.components.iter().map(|one| one.activations);
        let all = each().sum::<Bytes>().left_after(working.clone().sum());
        return all.saturating_add(working.max().unwrap_or_default());
    }
    each().max().unwrap_or_default()
}

#[test]
fn with_less_room_more_moves() {
    let request = flux("cuda");
    let offload = |fast| place(&request, &room(fast, 65_536)).unwrap().strategy.offload;
    assert_eq!(offload(40_000), Offload::None);
    assert_eq!(offload(24_000), Offload::ModelCpu);
    assert_eq!(offload(12_288), Offload::LayerHybrid);
    assert_eq!(offload(1_560), Offload::SequentialCpu);
}

#[test]
fn large_blocks_stay_where_that_makes_slots_small() {
    let request = flux("cuda");
    let placement = place(&request, &room(14_000, 65_536)).unwrap();
    let denoiser = &placement.components[2];
    assert_eq!(denoiser.mode, Placed::Stream);
    assert!(denoiser.resident[0].iter().all(|stays| *stays), "the large ones");
    let streamed = denoiser.resident[1].iter().filter(|stays| !**stays).count();
    // 14000 less 250 beside the blocks less 12312 of large ones: two slots, and three small ones stay.
    assert_eq!((streamed, denoiser.slots), (35, 2));
}

#[test]
fn what_stays_is_spread_evenly() {
    let mut request = flux("cuda");
    request.components = vec![part("", ComponentKind::Other, 0, vec![stack(&[100; 12])])];
    let placement = place(&request, &room(900, 65_536)).unwrap();
    let stays = stays(&placement.components[0]);
    assert_eq!(stays.iter().filter(|stays| **stays).count(), 6);
    assert!(stays.windows(3).all(|three| three.iter().any(|stays| *stays)));
}

#[test]
fn the_smallest_budget_that_is_named_works_and_less_does_not() {
    for kind in ["cuda", "cpu"] {
        let request = flux(kind);
        let Infeasible::TorchTooSmall { needed, component, .. } =
            place(&request, &room(100, 65_536)).unwrap_err()
        else {
            panic!("another refusal");
        };
        assert!(!component.is_empty());
        let mut fast = needed;
        // Another component may need more.
        while let Err(Infeasible::TorchTooSmall { needed, .. }) =
            place(&request, &Room { fast, ..room(0, 65_536) })
        {
            assert!(needed > fast);
            fast = needed;
        }
        let placement = place(&request, &Room { fast, ..room(0, 65_536) }).unwrap();
        assert_eq!(peak(&request, &placement), fast);
        let less = fast.left_after(Bytes::new(1));
        assert!(place(&request, &Room { fast: less, ..room(0, 65_536) }).is_err());
    }
}

#[test]
fn on_the_processor_what_does_not_stay_is_on_disk() {
    let request = flux("cpu");
    let placement = place(&request, &room(8_000, 8_000)).unwrap();
    assert_eq!(placement.strategy.offload, Offload::Disk);
    assert_eq!(placement.predicted.vram_peak, Bytes::ZERO);
    assert!(placement.predicted.ram_peak <= Bytes::mib(8_000));
    let mut loaded = request.clone();
    loaded.components.iter_mut().for_each(|one| one.source = Source::Host);
    let refused = place(&loaded, &room(8_000, 8_000)).unwrap_err();
    assert_eq!(refused.code(), "plan.torch-too-small");
    assert!(refused.hint().is_some_and(|hint| hint.contains("ram=")));
}

#[test]
fn what_main_memory_has_no_room_for_is_read_each_time() {
    let mut request = flux("cuda");
    request.components.remove(1);
    let placement = place(&request, &room(12_288, 12_000)).unwrap();
    assert_eq!(placement.strategy.offload, Offload::Disk);
    let kept: Vec<bool> = placement.components[1].host.iter().flatten().copied().collect();
    assert!(kept.contains(&true) && kept.contains(&false));
    assert!(placement.predicted.ram_peak <= Bytes::mib(12_000));
    let refused = place(&request, &room(12_288, 400)).unwrap_err();
    assert!(refused.to_string().contains("main memory"));
}

#[test]
fn a_lower_precision_is_taken_only_if_allowed_and_much_faster() {
    let mut request = flux("cuda");
    let tight = room(14_000, 65_536);
    assert_eq!(place(&request, &tight).unwrap().strategy.quantization, Precision::Exact);
    request.allow = vec![Allowed::Fp8];
    let placement = place(&request, &tight).unwrap();
    assert_eq!(placement.strategy.quantization, Precision::Fp8);
    assert_eq!(placement.components[3].precision, "exact", "a VAE is left alone");
    let roomy = place(&request, &room(40_000, 65_536)).unwrap();
    assert_eq!(roomy.strategy.quantization, Precision::Exact);
}

#[test]
fn a_picture_that_does_not_fit_is_decoded_in_tiles() {
    let mut request = flux("cuda");
    request.components[3].activations = Bytes::mib(20_000);
    assert!(!place(&request, &room(60_000, 65_536)).unwrap().vae.tiling);
    assert!(place(&request, &room(12_288, 65_536)).unwrap().vae.tiling);
}

#[test]
fn nothing_is_placed_nowhere() {
    let mut request = flux("cuda");
    request.components.clear();
    let placement = place(&request, &room(1, 1)).unwrap();
    assert_eq!(placement.strategy.offload, Offload::None);
    request.components = vec![part("", ComponentKind::Other, 0, Vec::new())];
    assert!(place(&request, &room(99, 1)).is_err());
    assert!(place(&request, &room(100, 1)).is_ok());
}

fn any_component() -> impl Strategy<Value = Component> {
    let kind = prop_oneof![
        Just(ComponentKind::Denoiser),
        Just(ComponentKind::TextEncoder),
        Just(ComponentKind::Vae),
        Just(ComponentKind::Other)
    ];
    let blocks = prop::collection::vec(prop::collection::vec(0..50 * MIB, 0..30), 0..3);
    (kind, 0..20 * MIB, 0..20 * MIB, blocks, any::<bool>()).prop_map(
        |(kind, fixed, activations, stacks, disk)| Component {
            name: "part".to_owned(),
            kind,
            source: if disk { Source::Disk } else { Source::Host },
            dtype: "bf16".to_owned(),
            fixed: Bytes::new(fixed),
            activations: Bytes::new(activations),
            stacks: (stacks.into_iter())
                .map(|blocks| Stack {
                    name: "blocks".to_owned(),
                    blocks: blocks.into_iter().map(Bytes::new).collect(),
                })
                .collect(),
        },
    )
}

proptest! {
    #[test]
    fn no_placement_exceeds_its_room_and_every_refusal_names_more(
        components in prop::collection::vec(any_component(), 1..4),
        fast in 0..2000_u64,
        host in 0..3000_u64,
        on_device: bool,
        stated: bool,
    ) {
        let mut request = flux(if on_device { "cuda" } else { "cpu" });
        request.components = components;
        request.ram = stated.then(|| Bytes::mib(host));
        let room = if on_device { room(fast, host) } else { room(host, host) };
        match place(&request, &room) {
            Ok(placement) => {
                if on_device || request.components.iter().all(|one| one.source == Source::Disk) {
                    prop_assert!(peak(&request, &placement) <= room.fast);
                }
                let fast_peak = if on_device { placement.predicted.vram_peak } else { placement.predicted.ram_peak };
                prop_assert!(fast_peak <= room.fast);
                if on_device && stated {
                    prop_assert!(placement.predicted.ram_peak <= room.host);
                }
                for (component, placed) in request.components.iter().zip(&placement.components) {
                    let counts = |flags: &[Vec<bool>]| flags.iter().map(Vec::len).collect::<Vec<_>>();
                    let blocks: Vec<usize> = component.stacks.iter().map(|stack| stack.blocks.len()).collect();
                    prop_assert_eq!(counts(&placed.resident), blocks.clone());
                    prop_assert_eq!(counts(&placed.host), blocks);
                    let moves = stays(placed).iter().filter(|stays| !**stays).count();
                    prop_assert_eq!(placed.mode == Placed::Stream, moves > 0);
                    prop_assert_eq!(placed.slots, moves.min(2));
                }
            }
            Err(Infeasible::TorchTooSmall { needed, available, .. }) => prop_assert!(needed > available),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
