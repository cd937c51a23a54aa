//! `signet rules check`.
use crate::output::{Format, note, print, print_json};
use clap::Args;
use serde::Serialize;
use signet_operator::documents::{Finding, Reading, list};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Arguments of `signet rules check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Files of Workload, Service, Posture and AllowRule documents, or directories of such files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The namespace of documents that name none, as of kubectl apply -n. Without it they are refused.
    #[arg(short, long, value_name = "NAMESPACE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Report<'a> {
    files: usize,
    documents: usize,
    problems: &'a [Finding],
    unreadable: &'a [String],
}

pub(super) fn run(arguments: &Check) -> anyhow::Result<ExitCode> {
    let mut unreadable = Vec::new();
    let mut reading = Reading { namespace: arguments.namespace.clone(), ..Reading::default() };
    let mut files = 0;
    for path in expand(&arguments.files, &mut unreadable) {
        files += 1;
        match fs::read(&path).map(String::from_utf8) {
            Ok(Ok(text)) => reading.add(&Arc::from(path.display().to_string()), &text),
            Ok(Err(_)) => unreadable.push(format!("{}: not UTF-8 text", path.display())),
            Err(error) => unreadable.push(format!("{}: {error}", path.display())),
        }
    }
    reading.finish();
    let (problems, documents) = (&reading.findings, reading.count);
    match arguments.output {
        Format::Json => print_json(&Report { files, documents, problems, unreadable: &unreadable })?,
        Format::Text => {
            for problem in problems {
                print(&problem.to_string())?;
            }
            if problems.is_empty() && unreadable.is_empty() {
                print(&format!("{} in {}: all well", counted(documents, "document"), counted(files, "file")))?;
            } else if !problems.is_empty() {
                note(&format!("{} in {}", counted(problems.len(), "problem"), counted(documents, "document")));
            }
        }
    }
    for error in &unreadable {
        note(error);
    }
    Ok(ExitCode::from(match (unreadable.is_empty(), problems.is_empty()) {
        (false, _) => 2,
        (true, false) => 1,
        (true, true) => 0,
    }))
}

fn expand(paths: &[PathBuf], unreadable: &mut Vec<String>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match yaml_files(path) {
            Ok(found) => files.extend(found),
            Err(error) => unreadable.push(error),
        }
    }
    files
}

fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let shown = directory.display();
    let files = list(directory).map_err(|error| format!("{shown}: {error}"))?;
    if files.is_empty() { Err(format!("{shown}: no *.yaml file in this directory")) } else { Ok(files) }
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
