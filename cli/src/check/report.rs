//! What a check says, and how all of it is printed. Ids and signs are stable: programs may rely on them.
use crate::cluster::Lack;
use crate::output::plain;
use owo_colors::{OwoColorize as _, Style};
use serde::Serialize;
use std::fmt::Write as _;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sign {
    /// All is well.
    Ok,
    /// Something to look at; nothing is broken by it.
    Warn,
    /// Something is broken.
    Fail,
    /// It could not be looked at.
    Skipped,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Stable: `group.name`.
    pub(super) id: &'static str,
    pub(super) sign: Sign,
    /// One line.
    pub(super) found: String,
    /// The command or change that mends it; empty when there is nothing to mend.
    pub(super) hint: String,
    /// What it is about: `namespace/name`, all of them.
    pub(super) objects: Vec<String>,
    /// Skipped because the user may not read what it needs.
    #[serde(skip)]
    pub(super) not_allowed: bool,
}

impl Finding {
    fn new(id: &'static str, sign: Sign, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { id, sign, found: found.into(), hint: hint.into(), objects: Vec::new(), not_allowed: false }
    }
    pub(super) fn ok(id: &'static str, found: impl Into<String>) -> Self {
        Self::new(id, Sign::Ok, found, "")
    }
    pub(super) fn warn(id: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(id, Sign::Warn, found, hint)
    }
    pub(super) fn fail(id: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(id, Sign::Fail, found, hint)
    }
    pub(super) fn skipped(id: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(id, Sign::Skipped, found, hint)
    }
    /// What it needs could not be read.
    pub(super) fn lacking(id: &'static str, lack: &Lack) -> Self {
        match lack {
            Lack::Forbidden { .. } => {
                let mut finding = Self::skipped(id, lack.to_string(), "see api.permissions");
                finding.not_allowed = true;
                finding
            }
            Lack::NoSuchKind(_) => Self::skipped(id, lack.to_string(), "see api.groups and install.crd"),
            Lack::Failed(_) => Self::fail(id, lack.to_string(), "try again; see the API server's log if it stays so"),
        }
    }
    /// Names what it is about.
    pub(super) fn about(mut self, objects: impl IntoIterator<Item = String>) -> Self {
        self.objects = objects.into_iter().collect();
        self
    }
}

/// Some of many names, in one line.
pub(super) fn some<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 3;
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `1 pod`, `2 pods`.
pub(super) fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Every finding, and what they come to.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Of this document's shape; grows when a field changes its meaning.
    pub(super) version: u32,
    /// Of this program.
    pub(super) cli: &'static str,
    pub(super) control_namespace: Option<String>,
    pub(super) ok: bool,
    pub(super) checks: Vec<Finding>,
}

impl Report {
    pub(super) fn new(control_namespace: Option<String>, checks: Vec<Finding>) -> Self {
        let ok = !checks.iter().any(|check| check.sign == Sign::Fail || check.not_allowed);
        Self { version: 1, cli: env!("CARGO_PKG_VERSION"), control_namespace, ok, checks }
    }

    /// 0 all is well, 1 a check failed, 2 one could not be carried out because the user may not read what it needs.
    pub(super) fn exit_code(&self) -> u8 {
        if self.checks.iter().any(|check| check.sign == Sign::Fail) {
            1
        } else {
            2 * u8::from(self.checks.iter().any(|check| check.not_allowed))
        }
    }

    /// For people; `colour` for a terminal.
    pub(super) fn text(&self, colour: bool) -> String {
        let paint = |text: &str, style: Style| if colour { text.style(style).to_string() } else { text.to_owned() };
        let mut text = String::new();
        let mut group = "";
        let width = self.checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
        for check in &self.checks {
            let of = check.id.split('.').next().unwrap_or_default();
            if of != group {
                if !group.is_empty() {
                    text.push('\n');
                }
                group = of;
            }
            let (word, style) = match check.sign {
                Sign::Ok => ("ok", Style::new().green()),
                Sign::Warn => ("warn", Style::new().yellow()),
                Sign::Fail => ("FAIL", Style::new().red().bold()),
                Sign::Skipped => ("skipped", Style::new().dimmed()),
            };
            let word = paint(&format!("{word:<7}"), style);
            let _writing_to_a_string_cannot_fail =
                writeln!(text, "{word} {:<width$}  {}", check.id, plain(&check.found));
            if !check.hint.is_empty() {
                let _writing_to_a_string_cannot_fail =
                    writeln!(text, "        {} {}", paint("hint:", Style::new().bold()), plain(&check.hint));
            }
        }
        let count = |sign: Sign| self.checks.iter().filter(|check| check.sign == sign).count();
        let _writing_to_a_string_cannot_fail = write!(
            text,
            "\n{} checks: {} ok, {} warned, {} failed, {} skipped",
            self.checks.len(),
            count(Sign::Ok),
            count(Sign::Warn),
            count(Sign::Fail),
            count(Sign::Skipped)
        );
        text
    }
}
