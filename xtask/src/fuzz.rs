//! `fuzz`: the targets of `spindle-fuzz` under libFuzzer. (That their corpus still passes is
//! part of `cargo test`.)

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{root, ui};

/// Where the package that libFuzzer needs is.
const PACKAGE: &str = "drivers/fuzz/libfuzzer";

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// Name the targets.
    List,
    /// Run a target, or all of them one after the other.
    Run(Args),
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which one; "all" for each in turn.
    target: String,
    /// For how long, each.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs the task.
pub(crate) fn run(action: &Action) -> Result<()> {
    let targets = targets()?;
    let Action::Run(args) = action else {
        targets.iter().for_each(|target| println!("{target}"));
        return Ok(());
    };
    let chosen: Vec<&String> = targets
        .iter()
        .filter(|target| args.target == "all" || args.target == **target)
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no target is called \"{}\"; there are: all {}",
        args.target,
        targets.join(" ")
    );
    let sh = Shell::new()?;
    sh.change_dir(root());
    cmd!(sh, "cargo fuzz --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .context("cargo-fuzz is missing: cargo install cargo-fuzz")?;
    require_nightly(&sh)?;
    for target in chosen {
        fuzz(&sh, target, args.seconds)?;
    }
    Ok(())
}

/// Fuzzes one target. What is found goes to `target/fuzz`; the corpus that is kept in the
/// repository is only read.
fn fuzz(sh: &Shell, target: &str, seconds: u32) -> Result<()> {
    ui::step("fuzz", &format!("{target}, {seconds} s"));
    let found = root().join("target/fuzz").join(target);
    fs::create_dir_all(&found)?;
    let kept = root().join("drivers/fuzz/corpus").join(target);
    let time = format!("-max_total_time={seconds}");
    // The drivers have no unsafe code, so a sanitizer would only slow them down; Miri looks at
    // the crate that has.
    cmd!(
        sh,
        "cargo +nightly fuzz run --fuzz-dir {PACKAGE} --sanitizer none {target} {found} {kept} --
        {time} -max_len=2048 -timeout=10"
    )
    .quiet()
    .run()
    .with_context(|| {
        format!("{target} failed; `cargo +nightly fuzz tmin` with the file named above shortens it")
    })
}

/// Every target has a corpus by its name.
fn targets() -> Result<Vec<String>> {
    let directory = root().join("drivers/fuzz/corpus");
    let entries = fs::read_dir(&directory)
        .with_context(|| format!("read {}", directory.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    let mut names: Vec<String> = entries.iter().filter_map(|e| name(e.path())).collect();
    names.sort();
    Ok(names)
}

/// Checks that there is a nightly compiler.
pub(crate) fn require_nightly(sh: &Shell) -> Result<()> {
    cmd!(sh, "cargo +nightly --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .context("a nightly compiler is missing: rustup toolchain install nightly")
}
