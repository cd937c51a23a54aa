//! Completion of `kubectl signet`: kubectl runs `kubectl_complete-signet` (a link to this program) with the words so far, and
//! reads one candidate a line, then a number that says what else it may offer.
use clap::Command;

/// Nothing but these: no file names.
const NO_FILES: &str = ":4";

/// Prints what may follow the words of the command line.
#[allow(clippy::print_stdout, reason = "what it is for")]
pub(crate) fn print(definition: Command) {
    let words: Vec<String> = std::env::args().skip(1).collect();
    for candidate in candidates(definition, &words) {
        println!("{candidate}");
    }
    println!("{NO_FILES}");
}

fn candidates(mut definition: Command, words: &[String]) -> Vec<String> {
    definition.build();
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut command = &definition;
    for word in before {
        if let Some(inner) = command.find_subcommand(word) {
            command = inner;
        }
    }
    let commands = command.get_subcommands().filter(|inner| !inner.is_hide_set());
    let commands = commands.map(|inner| {
        let about = inner.get_about().map(ToString::to_string).unwrap_or_default();
        format!("{}\t{about}", inner.get_name())
    });
    let flags = command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
    let all: Vec<String> = if last.starts_with('-') { flags.collect() } else { commands.collect() };
    all.into_iter().filter(|candidate| candidate.starts_with(last)).collect()
}
