//! The real binary, a model that it made, and a cache folder of the test's own.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part; a failure stops the test

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// A temporary folder with everything that a run may write.
pub struct World {
    folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command, with its caches inside this world.
    pub fn overflowml(&self) -> Command {
        let mut command = Command::cargo_bin("overflowml").unwrap();
        command
            .current_dir(self.folder.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("HF_HOME", self.path("hf"))
            .env("HF_HUB_OFFLINE", "1");
        command
    }

    /// Runs the command and returns what it did.
    pub fn run(&self, args: &[&str]) -> Output {
        self.overflowml().args(args).output().unwrap()
    }

    /// Runs the command, which must succeed and print JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A random-weight model made by `synth`.
    pub fn model(&self, arch: &str, params: &str) -> String {
        let dir = self.path(&format!("{arch}-{params}"));
        let dir = dir.to_str().unwrap().to_owned();
        let output = self.run(&["synth", &dir, "--arch", arch, "--params", params]);
        assert!(output.status.success(), "{}", stderr(&output));
        dir
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Changes one field of a model's config.json.
pub fn edit_config(model: &str, field: &str, value: Value) {
    let path = Path::new(model).join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[field] = value;
    std::fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
}
