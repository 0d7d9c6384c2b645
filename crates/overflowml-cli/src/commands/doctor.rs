//! `overflowml doctor`

use std::fmt::Write;

use overflowml::Error;
use overflowml::doctor::{
    Bundle, DoctorOptions, DoctorReport, Issue, Redactor, Severity, diagnose,
};

use serde_json::Value;

use super::Answer;
use crate::args::DoctorArgs;
use crate::output;

pub fn run(args: &DoctorArgs) -> anyhow::Result<Answer> {
    let diagnosis = diagnose(&DoctorOptions { model: args.model.clone() });
    if let Some(file) = &args.bundle {
        let bundle = Bundle::collect(&diagnosis, &Redactor::of_this_machine())?;
        let size = bundle.write(file, args.overwrite).map_err(Error::from)?;
        output::note(&format!(
            "wrote {} ({size} bytes): findings, hardware, versions and system files, without names and \
             serials; look through it before you send it",
            file.display()
        ));
    }
    let report = &diagnosis.report;
    if args.json {
        output::json(report)?;
    } else {
        output::answer(&text(report));
    }
    Ok(if report.ok { Answer::Yes } else { Answer::No })
}

/// What `--json` prints.
pub fn document(args: &DoctorArgs) -> anyhow::Result<Value> {
    let options = DoctorOptions { model: args.model.clone() };
    Ok(serde_json::to_value(&diagnose(&options).report)?)
}

fn text(report: &DoctorReport) -> String {
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warn));
    let mut text = match (errors, warnings) {
        (0, 0) => "ok: nothing to fix\n".to_owned(),
        (0, _) => format!("ok: nothing fails, {warnings} warning(s)\n"),
        _ => format!("not ok: {errors} failure(s), {warnings} warning(s)\n"),
    };
    for issue in &report.issues {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}  {}: {}", mark(issue), issue.code, issue.message);
        let fix = issue.suggested_fix.as_ref().filter(|_| issue.severity != Severity::Info);
        if let Some(fix) = fix {
            let _ = writeln!(text, "      fix: {fix}");
        }
    }
    text
}

fn mark(issue: &Issue) -> &'static str {
    match issue.severity {
        Severity::Info => "PASS",
        Severity::Warn => "WARN",
        Severity::Error => "FAIL",
    }
}
