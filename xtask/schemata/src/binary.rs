//! The programs that cargo makes of a crate's tests, the tests in them, and which mutants each test
//! reaches: no other test need run for a mutant.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::parallel::each;

/// A program of tests.
#[derive(Clone, Debug)]
pub struct Binary {
    /// Where it is.
    pub program: PathBuf,
    /// Where it runs, as under cargo: the package's folder.
    pub folder: PathBuf,
}

/// A test of one of the programs.
#[derive(Clone, Debug)]
pub struct Test {
    /// Which program it is in.
    pub binary: usize,
    /// What it is called there.
    pub name: String,
    /// How long it takes without any mutant, alone.
    pub takes: Duration,
    /// The mutants whose place it comes to.
    pub reaches: BTreeSet<u32>,
}

/// Reads what cargo printed: the programs of these packages, those of the first one first.
///
/// # Errors
/// It is not what cargo prints.
pub(crate) fn read(messages: &str, packages: &[&str]) -> Result<Vec<Binary>> {
    let mut found: Vec<(usize, String, Binary)> = Vec::new();
    for line in messages.lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let (Some(program), true) = (
            value["executable"].as_str(),
            value["profile"]["test"] == true,
        ) else {
            continue;
        };
        let manifest = Path::new(value["manifest_path"].as_str().context("a manifest")?);
        let folder = manifest.parent().context("a folder")?.to_path_buf();
        // path+file:///folder/of/it#name@version, or #version if the folder is called so.
        let id = value["package_id"].as_str().unwrap_or_default();
        let is = |package: &&str| {
            id.contains(&format!("#{package}@")) || id.contains(&format!("/{package}#"))
        };
        let number = packages.iter().position(is).unwrap_or(packages.len());
        let name = value["target"]["name"].as_str().unwrap_or_default();
        let program = PathBuf::from(program);
        found.push((number, name.to_string(), Binary { program, folder }));
    }
    found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    Ok(found.into_iter().map(|(.., binary)| binary).collect())
}

impl Binary {
    fn command(&self, environment: &[(String, String)]) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.env("CARGO_MANIFEST_DIR", &self.folder);
        command.envs(environment.iter().cloned());
        command
    }

    fn list(&self, flags: &[&str], environment: &[(String, String)]) -> Result<Vec<String>> {
        let mut command = self.command(environment);
        let output = command
            .args(["--list", "--format=terse"])
            .args(flags)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(String::from).collect())
    }
}

/// Runs each test alone, without any mutant, and notes what it reaches, until `until`: `None` if there
/// was no time for all. A test that fails because it is watched, as one that lets memory run out when the
/// switch wants some, is left out: it would seem to notice each mutant.
///
/// # Errors
/// A test fails, or a program does not run.
pub fn trace(
    binaries: &[Binary],
    environment: &[(String, String)],
    scratch: &Path,
    until: Option<Instant>,
) -> Result<Option<Vec<Test>>> {
    let mut all = Vec::new();
    for (number, binary) in binaries.iter().enumerate() {
        let ignored = binary.list(&["--ignored"], environment)?;
        let names = binary.list(&[], environment)?.into_iter();
        all.extend(
            names
                .filter(|name| !ignored.contains(name))
                .map(|name| (number, name)),
        );
    }
    let tests = each(&all, until, |worker, (number, name)| {
        let path = scratch.join(format!("trace-{worker}"));
        let _ = fs::remove_file(&path);
        let start = Instant::now();
        let output = binaries[*number]
            .command(environment)
            .args(["--exact", "--test-threads=1", name])
            .env("MUTANT_TRACE", &path)
            .output()?;
        let takes = start.elapsed();
        if !output.status.success() {
            let mut plain = binaries[*number].command(environment);
            let plain = plain.args(["--exact", "--test-threads=1", name]).output()?;
            let text = both(&output);
            ensure!(
                plain.status.success(),
                "{name} fails without any mutant:\n{text}"
            );
            return Ok(None);
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        Ok(Some(Test {
            binary: *number,
            name: name.clone(),
            takes,
            reaches: text.lines().map(str::parse).collect::<Result<_, _>>()?,
        }))
    })?;
    let is_all = tests.len() == all.len();
    Ok(is_all.then(|| tests.into_iter().flatten().collect()))
}

fn both(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes))
        .concat()
}
