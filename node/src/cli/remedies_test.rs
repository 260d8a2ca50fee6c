//! Commands that messages and documentation name are commands that exist: each that the sources of the workspace put between
//! backticks, or behind a colon at the end of a message, is given to the grammar.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use super::*;

/// Where products keep their sources, and what people read.
const PLACES: [&str; 7] = ["node", "consensus", "netio", "chaos/src", "bench/src", "README.md", "scripts"];

fn files(place: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(place) else {
        found.extend(place.is_file().then(|| place.to_owned()));
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" {
            files(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs" || kind == "md") {
            found.push(path);
        }
    }
}

/// What stands in `text` as a command of `qnat`, up to the end of its quotation.
fn commands(text: &str) -> Vec<String> {
    // A string that goes on in the next line is one.
    let joined = text.replace("\\\n", "\n");
    let mut found = Vec::new();
    for (start, ends) in [("`qnat ", &['`'][..]), (": qnat ", &['"', '\n', ';', '`', ')', '\\'][..])] {
        for (at, _) in joined.match_indices(start) {
            let rest = &joined[at + start.len()..];
            let Some(end) = rest.find(ends) else { continue };
            // Further than a few lines it is no command but prose.
            if rest[..end].matches('\n').count() <= 1 {
                found.push(rest[..end].split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }
    found
}

/// A command with something in each place that a message fills in.
fn filled(command: &str) -> Vec<String> {
    let fill = |word: &str| -> String {
        let is_placeholder = |part: &str| {
            part.contains('{')
                || (part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
                || part == "N"
        };
        match word.split_once('=') {
            Some((before, after)) if is_placeholder(before) || is_placeholder(after) => "1=192.0.2.1:1".to_owned(),
            _ if word == "{protocol}" => "tcp".to_owned(),
            _ if word.ends_with("_ip}") => "192.0.2.1".to_owned(),
            _ if word.ends_with("_end}") => "192.0.2.1:1".to_owned(),
            _ if word.starts_with('{') && word.ends_with('}') || is_placeholder(word) => "1".to_owned(),
            _ => word.trim_end_matches([',', '.', ':']).to_owned(),
        }
    };
    command.split(' ').map(fill).collect()
}

/// Whether it is one: whole, asking for help, or the name of a group of commands.
fn exists(command: &str) -> bool {
    let words: Vec<String> = std::iter::once("qnat".to_owned()).chain(filled(command)).collect();
    match Cli::try_parse_from(&words) {
        Ok(_) => true,
        Err(error) => matches!(
            error.kind(),
            clap::error::ErrorKind::DisplayHelp
                | clap::error::ErrorKind::DisplayVersion
                | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        ),
    }
}

/// Names a command without its arguments, as prose does: `qnat apply`.
fn names_a_command(command: &str) -> bool {
    let whole = Cli::command();
    let mut grammar = &whole;
    let mut words = command.split(' ').filter(|word| *word != "…");
    let all_known = words.all(|word| match grammar.find_subcommand(word) {
        Some(below) => {
            grammar = below;
            true
        }
        None => false,
    });
    all_known && !command.is_empty()
}

#[test]
fn commands_that_messages_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut sources = Vec::new();
    PLACES.iter().for_each(|place| files(&root.join(place), &mut sources));
    let mut seen = 0;
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|path| !path.ends_with("remedies_test.rs")) {
        let text = std::fs::read_to_string(source).expect("a source can be read");
        for command in commands(&text) {
            seen += 1;
            if !exists(&command) && !names_a_command(&command) {
                wrong.push(format!("{}: qnat {command}", source.display()));
            }
        }
    }
    assert!(seen > 40, "only {seen} commands were found: the search is broken");
    assert!(wrong.is_empty(), "no such commands:\n{}", wrong.join("\n"));
}

#[test]
fn the_search_finds_what_does_not_exist() {
    let text = "let x = \"first `qnat join` it, or remove it: qnat node-remove {node}\";";
    assert_eq!(commands(text), ["join", "node-remove {node}"]);
    assert!(exists("node-remove {node} --incarnation N") && !exists("node-remove {node}") && !exists("enrol now"));
    assert!(names_a_command("cluster init") && !names_a_command("cluster enrol"));
}
