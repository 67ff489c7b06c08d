//! The one build of a crate with all its mutants: writes the mutated sources into a copy of the
//! workspace, and builds the tests, without what the compiler refuses ([`refused`](crate::refused)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::binary::{self, Binary};
use crate::mutant::Mutant;
use crate::refused::{self, Mutated, Refused};
use crate::render::Rendered;
use crate::sites::{self, Edit, Sites};

/// The crate that has the switch.
const SWITCH: &str = include_str!("../switch/lib.rs");
const SWITCH_MANIFEST: &str = "[package]\nname = \"mutant-switch\"\nversion = \"0.0.0\"\n\
    edition = \"2024\"\npublish = false\n";
/// As many errors in different places hide others until they are gone.
const ROUNDS: usize = 30;

/// A copy of a workspace, in which the crate is changed.
pub struct Workspace<'a> {
    /// Its top.
    pub top: &'a Path,
    /// The crate's folder from there; empty if it is the top.
    pub folder: &'a str,
    /// The packages whose tests run: the crate's own first.
    pub packages: &'a [&'a str],
    /// Where cargo puts what it builds.
    pub target: &'a Path,
    /// Of the compiler and of the tests.
    pub environment: &'a [(String, String)],
    /// When to end.
    pub until: Option<Instant>,
}

/// What was built.
#[derive(Default)]
pub struct Build {
    /// The tests' programs; empty if there was no time.
    pub binaries: Vec<Binary>,
    /// Mutants that can be switched on.
    pub viable: BTreeSet<u32>,
    /// Those that do not compile.
    pub unviable: BTreeSet<u32>,
    /// Those that the switch cannot express: in constants, and where the choice does not compile.
    pub unfit: BTreeSet<u32>,
}

/// Builds the tests with these mutants.
///
/// # Errors
/// A file cannot be read or written, or it does not compile without mutants.
pub fn build(workspace: &Workspace<'_>, mutants: &[Mutant]) -> Result<Build> {
    let mut files: BTreeMap<&str, Vec<Mutant>> = BTreeMap::new();
    for mutant in mutants {
        files.entry(&mutant.file).or_default().push(mutant.clone());
    }
    let mut originals: BTreeMap<&str, (String, Sites)> = BTreeMap::new();
    let mut built = Build::default();
    for (name, mutants) in &files {
        let path = workspace.top.join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let sites = sites::find(&text, mutants).with_context(|| (*name).to_string())?;
        built.unfit.extend(&sites.fixed);
        originals.insert(name, (text, sites));
    }
    add_switch(workspace)?;
    let returns: BTreeMap<u32, &str> = mutants.iter().map(|m| (m.id, m.returns.as_str())).collect();
    for _ in 0..ROUNDS {
        let left_out =
            |mutant: &u32| built.unviable.contains(mutant) || built.unfit.contains(mutant);
        let mut mutated = BTreeMap::new();
        for (name, (text, sites)) in &originals {
            let file = mutate(text, sites, left_out);
            write(&workspace.top.join(name), &file.rendered.text)?;
            mutated.insert((*name).to_string(), file);
        }
        match compile(workspace)? {
            Compiled::InTime(messages) => {
                built.binaries = binary::read(&messages, workspace.packages)?;
                let all = mutants.iter().map(|mutant| mutant.id);
                built.viable = all.filter(|mutant| !left_out(mutant)).collect();
                return Ok(built);
            }
            Compiled::OutOfTime => return Ok(built),
            Compiled::Failed(messages, errors) => {
                let Refused { wrong, unfit } =
                    refused::read(&messages, &mutated).with_context(|| errors)?;
                // One type must do for both, where the change alone would have had another.
                let opaque = |mutant: &u32| returns[mutant].contains("impl ");
                let (other, wrong) = wrong.into_iter().partition::<BTreeSet<u32>, _>(opaque);
                built.unviable.extend(wrong);
                built.unfit.extend(unfit.into_iter().chain(other));
            }
        }
    }
    bail!("it does not compile after {ROUNDS} rounds")
}

fn mutate(text: &str, sites: &Sites, left_out: impl Fn(&u32) -> bool) -> Mutated {
    let mut origins = BTreeMap::new();
    let is_in = |edit: &&Edit| {
        let (Edit::Choose { mutant, .. } | Edit::Insert { mutant, .. }) = edit;
        !left_out(mutant)
    };
    let edits: Vec<Edit> = sites.edits.iter().filter(is_in).cloned().collect();
    for edit in &edits {
        let (mutant, at) = match edit {
            Edit::Choose { mutant, at, .. } => (mutant, at.start),
            Edit::Insert { mutant, at, .. } => (mutant, *at),
        };
        origins.insert(*mutant, at);
    }
    Mutated {
        rendered: Rendered::new(text, &edits),
        functions: sites.functions.clone(),
        origins,
    }
}

/// Makes the crate depend on the switch.
fn add_switch(workspace: &Workspace<'_>) -> Result<()> {
    let folder = workspace.top.join("mutant-switch");
    fs::create_dir_all(folder.join("src"))?;
    write(&folder.join("Cargo.toml"), SWITCH_MANIFEST)?;
    write(&folder.join("src/lib.rs"), SWITCH)?;
    let manifest = workspace.top.join(workspace.folder).join("Cargo.toml");
    let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let line = format!("mutant-switch = {{ path = {:?} }}\n", folder);
    if text.contains(&line) {
        return Ok(());
    }
    let header = "\n[dependencies]\n";
    let text = match text.find(header) {
        Some(at) => {
            let (before, after) = text.split_at(at + header.len());
            format!("{before}{line}{after}")
        }
        None => format!("{text}{header}{line}"),
    };
    write(&manifest, &text)
}

/// Files that are equal are left alone, so that cargo does not compile them again.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

enum Compiled {
    /// What cargo printed.
    InTime(String),
    OutOfTime,
    /// What cargo printed, for programs and for people.
    Failed(String, String),
}

fn compile(workspace: &Workspace<'_>) -> Result<Compiled> {
    let mut command = Command::new("timeout");
    let left = workspace
        .until
        .map(|until| until.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left < Duration::from_secs(1)) {
        return Ok(Compiled::OutOfTime);
    }
    // 0 is without end.
    command.arg(left.map_or(0, |left| left.as_secs()).to_string());
    command.args(["cargo", "test", "--no-run", "--message-format=json"]);
    for package in workspace.packages {
        command.args(["--package", package]);
    }
    let output = command
        .current_dir(workspace.top)
        .env("CARGO_TARGET_DIR", workspace.target)
        .envs(workspace.environment.iter().cloned())
        .stdin(Stdio::null())
        .output()
        .context("run cargo")?;
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(match output.status.code() {
        Some(0) => Compiled::InTime(messages),
        Some(124) => Compiled::OutOfTime,
        _ => Compiled::Failed(
            messages,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ),
    })
}
