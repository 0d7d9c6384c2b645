use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::str::FromStr;

use overflowml_formats::{Model, open_model, supported_architectures};
use overflowml_types::Access;
use tempfile::{TempDir, tempdir};
use tokenizers::Tokenizer;

use super::*;

const MILLION: u64 = 1_000_000;

fn request(dir: &Path, arch: &str, params: u64, dtype: &str) -> SynthRequest {
    SynthRequest::new(dir, arch, params, dtype, 7).unwrap()
}

fn make(request: &SynthRequest) -> SynthReport {
    synthesize(request, &mut |_, _| {}).unwrap()
}

/// A million parameters in several files.
fn sharded(dir: &Path) -> SynthRequest {
    SynthRequest { shard: Bytes::kib(700), ..request(dir, "llama", MILLION, "bf16") }
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn opened(dir: &Path) -> Model {
    let model = open_model(dir).unwrap();
    model.bind().unwrap();
    model
}

#[test]
fn every_supported_family_is_made_opened_and_bound() {
    for architecture in supported_architectures() {
        let home = tempdir().unwrap();
        let report = make(&request(home.path(), architecture, MILLION, "bf16"));
        let model = opened(home.path());
        assert_eq!(model.architecture.as_deref(), Some(architecture));
        let spec = model.decoder().unwrap();
        assert_eq!(
            (spec.hidden, spec.layers.len()),
            (report.hidden as usize, report.layers as usize)
        );
        let stored: u64 = model.manifest.tensors().map(|tensor| tensor.span.len.get()).sum();
        assert_eq!(Bytes::new(stored), report.weights);
        assert_eq!(stored, 2 * report.parameters);
        let config = fs::read_to_string(home.path().join("config.json")).unwrap();
        assert!(config.contains("\"model_type\""), "{architecture}");
    }
}

#[test]
fn families_are_known_by_both_of_their_names() {
    for architecture in supported_architectures() {
        let short = family::short_name(architecture);
        assert_ne!(short, architecture);
        assert_eq!(Family::named(&short).unwrap().architecture, architecture);
        let loud = architecture.to_ascii_uppercase();
        assert_eq!(Family::named(&loud).unwrap().architecture, architecture);
    }
    assert_eq!(Family::named("gemma3_text").unwrap().architecture, "Gemma3ForCausalLM");
    assert_eq!(Family::named("seed-oss").unwrap().architecture, "SeedOssForCausalLM");
}

#[test]
fn parameters_are_met_within_five_percent_from_a_million_up() {
    let asked = [1.0, 1.3, 2.0, 3.3, 7.0, 19.9, 60.0, 135.0, 360.0, 750.0, 1236.0, 3000.0, 8000.0];
    for architecture in supported_architectures() {
        for asked in asked.map(|millions| (millions * 1e6) as u64).into_iter().chain([70e9 as u64])
        {
            let request = request(Path::new("unused"), architecture, asked, "bf16");
            let report = request.report(0, 0);
            let error = report.parameters as f64 / asked as f64 - 1.0;
            assert!(error.abs() <= 0.05, "{architecture} {asked}: {error:+.3} {:?}", request.shape);
            assert!(request.shape.hidden.is_multiple_of(64));
            assert!(request.shape.heads.is_multiple_of(request.shape.kv_heads));
        }
    }
}

#[test]
fn bigger_models_are_deeper_wider_and_share_key_value_heads() {
    let shape = |params| request(Path::new("unused"), "llama", params, "bf16").shape;
    let sizes = [1, 30, 1000, 8000, 70_000].map(|millions| shape(millions * MILLION));
    for pair in sizes.windows(2) {
        assert!(pair[1].layers > pair[0].layers && pair[1].hidden > pair[0].hidden, "{pair:?}");
    }
    let [.., large] = sizes;
    assert_eq!((large.vocab, large.heads), (32_000, 4 * large.kv_heads));
}

#[test]
fn the_same_request_gives_the_same_bytes_on_any_number_of_threads() {
    let made = |threads: usize, seed: u64| {
        let home = tempdir().unwrap();
        let request = SynthRequest::new(home.path(), "qwen2", 2 * MILLION, "f16", seed).unwrap();
        make(&SynthRequest { threads, ..request });
        contents(home.path())
    };
    let one = made(1, 3);
    assert!(one == made(5, 3));
    assert!(one["model.safetensors"] != made(1, 4)["model.safetensors"]);
}

#[test]
fn tensors_are_the_same_however_they_are_sharded() {
    let (one, many) = (tempdir().unwrap(), tempdir().unwrap());
    make(&request(one.path(), "llama", MILLION, "bf16"));
    assert!(make(&sharded(many.path())).files > 2);
    let tensors = |dir: &Path| {
        let manifest = opened(dir).manifest;
        let data = |tensor: &overflowml_types::Tensor| {
            let file = fs::read(&manifest.files[tensor.span.file.0 as usize].path).unwrap();
            let start = tensor.span.offset.to_usize().unwrap();
            file[start..start + tensor.span.len.to_usize().unwrap()].to_vec()
        };
        manifest
            .tensors()
            .map(|tensor| (tensor.name.clone(), data(tensor)))
            .collect::<BTreeMap<_, _>>()
    };
    assert!(tensors(one.path()) == tensors(many.path()));
}

#[test]
fn data_starts_at_a_page_and_every_tensor_at_eight_bytes() {
    for dtype in ["bf16", "f16", "f32"] {
        let home = tempdir().unwrap();
        make(&SynthRequest {
            shard: Bytes::kib(900),
            ..request(home.path(), "phi3", MILLION, dtype)
        });
        let manifest = opened(home.path()).manifest;
        let mut first = vec![u64::MAX; manifest.files.len()];
        for span in manifest.tensors().map(|tensor| tensor.span) {
            assert!(span.offset.get().is_multiple_of(8));
            let first = &mut first[span.file.0 as usize];
            *first = span.offset.get().min(*first);
        }
        assert!(first.iter().all(|offset| offset.is_multiple_of(ALIGNMENT)));
    }
}

/// Every weight as numbers.
fn values(request: &SynthRequest, recipe: &Recipe) -> Vec<f32> {
    let mut bytes = Vec::new();
    let one = std::slice::from_ref(recipe);
    weights::write(one, request.dtype, 2, &mut bytes, &mut |_| {}).unwrap();
    match request.dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
        DType::F16 => {
            bytes.as_chunks().0.iter().map(|&two| half::f16::from_le_bytes(two).to_f32()).collect()
        }
        _ => {
            bytes.as_chunks().0.iter().map(|&two| half::bf16::from_le_bytes(two).to_f32()).collect()
        }
    }
}

#[test]
fn weights_have_the_usual_magnitudes() {
    for (arch, dtype) in [("gemma2", "bf16"), ("qwen2", "f16"), ("olmo2", "f32")] {
        let request = request(Path::new("unused"), arch, 2 * MILLION, dtype);
        let spec = family::read(&request.config).unwrap();
        for (weight, recipe) in spec.tensors().iter().zip(&request.recipes) {
            let values = values(&request, recipe);
            let count = values.len() as f32;
            let mean = values.iter().sum::<f32>() / count;
            let deviation =
                (values.iter().map(|it| (it - mean).powi(2)).sum::<f32>() / count).sqrt();
            let cols = *weight.shape.last().unwrap() as f32;
            let (centre, expected) = match weight.access {
                Access::Kept if weight.name.ends_with("bias") => (0.0, 0.02 / 3f32.sqrt()),
                Access::Kept => (1.0 - spec.norm_weight_offset, 0.1 / 3f32.sqrt()),
                _ => (0.0, 0.7 / cols.sqrt()),
            };
            let slack = 6.0 / count.sqrt();
            assert!((mean - centre).abs() < slack * expected, "{} {mean}", weight.name);
            assert!((deviation / expected - 1.0).abs() < slack, "{} {deviation}", weight.name);
        }
    }
}

#[test]
fn no_two_tensors_and_no_two_pieces_repeat() {
    let request = request(Path::new("unused"), "llama", 7 * MILLION, "f32");
    let mut starts = std::collections::BTreeSet::new();
    let mut pieces = 0;
    for recipe in &request.recipes {
        for piece in values(&request, recipe).chunks(1 << 18) {
            pieces += 1;
            starts.insert(piece[..16].iter().map(|value| value.to_bits()).collect::<Vec<_>>());
        }
    }
    assert_eq!(starts.len(), pieces);
    assert!(pieces > request.recipes.len());
}

#[test]
fn the_tokenizer_loads_and_gives_text_back() {
    let texts = [
        "Once upon a time, the horsemen were waiting: 3.14 — naïve café 東京 🦀\n\tend",
        "A model that is larger than the memory it may use",
    ];
    for vocab in [262, 512, 2048, 32_000] {
        let json = tokenizer::tokenizer_json(vocab).to_string();
        let tokenizer = Tokenizer::from_str(&json).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), vocab as usize);
        assert!(tokenizer.get_vocab(true).values().all(|&id| id < vocab));
        for text in texts {
            let encoded = tokenizer.encode(text, true).unwrap();
            assert_eq!(tokenizer.decode(encoded.get_ids(), false).unwrap(), text);
        }
        let common = tokenizer.encode(texts[1], true).unwrap().len();
        assert!(vocab < 2048 || common < texts[1].len() / 3, "{vocab}: {common}");
        let special = tokenizer.encode("<|user|>hi<|end|>", false).unwrap();
        assert_eq!((special.get_ids()[0], special.get_ids().last()), (4, Some(&tokenizer::EOS)));
    }
}

#[test]
fn nearly_every_token_of_the_largest_vocabulary_can_occur() {
    let json = tokenizer::tokenizer_json(32_000);
    let tokenizer = Tokenizer::from_str(&json.to_string()).unwrap();
    let merged: Vec<u32> = (262..32_000).collect();
    let reached = merged.iter().filter(|&&id| {
        let text = tokenizer.decode(&[id], false).unwrap();
        tokenizer.encode(text, false).unwrap().get_ids() == [id]
    });
    // Some are only steps towards longer ones.
    assert!(reached.count() > 31_000);
}

/// Stops writing in the middle of the second file, as a lost process would.
fn interrupt(request: &SynthRequest) {
    let folder = Folder::take(&request.dir, &request.marker()).unwrap();
    let shards = shards(request);
    write_shards(request, &folder, &shards[..1], &mut |_, _| {}).unwrap();
    let partial = request.dir.join(format!("{}.partial", shards[1].name));
    fs::write(partial, b"half of it").unwrap();
}

#[test]
fn an_interrupted_synth_continues_and_keeps_whole_files() {
    let (whole, broken) = (tempdir().unwrap(), tempdir().unwrap());
    make(&sharded(whole.path()));
    let request = sharded(broken.path());
    interrupt(&request);
    assert!(open_model(broken.path()).unwrap().bind().is_err());
    let first = broken.path().join(&shards(&request)[0].name);
    let before = fs::metadata(&first).unwrap().modified().unwrap();
    let mut seen = Vec::new();
    let report = synthesize(&request, &mut |done, total| seen.push((done, total))).unwrap();
    assert_eq!(report.kept_files, 1);
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), before);
    assert!(seen.is_sorted() && seen.iter().all(|&(_, total)| total == report.weights));
    assert_eq!(seen.last(), Some(&(report.weights, report.weights)));
    assert!(contents(whole.path()) == contents(broken.path()));
}

#[test]
fn a_finished_model_is_left_as_it_is() {
    let home = tempdir().unwrap();
    let request = sharded(home.path());
    let first = make(&request);
    let times = || {
        let entries = fs::read_dir(home.path()).unwrap().map(Result::unwrap);
        entries
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap()))
            .collect::<BTreeMap<_, _>>()
    };
    let before = times();
    let again = make(&request);
    assert_eq!(again, SynthReport { kept_files: first.files, ..first });
    assert_eq!(times(), before);
}

#[test]
fn a_file_of_the_wrong_length_is_made_again() {
    let home = tempdir().unwrap();
    let request = sharded(home.path());
    make(&request);
    let whole = contents(home.path());
    let second = home.path().join(&shards(&request)[1].name);
    fs::File::options().write(true).open(&second).unwrap().set_len(5000).unwrap();
    let report = make(&request);
    assert_eq!(report.kept_files, report.files - 1);
    assert!(contents(home.path()) == whole);
}

#[test]
fn another_request_in_the_same_folder_is_refused_and_nothing_is_touched() {
    let home = tempdir().unwrap();
    interrupt(&sharded(home.path()));
    let before = contents(home.path());
    for (arch, params, dtype, seed) in [
        ("qwen2", MILLION, "bf16", 7),
        ("llama", 2 * MILLION, "bf16", 7),
        ("llama", MILLION, "f16", 7),
        ("llama", MILLION, "bf16", 8),
    ] {
        let other = SynthRequest::new(home.path(), arch, params, dtype, seed).unwrap();
        let refused = synthesize(&other, &mut |_, _| {}).unwrap_err();
        assert_eq!(refused.code(), "synth.other-request");
        assert!(contents(home.path()) == before);
    }
}

#[test]
fn a_foreign_folder_is_refused_and_nothing_is_touched() {
    let home = tempdir().unwrap();
    fs::write(home.path().join("model.safetensors"), b"mine").unwrap();
    let before = contents(home.path());
    let refused = synthesize(&sharded(home.path()), &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.code(), "synth.folder-in-use");
    assert!(refused.to_string().contains("model.safetensors"), "{refused}");
    assert!(refused.hint().is_some());
    assert!(contents(home.path()) == before);
}

#[test]
fn a_folder_marked_by_something_else_is_refused() {
    let home = tempdir().unwrap();
    fs::write(home.path().join("overflowml_synth.json"), b"not ours").unwrap();
    let refused = synthesize(&sharded(home.path()), &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.code(), "synth.folder-in-use");
}

#[test]
fn a_folder_that_was_not_marked_in_time_counts_as_empty() {
    let home = tempdir().unwrap();
    fs::write(home.path().join("overflowml_synth.json.partial"), b"{").unwrap();
    make(&sharded(home.path()));
    assert!(!home.path().join("overflowml_synth.json.partial").exists());
}

#[test]
fn a_path_that_is_a_file_is_refused() {
    let home = tempdir().unwrap();
    let path = home.path().join("file");
    fs::write(&path, b"mine").unwrap();
    let refused = synthesize(&sharded(&path), &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.code(), "synth.os");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn two_at_once_in_one_folder_are_refused() {
    let home = tempdir().unwrap();
    let request = sharded(home.path());
    let first = Folder::take(&request.dir, &request.marker()).unwrap();
    assert_eq!(synthesize(&request, &mut |_, _| {}).unwrap_err().code(), "synth.busy");
    drop(first);
    make(&request);
}

/// Takes some bytes, then reports `kind`.
struct Failing(usize, io::ErrorKind);

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.0 {
            return Err(self.1.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_stops_everything_and_is_reported_with_what_is_missing() {
    let request = request(Path::new("unused"), "llama", 7 * MILLION, "f32");
    let mut out = Failing(5 << 20, io::ErrorKind::StorageFull);
    let mut done = 0;
    let error = weights::write(&request.recipes, request.dtype, 3, &mut out, &mut |wrote| {
        done += wrote.get();
    })
    .unwrap_err();
    assert!(done > 0 && done <= 5 << 20);
    let missing = || request.weights().left_after(Bytes::new(done));
    let error = folder::explain(Path::new("m/model.safetensors"), error, &missing);
    assert_eq!(error.code(), "synth.disk-full");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    assert!(error.hint().unwrap().contains(&missing().to_string()));
}

#[test]
fn a_file_that_cannot_be_finished_leaves_nothing_behind() {
    let home: TempDir = tempdir().unwrap();
    let request = sharded(home.path());
    let folder = Folder::take(&request.dir, &request.marker()).unwrap();
    let missing = || Bytes::new(17);
    let full = |out: &mut dyn Write| {
        out.write_all(b"some of it")?;
        Err(io::ErrorKind::StorageFull.into())
    };
    let error = folder.write("model.safetensors", &missing, full).unwrap_err();
    assert_eq!(error.code(), "synth.disk-full");
    let names: Vec<_> = contents(home.path()).into_keys().collect();
    assert_eq!(names, ["overflowml_synth.json"]);
}

#[test]
fn what_cannot_be_made_is_refused_by_name() {
    let refused = |arch, params, dtype| {
        SynthRequest::new(Path::new("unused"), arch, params, dtype, 0).unwrap_err()
    };
    let unknown = refused("frobnicator", MILLION, "bf16");
    assert_eq!(unknown.code(), "synth.unknown-architecture");
    assert!(unknown.hint().unwrap().contains("llama"));
    assert_eq!(refused("llama", MILLION, "int3").code(), "synth.unknown-dtype");
    assert_eq!(refused("llama", 10, "bf16").code(), "synth.parameters-out-of-range");
    assert_eq!(refused("llama", u64::MAX, "bf16").code(), "synth.parameters-out-of-range");
}

#[test]
fn the_report_names_its_bytes() {
    let report = request(Path::new("unused"), "llama", MILLION, "bf16").report(1, 0);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["weights_bytes"], 2 * report.parameters);
    assert_eq!(json["architecture"], "LlamaForCausalLM");
}
