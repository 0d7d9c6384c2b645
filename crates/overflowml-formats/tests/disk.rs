//! What the operating system can put in a model's way: each is told apart and named.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use overflowml_formats::{fixture, open_model};
use overflowml_types::DType;

#[track_caller]
fn assert_refused(path: &Path, code: &str, named: &str) {
    let error = open_model(path).expect_err("the model should be refused");
    let message = error.to_string();
    assert_eq!(error.code(), code, "{message}");
    assert!(message.contains(named), "`{message}` does not name `{named}`");
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_path_that_does_not_exist_is_missing() {
    let folder = folder();
    assert_refused(&folder.path().join("nowhere"), "formats.missing", "nowhere");
}

#[test]
fn a_link_to_nothing_is_told_with_its_target() {
    let folder = folder();
    symlink("../blobs/1234", folder.path().join("model.safetensors")).unwrap();
    assert_refused(folder.path(), "formats.broken-link", "../blobs/1234");
}

#[test]
fn links_in_a_loop_are_told_as_such() {
    let folder = folder();
    let link = folder.path().join("model.safetensors");
    symlink("model.safetensors", &link).unwrap();
    assert_refused(folder.path(), "formats.link-loop", "model.safetensors");
    assert_refused(&link, "formats.link-loop", "model.safetensors");
}

#[test]
fn a_folder_where_the_weights_should_be_is_told_as_such() {
    let folder = folder();
    fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert_refused(folder.path(), "formats.folder-for-file", "model.safetensors");
}

#[test]
fn a_folder_where_the_config_should_be_is_told_as_such() {
    let folder = folder();
    let file = fixture::safetensors().build().bytes;
    fs::write(folder.path().join("model.safetensors"), file).unwrap();
    fs::create_dir(folder.path().join("config.json")).unwrap();
    assert_refused(folder.path(), "formats.folder-for-file", "config.json");
}

#[test]
fn a_path_through_a_file_is_told_as_such() {
    let folder = folder();
    fs::write(folder.path().join("file"), b"x").unwrap();
    let path = folder.path().join("file/model.safetensors");
    assert_refused(&path, "formats.file-for-folder", "model.safetensors");
}

#[test]
fn a_device_in_place_of_the_weights_is_not_read() {
    let folder = folder();
    symlink("/dev/zero", folder.path().join("model.safetensors")).unwrap();
    assert_refused(folder.path(), "formats.special-file", "model.safetensors");
}

#[test]
fn a_file_of_another_format_is_told_what_is_supported() {
    let folder = folder();
    let path = folder.path().join("model.gguf");
    fs::write(&path, b"GGUF").unwrap();
    assert_refused(&path, "formats.unsupported-file", "model.gguf");
}

#[test]
fn a_shard_reached_through_a_link_opens() {
    let folder = folder();
    let (blobs, snapshot) = (folder.path().join("blobs"), folder.path().join("snapshot"));
    let config = fixture::config("LlamaForCausalLM");
    fixture::write_model(&blobs, &config, DType::BF16, 5, 2).unwrap();
    fs::create_dir(&snapshot).unwrap();
    for entry in fs::read_dir(&blobs).unwrap() {
        let name = entry.unwrap().file_name();
        symlink(blobs.join(&name), snapshot.join(&name)).unwrap();
    }
    open_model(&snapshot).unwrap().bind().unwrap();
}

#[test]
fn a_sparse_file_that_claims_a_huge_header_is_refused_without_reading_it() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, (1u64 << 40).to_le_bytes()).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 41).unwrap();
    assert_refused(folder.path(), "formats.header-too-large", "model.safetensors");
}

#[test]
fn a_file_that_may_not_be_read_is_told_as_such() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, fixture::safetensors().build().bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::File::open(&path).is_ok() {
        return; // the superuser may read everything
    }
    assert_refused(folder.path(), "formats.denied", "model.safetensors");
}
