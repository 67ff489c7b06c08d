//! `generate`: completions of shells, manual pages, and tables of the pages in `ctl/docs`, all from what
//! the program itself knows: its command line and the contract in `spindle_status`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use spindle_status::path::{NODES, NodeWriter};

use crate::cli::Cli;
use crate::{fault, metrics};

/// Generated can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Generated {
    /// Completions for bash; to /usr/share/bash-completion/completions/spindlectl.
    Bash,
    /// Completions for zsh; to /usr/share/zsh/site-functions/_spindlectl.
    Zsh,
    /// Manual pages, one for each command; with --into, files such as spindlectl-list.8.
    Man,
    /// The table of metrics, in Markdown.
    Metrics,
    /// The table of nodes in xenstore, in Markdown.
    Nodes,
}

/// The section of the manual for commands of the administrator.
const SECTION: &str = "8";

/// Generates; gives what is to be printed, nothing where files were written.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn generate(what: Generated, into: Option<&Path>) -> Result<String> {
    let text = match what {
        Generated::Bash => complete(Shell::Bash),
        Generated::Zsh => complete(Shell::Zsh),
        Generated::Man => return man(into),
        Generated::Metrics => metrics::markdown(),
        Generated::Nodes => nodes(),
    };
    let Some(into) = into else { return Ok(text) };
    let name = match what {
        Generated::Bash => "spindlectl",
        Generated::Zsh => "_spindlectl",
        _ => "table.md",
    };
    write(into, name, &text)?;
    Ok(String::new())
}

fn complete(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "spindlectl", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// All pages, into files of this folder, or one after the other.
fn man(into: Option<&Path>) -> Result<String> {
    let mut root = Cli::command();
    root.build();
    let mut all = page(&root, "spindlectl")?;
    if let Some(into) = into {
        write(into, &format!("spindlectl.{SECTION}"), &all)?;
    }
    for verb in root.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("spindlectl-{}", verb.get_name());
        if verb.get_name() == "help" {
            continue;
        }
        let page = page(verb, &name)?;
        match into {
            Some(into) => write(into, &format!("{name}.{SECTION}"), &page)?,
            None => all += &page,
        }
    }
    Ok(if into.is_some() { String::new() } else { all })
}

/// The page of one command, which says what its status means.
fn page(command: &Command, name: &str) -> Result<String> {
    let man = Man::new(command.clone())
        .title(name)
        .section(SECTION)
        .manual("Spindle");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let mut status = Roff::default();
    status.control("SH", ["EXIT STATUS"]);
    for (number, text) in fault::statuses() {
        status.control("TP", []);
        status.text([roman(number.to_string())]);
        status.text([roman(text)]);
    }
    status.to_writer(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Generated is published and asked in xenstore, as a table in Markdown.
fn nodes() -> String {
    let mut out = "| node | written by | meaning |\n| --- | --- | --- |\n".to_string();
    for node in NODES {
        let writer = match node.writer {
            NodeWriter::Spindle => "Spindle",
            NodeWriter::Dom0 => "dom0",
        };
        let (shown, help) = (node.shown, node.help.trim());
        let _ = writeln!(out, "| `{shown}` | {writer} | {help} |");
    }
    out
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    let made = fs::create_dir_all(folder).and_then(|()| fs::write(&path, text));
    made.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verbs() -> Vec<String> {
        let command = Cli::command();
        let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        verbs.map(|verb| verb.get_name().to_string()).collect()
    }

    #[test]
    fn every_command_is_completed_and_has_a_page_with_its_statuses() {
        let [bash, zsh, man] = [Generated::Bash, Generated::Zsh, Generated::Man]
            .map(|what| generate(what, None).expect("generated"));
        for verb in verbs() {
            assert!(bash.contains(&format!("spindlectl,{verb})")), "{verb}");
            assert!(zsh.contains(&format!("({verb})")), "{verb}");
            let title = format!(".TH spindlectl-{verb} {SECTION}");
            assert!(man.contains(&title), "{verb}");
        }
        let pages = man.matches(".SH \"EXIT STATUS\"").count();
        assert_eq!(pages, verbs().len() + 1);
        assert!(man.contains("no answer in time"), "{man}");
    }

    #[test]
    fn pages_are_files_of_their_section() {
        let folder = std::env::temp_dir().join(format!("spindlectl-man-{}", std::process::id()));
        assert_eq!(
            generate(Generated::Man, Some(&folder)).expect("written"),
            ""
        );
        let names = fs::read_dir(&folder).expect("a folder").count();
        assert_eq!(names, verbs().len() + 1);
        assert!(folder.join("spindlectl-list.8").exists());
        fs::remove_dir_all(&folder).expect("removed");
    }

    /// So that it is said in one place what is published.
    #[test]
    fn the_reference_has_every_node() {
        let page = include_str!("../docs/reference.md");
        assert!(
            page.contains(&nodes()),
            "ctl/docs/reference.md needs what `spindlectl generate nodes` prints"
        );
    }
}
