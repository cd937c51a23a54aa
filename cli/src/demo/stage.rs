//! How the demo looks: steps, commands with the machine they run on, what they said, and claims with a tick or a cross.
use anyhow::bail;
use owo_colors::{OwoColorize as _, Style};
use std::io::{IsTerminal as _, Write as _};

/// Where the demo is told.
#[derive(Debug)]
pub(super) struct Stage {
    out: std::io::Stdout,
    colour: bool,
    step: u32,
}

impl Stage {
    /// Standard output; in colours when it is a terminal and `NO_COLOR` is not set.
    pub(super) fn new() -> Self {
        let out = std::io::stdout();
        Self { colour: out.is_terminal() && std::env::var_os("NO_COLOR").is_none(), out, step: 0 }
    }

    /// Begins a step: what is about to happen.
    pub(super) fn step(&mut self, title: &str, about: &str) {
        self.step += 1;
        let number = format!(" {} ", self.step);
        self.line(&format!(
            "\n{} {}",
            self.paint(&number, Style::new().black().on_cyan().bold()),
            self.paint(title, Style::new().bold())
        ));
        for line in about.lines() {
            self.line(&format!("    {line}"));
        }
    }

    /// A command as somebody on `machine` would type it.
    pub(super) fn command(&self, machine: &str, command: &str) {
        self.line(&format!(
            "    {}{} {}",
            self.paint(machine, Style::new().magenta()),
            self.paint(" $", Style::new().dimmed()),
            self.paint(command, Style::new().yellow())
        ));
    }

    /// What a program said, or what a file holds.
    pub(super) fn shows(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!(
                "    {} {}",
                self.paint("│", Style::new().dimmed()),
                self.paint(line, Style::new().dimmed())
            ));
        }
    }

    /// A claim that has been checked. One that does not hold ends the demo.
    pub(super) fn claim(&self, holds: bool, claim: &str) -> anyhow::Result<()> {
        if !holds {
            self.line(&format!("    {} {claim}", self.paint("✗", Style::new().red().bold())));
            bail!("this claim does not hold: {claim}");
        }
        self.line(&format!("    {} {claim}", self.paint("✓", Style::new().green().bold())));
        Ok(())
    }

    /// A line of its own.
    pub(super) fn line(&self, text: &str) {
        // Nobody is left to tell when standard output is closed.
        let _ = writeln!(self.out.lock(), "{text}");
    }

    fn paint(&self, text: &str, style: Style) -> String {
        if self.colour { text.style(style).to_string() } else { text.to_owned() }
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}
