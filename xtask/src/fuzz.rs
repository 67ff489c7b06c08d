//! `fuzz`: the targets of `spindle-fuzz` under libFuzzer, and on a stable compiler over variations
//! of their corpus. (That the corpus itself still passes is part of `cargo test`.)

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xshell::{PushEnv, Shell, cmd};

use crate::{root, ui};

/// Where the package that libFuzzer needs is.
const PACKAGE: &str = "drivers/fuzz/libfuzzer";

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// Name the targets.
    List,
    /// Run a target, or all of them one after the other, under libFuzzer.
    Run(Args),
    /// The same on a stable compiler, without knowing what an input reaches: variations of the
    /// corpus, other ones at each commit.
    Stable(Stable),
    /// Run a target over one file.
    Replay {
        /// Which one.
        target: String,
        /// The input.
        file: PathBuf,
    },
}

#[derive(clap::Args)]
pub(crate) struct Stable {
    /// Which one; "all" for each in turn.
    #[arg(default_value = "all")]
    target: String,
    /// For how long, each.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// What the inputs depend on; the commit by default.
    #[arg(long)]
    seed: Option<u64>,
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
    let sh = Shell::new()?;
    match action {
        Action::List => targets()?.iter().for_each(|target| println!("{target}")),
        Action::Run(args) => return libfuzzer(&sh, args),
        Action::Stable(args) => {
            let seed = args.seed.map_or_else(|| commit(&sh), Ok)?;
            return stable(&sh, &args.target, args.seconds, seed);
        }
        Action::Replay { target, file } => {
            choose(target)?;
            let file = fs::canonicalize(file).with_context(|| format!("no {}", file.display()))?;
            let program = program(&sh)?;
            cmd!(sh, "{program} {target} replay {file}").quiet().run()?;
        }
    }
    Ok(())
}

/// What CI does: all targets, so many seconds each.
pub(crate) fn in_ci(seconds: u64) -> Result<()> {
    let sh = Shell::new()?;
    let seed = commit(&sh)?;
    stable(&sh, "all", seconds, seed)
}

/// A number that the commit makes, so that each commit sees inputs of its own and a failure can be
/// had again.
pub(crate) fn commit(sh: &Shell) -> Result<u64> {
    sh.change_dir(root());
    let name = cmd!(sh, "git rev-parse HEAD").quiet().read()?;
    let digits = name.get(..15).context("a commit has a name")?;
    Ok(u64::from_str_radix(digits, 16)?)
}

/// Has property tests draw their cases from the commit too, unless the caller has chosen a seed: the
/// same commit passes or fails everywhere. A plain `cargo test` draws others each time.
pub(crate) fn seed_property_tests(sh: &Shell) -> Option<PushEnv<'_>> {
    const SEED: &str = "PROPTEST_RNG_SEED";
    if sh.var_os(SEED).is_some() {
        return None;
    }
    Some(sh.push_env(SEED, commit(sh).ok()?.to_string()))
}

/// Runs targets over variations of their corpus.
fn stable(sh: &Shell, target: &str, seconds: u64, seed: u64) -> Result<()> {
    let chosen = choose(target)?;
    let program = program(sh)?;
    let mut failed = Vec::new();
    for target in chosen {
        if !vary(sh, &program, &target, seconds, seed)? {
            failed.push(target);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(" "));
    Ok(())
}

/// Runs one target for so long; false if it failed.
fn vary(sh: &Shell, program: &Path, target: &str, seconds: u64, seed: u64) -> Result<bool> {
    let found = root().join("target/fuzz").join(target);
    fs::create_dir_all(&found)?;
    let failure = found.join(format!("failure-{seed}"));
    // What an earlier run found is not this one's.
    let _ = fs::remove_file(&failure);
    let (start, mut number) = (Instant::now(), 0);
    let time = Duration::from_secs(seconds);
    while let Some(left) = time.checked_sub(start.elapsed())
        && left.as_secs() > 0
    {
        let (seed, first, left) = (seed.to_string(), number.to_string(), left.as_secs());
        let left = left.to_string();
        let output = cmd!(
            sh,
            "{program} {target} vary {seed} {first} {left} {failure}"
        )
        .quiet()
        .ignore_status()
        .output()?;
        if !output.status.success() {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            let shown = failure.strip_prefix(root()).unwrap_or(&failure).display();
            ui::step(
                "fuzz",
                &format!(
                    "{target} failed; the input is {shown}: cargo xtask fuzz replay {target} {shown}"
                ),
            );
            return Ok(false);
        }
        number = String::from_utf8(output.stdout)?.trim().parse()?;
    }
    ui::step(
        "fuzz",
        &format!("{target}: {number} inputs in {seconds} s (seed {seed})"),
    );
    Ok(true)
}

/// Builds the program that runs the targets on a stable compiler, optimised, with the checks of a
/// debug build, in a folder of its own: every other build would start over after such a change.
fn program(sh: &Shell) -> Result<PathBuf> {
    sh.change_dir(root());
    ui::step("fuzz", "build");
    let _checks = sh.push_env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
    let _overflow = sh.push_env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
    let _lto = sh.push_env("CARGO_PROFILE_RELEASE_LTO", "false");
    let _units = sh.push_env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    let folder = root().join("target/fuzz/build");
    cmd!(
        sh,
        "cargo build --quiet --release -p spindle-fuzz --target-dir {folder}"
    )
    .quiet()
    .run()?;
    Ok(folder.join("release/spindle-fuzz"))
}

/// The target of this name, or all of them.
fn choose(target: &str) -> Result<Vec<String>> {
    let targets = targets()?;
    let mut chosen = targets.clone();
    chosen.retain(|name| target == "all" || target == name);
    ensure!(
        !chosen.is_empty(),
        "no target is called \"{target}\"; there are: all {}",
        targets.join(" ")
    );
    Ok(chosen)
}

/// Runs targets under libFuzzer.
fn libfuzzer(sh: &Shell, args: &Args) -> Result<()> {
    let chosen = choose(&args.target)?;
    sh.change_dir(root());
    cmd!(sh, "cargo fuzz --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .context("cargo-fuzz is missing: cargo install cargo-fuzz")?;
    require_nightly(sh)?;
    for target in &chosen {
        fuzz(sh, target, args.seconds)?;
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
