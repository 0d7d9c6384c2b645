//! `overflowml demo`: a model three times larger than its budget gives the same tokens.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use overflowml::synth::{SynthRequest, synthesize};
use overflowml::{Bytes, Error, cache_dir};
use serde_json::{Value, json};

use super::Answer;
use crate::args::DemoArgs;
use crate::output;
use crate::progress::ByteBar;

const PROMPT: &str = "A model that is larger than the memory it may use";

pub fn run(args: &DemoArgs) -> anyhow::Result<Answer> {
    let home = cache_dir().join("demo");
    if args.clean {
        return clean(&home);
    }
    let model = make_model(&home, args.size)?;
    output::note(&format!("1/2 generating {} tokens within {}", args.tokens, args.memory));
    let limited = generate(&model, args.tokens, Some(args.memory))?;
    output::note("2/2 the same without a budget");
    let unlimited = generate(&model, args.tokens, None)?;
    let report = Report::new(&limited, &unlimited)?;
    if args.json {
        output::json(&json!({
            "model": model, "checks": report.checks(), "limited": limited, "unlimited": unlimited,
        }))?;
    } else {
        output::answer(&report.text(&model));
    }
    Ok(if report.all_well() { Answer::Yes } else { Answer::No })
}

fn clean(home: &Path) -> anyhow::Result<Answer> {
    match std::fs::remove_dir_all(home) {
        Ok(()) => output::answer_line(&format!("deleted {}", home.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            output::answer_line(&format!("nothing to delete in {}", home.display()));
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot delete `{}`", home.display()));
        }
    }
    Ok(Answer::Yes)
}

/// Makes the model once; an interrupted attempt is continued.
fn make_model(home: &Path, size: Bytes) -> anyhow::Result<PathBuf> {
    let parameters = size.get() / 2; // bf16
    let dir = home.join(format!("llama-{}M", parameters / 1_000_000));
    let request = SynthRequest::new(&dir, "llama", parameters, "bf16", 0).map_err(Error::from)?;
    let mut bar = ByteBar::new("making the demo's model (once)");
    let report =
        synthesize(&request, &mut |done, total| bar.update(done, total)).map_err(Error::from)?;
    drop(bar);
    output::note(&format!("model: {} of random weights in {}", report.weights, dir.display()));
    Ok(dir)
}

/// Runs this very program as a process of its own, so that its peak memory is its own.
fn generate(model: &Path, tokens: u32, memory: Option<Bytes>) -> anyhow::Result<Value> {
    let mut command = overflowml::restart().context("cannot find this program")?;
    command.arg("run").arg(model).args(["--prompt", PROMPT, "--json", "--ignore-eos"]);
    command.args(["--temperature", "0", "--max-new-tokens", &tokens.to_string()]);
    if let Some(memory) = memory {
        command.args(["--memory", &memory.get().to_string()]);
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the run")?;
    if !output.status.success() {
        bail!("the run ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the run printed no report")
}

/// Both runs' figures, side by side.
struct Report {
    budget: Bytes,
    peak: Bytes,
    resident: Bytes,
    weights: Bytes,
    streamed_per_token: Bytes,
    least_per_token: Bytes,
    disk: Option<f64>,
    speed: f64,
    predicted: f64,
    unlimited_speed: f64,
    unlimited_peak: Bytes,
    same_tokens: bool,
}

impl Report {
    fn new(limited: &Value, unlimited: &Value) -> anyhow::Result<Self> {
        let bytes = |run: &Value, path: &str| {
            run.pointer(path)
                .and_then(Value::as_u64)
                .map(Bytes::new)
                .with_context(|| format!("the run's report lacks {path}"))
        };
        let number = |run: &Value, path: &str| {
            run.pointer(path)
                .and_then(Value::as_f64)
                .with_context(|| format!("the run's report lacks {path}"))
        };
        Ok(Self {
            budget: bytes(limited, "/memory/budget_bytes")?,
            peak: bytes(limited, "/memory/peak_rss_bytes")?,
            resident: bytes(limited, "/memory/resident_weights_bytes")?,
            weights: bytes(limited, "/plan/prediction/weights_per_pass_bytes")?,
            streamed_per_token: bytes(limited, "/io/streamed_per_pass_bytes")?,
            least_per_token: bytes(limited, "/plan/prediction/streamed_per_pass_bytes")?,
            disk: number(limited, "/io/read_bytes_per_second").ok(),
            speed: number(limited, "/timings/decode_tokens_per_second")?,
            predicted: number(limited, "/timings/predicted_tokens_per_second")?,
            unlimited_speed: number(unlimited, "/timings/decode_tokens_per_second")?,
            unlimited_peak: bytes(unlimited, "/memory/peak_rss_bytes")?,
            same_tokens: limited["tokens"] == unlimited["tokens"],
        })
    }

    fn within_budget(&self) -> bool {
        self.peak <= self.budget
    }

    /// At most 2 % more than what is not in memory: reads are rounded to the disk's sectors.
    fn reads_least(&self) -> bool {
        self.streamed_per_token.as_f64() <= self.least_per_token.as_f64() * 1.02
    }

    fn all_well(&self) -> bool {
        self.same_tokens && self.within_budget() && self.reads_least()
    }

    fn checks(&self) -> Value {
        json!({
            "same_tokens": self.same_tokens,
            "within_budget": self.within_budget(),
            "reads_least": self.reads_least(),
        })
    }

    fn text(&self, model: &Path) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<16} {value}");
        };
        line("stayed", format!("{} of {} of weights", self.resident, self.weights));
        line(
            "streamed",
            format!(
                "{} per token, least possible {} {}",
                self.streamed_per_token,
                self.least_per_token,
                yes_no(self.reads_least())
            ),
        );
        line(
            "peak memory",
            format!("{} of {} {}", self.peak, self.budget, yes_no(self.within_budget())),
        );
        line("speed", self.speed_text());
        line(
            "without budget",
            format!("{:.2} tokens/s, peak {}", self.unlimited_speed, self.unlimited_peak),
        );
        line("same tokens", yes_no(self.same_tokens).to_owned());
        let verdict = if self.all_well() { "it works" } else { "something is wrong" };
        format!("{verdict}: {} within {}\n{text}", model.display(), self.budget)
    }

    /// Speed against what reading the streamed bytes alone would take.
    fn speed_text(&self) -> String {
        let mut text =
            format!("{:.2} tokens/s measured, {:.2} predicted", self.speed, self.predicted);
        if let Some(disk) = self.disk {
            let limit = disk / self.least_per_token.as_f64();
            if limit.is_finite() && limit > 0.0 {
                let share = 100.0 * self.speed / limit;
                text +=
                    &format!("; {share:.0} % of what the disk allows at {:.2} GB/s", disk / 1e9);
            }
        }
        text
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "NO" }
}
